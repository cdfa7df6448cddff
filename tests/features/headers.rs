//! What the backend sees of a request, and the client of a response.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::support::{
    backend::{Backend, replies},
    client::{Answer, get, raw, request, send},
    manifests::{ingress, service},
    pierhead::{Pierhead, Setup},
};

async fn serving(flags: &[&str]) -> Pierhead {
    let one = Backend::start("one").await;
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    let setup = flags.iter().fold(Setup::default().manifests(manifests), |setup, flag| setup.flag(*flag));
    setup.start().await
}

async fn with(pierhead: &Pierhead, fields: &[(&str, &str)]) -> Answer {
    let request = fields.iter().fold(request("a.example", "/"), |request, (name, value)| request.header(*name, *value));
    let answer = send(pierhead.http, request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

#[tokio::test]
async fn forwarded_fields_are_set() {
    let pierhead = serving(&[]).await;
    let answer = with(&pierhead, &[]).await;
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.example"),
        ("x-real-ip", "127.0.0.1"),
    ] {
        assert_eq!(answer.seen(name), [value], "{name}");
    }
    assert_eq!(answer.seen("x-forwarded-port"), ["80"]);
    assert_eq!(answer.seen("host"), ["a.example"]);
}

#[tokio::test]
async fn the_host_is_passed_on_unchanged() {
    let pierhead = serving(&[]).await;
    let answer = get(pierhead.http, "A.Example:8080", "/").await;
    assert_eq!(answer.seen("host"), ["A.Example:8080"]);
}

#[tokio::test]
async fn forwarded_fields_of_strangers_and_their_aliases_are_dropped() {
    let pierhead = serving(&[]).await;
    let answer = with(
        &pierhead,
        &[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "666"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-original-url", "/evil"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x_real_ip", "6.6.6.6"),
            ("x-forwarded_prefix", "/evil"),
        ],
    )
    .await;
    let seen = answer.json()["headers"].to_string();
    assert!(!seen.contains("6.6.6.6") && !seen.contains("evil") && !seen.contains("666"), "{seen}");
    assert_eq!(answer.seen("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(answer.seen("x-forwarded-proto"), ["http"]);
    assert!(answer.seen("forwarded").is_empty() && answer.seen("x-forwarded-prefix").is_empty());
}

#[tokio::test]
async fn a_trusted_peer_is_extended_and_kept() {
    let pierhead = serving(&["--trusted-cidr=127.0.0.0/8"]).await;
    let fields = [
        ("x-forwarded-for", "192.0.2.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "public.example"),
        ("x-forwarded-prefix", "/app"),
    ];
    let answer = with(&pierhead, &fields).await;
    assert_eq!(answer.seen("x-forwarded-for").join(", "), "192.0.2.9, 127.0.0.1");
    assert_eq!(answer.seen("x-forwarded-proto"), ["https"]);
    assert_eq!(answer.seen("x-forwarded-host"), ["public.example"]);
    assert_eq!(answer.seen("x-forwarded-prefix"), ["/app"]);
    assert_eq!(answer.seen("x-real-ip"), ["192.0.2.9"], "the client is the rightmost address nobody vouches for");
}

/// What a trusted peer appended is read from the right; what stands before something unreadable is anybody's.
#[tokio::test]
async fn the_client_behind_a_trusted_peer_cannot_choose_its_address() {
    let pierhead = serving(&["--trusted-cidr=127.0.0.0/8"]).await;
    for (chain, expected) in [
        ("6.6.6.6, 192.0.2.9:4711", "192.0.2.9"),
        ("6.6.6.6, [2001:db8::9]:4711", "2001:db8::9"),
        ("6.6.6.6, unknown", "127.0.0.1"),
        ("6.6.6.6, 192.0.2.9, ::ffff:127.0.0.1", "192.0.2.9"),
    ] {
        let answer = with(&pierhead, &[("x-forwarded-for", chain)]).await;
        assert_eq!(answer.seen("x-real-ip"), [expected], "{chain}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_and_those_that_connection_names_are_removed() {
    let pierhead = serving(&[]).await;
    let fields = [
        ("connection", "x-secret, keep-alive"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("upgrade", "h2c"),
        ("x-kept", "1"),
    ];
    let answer = with(&pierhead, &fields).await;
    for name in ["x-secret", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(answer.seen(name).is_empty(), "{name}: {answer:?}");
    }
    assert_eq!(answer.seen("x-kept"), ["1"]);
}

#[tokio::test]
async fn connection_cannot_remove_the_fields_that_we_set() {
    let pierhead = serving(&[]).await;
    let ours = "x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-real-ip, x-request-id, host";
    let answer = with(&pierhead, &[("connection", ours)]).await;
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "x-request-id", "host"] {
        assert_eq!(answer.seen(name).len(), 1, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_when_it_is_a_token_and_else_made() {
    let pierhead = serving(&[]).await;
    let kept = "a".repeat(128);
    let answer = with(&pierhead, &[("x-request-id", &kept)]).await;
    assert_eq!(answer.seen("x-request-id"), [kept]);
    let too_long = "a".repeat(129);
    for replaced in [&*too_long, "a b", "", "a\"b"] {
        let seen = with(&pierhead, &[("x-request-id", replaced)]).await.seen("x-request-id");
        assert_eq!(seen.len(), 1);
        assert_uuid(&seen[0]);
    }
    assert_uuid(&with(&pierhead, &[]).await.seen("x-request-id")[0]);
    let two = with(&pierhead, &[("x-request-id", "one"), ("x-request-id", "two")]).await;
    assert_eq!(two.seen("x-request-id").len(), 1, "the backend never sees two ids");
}

fn assert_uuid(text: &str) {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{text}");
    assert!(text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{text}");
}

#[tokio::test]
async fn the_log_has_the_request_id_that_the_backend_saw() {
    let pierhead = serving(&[]).await;
    let answer = get(pierhead.http, "a.example", "/logged?q=1").await;
    let line = pierhead.logged_path("/logged").await;
    assert_eq!(line["request_id"].as_str().unwrap(), answer.seen("x-request-id")[0]);
    assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &200.into()));
    assert_eq!(
        (&line["namespace"], &line["ingress"], &line["service"], &line["query"]),
        (&"default".into(), &"main".into(), &"one".into(), &"q=1".into())
    );
    assert_eq!(line["bytes_sent"], answer.body.len());
}

#[tokio::test]
async fn via_is_a_setting() {
    let pierhead = serving(&["--via"]).await;
    let answer = with(&pierhead, &[]).await;
    assert!(answer.seen("via")[0].starts_with("1.1 "), "{answer:?}");
    assert!(!answer.header("via").is_empty());
    let pierhead = serving(&[]).await;
    let answer = with(&pierhead, &[]).await;
    assert!(answer.seen("via").is_empty() && answer.header("via").is_empty());
}

#[tokio::test]
async fn date_is_always_set_and_server_when_the_backend_sent_none() {
    let plain = replies(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let named = replies(b"HTTP/1.1 200 OK\r\nserver: theirs\r\ncontent-length: 0\r\n\r\n", false).await;
    let rules = ingress("main").host("a.example").prefix("/plain", "plain").prefix("/named", "named");
    let manifests = rules.to_string() + &service("plain", &[plain]) + &service("named", &[named]);
    let pierhead = Pierhead::serving(&manifests).await;
    let answer = get(pierhead.http, "a.example", "/plain").await;
    assert!(answer.header("date").ends_with(" GMT"));
    assert_eq!(answer.header("server"), "pierhead");
    assert_eq!(get(pierhead.http, "a.example", "/named").await.header("server"), "theirs");

    let silent = Setup::default().manifests(&manifests).flag("--server-header=false").start().await;
    assert_eq!(get(silent.http, "a.example", "/plain").await.header("server"), "");
}

#[tokio::test]
async fn hop_by_hop_fields_of_the_response_are_removed() {
    let reply = b"HTTP/1.1 200 OK\r\nconnection: x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nx-kept: \
                  1\r\ncontent-length: 0\r\n\r\n";
    let address = replies(reply, false).await;
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[address]);
    let pierhead = Pierhead::serving(manifests).await;
    let answer = get(pierhead.http, "a.example", "/").await;
    assert_eq!((answer.header("x-secret"), answer.header("keep-alive"), answer.header("x-kept")), ("", "", "1"));
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let pierhead = serving(&[]).await;
    let request = "GET http://a.example/x HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n";
    let response = raw(pierhead.http, request).await;
    // RFC 9112 §3.2.2: the host of the target counts, and Host is generated from it.
    assert!(response.contains(r#"["host","a.example"]"#) && response.contains(r#""path":"/x""#), "{response}");
}

#[tokio::test]
async fn methods_and_bodies_pass() {
    let pierhead = serving(&[]).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let request = Request::builder().method(method).uri("/x").header("host", "a.example");
        let answer = send(pierhead.http, request.body(Full::new(Bytes::from_static(b"hello"))).unwrap()).await;
        assert_eq!((answer.json()["method"].as_str(), &answer.json()["body"]), (Some(method), &5.into()));
    }
    let head = Request::head("/x").header("host", "a.example").body(Full::default()).unwrap();
    let answer = send(pierhead.http, head).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}
