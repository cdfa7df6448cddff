//! What the admin port tells.

use crate::support::{
    backend::Backend,
    client::{Raw, get, raw, status_of},
    manifests::{ingress, service},
    pierhead::{Pierhead, Setup},
    tls::Pair,
};

async fn serving(one: &Backend) -> Pierhead {
    let rules = ingress("main").host("a.example").prefix("/", "one").tls("tls.example", "pair");
    let secret = Pair::new(&["tls.example"]).secret("pair");
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
    let pierhead = serving(&one).await;
    let answer = get(pierhead.admin, "admin", "/debug/snapshot").await;
    let snapshot = answer.json();
    assert!(snapshot["model"]["hosts"]["a.example"].is_object(), "{snapshot}");
    assert!(snapshot["model"]["certificates"]["tls.example"]["names"].is_array(), "{snapshot}");
    assert!(!answer.text().contains("PRIVATE"));
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
