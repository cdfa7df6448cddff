//! Retries as a policy wants them: each field of `retries` acts, and a body is sent again only whole.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    retry::closes_unanswered,
    support::{
        backend::{Backend, refusing, scripted},
        client::{Answer, Raw, get, raw, read_head, send, status_of},
        eventually,
        manifests::{backend_policy, governed, ingress, service_with},
        pierhead::Pierhead,
    },
};

const KIB: usize = 1024;

async fn serving(endpoints: &[SocketAddr], retries: &str) -> Pierhead {
    Pierhead::serving(governed(endpoints, &format!("retries: {{{retries}}}"))).await
}

/// A body whose bytes tell where they belong.
fn body(length: usize) -> Bytes {
    (0..=250).cycle().take(length).collect::<Vec<u8>>().into()
}

fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("host", "a.example").body(Full::from(body)).unwrap()
}

async fn tries(retries: &str, method: Method) -> usize {
    let (address, heads) = closes_unanswered().await;
    let pierhead = serving(&[address], retries).await;
    let answer = send(pierhead.http, request(method, "/x", Bytes::new())).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let heads = heads.load(Ordering::SeqCst);
    assert_eq!(pierhead.logged_path("/x").await["attempts"], heads, "the access log counts all tries");
    heads
}

#[tokio::test]
async fn attempts_bounds_the_tries_besides_the_first() {
    for attempts in [0, 1, 4] {
        assert_eq!(tries(&format!("attempts: {attempts}"), Method::GET).await, attempts + 1);
    }
}

#[tokio::test]
async fn methods_says_which_requests_may_reach_an_endpoint_twice() {
    assert_eq!(tries("methods: [POST]", Method::POST).await, 3);
    assert_eq!(tries("methods: [POST]", Method::GET).await, 1);
}

#[tokio::test]
async fn on_without_reset_leaves_a_reset_alone() {
    assert_eq!(tries("retryOn: [ConnectFailure]", Method::GET).await, 1);
}

#[tokio::test]
async fn on_without_connect_failure_leaves_a_refused_connection_alone() {
    let (refused, _held) = refusing();
    let pierhead = serving(&[refused], "retryOn: [Reset]").await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 502);
    assert_eq!(pierhead.logged_path("/x").await["attempts"], 1);
}

/// Answers of two endpoints, of which one fails with this status.
async fn answers_beside(failure: u16, retries: &str) -> Vec<Answer> {
    let (one, bad) = (Backend::start("one").await, Backend::start("bad").await);
    bad.set_failure(Some(failure));
    let pierhead = serving(&[one.address, bad.address], retries).await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(get(pierhead.http, "a.example", "/x").await);
    }
    assert!(!bad.seen().is_empty(), "the failing endpoint was asked");
    answers
}

#[tokio::test]
async fn on_says_which_statuses_are_tried_again() {
    for (failure, on) in [
        (503, "retryOn: [GatewayError]"),
        (502, "retryOn: [GatewayError]"),
        (500, "retryOn: [ServerError]"),
        (418, "retryOn: [StatusCodes], statusCodes: [418, 429]"),
    ] {
        let answers = answers_beside(failure, on).await;
        assert!(answers.iter().all(|answer| answer.backend() == "one"), "{failure} with {on}: {answers:?}");
    }
    for (failure, on) in [
        (500, "retryOn: [GatewayError]"),
        (503, "retryOn: [Reset]"),
        (404, "retryOn: [StatusCodes], statusCodes: [418]"),
    ] {
        let answers = answers_beside(failure, on).await;
        assert!(answers.iter().any(|answer| answer.status == failure), "{failure} with {on}: {answers:?}");
    }
}

#[tokio::test]
async fn the_last_response_passes_once_retries_are_spent() {
    let one = Backend::start("one").await;
    one.set_failure(Some(503));
    let pierhead = serving(&[one.address], "retryOn: [GatewayError], attempts: 2").await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 503);
    assert_eq!(one.seen().len(), 3);
    assert_eq!(pierhead.logged_path("/x").await["upstream"], one.address.to_string());
}

#[tokio::test]
async fn a_refused_stream_is_tried_elsewhere_whatever_the_method() {
    let refuses = scripted(|stream, _| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
    .await;
    let one = Backend::h2c("one").await;
    let to_both = |on: &str| {
        ingress("main").host("a.example").prefix("/", "one").to_string()
            + &service_with("one", "appProtocol: kubernetes.io/h2c", &[refuses, one.address])
            + &backend_policy("one", &format!("retries: {{retryOn: [{on}]}}"))
    };
    let post = || request(Method::POST, "/x", body(20 * KIB));
    let pierhead = Pierhead::serving(to_both("RefusedStream")).await;
    for at in 0..6 {
        let answer = send(pierhead.http, post()).await;
        assert_eq!((answer.status, answer.json()["body"].as_u64()), (200, Some(20 * 1024)), "request {at}");
    }
    let pierhead = Pierhead::serving(to_both("")).await;
    let mut told = 0;
    for _ in 0..6 {
        let answer = send(pierhead.http, post()).await;
        told += usize::from(answer.status == 502 && answer.text().contains("reason: stream_refused"));
    }
    assert!(told > 0, "without it in `on` the refusal reaches the client");
}

/// An endpoint that breaks off each upload after reading `after` bytes of it; tells how many it broke.
async fn breaks_uploads(after: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let broken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&broken);
    let address = scripted(move |stream, _| {
        let broken = Arc::clone(&counted);
        async move {
            if break_upload(stream, after).await {
                broken.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (address, broken)
}

/// Whether there was an upload to break.
async fn break_upload(mut stream: TcpStream, after: usize) -> bool {
    !read_head(&mut stream).await.is_empty() && stream.read_exact(&mut vec![0; after]).await.is_ok()
}

#[tokio::test]
async fn an_upload_that_an_endpoint_broke_off_arrives_whole_at_the_next() {
    let (breaks, broken) = breaks_uploads(20_000).await;
    let one = Backend::start("one").await;
    let pierhead = serving(&[breaks, one.address], "").await;
    for at in 0..4 {
        // The path has the body sent back.
        let answer = send(pierhead.http, request(Method::PUT, "/trailers", body(64 * KIB))).await;
        assert_eq!(answer.status, 200, "request {at}");
        assert!(answer.body == body(64 * KIB), "request {at}: the body came out of order or not whole");
    }
    assert!(broken.load(Ordering::SeqCst) > 0, "an upload was broken off");
    assert_eq!(one.seen().len(), 4, "each arrived once");
}

#[tokio::test]
async fn an_upload_goes_on_with_the_next_endpoint_while_the_client_still_sends() {
    let broken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&broken);
    let address = scripted(move |mut stream, connection| {
        let broken = Arc::clone(&counted);
        async move {
            if connection == 0 {
                break_upload(stream, 10).await;
                broken.fetch_add(1, Ordering::SeqCst);
                return;
            }
            let head = read_head(&mut stream).await;
            let mut upload = Vec::new();
            while !upload.ends_with(b"\r\n\r\n") && stream.read_buf(&mut upload).await.is_ok_and(|read| read > 0) {}
            let reply = [head.as_bytes(), &upload].concat();
            let _sent = stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len()).as_bytes())
                .await;
            let _sent = stream.write_all(&reply).await;
        }
    })
    .await;
    let pierhead = serving(&[address], "").await;
    let mut client = Raw::connect(pierhead.http).await;
    let head = "PUT /x HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nconnection: close\r\n\r\n";
    client.write(format!("{head}c\r\nfirst chunk \r\n")).await;
    eventually("the first try to break off", async || (broken.load(Ordering::SeqCst) == 1).then_some(())).await;
    client.write("c\r\nsecond chunk\r\n0\r\nx-sum: 24\r\n\r\n").await;
    let response = client.rest().await;
    assert_eq!(status_of(&response), 200, "{response}");
    let (first, second) = (response.find("first chunk "), response.find("second chunk"));
    assert!(first.is_some() && first < second, "{response}");
    assert!(response.ends_with("0\r\nx-sum: 24\r\n\r\n"), "trailers too: {response}");
    assert_eq!(pierhead.logged_path("/x").await["attempts"], 2);
}

#[tokio::test]
async fn a_body_over_replay_body_is_not_sent_twice() {
    for (length, replay_body) in [(65 * KIB, "64Ki"), (2 * KIB, "1Ki"), (1, "0")] {
        let (breaks, broken) = breaks_uploads(length.min(1025)).await;
        let pierhead = serving(&[breaks], &format!("replayBody: {replay_body}")).await;
        let answer = send(pierhead.http, request(Method::PUT, "/x", body(length))).await;
        assert_eq!(answer.status, 502, "{length} bytes with {replay_body}");
        assert_eq!(broken.load(Ordering::SeqCst), 1, "{length} bytes with {replay_body}");
    }
    let (breaks, broken) = breaks_uploads(1025).await;
    let pierhead = serving(&[breaks], "replayBody: 2Ki").await;
    assert_eq!(send(pierhead.http, request(Method::PUT, "/x", body(2 * KIB))).await.status, 502);
    assert_eq!(broken.load(Ordering::SeqCst), 3, "a body that fits is sent again");
}

#[tokio::test]
async fn replay_body_counts_the_bytes_of_the_body_alone() {
    let (breaks, broken) = breaks_uploads(10).await;
    let pierhead = serving(&[breaks], "replayBody: 10").await;
    assert_eq!(send(pierhead.http, request(Method::PUT, "/x", body(10))).await.status, 502);
    assert_eq!(broken.load(Ordering::SeqCst), 3, "a body of the limit is sent again");
    let (breaks, broken) = breaks_uploads(5000).await;
    let pierhead = serving(&[breaks], "replayBody: 5000").await;
    let chunks = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(5000));
    let head = "PUT /x HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let response = raw(pierhead.http, format!("{head}{chunks}")).await;
    assert_eq!(status_of(&response), 502, "{response}");
    assert_eq!(broken.load(Ordering::SeqCst), 3, "in however many chunks it comes");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_kept_no_further_than_replay_body() {
    let (breaks, broken) = breaks_uploads(3 * KIB).await;
    let pierhead = serving(&[breaks], "replayBody: 2Ki").await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("PUT /x HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for _ in 0..4 {
        client.write(format!("400\r\n{}\r\n", "x".repeat(KIB))).await;
    }
    client.write("0\r\n\r\n").await;
    assert_eq!(status_of(&client.head().await), 502);
    assert_eq!(broken.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn backoff_makes_a_retry_wait_and_one_that_would_come_too_late_is_not_made() {
    let (address, heads) = closes_unanswered().await;
    let spec = "timeouts: {request: 500ms}\n  retries: {backoff: {base: 60s, max: 60s}}";
    let pierhead = Pierhead::serving(governed(&[address], spec)).await;
    for _ in 0..4 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 502);
    }
    // Each pause is drawn from a minute: one in 120 is short enough for a retry.
    let heads = heads.load(Ordering::SeqCst);
    assert!((4..8).contains(&heads), "{heads} tries of 4 requests");
}

#[tokio::test]
async fn backoff_grows_no_further_than_its_longest() {
    let (address, _heads) = closes_unanswered().await;
    // Ten pauses of at most 100 ms. Without a bound the tenth alone is drawn from 25 s and one that would come too late is
    // not made: of eight requests none would see all of its tries.
    let spec = "timeouts: {request: 10s}\n  retries: {attempts: 10, backoff: {base: 50ms, max: 100ms}, budget: \
                {minPerSecond: 1000}}";
    let pierhead = Pierhead::serving(governed(&[address], spec)).await;
    join_all((0..8).map(|_| get(pierhead.http, "a.example", "/x"))).await;
    for _ in 0..8 {
        assert_eq!(pierhead.logged_path("/x").await["attempts"], 11);
    }
}

#[tokio::test]
async fn budget_bounds_what_an_endpoint_has_seen_and_not_what_was_never_sent() {
    let nothing = "budget: {percent: 0, minPerSecond: 0}";
    assert_eq!(tries(nothing, Method::GET).await, 1);
    let (refused, _held) = refusing();
    let one = Backend::start("one").await;
    let pierhead = serving(&[refused, one.address], nothing).await;
    for _ in 0..6 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.backend(), "one");
    }
}

/// Tries of 20 requests, one after the other, each of which takes two more when it may; and the seconds that began.
async fn tries_within(budget: &str) -> (usize, usize) {
    let (address, heads) = closes_unanswered().await;
    let pierhead = serving(&[address], &format!("budget: {{{budget}}}, backoff: {{base: 1ms, max: 1ms}}")).await;
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 502);
    }
    (heads.load(Ordering::SeqCst), usize::try_from(start.elapsed().as_secs()).unwrap() + 2)
}

#[tokio::test]
async fn budget_is_a_share_of_the_requests_or_so_many_a_second() {
    let (tries, _) = tries_within("percent: 0, minPerSecond: 1000").await;
    assert_eq!(tries, 60);
    let (tries, seconds) = tries_within("percent: 0, minPerSecond: 1").await;
    assert!((21..=20 + seconds).contains(&tries), "{tries} tries in {seconds} s");
    // Of the requests of a second or of the one before, whichever are more: half of 20 and of 20 again at most.
    let (tries, _) = tries_within("percent: 50, minPerSecond: 0").await;
    assert!((21..=40).contains(&tries), "{tries} tries");
}
