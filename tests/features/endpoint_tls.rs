//! TLS to endpoints: who is believed, what is told, and that nothing is said to anybody else.

use std::sync::Arc;

use serde_json::Value;

use crate::support::{
    backend::{Backend, Speaks},
    client::{Answer, get},
    eventually,
    manifests::{backend_policy, ingress, service, service_with},
    pierhead::{Pierhead, Setup},
    tls::{Authority, Pair, demanding_server, server},
};

const TRUST: &str = "hostname: cart.internal, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]";

async fn speaking_tls(config: Arc<rustls::ServerConfig>) -> Backend {
    Backend::speaking("one", Speaks { tls: Some(config), ..Speaks::default() }).await
}

/// A policy for the backend, and the authority that it trusts.
fn manifests(one: &Backend, authority: &Authority, spec: &str) -> String {
    let ingress = ingress("main").host("a.example").prefix("/", "one").to_string();
    ingress + &service("one", &[one.address]) + &authority.config_map("ca") + &backend_policy("one", spec)
}

/// What comes of one request to a backend that shows a certificate.
async fn answer(shown: &Pair, trusted: &Authority, tls: &str) -> (Answer, Backend) {
    let one = speaking_tls(server(shown)).await;
    let pierhead = Pierhead::serving(manifests(&one, trusted, &format!("tls: {{{tls}}}"))).await;
    (get(pierhead.http, "a.example", "/x").await, one)
}

async fn is_refused(what: &str, one: &Backend, pierhead: &Pierhead) {
    let answer = get(pierhead.http, "a.example", "/secret").await;
    assert_eq!(answer.status, 502, "{what}");
    let line = pierhead.logged_path("/secret").await;
    assert_eq!(line["reason"], "upstream_tls", "{what}: {line}");
    assert_eq!(one.seen(), Vec::<Value>::new(), "{what}: not a byte of the request");
}

#[tokio::test]
async fn an_endpoint_with_the_right_certificate_is_asked_for_by_its_name() {
    let authority = Authority::new();
    let (answer, one) = answer(&authority.issue(&["cart.internal"]), &authority, TRUST).await;
    assert_eq!((answer.status, answer.backend().as_str()), (200, "one"));
    assert_eq!(one.seen()[0]["serverName"], "cart.internal");
    assert_eq!(one.seen()[0]["version"], "HTTP/1.1");
}

#[tokio::test]
async fn an_endpoint_that_is_not_who_it_should_be_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cases = [
        ("another name", authority.issue(&["other.internal"])),
        ("another authority", other.issue(&["cart.internal"])),
        ("expired", authority.issue_until(&["cart.internal"], 2020)),
        ("self-signed", Pair::new(&["cart.internal"])),
    ];
    for (what, shown) in cases {
        let one = speaking_tls(server(&shown)).await;
        let pierhead = Pierhead::serving(manifests(&one, &authority, &format!("tls: {{{TRUST}}}"))).await;
        is_refused(what, &one, &pierhead).await;
    }
}

#[tokio::test]
async fn subject_alt_names_stand_in_place_of_the_hostname() {
    let authority = Authority::new();
    let names = format!("{TRUST}, subjectAltNames: [first.internal, second.internal]");
    let (answer_of_second, one) = answer(&authority.issue(&["second.internal"]), &authority, &names).await;
    assert_eq!(answer_of_second.status, 200);
    assert_eq!(one.seen()[0]["serverName"], "cart.internal", "the hostname is still what is asked for");
    let (answer_of_hostname, one) = answer(&authority.issue(&["cart.internal"]), &authority, &names).await;
    assert_eq!(answer_of_hostname.status, 502);
    assert!(one.seen().is_empty());
}

#[tokio::test]
async fn without_authorities_of_its_own_a_policy_takes_those_of_the_system() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let one = speaking_tls(server(&authority.issue(&["cart.internal"]))).await;
    let manifests = manifests(&one, &authority, "tls: {hostname: cart.internal}");
    for (system, status) in [(other.pem(), 502), (String::new(), 502), (authority.pem(), 200)] {
        let setup = Setup::default().manifests(&*manifests).variable("SSL_CERT_FILE", file("system.pem", &system));
        let pierhead = setup.start().await;
        assert_eq!(get(pierhead.http, "a.example", "/x").await.status, status);
        if system.is_empty() {
            let message = "the system has no certification authority: policies that use them reach no endpoint";
            pierhead.told("that there is none", |line| line["message"] == message).await;
        }
    }
    assert_eq!(one.seen().len(), 1);
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_demanded() {
    let authority = Authority::new();
    let own = authority.issue(&["pierhead.internal"]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let demanding = demanding_server(&authority.issue(&["cart.internal"]), &authority, version);
        let one = speaking_tls(demanding).await;
        let without = manifests(&one, &authority, &format!("tls: {{{TRUST}}}"));
        let pierhead = Pierhead::serving(without).await;
        assert_eq!(get(pierhead.http, "a.example", "/without").await.status, 502);
        assert_eq!(one.seen(), Vec::<Value>::new());

        let with = format!("tls: {{{TRUST}, clientCertificateRef: {{group: \"\", kind: Secret, name: own}}}}");
        pierhead.write(manifests(&one, &authority, &with) + &own.secret("own"));
        let answered = async || {
            let answer = get(pierhead.http, "a.example", "/with").await;
            (answer.status == 200).then_some(answer)
        };
        let answer = eventually("an answer to who shows a certificate", answered).await;
        assert_eq!(answer.json()["showsCertificate"], true);
    }
}

#[tokio::test]
async fn another_authority_acts_on_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let one = speaking_tls(server(&old.issue(&["cart.internal"]))).await;
    let spec = format!("tls: {{{TRUST}}}");
    let pierhead = Pierhead::serving(manifests(&one, &old, &spec)).await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200);
    pierhead.write(manifests(&one, &new, &spec));
    let refused = async || (get(pierhead.http, "a.example", "/x").await.status == 502).then_some(());
    eventually("the endpoint is not trusted", refused).await;
    pierhead.write(manifests(&one, &old, &spec));
    let trusted = async || (get(pierhead.http, "a.example", "/x").await.status == 200).then_some(());
    eventually("the endpoint is trusted again", trusted).await;
}

#[tokio::test]
async fn http2_goes_over_verified_tls() {
    let authority = Authority::new();
    let one = speaking_tls(server(&authority.issue(&["cart.internal"]))).await;
    let spec = format!("protocol: HTTP2\n  tls: {{{TRUST}}}");
    let pierhead = Pierhead::serving(manifests(&one, &authority, &spec)).await;
    let answer = get(pierhead.http, "a.example", "/x").await;
    assert_eq!((answer.status, answer.json()["version"].as_str()), (200, Some("HTTP/2.0")));
    assert_eq!(answer.json()["serverName"], "cart.internal");
}

#[tokio::test]
async fn an_authority_may_be_in_a_secret() {
    let (authority, other) = (Authority::new(), Authority::new());
    let one = speaking_tls(server(&authority.issue(&["cart.internal"]))).await;
    // The ConfigMap of the same name holds another one.
    let spec = "tls: {hostname: cart.internal, caCertificateRefs: [{group: \"\", kind: Secret, name: ca}]}";
    let pierhead = Pierhead::serving(manifests(&one, &other, spec) + &authority.secret("ca")).await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200);
    let pierhead = Pierhead::serving(manifests(&one, &authority, spec) + &other.secret("ca")).await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 502);
}

#[tokio::test]
async fn a_reference_to_another_kind_or_group_reaches_no_endpoint() {
    let authority = Authority::new();
    let own = authority.issue(&["pierhead.internal"]);
    let one = speaking_tls(server(&authority.issue(&["cart.internal"]))).await;
    let trust = |group: &str| TRUST.replace("group: \"\"", &format!("group: {group}"));
    for (field, tls) in [
        ("tls.caCertificateRefs", trust("example.org")),
        (
            "tls.clientCertificateRef",
            format!("{TRUST}, clientCertificateRef: {{group: example.org, kind: Secret, name: own}}"),
        ),
        ("tls.clientCertificateRef", format!("{TRUST}, clientCertificateRef: {{kind: ConfigMap, name: own}}")),
    ] {
        let manifests = manifests(&one, &authority, &format!("tls: {{{tls}}}")) + &own.secret("own");
        let pierhead = Setup::default().manifests(manifests).flawed().start().await;
        let answer = get(pierhead.http, "a.example", "/x").await;
        assert!(answer.status >= 500, "{tls}: {answer:?}");
        let told = |line: &Value| line["field"].as_str().is_some_and(|of| of.contains(field));
        pierhead.told(field, told).await;
    }
    assert_eq!(one.seen(), Vec::<Value>::new());
}

#[tokio::test]
async fn endpoints_are_spoken_to_in_the_protocol_of_the_policy() {
    let authority = Authority::new();
    let tls = || Speaks { tls: Some(server(&authority.issue(&["cart.internal"]))), ..Speaks::default() };
    let h2c = || Speaks { h2c: true, ..Speaks::default() };
    for (protocol, speaks, version) in [
        ("HTTP1", Speaks::default(), "HTTP/1.1"),
        ("H2C", h2c(), "HTTP/2.0"),
        ("GRPC", h2c(), "HTTP/2.0"),
        ("HTTP1", tls(), "HTTP/1.1"),
        ("HTTP2", tls(), "HTTP/2.0"),
        ("GRPC", tls(), "HTTP/2.0"),
    ] {
        let trust = if speaks.tls.is_some() { format!("tls: {{{TRUST}}}") } else { String::new() };
        let one = Backend::speaking("one", speaks).await;
        // The port says otherwise: the policy goes before it.
        let app_protocol = if protocol == "HTTP1" { "kubernetes.io/h2c" } else { "http" };
        let manifests = ingress("main").host("a.example").prefix("/", "one").to_string()
            + &service_with("one", &format!("appProtocol: {app_protocol}"), &[one.address])
            + &authority.config_map("ca")
            + &backend_policy("one", &format!("protocol: {protocol}\n  {trust}"));
        let pierhead = Pierhead::serving(manifests).await;
        let answer = get(pierhead.http, "a.example", "/x").await;
        assert_eq!(answer.status, 200, "{protocol} {trust}: {answer:?}");
        assert_eq!(answer.json()["version"], version, "{protocol} {trust}");
        assert_eq!(answer.json()["serverName"].is_string(), !trust.is_empty(), "{protocol} {trust}");
    }
}
