//! Which rule takes a request: host first, then path.

use crate::support::{
    backend::Backend,
    client::{Raw, get, raw, status_of},
    manifests::{Ingress, ingress, service},
    pierhead::Pierhead,
};

/// A Service for each name, with a backend of that name.
pub async fn services(names: &[&'static str]) -> String {
    let mut manifests = String::new();
    for &name in names {
        manifests.push_str(&service(name, &[Backend::start(name).await.address]));
    }
    manifests
}

async fn serving(names: &[&'static str], ingresses: impl IntoIterator<Item = Ingress>) -> Pierhead {
    let mut manifests = services(names).await;
    manifests.extend(ingresses.into_iter().map(|ingress| ingress.to_string()));
    Pierhead::serving(manifests).await
}

/// Asks for each path; the expected backend is empty for 404.
async fn check(pierhead: &Pierhead, host: &str, cases: &[(&str, &str)]) {
    for (path, backend) in cases {
        let answer = get(pierhead.http, host, path).await;
        assert_eq!(answer.backend(), *backend, "{host} {path}: {answer:?}");
        assert_eq!(answer.status, if backend.is_empty() { 404 } else { 200 }, "{host} {path}");
    }
}

#[tokio::test]
async fn exact_takes_only_its_own_path() {
    let of = ingress("main").host("a.example").exact("/foo", "one").host("b.example").exact("/foo/", "one");
    let pierhead = serving(&["one"], [of]).await;
    check(&pierhead, "a.example", &[("/foo", "one"), ("/foo/", ""), ("/FOO", ""), ("/bar", "")]).await;
    check(&pierhead, "b.example", &[("/foo/", "one"), ("/foo", "")]).await;
}

#[tokio::test]
async fn prefix_goes_by_path_elements() {
    let of = ingress("main")
        .host("a.example")
        .prefix("/foo", "one")
        .host("b.example")
        .prefix("/foo/", "one")
        .host("c.example")
        .prefix("/aaa/bbb", "one");
    let pierhead = serving(&["one"], [of]).await;
    let same = [("/foo", "one"), ("/foo/", "one"), ("/foo/x", "one"), ("/FOO", ""), ("/foobar", "")];
    check(&pierhead, "a.example", &same).await;
    check(&pierhead, "b.example", &same).await;
    check(&pierhead, "c.example", &[("/aaa/bbb/ccc", "one"), ("/aaa/bbbxyz", "")]).await;
}

#[tokio::test]
async fn the_longest_prefix_wins() {
    let of = ingress("main").host("a.example").prefix("/", "root").prefix("/aaa", "short").prefix("/aaa/bbb", "long");
    let pierhead = serving(&["root", "short", "long"], [of]).await;
    check(&pierhead, "a.example", &[("/aaa/ccc", "short"), ("/aaa/bbb", "long"), ("/ccc", "root")]).await;
}

#[tokio::test]
async fn exact_beats_prefix_of_equal_length() {
    let of = ingress("main")
        .host("a.example")
        .prefix("/foo", "prefix")
        .exact("/foo", "exact")
        .host("b.example")
        .exact("/", "exact")
        .prefix("/", "prefix");
    let pierhead = serving(&["prefix", "exact"], [of]).await;
    check(&pierhead, "a.example", &[("/foo", "exact"), ("/foo/", "prefix")]).await;
    check(&pierhead, "b.example", &[("/", "exact"), ("/x", "prefix")]).await;
}

#[tokio::test]
async fn implementation_specific_is_a_prefix_of_lower_rank() {
    let of = ingress("main")
        .host("a.example")
        .specific("/foo", "specific")
        .prefix("/foo", "prefix")
        .specific("/foo/bar", "specific");
    let pierhead = serving(&["prefix", "specific"], [of]).await;
    check(&pierhead, "a.example", &[("/foo/x", "prefix"), ("/foo/bar/x", "specific"), ("/foobar", "")]).await;
}

#[tokio::test]
async fn a_wildcard_takes_exactly_one_label() {
    let of = ingress("main").host("*.foo.com").prefix("/", "wild");
    let pierhead = serving(&["wild"], [of]).await;
    check(&pierhead, "bar.foo.com", &[("/", "wild")]).await;
    check(&pierhead, "foo.com", &[("/", "")]).await;
    check(&pierhead, "a.b.foo.com", &[("/", "")]).await;
}

#[tokio::test]
async fn exact_host_then_wildcard_then_any() {
    let of = ingress("main")
        .host("")
        .prefix("/", "any")
        .host("*.foo.com")
        .prefix("/", "wild")
        .host("bar.foo.com")
        .prefix("/", "exact");
    let pierhead = serving(&["any", "wild", "exact"], [of]).await;
    check(&pierhead, "bar.foo.com", &[("/", "exact")]).await;
    check(&pierhead, "other.foo.com", &[("/", "wild")]).await;
    check(&pierhead, "elsewhere.example", &[("/", "any")]).await;
}

#[tokio::test]
async fn hosts_compare_without_case_port_and_trailing_dot() {
    let of = ingress("main").host("a.example").prefix("/", "one");
    let pierhead = serving(&["one"], [of]).await;
    for host in ["a.example", "A.Example", "a.example:8080", "a.example.", "a.example.:80"] {
        check(&pierhead, host, &[("/", "one")]).await;
    }
}

#[tokio::test]
async fn a_host_never_falls_through_to_a_wildcard() {
    let of = ingress("main").host("bar.foo.com").prefix("/only", "exact").host("*.foo.com").prefix("/", "wild");
    let pierhead = serving(&["exact", "wild"], [of]).await;
    check(&pierhead, "bar.foo.com", &[("/only", "exact"), ("/else", "")]).await;
}

#[tokio::test]
async fn what_no_path_takes_goes_to_the_default_backend_of_its_host() {
    let with_default = ingress("hosts").host("a.example").prefix("/app", "app").default_backend("fallback");
    let class_wide = ingress("class-wide").default_backend("everything");
    let pierhead = serving(&["app", "fallback", "everything"], [with_default, class_wide]).await;
    check(&pierhead, "a.example", &[("/app", "app"), ("/x", "fallback")]).await;
    check(&pierhead, "unknown.example", &[("/", "everything")]).await;
}

#[tokio::test]
async fn a_host_without_default_falls_to_the_class_wide_one() {
    let of = ingress("hosts").host("a.example").prefix("/app", "app");
    let class_wide = ingress("class-wide").default_backend("everything");
    let pierhead = serving(&["app", "everything"], [of, class_wide]).await;
    check(&pierhead, "a.example", &[("/app", "app"), ("/x", "everything")]).await;
}

#[tokio::test]
async fn the_oldest_claim_wins_and_the_loser_keeps_its_other_rules() {
    let old = ingress("zz-old").created("2024-01-01T00:00:00Z").host("a.example").prefix("/", "old");
    let new =
        ingress("aa-new").created("2025-01-01T00:00:00Z").host("a.example").prefix("/", "new").prefix("/other", "new");
    let pierhead = serving(&["old", "new"], [new, old]).await;
    check(&pierhead, "a.example", &[("/", "old"), ("/other", "new")]).await;
    let told = |line: &serde_json::Value| line["reason"] == "Conflict" && line["origin"] == "Ingress default/aa-new";
    pierhead.told("conflict", told).await;
    assert!(pierhead.metrics().await.contains(r#"pierhead_config_problems{severity="error""#));
}

#[tokio::test]
async fn claims_of_one_age_go_by_name() {
    let first = ingress("aa").host("a.example").prefix("/", "first");
    let second = ingress("bb").host("a.example").prefix("/", "second");
    let pierhead = serving(&["first", "second"], [second, first]).await;
    check(&pierhead, "a.example", &[("/", "first")]).await;
}

#[tokio::test]
async fn the_path_is_brought_to_its_normal_form() {
    let of = ingress("main").host("a.example").prefix("/foo", "one");
    let pierhead = serving(&["one"], [of]).await;
    for (path, forwarded) in [
        ("/x/../foo/bar", "/foo/bar"), // RFC 3986 §5.2.4
        ("/foo/./bar", "/foo/bar"),
        ("/foo/a%2Fb", "/foo/a%2Fb"),
        ("//foo//bar", "//foo//bar"), // merged for matching only
        ("/foo?x=/../%2e%2e//&&y", "/foo?x=/../%2e%2e//&&y"),
    ] {
        let mut raw = Raw::connect(pierhead.http).await;
        raw.write(format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")).await;
        let response = raw.rest().await;
        assert_eq!(status_of(&response), 200, "{path}: {response}");
        assert!(response.contains(&format!("\"path\":\"{forwarded}\"")), "{path}: {response}");
    }
    check(&pierhead, "a.example", &[("/%66oo", "one"), ("/fo%6F/x", "one")]).await;
}

#[tokio::test]
async fn paths_that_hide_dot_segments_or_control_bytes_are_refused() {
    let backend = Backend::start("one").await;
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string();
    let pierhead = Pierhead::serving(manifests + &service("one", &[backend.address])).await;
    for path in [
        "/foo/..%2fadmin",
        "/foo/%2e%2e/admin",
        "/foo/%2E%2E%2Fadmin",
        "/foo/..%5cadmin",
        "/foo/..\\admin",
        "/foo/..;x/admin",
        "/foo/%00",
        "/foo/a\x01b",
    ] {
        let response =
            raw(pierhead.http, format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status_of(&response), 400, "{path:?}: {response}");
    }
    assert!(backend.seen().is_empty(), "a refused path reached the backend");
}
