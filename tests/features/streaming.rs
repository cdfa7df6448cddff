//! Bodies: large, chunked, with trailers, and with a reader that is slow.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
};

use crate::support::{
    backend::{Backend, answer_in_frames, scripted},
    client::{self, Answer, Raw, get, request, status_of},
    eventually,
    manifests::{governed, ingress, service},
    pierhead::Pierhead,
    soon,
};

const MIB: usize = 1024 * 1024;

async fn serving(one: &Backend) -> Pierhead {
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    Pierhead::serving(manifests).await
}

fn parts(count: usize, size: usize) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    let part = Bytes::from(vec![b'x'; size]);
    StreamBody::new(futures_util::stream::iter((0..count).map(move |_| Ok(Frame::data(part.clone())))))
}

#[tokio::test]
async fn a_large_response_arrives_whole() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let answer = get(pierhead.http, "a.example", &format!("/stream/{}", 20 * MIB + 7)).await;
    assert_eq!((answer.status, answer.body.len()), (200, 20 * MIB + 7));
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let mut sender = client::http1(TcpStream::connect(pierhead.http).await.unwrap()).await;
    let request = http::Request::post("/upload").header("host", "a.example").body(parts(320, 64 * 1024)).unwrap();
    let response = soon("answer", sender.send_request(request)).await.unwrap();
    assert_eq!(Answer::read(response).await.unwrap().json()["body"], 20 * MIB);
}

#[tokio::test]
async fn a_chunked_response_passes() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    assert_eq!(get(pierhead.http, "a.example", "/chunked").await.text(), "one,two,three");
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let response = client::raw(pierhead.http, "GET /chunked HTTP/1.0\r\nhost: a.example\r\n\r\n").await;
    assert!(response.ends_with("\r\n\r\none,two,three"), "{response}");
    assert!(!response.to_ascii_lowercase().contains("transfer-encoding"), "{response}");
}

#[tokio::test]
async fn http_1_trailers_reach_a_client_that_takes_them() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let request = "GET /trailers HTTP/1.1\r\nhost: a.example\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
    let response = client::raw(pierhead.http, request).await;
    assert!(response.to_ascii_lowercase().contains("\r\ntrailer: grpc-status\r\n"), "{response}");
    assert!(response.ends_with("0\r\ngrpc-status: 0\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_back_the_backend() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let mut sender = client::http1::<Full<Bytes>>(TcpStream::connect(pierhead.http).await.unwrap()).await;
    let total = 512 * MIB;
    let request = request("a.example", &format!("/stream/{total}")).body(Full::default()).unwrap();
    let mut response = soon("head", sender.send_request(request)).await.unwrap();
    // A while passes in which the backend could send everything: until another large response has gone through.
    assert_eq!(get(pierhead.http, "a.example", &format!("/stream/{}", 64 * MIB)).await.body.len(), 64 * MIB);
    let resident = pierhead.resident_bytes();
    assert!(resident < 128 * MIB, "{} MiB resident: the body is buffered without bound", resident / MIB);
    let mut read = 0;
    while let Some(frame) = soon("frame", response.frame()).await {
        read += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(read, total);
}

#[tokio::test]
async fn an_early_response_is_delivered_while_the_upload_goes_on() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("POST /early HTTP/1.1\r\nhost: a.example\r\ncontent-length: 1000000\r\n\r\npart").await;
    assert_eq!(status_of(&client.head().await), 413, "the answer does not wait for the rest of the upload");
    drop(client);
    assert_eq!(get(pierhead.http, "a.example", "/next").await.status, 200, "the connection in doubt is not used again");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_never_completed() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    for (path, request) in [
        ("/cut/length", "POST /cut/length HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\nhello"),
        (
            "/cut/chunked",
            "POST /cut/chunked HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
    ] {
        let mut client = Raw::connect(pierhead.http).await;
        client.write(request).await;
        one.waits_for(1).await;
        drop(client);
        one.waits_for(0).await; // RFC 9112 §8
        pierhead.logged_path(path).await;
        assert!(one.seen().is_empty(), "{path}: a cut upload looked complete to the backend");
    }
}

#[tokio::test]
async fn a_body_that_waits_for_100_continue_is_asked_for() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let mut client = Raw::connect(pierhead.http).await;
    let head =
        "POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    client.write(head).await;
    assert_eq!(status_of(&client.head().await), 100);
    client.write("hello").await;
    assert_eq!(status_of(&client.head().await), 200);
    eventually("the body", async || (one.seen().first()?["body"] == 5).then_some(())).await;
}

/// Of stream 1: a head with status 200, the same with a length of 10, and four bytes of content.
const HEAD: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
const HEAD_OF_TEN: &[u8] = &[0, 0, 6, 1, 4, 0, 0, 0, 1, 0x88, 0x0f, 0x0d, 2, b'1', b'0'];
const PART: &[u8] = &[0, 0, 4, 0, 0, 0, 0, 0, 1, b'p', b'a', b'r', b't'];
/// Ends of a stream and of a connection that call themselves orderly (`NO_ERROR`), and one that does not (`CANCEL`).
const RESET: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0];
const CANCEL: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_response_that_an_http2_endpoint_cuts_is_never_given_a_clean_end() {
    for (head, end) in [(HEAD, RESET), (HEAD, CANCEL), (HEAD, GOAWAY), (HEAD_OF_TEN, RESET)] {
        let taken = Arc::new(Notify::new());
        let is_taken = Arc::clone(&taken);
        let cuts = scripted(move |mut stream, _| {
            let is_taken = Arc::clone(&is_taken);
            async move {
                answer_in_frames(&mut stream, &[head, PART]).await;
                is_taken.notified().await;
                stream.write_all(end).await.unwrap();
            }
        })
        .await;
        let pierhead = Pierhead::serving(governed(&[cuts], "protocol: H2C\n  retries: {attempts: 0}")).await;
        let mut client = Raw::connect(pierhead.http).await;
        client.write("GET /x HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
        assert_eq!(status_of(&client.head().await), 200);
        let part = if head == HEAD { "4\r\npart\r\n" } else { "part" };
        assert_eq!(client.exactly(part.len()).await, part.as_bytes());
        taken.notify_one();
        assert_eq!(client.rest().await, "", "{end:?}: no last chunk");
        assert_eq!(pierhead.logged_path("/x").await["reason"], "response_cut", "{end:?}");
    }
}

#[tokio::test]
async fn an_upload_that_an_http2_client_cuts_never_looks_complete() {
    let (sender, mut uploads) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = scripted(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let _head = client::read_head(&mut stream).await;
            let mut chunk = [0; b"4\r\npart\r\n".len()];
            stream.read_exact(&mut chunk).await.unwrap();
            sender.send(None).unwrap();
            let mut rest = Vec::new();
            let _reset = stream.read_to_end(&mut rest).await;
            sender.send(Some(rest)).unwrap();
        }
    })
    .await;
    let pierhead = Pierhead::serving(governed(&[endpoint], "retries: {attempts: 0}")).await;
    for reason in [h2::Reason::NO_ERROR, h2::Reason::CANCEL].repeat(10) {
        let stream = TcpStream::connect(pierhead.http).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let _connection = tokio::spawn(connection);
        let request = http::Request::post("http://a.example/x").body(()).unwrap();
        let (_response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"part"), false).unwrap();
        assert_eq!(soon("the part", uploads.recv()).await, Some(None));
        body.send_reset(reason);
        assert_eq!(soon("the end", uploads.recv()).await, Some(Some(Vec::new())), "{reason:?}: no last chunk");
    }
}
