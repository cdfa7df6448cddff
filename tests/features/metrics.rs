//! What `/metrics` tells: everything in the table, nothing else, in a form that Prometheus takes.

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use pierhead::telemetry::metrics::table::{ALL, Metric};

use crate::{
    retry::closes_unanswered,
    support::{
        backend::{Backend, refusing},
        client::{Raw, get, request, send},
        eventually,
        manifests::{backend_policy, governed, ingress, service},
        pierhead::{Pierhead, Setup},
        tls::{Pair, connect, connect_tls12},
        tools,
    },
};

/// Metrics that only a source of Kubernetes objects has; `tests/cluster` looks for them.
const OF_THE_API: [&str; 7] = [
    "pierhead_config_propagation_duration_seconds",
    "pierhead_config_pending_event_age_seconds",
    "pierhead_watch_objects",
    "pierhead_watch_synced",
    "pierhead_watch_restarts_total",
    "pierhead_watch_last_event_timestamp_seconds",
    "pierhead_leader",
];

async fn scrape(pierhead: &Pierhead, accept: &str) -> (String, Bytes) {
    let request = request("admin", "/metrics").header("accept", accept).body(Full::default()).unwrap();
    let answer = send(pierhead.admin, request).await;
    assert_eq!(answer.status, 200);
    (answer.header("content-type").to_owned(), answer.body)
}

/// The value of a series, zero when it is not there.
async fn value(pierhead: &Pierhead, series: &str) -> f64 {
    let metrics = pierhead.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until a series has a value: counts of a request may follow its response.
async fn becomes(pierhead: &Pierhead, series: &str, expected: f64) {
    let what = format!("{series} {expected}");
    eventually(&what, async || ((value(pierhead, series).await - expected).abs() < 1e-9).then_some(())).await;
}

/// A process that has had traffic of every kind.
async fn busy(one: &Backend) -> Pierhead {
    let rules = ingress("main").host("a.example").prefix("/", "one").prefix("/none", "none");
    let rules = rules.tls("tls.example", "pair").to_string();
    let secret = Pair::new(&["tls.example"]).secret("pair");
    let policy = backend_policy("one", "limits: {maxConcurrentRequests: 100}");
    let missing = ingress("flawed").host("b.example").prefix("/", "missing").to_string();
    let manifests = [rules, service("one", &[one.address]), service("none", &[]), secret, policy, missing];
    let pierhead = Pierhead::serving(manifests.concat()).await;
    for (host, path) in [("a.example", "/"), ("a.example", "/none"), ("b.example", "/"), ("x.example", "/")] {
        get(pierhead.http, host, path).await;
    }
    becomes(&pierhead, r#"pierhead_answers_total{reason="no_route"}"#, 1.0).await;
    pierhead
}

fn families(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_scrape_tells_all_that_is_in_the_table_and_nothing_else() {
    let one = Backend::start("one").await;
    let pierhead = busy(&one).await;
    let scraped = families(&pierhead.metrics().await);
    let all = ALL.iter().flat_map(|(_, metrics)| *metrics).map(|metric| metric.name());
    let expected: BTreeSet<String> = all.filter(|name| !OF_THE_API.contains(&&**name)).collect();
    assert_eq!(scraped, expected);
}

#[tokio::test]
async fn labels_are_those_of_the_table() {
    let one = Backend::start("one").await;
    let pierhead = busy(&one).await;
    let text = pierhead.metrics().await;
    for metric in ALL.iter().flat_map(|(_, metrics)| *metrics) {
        for line in text.lines().filter(|line| of_metric(line, metric)) {
            let labels = line.split_once('{').map_or("", |(_, labels)| labels.split('}').next().unwrap());
            let names =
                labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).filter(|name| *name != "le");
            assert_eq!(names.collect::<Vec<_>>(), metric.labels, "{line}");
        }
    }
}

fn of_metric(line: &str, metric: &Metric) -> bool {
    let name = line.split(['{', ' ']).next().unwrap_or_default();
    let rest = name.strip_prefix(&metric.name());
    !line.starts_with('#') && rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
}

#[tokio::test]
async fn promtool_finds_nothing_to_mend() {
    let one = Backend::start("one").await;
    let pierhead = busy(&one).await;
    let text = pierhead.metrics().await;
    let checked = tools::run("promtool", &["check", "metrics"], Path::new("."), text.as_bytes());
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn the_format_is_the_one_asked_for() {
    let one = Backend::start("one").await;
    let pierhead = busy(&one).await;
    let (kind, body) = scrape(&pierhead, "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2").await;
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert!(text.contains("# TYPE pierhead_requests counter") && text.ends_with("# EOF\n"), "{text}");
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let (kind, body) = scrape(&pierhead, &format!("{protobuf};q=0.6,text/plain;q=0.2")).await;
    assert!(kind.starts_with("application/vnd.google.protobuf"), "{kind}");
    let name = b"pierhead_requests_total";
    assert!(body.windows(name.len()).any(|bytes| bytes == name), "{body:?}");
}

#[tokio::test]
async fn unknown_hosts_are_no_labels_and_routes_that_went_leave() {
    let one = Backend::start("one").await;
    let pierhead = busy(&one).await;
    for number in 0..20 {
        get(pierhead.http, &format!("unknown-{number}.example"), "/").await;
    }
    becomes(&pierhead, r#"pierhead_answers_total{reason="no_route"}"#, 21.0).await;
    becomes(&pierhead, r#"pierhead_requests_total{namespace="",ingress="",service="",status="4xx"}"#, 21.0).await;
    assert!(!pierhead.metrics().await.contains("unknown-"));
    pierhead.write(ingress("other").host("c.example").prefix("/", "two").to_string() + &service("two", &[one.address]));
    eventually("the old series leave", async || {
        get(pierhead.http, "c.example", "/").await;
        let metrics = pierhead.metrics().await;
        let gone = !metrics.contains(r#"ingress="main""#) && !metrics.contains(r#"service="one""#);
        (gone && metrics.contains(r#"ingress="other""#)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_are_in_flight_until_they_end_and_sizes_are_those_of_bodies() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(governed(&[one.address], "limits: {maxConcurrentRequests: 7}")).await;
    let labels = r#"{namespace="default",ingress="main",service="one"}"#;
    let port = r#"{namespace="default",service="one",port="80"}"#;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("POST /slow HTTP/1.1\r\nhost: a.example\r\ncontent-length: 5\r\n\r\nhello").await;
    one.waits_for(1).await;
    becomes(&pierhead, &format!("pierhead_requests_in_flight{labels}"), 1.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_requests_in_flight{port}"), 1.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_connections{port}"), 1.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_concurrency_limit{port}"), 7.0).await;
    one.release();
    becomes(&pierhead, &format!("pierhead_request_body_bytes_sum{labels}"), 5.0).await;
    becomes(&pierhead, &format!("pierhead_requests_in_flight{labels}"), 0.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_connections_idle{port}"), 1.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_connections_opened_total{port}"), 1.0).await;
    assert!(value(&pierhead, &format!("pierhead_response_body_bytes_sum{labels}")).await > 0.0);
}

#[tokio::test]
async fn attempts_retries_and_a_spent_budget_are_counted() {
    let (address, _heads) = closes_unanswered().await;
    let budget = "retries: {attempts: 3, budget: {percent: 0, minPerSecond: 1}}";
    let pierhead = Pierhead::serving(governed(&[address], budget)).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.status, 502);
    let port = r#"namespace="default",service="one",port="80""#;
    let reset = format!(r#"pierhead_upstream_attempts_total{{{port},outcome="upstream_reset"}}"#);
    let made = value(&pierhead, &reset).await;
    assert!(made >= 2.0, "{made}");
    becomes(&pierhead, &format!("pierhead_upstream_retries_total{{{port}}}"), made - 1.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_retry_budget_refusals_total{{{port}}}"), 1.0).await;
    becomes(&pierhead, &format!("pierhead_upstream_attempt_duration_seconds_count{{{port}}}"), made).await;
}

#[tokio::test]
async fn ejections_and_the_states_of_endpoints_are_told() {
    let (good, (bad, _held)) = (Backend::start("good").await, refusing());
    let policy = "health: {panicThreshold: 0, outlier: {consecutiveErrors: 1, baseEjection: 60s}}";
    let manifests = governed(&[good.address, bad], policy);
    let pierhead = Setup::default().manifests(manifests).flag("--threads=1").start().await;
    let port = r#"namespace="default",service="one",port="80""#;
    eventually("the ejection", async || {
        get(pierhead.http, "a.example", "/").await;
        (value(&pierhead, &format!("pierhead_upstream_ejections_total{{{port}}}")).await > 0.0).then_some(())
    })
    .await;
    becomes(&pierhead, &format!(r#"pierhead_upstream_endpoints{{{port},state="ejected"}}"#), 1.0).await;
    becomes(&pierhead, &format!(r#"pierhead_upstream_endpoints{{{port},state="fit"}}"#), 1.0).await;
}

#[tokio::test]
async fn requests_over_a_limit_are_counted_by_it() {
    let one = Backend::start("one").await;
    let limits = "limits: {maxConcurrentRequests: 1, maxPending: 1, pendingTimeout: 100ms}";
    let pierhead = Pierhead::serving(governed(&[one.address], limits)).await;
    let mut first = Raw::connect(pierhead.http).await;
    first.write("GET /slow HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    one.waits_for(1).await;
    let answers = join_all((0..2).map(|_| get(pierhead.http, "a.example", "/"))).await;
    assert!(answers.iter().all(|answer| answer.status == 503), "one waits in vain, the other has no place to wait");
    let port = r#"namespace="default",service="one",port="80""#;
    for reason in ["backend_limit", "pending_timeout"] {
        becomes(&pierhead, &format!(r#"pierhead_upstream_refusals_total{{{port},reason="{reason}"}}"#), 1.0).await;
    }
    one.release();
}

#[tokio::test]
async fn handshakes_are_counted_by_version_and_certificates_by_their_end() {
    let one = Backend::start("one").await;
    let pierhead = busy(&one).await;
    let metrics = pierhead.metrics().await;
    let prefix = r#"pierhead_certificate_not_after_timestamp_seconds{namespace="default",secret="pair"} "#;
    let end: f64 = metrics.lines().find_map(|line| line.strip_prefix(prefix)).unwrap().parse().unwrap();
    assert!(end > 1.6e9, "{end}");
    assert!(metrics.contains(r#"pierhead_tls_handshakes_total{version="TLSv1.3",result="success"} 0"#), "{metrics}");
    connect(pierhead.https, "tls.example", &[]).await;
    becomes(&pierhead, r#"pierhead_tls_handshakes_total{version="TLSv1.3",result="success"}"#, 1.0).await;
    connect_tls12(pierhead.https, "tls.example").await;
    becomes(&pierhead, r#"pierhead_tls_handshakes_total{version="TLSv1.2",result="success"}"#, 1.0).await;
    Raw::connect(pierhead.https).await.write("GET / HTTP/1.1\r\n\r\n").await;
    becomes(&pierhead, r#"pierhead_tls_handshakes_total{version="none",result="failure"}"#, 1.0).await;
}
