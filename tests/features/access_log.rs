//! The access log: what a line says, in which form, and that it never stands in the way.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{
    backend::{Backend, refusing},
    client::{get, raw, status_of},
    eventually,
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup, Stdout},
};

fn setup(one: &Backend) -> Setup {
    let rules = ingress("main").host("a.example").prefix("/shop", "one");
    Setup::default().manifests(rules.to_string() + &service("one", &[one.address]))
}

/// Waits for a line of text that holds this.
async fn text(pierhead: &Pierhead, part: &str) -> String {
    let holds = |line: &Value| line.as_str().is_some_and(|line| line.contains(part));
    pierhead.logged(part, holds).await.as_str().unwrap().to_owned()
}

fn dropped(metrics: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with("pierhead_access_log_dropped_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_line_tells_the_connection_the_rule_and_the_endpoint() {
    let one = Backend::start("one").await;
    let pierhead = setup(&one).start().await;
    get(pierhead.http, "a.example", "/shop/x?q=1").await;
    let line = pierhead.logged_path("/shop/x").await;
    for (name, expected) in [
        ("query", "q=1".to_owned()),
        ("scheme", "http".to_owned()),
        ("local", pierhead.http.to_string()),
        ("route", "/shop".to_owned()),
        ("upstream", one.address.to_string()),
    ] {
        assert_eq!(line[name], expected, "{name}: {line}");
    }
    let seconds = |name: &str| line[name].as_f64().unwrap();
    assert!(seconds("response_time") > 0.0 && seconds("response_time") <= seconds("duration"), "{line}");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert_eq!((&line["tls_version"], &line["retries"], &line["reason"]), (&Value::Null, &Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_line_tells_why_a_request_was_tried_again() {
    let one = Backend::start("one").await;
    let (gone, _held) = refusing();
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string()
        + &service("one", &[gone, one.address])
        + &backend_policy("one", "loadBalancing: {strategy: RoundRobin}");
    let pierhead = Pierhead::serving(manifests).await;
    get(pierhead.http, "a.example", "/1").await;
    get(pierhead.http, "a.example", "/2").await;
    let line = pierhead.logged("a retry", |line| line["attempts"] == 2).await;
    assert_eq!((&line["retries"], &line["status"]), (&"connect_failed".into(), &200.into()));
}

#[tokio::test]
async fn a_template_names_fields_and_headers() {
    let one = Backend::start("one").await;
    let template = r#"%method% %path%%?query% %status% 100%% %request_header(X-Foo)% "%response_header(server)%""#;
    let pierhead = setup(&one).flag(format!("--access-log-template={template}")).start().await;
    let asked =
        "GET /shop?a=b HTTP/1.1\r\nhost: a.example\r\nx-foo: one two\r\nx-foo: \u{e9}\r\nconnection: close\r\n\r\n";
    assert_eq!(status_of(&raw(pierhead.http, asked.to_owned()).await), 200);
    let line = text(&pierhead, "/shop").await;
    assert!(line.starts_with(r"GET /shop?a=b 200 100% one\x20two,\x20\x"), "{line}");
    assert!(line.ends_with(r#" "pierhead""#), "{line}");
}

#[tokio::test]
async fn fields_are_the_members_of_the_object() {
    let one = Backend::start("one").await;
    let flag = "--access-log-fields=code=status,path,request_header(x-foo)";
    let pierhead = setup(&one).flag(flag).start().await;
    get(pierhead.http, "a.example", "/shop").await;
    let line = pierhead.logged_path("/shop").await;
    let names: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["code", "path", "request_header_x_foo"]));
    assert_eq!(line["code"], 200);
}

#[tokio::test]
async fn refused_bytes_have_their_line() {
    let one = Backend::start("one").await;
    let pierhead = setup(&one).start().await;
    raw(pierhead.http, "\x16\x03\x01 nothing\r\n\r\n").await;
    let line = pierhead.logged("refused bytes", |line| line["status"] == 400).await;
    assert_eq!((&line["reason"], &line["method"]), (&"bad_request".into(), &Value::Null));
}

#[tokio::test]
async fn a_sample_keeps_errors_of_the_server() {
    let one = Backend::start("one").await;
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    let flags = Setup::default().manifests(manifests).flag("--access-log-sample=0").flag("--threads=1");
    let pierhead = flags.start().await;
    for path in ["/fine", "/status/404", "/status/503"] {
        get(pierhead.http, "a.example", path).await;
    }
    pierhead.logged_path("/status/503").await;
    assert_eq!(pierhead.access_log().len(), 1, "{:?}", pierhead.access_log());
}

/// A pipe that nobody reads fills up; traffic goes on, and the lines that are lost are counted.
#[tokio::test]
async fn a_blocked_output_loses_lines_and_no_request() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).stdout(Stdout::Unread).start().await;
    let path = format!("/shop/{}", "x".repeat(15_000));
    let counted = eventually("dropped lines", async || {
        for _ in 0..50 {
            assert_eq!(get(pierhead.http, "a.example", &path).await.status, 200);
        }
        Some(dropped(&pierhead.metrics().await)).filter(|lines| *lines > 0)
    })
    .await;
    assert!(counted > 0);
    assert_eq!(get(pierhead.http, "a.example", "/shop").await.status, 200);
    pierhead.signal("TERM").await;
    assert!(pierhead.ended().await.success(), "the log does not hold the process back");
}

#[tokio::test]
async fn a_closed_output_does_no_harm() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).stdout(Stdout::Closed).start().await;
    assert_eq!(get(pierhead.http, "a.example", "/shop").await.status, 200);
    eventually("a dropped line", async || (dropped(&pierhead.metrics().await) > 0).then_some(())).await;
    assert_eq!(get(pierhead.http, "a.example", "/shop").await.status, 200);
    pierhead.signal("TERM").await;
    assert!(pierhead.ended().await.success());
}
