//! From Service and `EndpointSlice`s to endpoints.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{
    backend::Backend,
    client::get,
    eventually,
    manifests::{ingress, service, service_with, slice},
    pierhead::{Pierhead, Setup},
};

fn all_to(service: &str) -> String {
    ingress("main").host("a.example").prefix("/", service).to_string()
}

#[tokio::test]
async fn a_port_is_named_or_numbered() {
    let one = Backend::start("one").await;
    let manifests =
        ingress("main").host("a.example").prefix("/name", "one:web").prefix("/number", "one:80").to_string();
    let service = service("one", &[one.address]).replace("[{port: ", "[{name: web, port: ");
    let pierhead = Pierhead::serving(manifests + &service).await;
    for path in ["/name", "/number"] {
        assert_eq!(get(pierhead.http, "a.example", path).await.backend(), "one", "{path}");
    }
}

#[tokio::test]
async fn a_headless_service_is_served_alike() {
    let one = Backend::start("one").await;
    let headless = service("one", &[one.address]).replacen("spec:\n", "spec:\n  clusterIP: None\n", 1);
    let pierhead = Pierhead::serving(all_to("one") + &headless).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "one");
}

#[tokio::test]
async fn only_ready_endpoints_are_used_while_there_is_one() {
    let (ready, unready) = (Backend::start("ready").await, Backend::start("unready").await);
    let terminating = slice("one", "one-x", unready.address, "ready: false, serving: true, terminating: true");
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[ready.address]) + &terminating).await;
    for _ in 0..6 {
        assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "ready");
    }
}

#[tokio::test]
async fn without_a_ready_endpoint_those_that_serve_while_terminating_are_used() {
    let (serving, dead) = (Backend::start("serving").await, Backend::start("dead").await);
    let slices = slice("one", "one-a", serving.address, "ready: false, serving: true, terminating: true")
        + &slice("one", "one-b", dead.address, "ready: false, serving: false, terminating: true")
        + &slice("one", "one-c", dead.address, "ready: false, serving: true, terminating: false");
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[]) + &slices).await;
    for _ in 0..4 {
        assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "serving");
    }
}

#[tokio::test]
async fn a_missing_service_or_port_answers_503_and_is_told() {
    let one = Backend::start("one").await;
    let rules = ingress("main").host("a.example").prefix("/", "one").prefix("/gone", "gone").prefix("/port", "one:81");
    let pierhead = Pierhead::serving(rules.to_string() + &service("one", &[one.address])).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.status, 200);
    for (path, reason) in [("/gone", "NotFound"), ("/port", "PortNotFound")] {
        let answer = get(pierhead.http, "a.example", path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(!answer.header("retry-after").is_empty());
        pierhead.told(reason, |line| line["reason"] == reason).await;
    }
}

#[tokio::test]
async fn external_names_are_off() {
    let external = "apiVersion: v1\nkind: Service\nmetadata: {name: out, namespace: default}\nspec: {type: \
                    ExternalName, externalName: out.example, ports: [{port: 80}]}\n";
    let pierhead = Pierhead::serving(all_to("out") + external).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.status, 503);
    pierhead.told("external name", |line| line["reason"] == "ExternalNameOff").await;
}

#[tokio::test]
async fn client_ip_affinity_keeps_a_client_on_one_endpoint() {
    let (one, two, three) = (Backend::start("1").await, Backend::start("2").await, Backend::start("3").await);
    let service = service("one", &[one.address, two.address, three.address]);
    let sticky = service.replacen("spec:\n", "spec:\n  sessionAffinity: ClientIP\n", 1);
    let pierhead = Pierhead::serving(all_to("one") + &sticky).await;
    let mut used = BTreeSet::new();
    for _ in 0..12 {
        used.insert(get(pierhead.http, "a.example", "/").await.backend());
    }
    assert_eq!(used.len(), 1, "{used:?}");
}

#[tokio::test]
async fn backends_given_by_flags_take_everything_in_turn() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let setup = [one.address, two.address]
        .iter()
        .fold(Setup::default().backends_only(), |setup, address| setup.flag(format!("--backend=http://{address}")));
    let pierhead = setup.start().await;
    let mut used = BTreeSet::new();
    for _ in 0..4 {
        used.insert(get(pierhead.http, "any.example", "/any").await.backend());
    }
    assert_eq!(used, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}

#[tokio::test]
async fn ipv6_endpoints_are_served() {
    let one = Backend::ipv6("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "one");
}

#[tokio::test]
async fn app_protocol_says_which_endpoints_speak_tls() {
    for (app_protocol, version) in [("https", "HTTP/1.1"), ("kubernetes.io/wss", "HTTP/1.1"), ("grpcs", "HTTP/2.0")] {
        let one = Backend::tls("one").await;
        let service = service_with("one", &format!("appProtocol: {app_protocol}"), &[one.address]);
        let pierhead = Pierhead::serving(all_to("one") + &service).await;
        let answer = get(pierhead.http, "a.example", "/x").await;
        assert_eq!(answer.json()["version"], version, "{app_protocol}");
    }
}

#[tokio::test]
async fn an_endpoint_that_speaks_no_tls_is_502_with_its_reason() {
    let one = Backend::start("one").await;
    let service = service_with("one", "appProtocol: https", &[one.address]);
    let pierhead = Pierhead::serving(all_to("one") + &service).await;
    let answer = get(pierhead.http, "a.example", "/x").await;
    assert_eq!(answer.status, 502);
    assert_eq!(pierhead.logged_path("/x").await["reason"], "upstream_tls");
}

#[tokio::test]
async fn our_own_ports_are_never_an_endpoint() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to("one") + &service("one", &[one.address])).await;
    for ours in [pierhead.admin, pierhead.http] {
        pierhead.write(all_to("one") + &service("one", &[ours]));
        let port = ours.port().to_string();
        let path = format!("/livez?{port}");
        let refused = async || (get(pierhead.http, "a.example", &path).await.status == 502).then_some(());
        eventually("a route to ourselves is refused", refused).await;
        let refused = |line: &Value| line["query"] == *port && line["reason"] == "forbidden_endpoint";
        pierhead.logged("the reason", refused).await;
    }
}
