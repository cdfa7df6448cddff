//! Times allowed: each field of `timeouts` acts.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::support::{
    backend::{Backend, blackhole, scripted},
    client::{Answer, Raw, get, raw, read_head, send, status_of},
    manifests::governed,
    pierhead::Pierhead,
    soon, tls,
};

const LONG: Duration = Duration::from_hours(1);

async fn silent() -> Backend {
    let silent = Backend::start("silent").await;
    silent.set_delay(LONG);
    silent
}

fn post() -> Request<Full<Bytes>> {
    Request::post("/x").header("host", "a.example").body(Full::from("hello")).unwrap()
}

fn is_504(answer: &Answer, reason: &str) {
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.text().contains(&format!("reason: {reason}\n")), "{answer:?}");
}

#[tokio::test]
async fn connect_bounds_the_opening_of_a_connection() {
    let (address, _held) = blackhole().await;
    let spec = "timeouts: {connect: 200ms}\n  retries: {attempts: 0}";
    let pierhead = Pierhead::serving(governed(&[address], spec)).await;
    is_504(&get(pierhead.http, "a.example", "/x").await, "connect_timeout");
}

#[tokio::test]
async fn response_head_bounds_the_wait_for_an_answer() {
    let silent = silent().await;
    let spec = "timeouts: {responseHead: 200ms}\n  retries: {attempts: 0}";
    let pierhead = Pierhead::serving(governed(&[silent.address], spec)).await;
    is_504(&get(pierhead.http, "a.example", "/x").await, "response_timeout");
    is_504(&send(pierhead.http, post()).await, "response_timeout");
}

#[tokio::test]
async fn per_try_bounds_one_attempt_and_another_may_follow() {
    let (one, silent) = (Backend::start("one").await, silent().await);
    let pierhead = Pierhead::serving(governed(&[one.address, silent.address], "timeouts: {perTry: 2s}")).await;
    for _ in 0..4 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.backend(), "one");
    }
    assert!(!silent.seen().is_empty());
    silent.waits_for(0).await; // what took too long was cancelled
    let pierhead = Pierhead::serving(governed(&[silent.address], "timeouts: {perTry: 2s}")).await;
    is_504(&get(pierhead.http, "a.example", "/three").await, "attempt_timeout");
    assert_eq!(pierhead.logged_path("/three").await["attempts"], 3);
    is_504(&send(pierhead.http, post()).await, "attempt_timeout");
    assert_eq!(pierhead.logged_path("/x").await["attempts"], 1, "the endpoint may have acted on it");
}

#[tokio::test]
async fn request_bounds_all_tries_together() {
    let silent = silent().await;
    let spec = "timeouts: {perTry: 300ms, request: 500ms}\n  retries: {attempts: 10}";
    let pierhead = Pierhead::serving(governed(&[silent.address], spec)).await;
    let answer = get(pierhead.http, "a.example", "/x").await;
    assert_eq!(answer.status, 504);
    let attempts = pierhead.logged_path("/x").await["attempts"].as_u64().unwrap();
    assert!((1..=2).contains(&attempts), "{attempts} tries of 300 ms in 500 ms");
    let pierhead = Pierhead::serving(governed(&[silent.address], "timeouts: {request: 200ms}")).await;
    is_504(&get(pierhead.http, "a.example", "/y").await, "request_timeout");
    silent.waits_for(0).await;
}

#[tokio::test]
async fn request_cuts_a_response_that_takes_too_long() {
    // A part, for as long as anybody reads, and never the end.
    let endless = scripted(|mut stream, _| async move {
        read_head(&mut stream).await;
        let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"4\r\npart\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let pierhead = Pierhead::serving(governed(&[endless], "timeouts: {request: 300ms}")).await;
    let response = raw(pierhead.http, "GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(status_of(&response), 200);
    assert!(response.ends_with("part\r\n"), "cut, without the last chunk: {response:?}");
    let line = pierhead.logged_path("/x").await;
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"request_timeout".into()));
}

#[tokio::test]
async fn request_does_not_bind_a_tunnel() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(governed(&[one.address], "timeouts: {request: 300ms}")).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let request = "ws://a.example/chat".into_client_request().unwrap();
    let (mut socket, _) = soon("handshake", Box::pin(client_async(request, stream))).await.unwrap();
    // A request that begins later has its time, and it passes.
    is_504(&get(pierhead.http, "a.example", "/slow").await, "request_timeout");
    socket.send(Message::text("hello")).await.unwrap();
    let echo = soon("echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap().as_str(), "hello");
}

#[tokio::test]
async fn idle_bounds_the_silence_of_bodies_both_ways() {
    let stalls = scripted(|mut stream, _| async move {
        read_head(&mut stream).await;
        let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart").await;
        let _held = std::future::pending::<()>().await;
    })
    .await;
    let pierhead = Pierhead::serving(governed(&[stalls], "timeouts: {idle: 200ms}")).await;
    let response = raw(pierhead.http, "GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert!(response.ends_with("\r\n\r\npart"), "{response:?}");
    assert_eq!(pierhead.logged_path("/x").await["reason"], "response_cut");
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(governed(&[one.address], "timeouts: {idle: 200ms}")).await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\npart").await;
    assert_eq!(status_of(&client.head().await), 408);
    assert!(one.seen().is_empty());
}

#[tokio::test]
async fn a_client_that_is_slow_to_send_is_not_held_against_the_endpoint() {
    let one = Backend::start("one").await;
    let spec = "timeouts: {perTry: 2s}\n  health: {outlier: {consecutiveErrors: 1, maxEjectedPercent: 100}, \
                panicThreshold: 0}";
    let pierhead = Pierhead::serving(governed(&[one.address], spec)).await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\npart").await;
    assert_eq!(status_of(&client.head().await), 504);
    assert_eq!(get(pierhead.http, "a.example", "/next").await.backend(), "one");
}

/// A policy with one turn at the backend, which comes free although its HTTP/2 client takes nothing of the response.
async fn frees_the_backend(timeouts: &str, reason: &str) {
    let one = Backend::start("one").await;
    let spec = format!("timeouts: {{{timeouts}}}\n  limits: {{maxConcurrentRequests: 1}}");
    let pierhead = Pierhead::serving(governed(&[one.address], &spec)).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut client = h2::client::Builder::new();
    let (mut client, connection) = client.initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    let _connection = tokio::spawn(connection);
    let (response, _) =
        client.send_request(Request::get("http://a.example/stream/1000000").body(()).unwrap(), true).unwrap();
    let untaken = soon("head", response).await.unwrap();
    assert_eq!(untaken.status(), 200);
    assert_eq!(pierhead.logged_path("/stream/1000000").await["reason"], reason);
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200, "its turn is free");
    drop(untaken);
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_does_not_hold_the_backend() {
    frees_the_backend("request: 500ms", "request_timeout").await;
    frees_the_backend("idle: 200ms", "client_gone").await;
}

#[tokio::test]
async fn response_head_counts_from_the_end_of_the_request() {
    let one = Backend::start("one").await;
    let spec = "timeouts: {responseHead: 200ms, idle: 2s}\n  health: {outlier: {consecutiveErrors: 1, \
                maxEjectedPercent: 100}, panicThreshold: 0}";
    let pierhead = Pierhead::serving(governed(&[one.address], spec)).await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\npart").await;
    let head = client.head().await;
    assert_eq!(status_of(&head), 408, "it is the client that was waited for: {head}");
    assert_eq!(pierhead.logged_path("/x").await["attempts"], 1);
    assert_eq!(get(pierhead.http, "a.example", "/next").await.backend(), "one", "the endpoint is not to blame");
}

#[tokio::test]
async fn idle_bounds_uploads_that_the_endpoint_does_not_take() {
    let deaf = scripted(|stream, _| async move {
        let _held = std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let spec = "timeouts: {idle: 300ms, responseHead: 0s}";
    let pierhead = Pierhead::serving(governed(&[deaf], spec)).await;
    // More than the sockets on the way take.
    let size = 64 << 20;
    let mut client = TcpStream::connect(pierhead.http).await.unwrap();
    let sending = tokio::spawn(async move {
        let head = format!("PUT /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: {size}\r\n\r\n");
        let _closed = client.write_all(head.as_bytes()).await;
        let _closed = client.write_all(&vec![b'x'; size]).await;
    });
    let line = pierhead.logged_path("/x").await;
    assert_eq!((&line["status"], &line["reason"]), (&504.into(), &"response_timeout".into()));
    soon("end of the connection", sending).await.unwrap();
}

/// A policy with one turn at the backend, which comes free although this connection takes nothing of the response.
async fn cuts_what_is_not_taken(pierhead: &Pierhead, mut client: impl AsyncWrite + Unpin) {
    client.write_all(b"GET /stream/67108864 HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    client.flush().await.unwrap();
    let line = pierhead.logged_path("/stream/67108864").await;
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"client_gone".into()));
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200, "its turn is free");
}

#[tokio::test]
async fn idle_bounds_responses_that_an_http1_client_does_not_take() {
    let one = Backend::start("one").await;
    let spec = "timeouts: {idle: 300ms}\n  limits: {maxConcurrentRequests: 1}";
    let pierhead = Pierhead::serving(governed(&[one.address], spec)).await;
    cuts_what_is_not_taken(&pierhead, TcpStream::connect(pierhead.http).await.unwrap()).await;
    let pierhead = Pierhead::serving(governed(&[one.address], spec)).await;
    cuts_what_is_not_taken(&pierhead, tls::connect(pierhead.https, "a.example", &["http/1.1"]).await).await;
}
