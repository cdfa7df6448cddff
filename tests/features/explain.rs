//! `pierhead explain`: what it says is what traffic gets.

use std::{collections::BTreeMap, net::SocketAddr, process::Output};

use http_body_util::Full;
use hyper::{Request, body::Bytes};
use serde_json::Value;

use crate::support::{
    backend::Backend,
    client::{Answer, get, send},
    eventually,
    manifests::{backend_policy, governed, ingress, service, slice_with},
    pierhead::{Pierhead, Setup},
    soon,
    tls::Pair,
};

/// The arguments as a shell takes them.
fn quoted(arguments: &[&str]) -> String {
    let quote =
        |argument: &&str| if argument.contains([' ', ';']) { format!("'{argument}'") } else { (*argument).to_owned() };
    arguments.iter().map(quote).collect::<Vec<_>>().join(" ")
}

async fn explain(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pierhead"));
    for name in ["PIERHEAD_MANIFESTS", "PIERHEAD_KUBERNETES", "PIERHEAD_INGRESS_CLASS"] {
        command.env_remove(name);
    }
    soon("end of the process", command.arg("explain").args(arguments).output()).await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn manifests(one: SocketAddr, two: SocketAddr) -> String {
    [
        ingress("main")
            .host("a.example")
            .prefix("/", "one")
            .prefix("/two", "two")
            .exact("/two/exact", "one")
            .prefix("/lost", "missing")
            .prefix("/empty", "empty")
            .to_string(),
        ingress("paths")
            .host("b.example")
            .prefix("/Case", "one")
            .exact("/exact", "one")
            .prefix("/x y", "one")
            .to_string(),
        ingress("wild").host("*.wild.example").prefix("/", "two").to_string(),
        ingress("z-later").host("a.example").prefix("/two", "one").to_string(),
        ingress("secure").host("tls.example").prefix("/", "one").tls("tls.example", "pair").to_string(),
        ingress("guarded")
            .host("guard.example")
            .prefix("/", "one")
            .annotation("nginx.ingress.kubernetes.io/auth-url", "http://x")
            .to_string(),
        ingress("other").class("nginx").host("other.example").prefix("/", "one").to_string(),
        service("one", &[one]),
        service("two", &[two]),
        service("empty", &[]),
        Pair::new(&["tls.example"]).secret("pair"),
    ]
    .join("\n---\n")
}

/// Method, host, path.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("GET", "a.example", "/"),
    ("GET", "A.EXAMPLE", "/two"),
    ("GET", "a.example.", "/two/"),
    ("GET", "a.example:8080", "/two/x?q=1"),
    ("GET", "a.example", "/two/exact"),
    ("GET", "a.example", "/two/exact/"),
    ("GET", "a.example", "/twofold"),
    ("GET", "a.example", "/TWO"),
    ("GET", "a.example", "//two//x"),
    ("GET", "a.example", "/two%2Fx"),
    ("GET", "a.example", "/%74wo"),
    ("GET", "a.example", "/x/../two"),
    ("GET", "a.example", "/x/%2e%2e/two"),
    ("GET", "a.example", "/x/..;a=b/two"),
    ("GET", "a.example", "/%00"),
    ("GET", "a.example", "/lost"),
    ("GET", "a.example", "/empty/x"),
    ("POST", "a.example", "/two"),
    ("TRACE", "a.example", "/two"),
    ("OPTIONS", "a.example", "/two"),
    ("GET", "b.example", "/Case/x"),
    ("GET", "b.example", "/case/x"),
    ("GET", "b.example", "/exact"),
    ("GET", "b.example", "/exact/"),
    ("GET", "b.example", "/other"),
    ("GET", "x.wild.example", "/x"),
    ("GET", "x.y.wild.example", "/x"),
    ("GET", "wild.example", "/x"),
    ("GET", "tls.example", "/x?y=z"),
    ("GET", "tls.example", "/.well-known/acme-challenge/token"),
    ("GET", "guard.example", "/"),
    ("GET", "other.example", "/"),
    ("GET", "none.example", "/"),
    ("GET", "a_b.example", "/"),
];

async fn ask(address: SocketAddr, method: &str, host: &str, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("host", host);
    send(address, request.body(Full::<Bytes>::default()).unwrap()).await
}

/// What the answer says of itself: `backend NAME`, `308 LOCATION`, or `STATUS REASON`.
fn given(answer: &Answer) -> String {
    let text = answer.text();
    let reason = text.lines().find_map(|line| line.strip_prefix("reason: "));
    match (answer.status, reason) {
        (308, _) => format!("308 {}", answer.header("location")),
        (status, Some(reason)) => format!("{status} {reason}"),
        _ => format!("backend {}", answer.backend()),
    }
}

fn predicted(explanation: &Value) -> String {
    let answer = &explanation["answer"];
    match (answer["by"].as_str().unwrap(), answer["location"].as_str(), answer["reason"].as_str()) {
        ("backend", ..) => {
            let id = explanation["backend"]["id"].as_str().unwrap();
            format!("backend {}", id.strip_prefix("default/").unwrap().split(':').next().unwrap())
        }
        (_, Some(location), _) => format!("{} {location}", answer["status"]),
        (_, _, reason) => format!("{} {}", answer["status"], reason.unwrap()),
    }
}

#[tokio::test]
async fn what_is_explained_is_what_traffic_gets() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let manifests = manifests(one.address, two.address);
    let pierhead = Setup::default().manifests(manifests).start().await;
    let folder = pierhead.folder().to_str().unwrap();
    let admin = format!("http://{}", pierhead.admin);
    let mut wrong = BTreeMap::new();
    for (method, host, path) in REQUESTS {
        let answer = given(&ask(pierhead.http, method, host, path).await);
        let url = format!("http://{host}{path}");
        for source in [["--manifests", folder], ["--admin", &admin]] {
            let output = explain(&[method, &url, source[0], source[1], "-o", "json"]).await;
            let explanation = json(&output);
            let expected_code = i32::from(explanation["answer"]["by"] == "error");
            if predicted(&explanation) != answer || output.status.code() != Some(expected_code) {
                wrong.insert((*method, *host, *path, source[0]), (answer.clone(), predicted(&explanation)));
            }
        }
    }
    assert!(wrong.is_empty(), "(real, explained): {wrong:#?}");
}

#[tokio::test]
async fn what_came_near_and_why_it_lost_is_told() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), manifests(one.address, two.address)).unwrap();
    let folder = folder.path().to_str().unwrap();
    for (url, expected) in [
        ("http://a.example/twofold", "a prefix ends at a slash"),
        ("http://a.example/TWO", "differs in case"),
        ("http://a.example/two", "Ingress default/z-later spec.rules[0].http.paths[0]"),
        ("http://a.example/two", "claimed this host and path first"),
        ("http://b.example/exact/", "the request ends in a slash"),
        ("http://x.y.wild.example/", "exactly one label"),
        ("http://other.example/", "of class nginx, which is not ours"),
        ("http://a.exampel/", "similar"),
        ("http://a.example/lost", "Service default/missing not found"),
        ("http://guard.example/", "auth-url"),
        ("http://a.example/empty", "kubectl -n default get endpointslices"),
        ("http://a.example/x/../two", "dot segments removed"),
    ] {
        let text = stdout(&explain(&[url, "--manifests", folder]).await);
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

#[tokio::test]
async fn problems_of_slices_are_told_with_their_own_service_alone() {
    let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let wrong = r#"pierhead.dev/weight: "x""#;
    let manifests = [
        ingress("both").host("a.example").prefix("/", "one").prefix("/admin", "one-admin").to_string(),
        service("one", &[]),
        service("one-admin", &[]),
        slice_with("one", "by-hand", address, wrong, ""),
        slice_with("one-admin", "one-admin-x", address, wrong, ""),
    ]
    .join("\n---\n");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), manifests).unwrap();
    for (path, slice) in [("", "by-hand"), ("admin", "one-admin-x")] {
        let url = format!("http://a.example/{path}");
        let output = explain(&[&url, "--manifests", folder.path().to_str().unwrap(), "-o", "json"]).await;
        let explanation = json(&output);
        let problems = explanation["problems"].as_array().unwrap();
        let origins: Vec<_> = problems.iter().filter_map(|problem| problem["origin"].as_str()).collect();
        assert_eq!(origins, [format!("EndpointSlice default/{slice}")], "{explanation:#}");
    }
}

/// Name of the expected output in tests/explain, and what is asked of the manifests there.
const GOLDEN: &[(&str, &[&str])] = &[
    ("cart.txt", &["https://shop.example/cart/items", "-H", "X-User: ada"]),
    ("cart.json", &["https://shop.example/cart/items", "-H", "X-User: ada", "-o", "json"]),
    ("redirect.txt", &["http://pay.shop.example/exact"]),
    ("slash.txt", &["https://pay.shop.example/exact/"]),
    ("case.txt", &["https://pay.shop.example/pay/now"]),
    ("labels.txt", &["http://a.b.shop.example/"]),
    ("class.txt", &["http://old.example/"]),
    ("empty.txt", &["http://shop.example/empty"]),
    ("gone.txt", &["http://any.shop.example/"]),
    ("path.txt", &["http://shop.example/x/..;a=b/cart"]),
];

/// `PIERHEAD_UPDATE=1` writes them anew.
#[tokio::test]
async fn explanations_are_as_recorded_and_as_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = std::fs::read_to_string(root.join("docs/explain.md")).unwrap();
    for (name, arguments) in GOLDEN {
        let manifests = ["--manifests", "tests/explain/shop.yaml"];
        let all: Vec<&str> = arguments.iter().copied().chain(manifests).collect();
        let text = stdout(&explain(&all).await);
        assert!(!text.is_empty(), "{name}");
        let path = root.join("tests/explain").join(name);
        if std::env::var_os("PIERHEAD_UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{name}: run with PIERHEAD_UPDATE=1");
        let asked = format!("$ pierhead explain {} --manifests shop.yaml", quoted(arguments));
        if let Some((_, block)) = documented.split_once(&asked) {
            // Blank lines of a block carry no indentation.
            let indented: String = text.replace("tests/explain/", "").lines().fold(String::new(), |all, line| {
                all + &if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }
            });
            assert!(block.trim_start_matches('\n').starts_with(&*indented), "docs/explain.md: {asked}\n{indented}");
        }
    }
}

#[tokio::test]
async fn a_host_of_another_certificate_is_misdirected() {
    let one = Backend::start("one").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), manifests(one.address, one.address)).unwrap();
    let folder = folder.path().to_str().unwrap();
    let output = explain(&["https://tls.example/", "-H", "Host: a.example", "--manifests", folder, "-o", "json"]).await;
    assert_eq!(predicted(&json(&output)), "421 misdirected");
    let output = explain(&["https://tls.example/", "--manifests", folder, "-o", "json"]).await;
    assert_eq!(predicted(&json(&output)), "backend one");
}

#[tokio::test]
async fn an_ejected_endpoint_is_told_and_explaining_leaves_no_trace() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let spec = "health: {outlier: {consecutiveErrors: 1, baseEjection: 300s}}";
    let pierhead = Pierhead::serving(governed(&[one.address, two.address], spec)).await;
    let admin = format!("http://{}", pierhead.admin);
    one.set_failure(Some(500));
    let ask = async || json(&explain(&["http://a.example/", "--admin", &admin, "-o", "json"]).await);
    let explained = eventually("the ejection", async || {
        get(pierhead.http, "a.example", "/").await;
        let explained = ask().await;
        (explained["backend"]["picked"] == two.address.to_string()).then_some(explained)
    })
    .await;
    let endpoints = explained["backend"]["endpoints"].as_array().unwrap();
    let ejected = endpoints.iter().find(|endpoint| endpoint["address"] == one.address.to_string()).unwrap();
    assert!(ejected["state"].as_str().unwrap().starts_with("ejected, comes back in "), "{ejected}");
    assert_eq!(ejected["isCandidate"], false);
    let (requests, metrics) = (two.requests(), pierhead.metrics().await);
    let count =
        |metrics: &str| metrics.lines().find(|line| line.starts_with("pierhead_requests_total")).map(String::from);
    for _ in 0..5 {
        assert_eq!(ask().await["backend"]["inFlight"], 0);
    }
    assert_eq!((two.requests(), count(&pierhead.metrics().await)), (requests, count(&metrics)));
}

#[tokio::test]
async fn the_endpoint_of_a_hash_is_the_one_that_is_picked() {
    let backends = [Backend::start("one").await, Backend::start("one").await, Backend::start("one").await];
    let addresses = backends.each_ref().map(|backend| backend.address);
    let spec = "loadBalancing: {strategy: Maglev, hash: {type: Header, name: x-user}}";
    let pierhead = Pierhead::serving(governed(&addresses, spec)).await;
    let admin = format!("http://{}", pierhead.admin);
    for user in ["ada", "bob", "eve", "joe"] {
        let before = backends.each_ref().map(Backend::requests);
        let request = Request::get("/").header("host", "a.example").header("x-user", user);
        send(pierhead.http, request.body(Full::<Bytes>::default()).unwrap()).await;
        let after = backends.each_ref().map(Backend::requests);
        let real = (0..3).find(|&at| after[at] > before[at]).unwrap();
        let header = format!("X-User: {user}");
        let explained = json(&explain(&["http://a.example/", "-H", &header, "--admin", &admin, "-o", "json"]).await);
        assert_eq!(explained["backend"]["picked"], addresses[real].to_string(), "{user}");
    }
}

/// Each field that the policy sets names the policy, the others their default.
#[tokio::test]
async fn each_setting_says_where_it_comes_from() {
    let one = Backend::start("one").await;
    let spec = "timeouts: {perTry: 2s, connect: 5s}\n  retries: {attempts: 1, budget: {percent: 30}}\n  \
                loadBalancing: {strategy: LeastRequest, choices: 3, subset: {size: 4}}\n  \
                sessionAffinity: {cookie: {name: stick, ttl: 1h}}\n  limits: {maxConcurrentRequests: 90, maxPending: 9}\n  \
                connections: {maxPerEndpoint: 7}\n  proxyProtocol: V2\n  serverErrors: BadGateway\n  \
                health: {outlier: {minRequests: 3}, active: {http: {path: /healthz}, interval: 9s}}";
    let folder = tempfile::tempdir().unwrap();
    let rules =
        ingress("main").host("a.example").prefix("/", "one").annotation("pierhead.dev/backend-protocol", "GRPC");
    let all = rules.to_string() + "\n---\n" + &service("one", &[one.address]) + &backend_policy("one", spec);
    std::fs::write(folder.path().join("a.yaml"), all).unwrap();
    let output = explain(&["http://a.example/", "--manifests", folder.path().to_str().unwrap(), "-o", "json"]).await;
    let explained = json(&output);
    let settings = explained["backend"]["settings"].as_array().unwrap();
    let from = |field: &str| {
        let setting = settings.iter().find(|setting| setting["field"] == field);
        setting.unwrap_or_else(|| panic!("{field} in {settings:#?}"))["from"].as_str().unwrap().to_owned()
    };
    let written = [
        "timeouts.perTry",
        "retries.attempts",
        "retries.budget.percent",
        "loadBalancing.strategy",
        "loadBalancing.choices",
        "loadBalancing.subset",
        "sessionAffinity.cookie.name",
        "sessionAffinity.cookie.ttl",
        "limits.maxConcurrentRequests",
        "limits.maxPending",
        "connections.maxPerEndpoint",
        "proxyProtocol",
        "serverErrors",
        "health.outlier.minRequests",
        "health.active.http.path",
        "health.active.interval",
    ];
    for field in written {
        assert_eq!(from(field), format!("BackendPolicy default/one spec.{field}"));
    }
    assert_eq!(from("protocol"), "Ingress default/main metadata.annotations: backend-protocol");
    assert_eq!(from("timeouts.responseHead"), "--response-head-timeout");
    for setting in settings {
        let field = setting["field"].as_str().unwrap();
        let from = setting["from"].as_str().unwrap();
        let expected = written.contains(&field) || field == "protocol" || from.starts_with("--") || from == "default";
        assert!(expected, "{setting}");
    }
    assert_eq!((from("timeouts.connect"), from("retries.methods")), ("default".into(), "default".into()));
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_one_line_and_status_2() {
    let (unused, _held) = crate::support::backend::refusing();
    let admin = format!("http://{unused}");
    for (arguments, expected) in [
        (vec!["GET", "ftp://a.example/"], "is not a URL"),
        (vec!["http://"], "is not a URL"),
        (vec!["G T", "http://a.example/"], "is not a method"),
        (vec!["http://a.example/", "-H", "nonsense"], "is not a header field"),
        (vec!["http://a.example/", "--manifests", "/nonexistent"], "/nonexistent"),
        (vec!["http://a.example/", "--admin", &admin], "port-forward"),
        (vec!["http://a.example/", "--client-ip", "x"], "--client-ip"),
        (vec![], "URL"),
    ] {
        let output = explain(&arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{expected:?} in {stderr}");
    }
}

/// A policy that writes every field but `tls` with another value than its default.
const EVERYTHING: &str = r#"loadBalancing: {strategy: LeastRequest, choices: 3, slowStart: 3s, zone: Any, subset: {size: 4}}
  sessionAffinity: {cookie: {name: stick, ttl: 1h, path: /p, sameSite: Strict, secure: true, mode: Balanced}}
  connections:
    {maxPerEndpoint: 7, maxIdlePerEndpoint: 6, idleTimeout: 50s, maxRequests: 5, maxAge: 60s, tcpKeepalive: 20s}
  limits: {maxConcurrentRequests: 90, maxPending: 9, pendingTimeout: 2s, adaptive: true}
  timeouts: {connect: 4s, responseHead: 50s, idle: 51s, perTry: 2s, request: 9s}
  retries:
    attempts: 1
    retryOn: [Reset, StatusCodes]
    statusCodes: [503]
    methods: [GET]
    replayBody: 32Ki
    backoff: {base: 20ms, max: 200ms}
    budget: {percent: 30, minPerSecond: 9}
    hedge: {after: 100ms}
  serverErrors: BadGateway
  health:
    active:
      {http: {path: /healthz, host: h, expect: ["200"]}, interval: 9s, timeout: 2s, healthy: 4, unhealthy: 5, port: 81}
    outlier:
      {consecutiveErrors: 4, errorRatio: 40, minRequests: 3, interval: 9s, baseEjection: 20s, maxEjection: 200s,
       maxEjectedPercent: 40}
    panicThreshold: 40
  proxyProtocol: V2"#;

#[tokio::test]
async fn every_field_that_is_written_names_the_policy_and_is_one_of_the_schema() {
    let one = Backend::start("one").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), governed(&[one.address], EVERYTHING)).unwrap();
    let output = explain(&["http://a.example/", "--manifests", folder.path().to_str().unwrap(), "-o", "json"]).await;
    let explained = json(&output);
    assert_eq!(explained["problems"], serde_json::json!([]));
    let definition = pierhead::cli::crds::definition().unwrap();
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
    let settings = explained["backend"]["settings"].as_array().unwrap();
    assert!(settings.len() > 45, "{}", settings.len());
    for setting in settings.iter().filter(|setting| setting["field"] != "protocol" && setting["field"] != "tls") {
        let field = setting["field"].as_str().unwrap();
        assert_eq!(setting["from"], format!("BackendPolicy default/one spec.{field}"), "{setting}");
        let known = field.split('.').try_fold(schema, |schema, name| schema.get("properties")?.get(name));
        assert!(known.is_some(), "{field} is no field of the schema");
    }
}
