//! What the admin port tells.

use crate::support::{
    backend::Backend,
    client::{Raw, get},
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
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let metrics = answer.text();
    for line in [
        r#"pierhead_requests_total{namespace="default",ingress="main",service="one",status="2xx"} 1"#,
        r#"pierhead_answers_total{reason="no_route"} 1"#,
        "pierhead_config_problems 0",
        "# EOF",
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
    assert_eq!(get(pierhead.admin, "admin", "/").await.status, 404);
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
    ] {
        assert_eq!(get(monitoring, "monitoring", path).await.status, status, "{path}");
    }
    assert_eq!(get(pierhead.admin, "admin", "/debug/snapshot").await.status, 200);
}
