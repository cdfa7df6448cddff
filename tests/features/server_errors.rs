//! What becomes of a server error of the backend once retries are spent.

use crate::support::{
    backend::{Backend, replies},
    client::{get, raw, status_of},
    manifests::governed,
    pierhead::Pierhead,
};

const LEAKS: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nx-stack: secret\r\ncontent-length: 6\r\n\r\nsecret";

async fn serving(endpoint: std::net::SocketAddr, spec: &str) -> Pierhead {
    Pierhead::serving(governed(&[endpoint], spec)).await
}

#[tokio::test]
async fn bad_gateway_lets_nothing_of_a_server_error_through() {
    let pierhead = serving(replies(LEAKS, false).await, "serverErrors: BadGateway").await;
    let response = raw(pierhead.http, "GET /x HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status_of(&response), 502, "{response}");
    assert!(!response.contains("secret"), "{response}");
    assert!(response.contains("reason: server_error\n"), "{response}");
    let line = pierhead.logged_path("/x").await;
    assert_eq!((&line["status"], &line["reason"]), (&502.into(), &"server_error".into()));
}

#[tokio::test]
async fn relay_passes_a_server_error_unchanged() {
    for spec in ["serverErrors: Relay", "timeouts: {}"] {
        let pierhead = serving(replies(LEAKS, false).await, spec).await;
        let answer = get(pierhead.http, "a.example", "/x").await;
        assert_eq!((answer.status, answer.header("x-stack"), answer.text().as_str()), (500, "secret", "secret"));
    }
}

#[tokio::test]
async fn retries_come_first() {
    let (one, bad) = (Backend::start("one").await, Backend::start("bad").await);
    bad.set_failure(Some(500));
    let spec = "serverErrors: BadGateway\n  retries: {retryOn: [ServerError]}";
    let pierhead = Pierhead::serving(governed(&[one.address, bad.address], spec)).await;
    for _ in 0..4 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.backend(), "one");
    }
    one.set_failure(Some(500));
    assert_eq!(get(pierhead.http, "a.example", "/spent").await.status, 502);
    assert_eq!(pierhead.logged_path("/spent").await["attempts"], 3);
}

#[tokio::test]
async fn other_statuses_and_errors_told_in_trailers_pass() {
    let one = Backend::start("one").await;
    let pierhead = serving(one.address, "serverErrors: BadGateway").await;
    assert_eq!(get(pierhead.http, "a.example", "/status/404").await.status, 404);
    let request = "GET /trailers HTTP/1.1\r\nhost: a.example\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
    let response = raw(pierhead.http, request).await;
    assert!(response.ends_with("0\r\ngrpc-status: 0\r\n\r\n"), "{response}");
}
