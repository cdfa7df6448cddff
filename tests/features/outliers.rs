//! Outlier detection: endpoints whose requests fail are left out for a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::support::{
    backend::{Backend, refusing},
    client::{Raw, get, status_of},
    eventually,
    manifests::governed,
    pierhead::{Pierhead, Setup},
};

/// A process with one thread, so that round robin is even.
async fn serve(manifests: String) -> Pierhead {
    Setup::default().manifests(manifests).flag("--threads=1").start().await
}

async fn statuses(pierhead: &Pierhead, requests: usize) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for _ in 0..requests {
        *statuses.entry(get(pierhead.http, "a.example", "/").await.status).or_default() += 1;
    }
    statuses
}

fn outlier(fields: &str) -> String {
    format!("health: {{panicThreshold: 0, outlier: {{{fields}}}}}")
}

#[tokio::test]
async fn errors_in_a_row_eject_an_endpoint_until_its_time_is_over() {
    let (good, bad) = (Backend::start("good").await, Backend::start("bad").await);
    bad.set_failure(Some(500));
    let policy = outlier("consecutiveErrors: 3, baseEjection: 5s");
    let pierhead = serve(governed(&[good.address, bad.address], &policy)).await;
    assert_eq!(statuses(&pierhead, 20).await, BTreeMap::from([(200, 17), (500, 3)]));
    pierhead.told("the ejection", |line| line["message"] == "endpoint ejected").await;
    bad.set_failure(None);
    let seen = bad.seen().len();
    eventually("it comes back", async || {
        statuses(&pierhead, 2).await;
        (bad.seen().len() > seen).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_ratio_of_errors_ejects_an_endpoint() {
    let (good, bad) = (Backend::start("good").await, Backend::start("bad").await);
    let policy = outlier("consecutiveErrors: 100, errorRatio: 40, minRequests: 10, interval: 60s, baseEjection: 60s");
    let pierhead = serve(governed(&[good.address, bad.address], &policy)).await;
    let mut errors = 0;
    for request in 0..40 {
        // Of what comes to the bad one, every other request fails.
        bad.set_failure((request / 2 % 2 == 0).then_some(503));
        errors += usize::from(get(pierhead.http, "a.example", "/").await.status == 503);
    }
    assert_eq!((bad.seen().len(), errors), (10, 5), "the tenth request shows that half of them fail");
}

/// How long a second ejection lasts under a policy whose first lasts 8 s.
async fn second_ejection(fields: &str) -> u64 {
    let (good, bad) = (Backend::start("good").await, Backend::start("bad").await);
    let policy = outlier(&format!("consecutiveErrors: 1, baseEjection: 8s, {fields}"));
    let pierhead = serve(governed(&[good.address, bad.address], &policy)).await;
    let ejected = async || {
        statuses(&pierhead, 2).await;
        let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
        let mut endpoints = backends[0]["endpoints"].as_array().unwrap().iter();
        endpoints.find_map(|endpoint| endpoint["ejectedMilliseconds"].as_u64())
    };
    bad.set_failure(Some(500));
    let first = eventually("the first ejection", ejected).await;
    assert!(first <= 8000, "{first}");
    bad.set_failure(None);
    let (seen, mut back) = (bad.seen().len(), None);
    eventually("three short intervals in health", async || {
        statuses(&pierhead, 2).await;
        if bad.seen().len() == seen {
            return None;
        }
        (back.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(300)).then_some(())
    })
    .await;
    bad.set_failure(Some(500));
    eventually("the second ejection", ejected).await
}

#[tokio::test]
async fn ejections_grow_up_to_the_longest_and_are_forgiven_in_health() {
    let (grown, capped, forgiven) = tokio::join!(
        second_ejection("interval: 60s, maxEjection: 60s"),
        second_ejection("interval: 60s, maxEjection: 8s"),
        second_ejection("interval: 100ms, maxEjection: 60s"),
    );
    assert!((8001..=16000).contains(&grown), "{grown}");
    assert!(capped <= 8000, "{capped}");
    assert!(forgiven <= 8000, "{forgiven}");
}

#[tokio::test]
async fn connections_that_fail_eject_an_endpoint() {
    let good = Backend::start("good").await;
    let (refused, _held) = refusing();
    let policy = outlier("consecutiveErrors: 2, baseEjection: 60s");
    let pierhead = serve(governed(&[good.address, refused], &policy)).await;
    let paths: Vec<String> = (0..12).map(|number| format!("/{number}")).collect();
    for path in &paths {
        assert_eq!(get(pierhead.http, "a.example", path).await.status, 200, "another try succeeds");
    }
    let mut tries = Vec::new();
    for path in &paths {
        tries.push(pierhead.logged_path(path).await["attempts"].as_u64().unwrap());
    }
    assert_eq!(tries.iter().filter(|tries| **tries == 2).count(), 2, "two requests found out: {tries:?}");
}

#[tokio::test]
async fn no_more_than_the_share_is_ejected() {
    let backends = [Backend::start("1").await, Backend::start("2").await, Backend::start("3").await];
    for backend in &backends {
        backend.set_failure(Some(500));
    }
    let policy = outlier("consecutiveErrors: 1, baseEjection: 60s, maxEjectedPercent: 67");
    let addresses = backends.each_ref().map(|backend| backend.address);
    let pierhead = serve(governed(&addresses, &policy)).await;
    statuses(&pierhead, 12).await;
    let seen = backends.each_ref().map(|backend| backend.seen().len());
    assert_eq!(seen.iter().filter(|count| **count == 1).count(), 2, "{seen:?}");
    assert_eq!(seen.iter().sum::<usize>(), 12, "{seen:?}");
}

#[tokio::test]
async fn when_none_is_fit_the_panic_threshold_decides() {
    let only = Backend::start("only").await;
    only.set_failure(Some(500));
    let detection = "outlier: {consecutiveErrors: 1, baseEjection: 60s}";
    let strict = serve(governed(&[only.address], &format!("health: {{panicThreshold: 0, {detection}}}"))).await;
    assert_eq!(statuses(&strict, 3).await, BTreeMap::from([(500, 1), (503, 2)]));
    get(strict.http, "a.example", "/why").await;
    assert_eq!(strict.logged_path("/why").await["reason"], "no_healthy_endpoint");
    let panics = serve(governed(&[only.address], &format!("health: {{panicThreshold: 50, {detection}}}"))).await;
    assert_eq!(statuses(&panics, 3).await, BTreeMap::from([(500, 3)]), "fitness is ignored");
}

#[tokio::test]
async fn the_operator_sees_who_is_ejected_and_for_how_long() {
    let (good, bad) = (Backend::start("good").await, Backend::start("bad").await);
    bad.set_failure(Some(500));
    let policy =
        format!("loadBalancing: {{strategy: PeakEwma}}\n  {}", outlier("consecutiveErrors: 1, baseEjection: 60s"));
    let pierhead = serve(governed(&[good.address, bad.address], &policy)).await;
    statuses(&pierhead, 4).await;
    let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
    let endpoints = backends[0]["endpoints"].as_array().unwrap();
    let of = |backend: &Backend| endpoints.iter().find(|e| e["address"] == backend.address.to_string()).unwrap();
    assert_eq!((&of(&good)["fit"], &of(&good)["weight"], &of(&good)["near"]), (&true.into(), &1.into(), &true.into()));
    assert!(of(&good)["latencyMilliseconds"].as_f64().unwrap() > 0.0, "{backends}");
    assert_eq!((&of(&bad)["fit"], &of(&bad)["unfit"]), (&false.into(), &"its requests failed".into()));
    assert!((1..=60_000).contains(&of(&bad)["ejectedMilliseconds"].as_u64().unwrap()), "{backends}");
    assert_eq!((&backends[0]["limit"], &backends[0]["pending"]), (&serde_json::Value::Null, &0.into()));
}

/// How many endpoints are ejected now.
async fn ejected(pierhead: &Pierhead) -> usize {
    let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
    let endpoints = backends[0]["endpoints"].as_array().unwrap();
    endpoints.iter().filter(|endpoint| endpoint["ejectedMilliseconds"].is_u64()).count()
}

#[tokio::test]
async fn a_try_that_waits_for_a_connection_is_no_error_of_its_endpoint() {
    let one = Backend::start("one").await;
    let limits = "connections: {maxPerEndpoint: 1}\n  timeouts: {perTry: 200ms}\n  retries: {attempts: 0}";
    let policy = format!("{limits}\n  {}", outlier("consecutiveErrors: 1, baseEjection: 60s"));
    let pierhead = serve(governed(&[one.address], &policy)).await;
    let mut tunnel = Raw::connect(pierhead.http).await;
    tunnel.write("GET /chat HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(status_of(&tunnel.head().await), 101, "it holds the only connection");
    assert_eq!(get(pierhead.http, "a.example", "/waits").await.status, 503);
    assert_eq!(pierhead.logged_path("/waits").await["reason"], "connection_limit");
    assert_eq!(ejected(&pierhead).await, 0);
    drop(tunnel);
    eventually("the endpoint serves", async || {
        (get(pierhead.http, "a.example", "/x").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_try_at_the_end_of_the_time_of_its_request_is_no_error_of_its_endpoint() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    for silent in [&one, &two] {
        silent.set_delay(Duration::from_hours(1));
    }
    let detection = outlier("consecutiveErrors: 1, baseEjection: 60s, maxEjectedPercent: 100");
    let policy = format!("timeouts: {{request: 1s, perTry: 700ms}}\n  {detection}");
    let pierhead = serve(governed(&[one.address, two.address], &policy)).await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 504);
    let line = pierhead.logged_path("/x").await;
    assert_eq!((&line["attempts"], &line["reason"]), (&2.into(), &"request_timeout".into()));
    assert_eq!(ejected(&pierhead).await, 1, "the first had 700 ms, the second had 300");
    get(pierhead.http, "a.example", "/y").await;
    assert_eq!(ejected(&pierhead).await, 2, "the second now had as long as a try may take");
    let pierhead = serve(governed(&[one.address], &format!("timeouts: {{request: 300ms}}\n  {detection}"))).await;
    assert_eq!(get(pierhead.http, "a.example", "/z").await.status, 504);
    assert_eq!(ejected(&pierhead).await, 1, "it had all the time of the request");
}

#[tokio::test]
async fn grpc_calls_that_fail_at_once_are_errors() {
    let one = Backend::h2c("one").await;
    let detection = outlier("consecutiveErrors: 2, baseEjection: 60s");
    let policy = format!("protocol: H2C\n  retries: {{attempts: 0}}\n  {detection}");
    let pierhead = serve(governed(&[one.address], &policy)).await;
    for (status, meaning) in [("14", "UNAVAILABLE"), ("5", "NOT_FOUND"), ("14", "UNAVAILABLE"), ("13", "INTERNAL")] {
        let answer = get(pierhead.http, "a.example", &format!("/grpc-status/{status}")).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, status), "{meaning} is passed on");
    }
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 503, "two errors in a row ejected it");
    let policy = "protocol: H2C\n  retries: {attempts: 1, retryOn: [GatewayError]}";
    let pierhead = serve(governed(&[one.address], policy)).await;
    for (path, attempts) in [("/grpc-status/14", 2), ("/grpc-status/13", 1)] {
        assert_eq!(get(pierhead.http, "a.example", path).await.status, 200);
        assert_eq!(pierhead.logged_path(path).await["attempts"], attempts, "{path}");
    }
}

/// Statuses of eight requests and, once an interval of 2 s is over, of eight more; all that are answered fail.
async fn eight_and_eight(interval: &str) -> BTreeMap<u16, usize> {
    let bad = Backend::start("bad").await;
    bad.set_failure(Some(500));
    let policy = outlier(&format!(
        "consecutiveErrors: 100, errorRatio: 40, minRequests: 10, interval: {interval}, baseEjection: 60s"
    ));
    let pierhead = serve(governed(&[bad.address], &policy)).await;
    let first = statuses(&pierhead, 8).await;
    assert_eq!(first, BTreeMap::from([(500, 8)]), "too few to judge");
    let start = Instant::now();
    eventually("another interval", async || (start.elapsed() > Duration::from_secs(2)).then_some(())).await;
    statuses(&pierhead, 8).await
}

#[tokio::test]
async fn a_ratio_is_that_of_an_interval() {
    let (short, long) = tokio::join!(eight_and_eight("2s"), eight_and_eight("1h"));
    assert_eq!(short, BTreeMap::from([(500, 8)]), "eight in an interval are too few");
    assert_eq!(long, BTreeMap::from([(500, 2), (503, 6)]), "the tenth shows that they fail");
}

#[tokio::test]
async fn an_ejection_survives_a_change_of_the_configuration() {
    let (good, bad, third) = (Backend::start("good").await, Backend::start("bad").await, Backend::start("third").await);
    bad.set_failure(Some(500));
    let policy = outlier("consecutiveErrors: 1, baseEjection: 1h, maxEjection: 1h");
    let pierhead = serve(governed(&[good.address, bad.address], &policy)).await;
    assert_eq!(statuses(&pierhead, 6).await, BTreeMap::from([(200, 5), (500, 1)]));
    bad.set_failure(None);
    // Another endpoint, then another policy.
    pierhead.write(governed(&[good.address, bad.address, third.address], &policy));
    let joins = async || (get(pierhead.http, "a.example", "/").await.backend() == "third").then_some(());
    eventually("the third", joins).await;
    let other = format!("loadBalancing: {{strategy: Random}}\n  {policy}");
    pierhead.write(governed(&[good.address, bad.address, third.address], &other));
    let random = async || {
        let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
        (backends[0]["settings"].to_string().contains("Random")).then_some(())
    };
    eventually("the other policy", random).await;
    // Random misses one of three 60 times in a row with probability (2/3)⁶⁰ = 3·10⁻¹¹.
    assert_eq!(statuses(&pierhead, 60).await, BTreeMap::from([(200, 60)]));
    assert_eq!(bad.seen().len(), 1, "it is still ejected");
}
