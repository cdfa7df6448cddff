//! Hedging: a second try beside a first that is slow.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

use crate::support::{
    backend::{Backend, scripted},
    client::{self, Answer, get, read_head, send},
    eventually,
    manifests::governed,
    pierhead::Pierhead,
};

const LONG: Duration = Duration::from_hours(1);
const HEDGE: &str = "retries: {hedge: {after: 50ms}}";

fn request(method: Method, path: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("host", "a.example").body(Full::from(body)).unwrap()
}

/// One endpoint that answers and one that is silent, with hedging, and a few answers to such requests.
async fn answers_beside_silence(method: Method, body: &'static [u8]) -> (Vec<Answer>, Backend, Backend, Pierhead) {
    let (one, silent) = (Backend::start("one").await, Backend::start("silent").await);
    silent.set_delay(LONG);
    let pierhead = Pierhead::serving(governed(&[one.address, silent.address], HEDGE)).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(send(pierhead.http, request(method.clone(), "/x", body)).await);
    }
    (answers, one, silent, pierhead)
}

#[tokio::test]
async fn a_request_to_a_silent_endpoint_is_answered_by_another() {
    let (answers, one, silent, pierhead) = answers_beside_silence(Method::GET, b"").await;
    assert!(answers.iter().all(|answer| answer.backend() == "one"), "{answers:?}");
    silent.waits_for(0).await; // the try that lost was cancelled
    assert!(!silent.seen().is_empty(), "the silent endpoint was asked first now and then");
    let hedged = pierhead.logged("a hedged request", |line| line["attempts"] == 2).await;
    assert_eq!(hedged["upstream"], one.address.to_string(), "the log names who answered");
    let metrics = pierhead.metrics().await;
    let counted = |series: &str| {
        let line = metrics.lines().find(|line| line.starts_with(series) && line.contains(r#"service="one""#));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
    };
    let asked = silent.seen().len();
    assert_eq!(counted("pierhead_upstream_hedges_total"), Some(asked), "{metrics}");
    let abandoned = metrics.lines().find(|line| line.contains(r#"outcome="abandoned""#)).unwrap();
    assert!(abandoned.ends_with(&format!(" {asked}")), "each was abandoned: {abandoned}");
}

#[tokio::test]
async fn a_body_that_is_kept_whole_goes_to_both() {
    let (answers, one, silent, _pierhead) = answers_beside_silence(Method::PUT, b"hello").await;
    for answer in &answers {
        assert_eq!((answer.backend().as_str(), answer.json()["body"].as_u64()), ("one", Some(5)));
    }
    assert_eq!(one.seen().len(), 4);
    assert!(silent.seen().iter().all(|seen| seen["body"] == 5) && !silent.seen().is_empty());
}

/// Such a request of which the first try takes all the time it has: nobody else is asked meanwhile.
async fn is_not_hedged(retries: &str, method: Method, body: &'static [u8]) {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    one.set_delay(LONG);
    two.set_delay(LONG);
    let spec = format!("timeouts: {{perTry: 300ms}}\n  retries: {{retryOn: [], hedge: {{after: 50ms}}, {retries}}}");
    let pierhead = Pierhead::serving(governed(&[one.address, two.address], &spec)).await;
    let answer = send(pierhead.http, request(method, "/x", body)).await;
    assert_eq!(answer.status, 504, "{retries}: {answer:?}");
    assert_eq!(one.seen().len() + two.seen().len(), 1, "{retries}");
}

#[tokio::test]
async fn what_is_not_idempotent_is_not_hedged_even_if_it_may_be_retried() {
    is_not_hedged("methods: [GET, POST]", Method::POST, b"").await;
}

#[tokio::test]
async fn a_body_that_is_not_kept_whole_is_not_hedged() {
    is_not_hedged("replayBody: 1k", Method::PUT, &[b'x'; 2000]).await;
}

#[tokio::test]
async fn methods_attempts_and_budget_bound_hedges() {
    for bound in ["methods: [HEAD]", "attempts: 0", "budget: {percent: 0, minPerSecond: 0}"] {
        is_not_hedged(bound, Method::GET, b"").await;
    }
}

/// Requests to an endpoint that is slow and one that breaks off once the other was asked: none of them fails.
async fn survive_a_failure_beside_them(retries: &str) {
    let one = Backend::start("one").await;
    one.set_delay(Duration::from_millis(400));
    // Reads a request, and breaks off once the other endpoint has been asked for the same.
    let asked = one.clone();
    let breaks = scripted(move |mut stream, request| {
        let asked = asked.clone();
        async move {
            read_head(&mut stream).await;
            while asked.seen().len() <= request {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
    let pierhead = Pierhead::serving(governed(&[breaks, one.address], retries)).await;
    for _ in 0..4 {
        let answer = get(pierhead.http, "a.example", "/x").await;
        assert_eq!(answer.status, 200, "{retries}: {answer:?}");
    }
    assert_eq!(one.seen().len(), 4, "each request was there once");
}

#[tokio::test]
async fn a_try_that_fails_does_not_end_the_one_beside_it() {
    survive_a_failure_beside_them(HEDGE).await;
    survive_a_failure_beside_them("retries: {retryOn: [], hedge: {after: 50ms}}").await;
}

#[tokio::test]
async fn a_response_that_would_be_retried_does_not_win() {
    let (one, bad) = (Backend::start("one").await, Backend::start("bad").await);
    one.set_delay(Duration::from_millis(400));
    bad.set_delay(Duration::from_millis(100));
    bad.set_failure(Some(503));
    let spec = "retries: {retryOn: [GatewayError], hedge: {after: 50ms}}";
    let pierhead = Pierhead::serving(governed(&[one.address, bad.address], spec)).await;
    for _ in 0..4 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.backend(), "one");
    }
}

/// What is known of the latency of an endpoint, in milliseconds.
async fn latency(pierhead: &Pierhead, of: &Backend) -> f64 {
    let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
    let endpoints = backends[0]["endpoints"].as_array().unwrap().clone();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["address"] == of.address.to_string());
    endpoint.unwrap()["latencyMilliseconds"].as_f64().unwrap_or_default()
}

#[tokio::test]
async fn the_try_that_was_given_up_tells_of_its_endpoint() {
    let (one, silent) = (Backend::start("one").await, Backend::start("silent").await);
    silent.set_delay(LONG);
    let spec = format!("{HEDGE}\n  loadBalancing: {{strategy: PeakEwma}}");
    let pierhead = Pierhead::serving(governed(&[one.address, silent.address], &spec)).await;
    eventually("a hedged request", async || {
        get(pierhead.http, "a.example", "/x").await;
        (!silent.seen().is_empty()).then_some(())
    })
    .await;
    assert!(latency(&pierhead, &silent).await > latency(&pierhead, &one).await, "it never answered");
}

#[tokio::test]
async fn a_session_does_not_move_for_one_slow_answer() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let spec = format!("{HEDGE}\n  sessionAffinity: {{cookie: {{name: pier}}}}");
    let pierhead = Pierhead::serving(governed(&[one.address, two.address], &spec)).await;
    let first = get(pierhead.http, "a.example", "/x").await;
    let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("pier="), "{first:?}");
    let own = if first.backend() == "one" { &one } else { &two };
    own.set_delay(LONG);
    let asks = || client::request("a.example", "/x").header("cookie", &cookie).body(Full::default()).unwrap();
    let hedged = send(pierhead.http, asks()).await;
    assert_ne!(hedged.backend(), own.name);
    assert_eq!(hedged.header("set-cookie"), "");
    own.set_delay(Duration::ZERO);
    assert_eq!(send(pierhead.http, asks()).await.backend(), own.name, "it is still at home there");
}
