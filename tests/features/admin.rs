//! What the admin port tells.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::support::{
    backend::Backend,
    client::{Raw, get, raw, status_of},
    manifests::{ingress, service},
    pierhead::{Pierhead, Setup},
    tls::Pair,
};

async fn serving(one: &Backend) -> Pierhead {
    serving_with(one, &Pair::new(&["tls.example"])).await
}

async fn serving_with(one: &Backend, pair: &Pair) -> Pierhead {
    let rules = ingress("main").host("a.example").prefix("/", "one").tls("tls.example", "pair");
    let secret = pair.secret("pair");
    Pierhead::serving(rules.to_string() + &service("one", &[one.address]) + &secret).await
}

#[tokio::test]
async fn requests_are_counted_by_route_and_reason() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    get(pierhead.http, "a.example", "/").await;
    get(pierhead.http, "none.example", "/").await;
    pierhead.logged("the second request", |line| line["status"] == 404).await;
    let answer = get(pierhead.admin, "admin", "/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let metrics = answer.text();
    for line in [
        r#"pierhead_requests_total{namespace="default",ingress="main",service="one",status="2xx"} 1"#,
        r#"pierhead_answers_total{reason="no_route"} 1"#,
        "pierhead_config_publishes_total 1",
        "# TYPE pierhead_requests_total counter",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn the_snapshot_shows_the_model_and_no_key() {
    let one = Backend::start("one").await;
    let pair = Pair::new(&["tls.example"]);
    let pierhead = serving_with(&one, &pair).await;
    let answer = get(pierhead.admin, "admin", "/debug/snapshot").await;
    let snapshot = answer.json();
    assert!(snapshot["model"]["hosts"]["a.example"].is_object(), "{snapshot}");
    assert!(snapshot["model"]["certificates"]["tls.example"]["names"].is_array(), "{snapshot}");
    let told = answer.text();
    assert!(told.contains(&*one.address.to_string()) && shows_key(&pair.key.serialize_pem(), &pair));
    assert!(!shows_key(&told, &pair), "{told}");
}

/// Whether a text has the key of a pair in it: a line of its PEM, or its DER in base64 or in numbers.
fn shows_key(text: &str, pair: &Pair) -> bool {
    let der = pair.key.serialize_der();
    let numbers: Vec<_> = der.iter().map(ToString::to_string).collect();
    let pem = pair.key.serialize_pem();
    let whole = [BASE64_STANDARD.encode(&der), numbers.join(",")];
    pem.lines().filter(|line| !line.is_empty()).any(|line| text.contains(line))
        || whole.iter().any(|key| text.contains(key))
}

#[tokio::test]
async fn names_of_strangers_are_refused_in_targets_as_in_fields() {
    let pierhead = Setup::default().start().await;
    for (target, host, status) in [
        ("/debug/backends", "127.0.0.1", 200),
        ("/debug/backends", "evil.example", 421),
        ("http://evil.example/debug/backends", "127.0.0.1", 421),
        ("http://127.0.0.1/debug/backends", "evil.example", 421),
        ("http://127.0.0.1/debug/backends", "127.0.0.1", 200),
        ("http://evil.example/livez", "evil.example", 200),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(status_of(&raw(pierhead.admin, head).await), status, "{target} of {host}");
    }
}

#[tokio::test]
async fn backends_show_requests_in_flight() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET /slow HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    one.waits_for(1).await;
    let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
    assert_eq!((&backends[0]["id"], &backends[0]["inFlight"]), (&"default/one:80".into(), &1.into()), "{backends}");
    assert_eq!(backends[0]["endpoints"][0]["address"], one.address.to_string());
    assert_eq!(backends[0]["endpoints"][0]["inFlight"], 1);
}

#[tokio::test]
async fn traffic_ports_know_nothing_of_it() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    for path in ["/metrics", "/livez", "/debug/snapshot"] {
        assert_eq!(get(pierhead.http, "none.example", path).await.status, 404);
        assert_eq!(get(pierhead.http, "a.example", path).await.backend(), "one", "an ordinary path of the backend");
    }
    assert_eq!(get(pierhead.http, "none.example", "/").await.status, 404);
}

#[tokio::test]
async fn the_monitoring_port_shows_probes_and_metrics_and_nothing_else() {
    let pierhead = Setup::default().flag("--monitoring=127.0.0.1:0").start().await;
    let bound = pierhead.told("the monitoring port", |line| line["listener"] == "monitoring").await;
    let monitoring = bound["address"].as_str().unwrap().parse().unwrap();
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/", 404),
        ("/debug/snapshot", 404),
        ("/debug/backends", 404),
        ("/debug/log-level", 404),
    ] {
        assert_eq!(get(monitoring, "monitoring", path).await.status, status, "{path}");
    }
    assert_eq!(get(pierhead.admin, "admin", "/debug/snapshot").await.status, 200);
}

/// Connections that neither port keeps at once.
const MANY: usize = 100;

#[tokio::test]
async fn connections_that_say_nothing_are_closed_and_keep_no_probe_out() {
    let pierhead = Setup::default().flag("--monitoring=127.0.0.1:0").start().await;
    let bound = pierhead.told("the monitoring port", |line| line["listener"] == "monitoring").await;
    let monitoring = bound["address"].as_str().unwrap().parse().unwrap();
    for address in [pierhead.admin, monitoring] {
        let mut silent = Vec::new();
        for _ in 0..MANY {
            silent.push(Raw::connect(address).await);
        }
        assert_eq!(get(address, "admin", "/livez").await.status, 200, "however many there are");
        let mut newest = silent.pop().unwrap();
        assert_eq!(silent[0].rest().await, "", "the oldest make room");
        newest.write("GET /livez HTTP/1.1\r\nhost: admin\r\n\r\n").await;
        assert_eq!(status_of(&newest.head().await), 200, "the newest stay");
    }
}

#[tokio::test]
async fn heads_that_do_not_end_and_connections_that_idle_are_closed() {
    let pierhead = Setup::default().start().await;
    let silent = Raw::connect(pierhead.admin).await;
    let mut slow = Raw::connect(pierhead.admin).await;
    slow.write("GET /livez HTTP/1.1\r\nhost: ad").await;
    let mut idle = Raw::connect(pierhead.admin).await;
    idle.write("GET /livez HTTP/1.1\r\nhost: admin\r\n\r\n").await;
    assert_eq!(status_of(&idle.head().await), 200);
    assert!(idle.rest().await.ends_with("ok\n"));
    for mut unfinished in [silent, slow] {
        let rest = unfinished.rest().await;
        assert!(!rest.contains("200"), "{rest}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_all_that_is() {
    let pierhead = Setup::default().start().await;
    let told = get(pierhead.admin, "admin", "/none").await;
    assert_eq!(told.status, 404);
    let told = told.text();
    let listed: Vec<&str> =
        told.lines().filter_map(|line| line.split(' ').find(|word| word.starts_with('/'))).collect();
    assert!(listed.contains(&"/debug/explain"), "{told}");
    for path in listed {
        assert_ne!(get(pierhead.admin, "admin", path).await.status, 404, "{path}");
    }
}

/// A request with a body to the admin port; status and body come back.
async fn put_level(pierhead: &Pierhead, method: &str, fields: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!("{method} /debug/log-level HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{fields}");
    let answer = raw(pierhead.admin, format!("{head}content-length: {length}\r\n\r\n{body}")).await;
    (status_of(&answer), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn the_log_level_changes_at_run_time() {
    let one = Backend::start("one").await;
    let pierhead = Setup::default()
        .manifests(ingress("main").prefix("/", "one").to_string() + &service("one", &[one.address]))
        .flag("--log-level=off,pierhead=info")
        .start()
        .await;
    let level = async || get(pierhead.admin, "admin", "/debug/log-level").await.text();
    assert_eq!(level().await, "off,pierhead=info\n");
    assert_eq!(put_level(&pierhead, "PUT", "", "trace\n").await, (200, "trace\n".to_owned()));
    let changed = |line: &serde_json::Value| line["message"] == "log level changed";
    assert_eq!(pierhead.told("the change", changed).await["to"], "trace");
    get(pierhead.http, "a.example", "/").await;
    pierhead.told("a line that only the new level lets through", |line| line["level"] == "TRACE").await;

    for (body, fields, status) in [
        ("loud", "", 400),
        ("", "", 400),
        ("info,pierhead", "", 400),
        ("\u{7f}\n\u{1b}", "", 400),
        ("info", "origin: http://evil.example\r\n", 403),
        ("info", "sec-fetch-site: same-origin\r\n", 403),
        (&"x".repeat(5000), "", 413),
    ] {
        let (answered, told) = put_level(&pierhead, "PUT", fields, body).await;
        assert_eq!(answered, status, "{body:?}: {told}");
        assert!(status != 400 || told.contains("expected off, error"), "{told}");
    }
    assert_eq!(put_level(&pierhead, "POST", "", "info").await.0, 405);
    assert_eq!(level().await, "trace\n", "what is refused changes nothing");
    put_level(&pierhead, "PUT", "", "warn").await;
    pierhead.told("the second change", |line| changed(line) && line["to"] == "warn").await;
    assert_eq!(pierhead.log().into_iter().filter(changed).count(), 2, "each change is told once");
}
