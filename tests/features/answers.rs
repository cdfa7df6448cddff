//! Answers of our own, and what the access log says of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::Full;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    backend::{Backend, blackhole, refusing, replies, scripted},
    client::{self, Answer, Raw, get, raw, request, send, status_of},
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
};

fn all_to(service: &str) -> String {
    ingress("main").host("a.example").prefix("/", service).to_string()
}

/// The log line of the path has this status and a one-word reason.
async fn logged(pierhead: &Pierhead, path: &str, status: u16) {
    let line = pierhead.logged_path(path).await;
    assert_eq!(line["status"], status, "{line}");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason != "-" && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
}

#[tokio::test]
async fn no_route_is_404() {
    let pierhead = Pierhead::serving(all_to("gone")).await;
    assert_eq!(get(pierhead.http, "other.example", "/nothing").await.status, 404);
    logged(&pierhead, "/nothing", 404).await;
}

#[tokio::test]
async fn a_service_without_endpoints_is_503_with_retry_after() {
    let pierhead = Pierhead::serving(all_to("empty") + &service("empty", &[])).await;
    let answer = get(pierhead.http, "a.example", "/empty").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").parse::<u32>().is_ok());
    logged(&pierhead, "/empty", 503).await;
}

#[tokio::test]
async fn a_refused_connection_is_502() {
    let (address, _held) = refusing();
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
    assert_eq!(get(pierhead.http, "a.example", "/refused").await.status, 502);
    logged(&pierhead, "/refused", 502).await;
}

#[tokio::test]
async fn a_reset_before_the_response_head_is_502() {
    let address = replies(b"", true).await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
    let post = http::Request::post("/reset").header("host", "a.example").body(Full::from("x")).unwrap();
    assert_eq!(send(pierhead.http, post).await.status, 502);
    logged(&pierhead, "/reset", 502).await;
}

#[tokio::test]
async fn a_malformed_response_is_502() {
    for (case, reply) in [
        ("no-http", &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..]),
        ("two-lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
        ("coding-that-stays", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("unsolicited-101", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    ] {
        let address = replies(reply, false).await;
        let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
        let path = format!("/{case}");
        assert_eq!(get(pierhead.http, "a.example", &path).await.status, 502, "{case}");
        logged(&pierhead, &path, 502).await;
    }
}

/// One thread serves both: an endpoint that never stops to announce must not keep it from the others.
#[tokio::test]
async fn an_endpoint_that_sends_interim_responses_without_end_is_502() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        client::read_head(&mut stream).await;
        let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(1000);
        while stream.write_all(&interim).await.is_ok() {}
    });
    let one = Backend::start("one").await;
    let manifests = ingress("main").host("a.example").prefix("/", "endless").prefix("/fine", "one").to_string()
        + &service("endless", &[address])
        + &service("one", &[one.address]);
    let pierhead = Setup::default().manifests(manifests).flag("--threads=1").start().await;
    assert_eq!(get(pierhead.http, "a.example", "/endless").await.status, 502);
    assert_eq!(pierhead.logged_path("/endless").await["reason"], "upstream_malformed");
    assert_eq!(get(pierhead.http, "a.example", "/fine").await.status, 200);
}

#[tokio::test]
async fn a_head_whose_length_is_doubtful_is_502() {
    let address = replies(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", false).await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
    let response = raw(pierhead.http, "HEAD /x HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status_of(&response), 502, "{response}");
}

/// RFC 9112 §6.3: `Transfer-Encoding` overrides `Content-Length`, which is not passed on.
#[tokio::test]
async fn a_response_with_two_framings_has_one_for_the_client() {
    let reply = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let address = replies(reply, false).await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
    let response = raw(pierhead.http, "GET /x HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status_of(&response), 200, "{response}");
    assert!(!response.contains("content-length") && response.ends_with("2\r\nhi\r\n0\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn a_body_whose_chunks_cannot_be_read_is_400() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    for (case, chunks) in ["0x5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloXX\r\n0\r\n\r\n"].iter().enumerate() {
        let head = format!("POST /{case} HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n");
        let response = raw(pierhead.http, head + chunks).await;
        assert_eq!(status_of(&response), 400, "{response}");
        logged(&pierhead, &format!("/{case}"), 400).await;
    }
    assert!(one.seen().is_empty(), "no body that broke off looks complete");
}

#[tokio::test]
async fn a_connection_that_does_not_open_is_504() {
    let (address, _held) = blackhole().await;
    let policy = backend_policy("one", "timeouts: {connect: 200ms}");
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address]) + &policy).await;
    assert_eq!(get(pierhead.http, "a.example", "/hole").await.status, 504);
    logged(&pierhead, "/hole", 504).await;
}

#[tokio::test]
async fn no_response_head_in_time_is_504() {
    let one = Backend::start("one").await;
    let manifests = all_to("one") + &service("one", &[one.address]);
    let pierhead = Setup::default().manifests(manifests).flag("--response-head-timeout=300ms").start().await;
    assert_eq!(get(pierhead.http, "a.example", "/slow").await.status, 504);
    logged(&pierhead, "/slow", 504).await;
    one.waits_for(0).await;
    assert_eq!(get(pierhead.http, "a.example", "/fine").await.status, 200, "others are unaffected");
}

#[tokio::test]
async fn a_slow_request_head_is_408_and_closes() {
    let setup = Setup::default().manifests(all_to("gone")).flag("--request-head-timeout=300ms");
    let pierhead = setup.start().await;
    let response = raw(pierhead.http, "GET / HTTP/1.1\r\nhost: a.exa").await;
    assert_eq!(status_of(&response), 408, "{response}");
    let silent = raw(pierhead.http, "").await;
    assert!(silent.is_empty() || status_of(&silent) == 408, "{silent}");
}

#[tokio::test]
async fn heads_over_their_limits_are_refused_and_close() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    let large_field = format!("GET / HTTP/1.1\r\nhost: a.example\r\nx: {}\r\n\r\n", "x".repeat(80 * 1024));
    let many_fields = format!("GET / HTTP/1.1\r\nhost: a.example\r\n{}\r\n", "x: y\r\n".repeat(101));
    let long_target = format!("GET /{} HTTP/1.1\r\nhost: a.example\r\n\r\n", "x".repeat(17 * 1024));
    let longest_target = format!("GET /{} HTTP/1.1\r\nhost: a.example\r\n\r\n", "x".repeat(70 * 1024));
    for (case, head, status) in [
        ("large field", large_field, 431),
        ("many fields", many_fields, 431),
        ("long target", long_target, 414),
        ("longest target", longest_target, 414),
    ] {
        let response = raw(pierhead.http, head).await;
        assert_eq!(status_of(&response), status, "{case}");
    }
    assert!(one.seen().is_empty(), "a refused head reached the backend");
}

#[tokio::test]
async fn bad_syntax_is_400_and_closes() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",                                                  // no Host
        "GET / HTTP/1.1\r\nhost: a.example\r\nhost: a.example\r\n\r\n",            // two Hosts
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",                                     // no host name
        "GET / HTTP/1.1\r\nhost: a.example\r\nTE : x\r\n\r\n",                     // space before the colon
        "GET / HTTP/1.1\r\nhost: a.example\r\n x\r\n\r\n",                         // folded field
        "GET x HTTP/1.1\r\nhost: a.example\r\n\r\n",                               // no slash
        "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5, 6\r\n\r\nhello", // two lengths
        "POST / HTTP/1.0\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let response = raw(pierhead.http, request).await;
        assert_eq!(status_of(&response), 400, "{request:?}: {response}");
    }
    assert!(one.seen().is_empty(), "a malformed request reached the backend");
}

#[tokio::test]
async fn connect_and_trace_are_405() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    for line in ["CONNECT a.example:80", "TRACE /"] {
        let request = format!("{line} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n");
        let response = raw(pierhead.http, request).await;
        assert_eq!(status_of(&response), 405, "{line}: {response}");
        assert!(response.to_ascii_lowercase().contains("\r\nallow: "), "RFC 9110 §15.5.6: {response}");
    }
    assert!(one.seen().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_is_499_and_its_attempt_is_cancelled() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET /slow/left HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    one.waits_for(1).await;
    drop(client);
    one.waits_for(0).await;
    logged(&pierhead, "/slow/left", 499).await;
    assert!(pierhead.metrics().await.contains(r#"status="4xx""#));
}

#[tokio::test]
async fn a_response_cut_after_its_head_is_cut_for_the_client() {
    for (case, reply) in [
        ("length", &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart"[..]),
        ("chunked", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n"),
    ] {
        let address = replies(reply, false).await;
        let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
        let path = format!("/cut/{case}");
        let stream = TcpStream::connect(pierhead.http).await.unwrap();
        let mut sender = client::http1::<Full<bytes::Bytes>>(stream).await;
        let response = sender.send_request(request("a.example", &path).body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(Answer::read(response).await.is_err(), "{case}: a cut response ended cleanly");
        let line = pierhead.logged_path(&path).await;
        assert!(line["reason"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn a_status_of_the_backend_passes_unchanged() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    for status in [201, 302, 404, 418, 500, 503] {
        let answer = get(pierhead.http, "a.example", &format!("/status/{status}")).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, "one"));
    }
    let line = pierhead.logged_path("/status/503").await;
    assert_eq!((&line["reason"], &line["status"]), (&serde_json::Value::Null, &503.into()));
}

#[tokio::test]
async fn a_request_is_never_sent_twice_once_its_answer_has_begun() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let address = scripted(move |mut stream, _| {
        let attempts = Arc::clone(&counted);
        async move {
            use tokio::io::AsyncWriteExt as _;
            client::read_head(&mut stream).await;
            attempts.fetch_add(1, Ordering::SeqCst);
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").await;
        }
    })
    .await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[address])).await;
    assert!(client::try_get(pierhead.http, "a.example", "/once").await.is_none());
    pierhead.logged_path("/once").await;
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}
