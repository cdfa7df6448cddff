//! Limits of concurrency and size.

use http_body_util::Full;

use crate::support::{
    backend::{Backend, Speaks},
    client::{Raw, get, raw, send, status_of},
    eventually,
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
};

fn all_to(one: &Backend) -> String {
    ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address])
}

/// One request waits at the backend; the next is refused, and after the first has ended one passes again.
async fn the_second_is_refused(pierhead: &Pierhead, one: &Backend) {
    let mut first = Raw::connect(pierhead.http).await;
    first.write("GET /slow HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    one.waits_for(1).await;
    let second = get(pierhead.http, "a.example", "/second").await;
    assert_eq!(second.status, 503);
    assert!(!second.header("retry-after").is_empty());
    one.release();
    assert_eq!(status_of(&first.head().await), 200);
    pierhead.logged_path("/slow").await;
    assert_eq!(get(pierhead.http, "a.example", "/third").await.status, 200);
    assert_eq!(one.seen().len(), 2, "the refused request did not reach the backend");
}

#[tokio::test]
async fn requests_over_the_limit_of_the_process_are_503() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--max-concurrent-requests=1").start().await;
    the_second_is_refused(&pierhead, &one).await;
}

#[tokio::test]
async fn requests_over_the_limit_of_the_backend_are_503() {
    let one = Backend::start("one").await;
    let policy = backend_policy("one", "limits: {maxConcurrentRequests: 1}");
    let pierhead = Pierhead::serving(all_to(&one) + &policy).await;
    the_second_is_refused(&pierhead, &one).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--max-body-size=10").start().await;
    let post =
        |body: &'static str| http::Request::post("/x").header("host", "a.example").body(Full::from(body)).unwrap();
    assert_eq!(send(pierhead.http, post("0123456789")).await.status, 200);
    assert_eq!(send(pierhead.http, post("0123456789a")).await.status, 413);
    let chunked = "POST /x HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\nconnection: \
                   close\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    let response = raw(pierhead.http, chunked).await;
    assert_eq!(status_of(&response), 413, "{response}");
    assert_eq!(one.seen().len(), 1, "a body over the limit never looks complete to the backend");
}

/// The client goes on sending for a while after the answer, as clients do that look at answers only in the end.
#[tokio::test]
async fn the_answer_to_a_large_upload_arrives_although_it_is_not_read() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--max-body-size=10").start().await;
    let size = 8 << 20;
    let mut client = Raw::connect(pierhead.http).await;
    client.write(format!("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: {size}\r\n\r\n")).await;
    client.write(vec![b'x'; size]).await;
    let response = client.rest().await;
    assert_eq!(status_of(&response), 413, "{response}");
    assert!(response.ends_with('\n'), "the answer is whole: {response:?}");
}

#[tokio::test]
async fn a_body_that_waits_for_100_continue_and_is_too_large_is_never_asked_for() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--max-body-size=10").start().await;
    let head = "POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 11\r\nexpect: 100-continue\r\n\r\n";
    let mut client = Raw::connect(pierhead.http).await;
    client.write(head).await;
    assert_eq!(status_of(&client.head().await), 413);
}

#[tokio::test]
async fn an_upload_that_stalls_is_given_up() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--idle-timeout=300ms").start().await;
    let stalled = "POST /stalled HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\npart";
    let response = raw(pierhead.http, stalled).await;
    assert_eq!(status_of(&response), 408, "{response}");
    one.waits_for(0).await;
    assert!(one.seen().is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--keep-alive-timeout=300ms").start().await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET /status/204 HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(status_of(&client.head().await), 204);
    assert_eq!(client.rest().await, "", "closed without a word: there was no request");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--request-head-timeout=300ms").start().await;
    assert_eq!(Raw::connect(pierhead.http).await.rest().await, "");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&one)).flag("--handshake-timeout=300ms").start().await;
    assert_eq!(Raw::connect(pierhead.https).await.rest().await, "");
    let counted = async || {
        pierhead
            .metrics()
            .await
            .contains(r#"pierhead_tls_handshakes_total{version="none",result="timeout"} 1"#)
            .then_some(())
    };
    eventually("the failed handshake is counted", counted).await;
}

#[tokio::test]
async fn routes_that_speak_to_a_service_in_two_ways_share_its_limit() {
    let one = Backend::speaking("one", Speaks { anything: true, ..Speaks::default() }).await;
    let other = ingress("other").host("b.example").prefix("/", "one");
    let other = other.annotation("pierhead.dev/backend-protocol", "H2C").to_string();
    let policy = backend_policy("one", "limits: {maxConcurrentRequests: 1}");
    let pierhead = Pierhead::serving(all_to(&one) + &other + &policy).await;
    let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
    assert_eq!(backends.as_array().unwrap().len(), 2, "two variants: {backends}");
    for (host, refused) in [("a.example", "b.example"), ("b.example", "a.example")] {
        let mut first = Raw::connect(pierhead.http).await;
        let path = format!("/slow/{host}");
        first.write(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        one.waits_for(1).await;
        assert_eq!(get(pierhead.http, refused, "/x").await.status, 503, "{host} holds the place");
        drop(first);
        one.waits_for(0).await;
        pierhead.logged_path(&path).await;
    }
}
