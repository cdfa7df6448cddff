//! A second try, where the first was provably never sent or may be done twice.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;

use crate::support::{
    backend::{Backend, refusing, scripted},
    client::{self, get, read_head, send},
    manifests::{ingress, service},
    pierhead::Setup,
};

fn all_to(endpoints: &[std::net::SocketAddr]) -> String {
    ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", endpoints)
}

fn post(path: &str) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "a.example").body(Full::from("hello")).unwrap()
}

#[tokio::test]
async fn a_refused_endpoint_is_followed_by_another_even_for_post() {
    let (refused, _held) = refusing();
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&[refused, one.address])).start().await;
    for at in 0..10 {
        let answer = send(pierhead.http, post("/x")).await;
        assert_eq!((answer.backend().as_str(), answer.json()["body"].as_u64()), ("one", Some(5)), "request {at}");
    }
    let tried_twice = |line: &serde_json::Value| line["attempts"] == 2;
    pierhead.logged("a request with two attempts", tried_twice).await;
}

#[tokio::test]
async fn endpoints_that_refuse_together_are_passed_over_until_one_answers() {
    let refusing: Vec<_> = (0..6).map(|_| refusing()).collect();
    let one = Backend::start("one").await;
    let mut endpoints: Vec<_> = refusing.iter().map(|(address, _held)| *address).collect();
    endpoints.push(one.address);
    let pierhead = Setup::default().manifests(all_to(&endpoints)).start().await;
    for at in 0..50 {
        assert_eq!(send(pierhead.http, post("/x")).await.backend(), "one", "request {at}");
    }
}

#[tokio::test]
async fn a_keep_alive_connection_that_went_stale_costs_no_request() {
    // Each connection answers once, offers to go on, and closes.
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let address = scripted(move |mut stream, _| {
        let served = Arc::clone(&counted);
        async move {
            if read_head(&mut stream).await.is_empty() {
                return;
            }
            served.fetch_add(1, Ordering::SeqCst);
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let pierhead = Setup::default().manifests(all_to(&[address])).flag("--threads=1").start().await;
    for at in 0..100 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200, "request {at}");
    }
    assert_eq!(served.load(Ordering::SeqCst), 100, "each request was answered by exactly one connection");
}

/// An endpoint that reads each request head, counts it, and closes without an answer.
pub async fn closes_unanswered() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let heads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heads);
    let address = scripted(move |mut stream, _| {
        let heads = Arc::clone(&counted);
        async move {
            if !read_head(&mut stream).await.is_empty() {
                heads.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (address, heads)
}

#[tokio::test]
async fn a_post_that_an_endpoint_may_have_seen_is_not_sent_again() {
    let (address, heads) = closes_unanswered().await;
    let pierhead = Setup::default().manifests(all_to(&[address])).start().await;
    assert_eq!(send(pierhead.http, post("/x")).await.status, 502);
    assert_eq!(heads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_get_whose_connection_was_reset_is_tried_three_times_at_most() {
    let (address, heads) = closes_unanswered().await;
    let pierhead = Setup::default().manifests(all_to(&[address])).start().await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 502);
    assert!((2..=3).contains(&heads.load(Ordering::SeqCst)), "{heads:?} tries");
}

#[tokio::test]
async fn a_get_is_tried_on_another_endpoint_after_a_reset() {
    let resets = scripted(|mut stream, _| async move {
        read_head(&mut stream).await;
    })
    .await;
    let one = Backend::start("one").await;
    let pierhead = Setup::default().manifests(all_to(&[resets, one.address])).start().await;
    for _ in 0..10 {
        assert_eq!(client::get(pierhead.http, "a.example", "/x").await.backend(), "one");
    }
}
