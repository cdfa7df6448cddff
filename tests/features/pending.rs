//! Requests that wait for their turn at a backend.

use crate::support::{
    backend::Backend,
    client::{Raw, get, status_of},
    eventually,
    manifests::governed,
    pierhead::Pierhead,
};

fn limits(fields: &str) -> String {
    format!("limits: {{{fields}}}")
}

async fn ask(pierhead: &Pierhead, path: &str) -> Raw {
    let mut client = Raw::connect(pierhead.http).await;
    client.write(format!("GET {path} HTTP/1.1\r\nhost: a.example\r\n\r\n")).await;
    client
}

async fn waiting(pierhead: &Pierhead, count: u64) {
    let there = async || {
        let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
        (backends[0]["pending"] == count).then_some(())
    };
    eventually(&format!("{count} requests that wait"), there).await;
}

#[tokio::test]
async fn requests_wait_in_order_and_too_many_are_refused() {
    let one = Backend::start("one").await;
    let policy = limits("maxConcurrentRequests: 1, maxPending: 2, pendingTimeout: 30s");
    let pierhead = Pierhead::serving(governed(&[one.address], &policy)).await;
    let mut first = ask(&pierhead, "/slow/1").await;
    one.waits_for(1).await;
    let mut second = ask(&pierhead, "/2").await;
    waiting(&pierhead, 1).await;
    let mut third = ask(&pierhead, "/3").await;
    waiting(&pierhead, 2).await;
    assert_eq!(get(pierhead.http, "a.example", "/4").await.status, 503);
    assert_eq!(pierhead.logged_path("/4").await["reason"], "backend_limit");
    one.release();
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(status_of(&client.head().await), 200);
    }
    let order: Vec<String> = one.seen().iter().map(|seen| seen["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, ["/slow/1", "/2", "/3"]);
    assert_eq!(one.most_waiting(), 1);
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_503_with_a_reason_of_its_own() {
    let one = Backend::start("one").await;
    let policy = limits("maxConcurrentRequests: 1, maxPending: 1, pendingTimeout: 300ms");
    let pierhead = Pierhead::serving(governed(&[one.address], &policy)).await;
    let _first = ask(&pierhead, "/slow").await;
    one.waits_for(1).await;
    let answer = get(pierhead.http, "a.example", "/late").await;
    assert_eq!(answer.status, 503);
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(pierhead.logged_path("/late").await["reason"], "pending_timeout");
    waiting(&pierhead, 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_turn_to_the_next() {
    let one = Backend::start("one").await;
    let policy = limits("maxConcurrentRequests: 1, maxPending: 2, pendingTimeout: 30s");
    let pierhead = Pierhead::serving(governed(&[one.address], &policy)).await;
    let _first = ask(&pierhead, "/slow").await;
    one.waits_for(1).await;
    let leaves = ask(&pierhead, "/leaves").await;
    waiting(&pierhead, 1).await;
    let mut stays = ask(&pierhead, "/stays").await;
    waiting(&pierhead, 2).await;
    drop(leaves);
    waiting(&pierhead, 1).await;
    one.release();
    assert_eq!(status_of(&stays.head().await), 200);
    assert!(one.seen().iter().all(|seen| seen["path"] != "/leaves"));
}

#[tokio::test]
async fn a_policy_with_a_higher_limit_lets_in_those_who_wait() {
    let one = Backend::start("one").await;
    let with = |limit: u32| {
        let policy = limits(&format!("maxConcurrentRequests: {limit}, maxPending: 1, pendingTimeout: 30s"));
        governed(&[one.address], &policy)
    };
    let pierhead = Pierhead::serving(with(1)).await;
    let _first = ask(&pierhead, "/slow").await;
    one.waits_for(1).await;
    let mut second = ask(&pierhead, "/second").await;
    waiting(&pierhead, 1).await;
    pierhead.write(with(2));
    assert_eq!(status_of(&second.head().await), 200, "while the first is still there");
}

#[tokio::test]
async fn the_time_of_the_request_runs_while_it_waits() {
    let one = Backend::start("one").await;
    let limits = limits("maxConcurrentRequests: 1, maxPending: 1, pendingTimeout: 30s");
    let pierhead =
        Pierhead::serving(governed(&[one.address], &format!("timeouts: {{request: 300ms}}\n  {limits}"))).await;
    let mut tunnel = Raw::connect(pierhead.http).await;
    tunnel.write("GET /chat HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(status_of(&tunnel.head().await), 101, "it has the only turn, and no limit of time");
    assert_eq!(get(pierhead.http, "a.example", "/late").await.status, 504);
    let line = pierhead.logged_path("/late").await;
    assert_eq!((&line["reason"], &line["attempts"]), (&"request_timeout".into(), &0.into()));
    waiting(&pierhead, 0).await;
}
