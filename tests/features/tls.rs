//! Certificates by server name, protocols by ALPN, and plain HTTP sent to HTTPS.

use bytes::Bytes;
use http_body_util::Full;

use crate::support::{
    backend::Backend,
    client::{self, Answer, get, h2_request, request},
    eventually,
    manifests::{Ingress, ingress, service},
    pierhead::{Pierhead, Setup},
    tls::{Pair, connect, shown, try_connect},
};

async fn manifests(ingress: Ingress) -> String {
    let one = Backend::start("one").await;
    ingress.to_string() + &service("one", &[one.address])
}

async fn over_tls(pierhead: &Pierhead, sni: &str, host: &str) -> Answer {
    let stream = connect(pierhead.https, sni, &["http/1.1"]).await;
    let mut sender = client::http1::<Full<Bytes>>(stream).await;
    let response = sender.send_request(request(host, "/").body(Full::default()).unwrap()).await.unwrap();
    Answer::read(response).await.unwrap()
}

#[tokio::test]
async fn the_certificate_is_exact_then_wildcard_then_default() {
    let (exact, wild, default) =
        (Pair::new(&["a.foo.com"]), Pair::new(&["*.foo.com"]), Pair::new(&["default.example"]));
    let of = ingress("main")
        .host("a.foo.com")
        .prefix("/", "one")
        .host("*.foo.com")
        .prefix("/", "one")
        .tls("a.foo.com", "exact")
        .tls("*.foo.com", "wild");
    let manifests = manifests(of).await + &exact.secret("exact") + &wild.secret("wild") + &default.secret("default");
    let setup = Setup::default().manifests(manifests).flag("--default-certificate=default/default");
    let pierhead = setup.start().await;
    for (name, pair) in [
        ("a.foo.com", &exact),
        ("A.FOO.com", &exact),
        ("b.foo.com", &wild),
        ("x.b.foo.com", &default),
        ("elsewhere.example", &default),
    ] {
        assert!(shown(&connect(pierhead.https, name, &[]).await) == *pair.der(), "{name}");
    }
    assert_eq!(over_tls(&pierhead, "b.foo.com", "b.foo.com").await.status, 200);
}

#[tokio::test]
async fn the_default_certificate_may_be_files() {
    let folder = tempfile::tempdir().unwrap();
    let (own, default) = (Pair::new(&["a.example"]), Pair::new(&["default.example"]));
    let [chain, key] = default.files(folder.path(), "default");
    let of = ingress("main").host("a.example").prefix("/", "one").tls("a.example", "own");
    let setup = Setup::default().manifests(manifests(of).await + &own.secret("own"));
    let pierhead = setup.flag(format!("--tls-certificate={chain}")).flag(format!("--tls-key={key}")).start().await;
    assert!(shown(&connect(pierhead.https, "a.example", &[]).await) == *own.der());
    assert!(shown(&connect(pierhead.https, "elsewhere.example", &[]).await) == *default.der());
    assert_eq!(over_tls(&pierhead, "a.example", "a.example").await.status, 200);
}

#[tokio::test]
async fn without_a_default_certificate_one_is_signed_at_start() {
    let pierhead = Pierhead::serving(manifests(ingress("main").host("a.example").prefix("/", "one")).await).await;
    let one = shown(&connect(pierhead.https, "a.example", &[]).await);
    let two = shown(&connect(pierhead.https, "other.example", &[]).await);
    assert!(one == two);
    assert_eq!(over_tls(&pierhead, "a.example", "a.example").await.status, 200);
}

#[tokio::test]
async fn alpn_chooses_h2_or_http_1_1() {
    let pierhead = Pierhead::serving(manifests(ingress("main").host("a.example").prefix("/", "one")).await).await;
    for (offered, chosen) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = connect(pierhead.https, "a.example", offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
    }
}

#[tokio::test]
async fn the_backend_learns_that_the_client_came_over_tls() {
    let pierhead = Pierhead::serving(manifests(ingress("main").host("a.example").prefix("/", "one")).await).await;
    assert_eq!(over_tls(&pierhead, "a.example", "a.example").await.seen("x-forwarded-proto"), ["https"]);
}

#[tokio::test]
async fn a_host_of_another_certificate_is_421() {
    let (a, b) = (Pair::new(&["a.example"]), Pair::new(&["b.example"]));
    let of = ingress("main")
        .host("a.example")
        .prefix("/", "one")
        .host("b.example")
        .prefix("/", "one")
        .tls("a.example", "a")
        .tls("b.example", "b");
    let pierhead = Pierhead::serving(manifests(of).await + &a.secret("a") + &b.secret("b")).await;
    assert_eq!(over_tls(&pierhead, "a.example", "a.example").await.status, 200);
    assert_eq!(over_tls(&pierhead, "a.example", "b.example").await.status, 421);

    let stream = connect(pierhead.https, "a.example", &["h2"]).await;
    let mut sender = client::http2::<Full<Bytes>>(stream).await;
    let misdirected = h2_request("https", "b.example", "/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(misdirected).await.unwrap().status(), 421);
    let fine = h2_request("https", "a.example", "/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(fine).await.unwrap().status(), 200, "the connection goes on");
}

#[tokio::test]
async fn plain_http_of_hosts_with_tls_is_redirected() {
    let pair = Pair::new(&["a.example"]);
    let of = ingress("main").host("a.example").prefix("/", "one").host("plain.example").prefix("/", "one");
    let manifests = manifests(of.tls("a.example", "a")).await + &pair.secret("a");
    let pierhead = Pierhead::serving(&manifests).await;
    let answer = get(pierhead.http, "a.example", "/x?q=1").await;
    assert_eq!((answer.status, answer.header("location")), (308, "https://a.example/x?q=1"));
    let challenge = get(pierhead.http, "a.example", "/.well-known/acme-challenge/token").await;
    assert_eq!(challenge.backend(), "one", "RFC 8555 §8.3: challenges come over plain HTTP");
    assert_eq!(get(pierhead.http, "plain.example", "/").await.status, 200);

    let off = Setup::default().manifests(&manifests).flag("--ssl-redirect=false").start().await;
    assert_eq!(get(off.http, "a.example", "/x").await.status, 200);
    let port = Setup::default().manifests(&manifests).flag("--https-redirect-port=8443").start().await;
    assert_eq!(get(port.http, "a.example", "/x").await.header("location"), "https://a.example:8443/x");
}

#[tokio::test]
async fn an_annotation_turns_the_redirect_off() {
    let pair = Pair::new(&["a.example"]);
    let of = ingress("main").host("a.example").prefix("/", "one").tls("a.example", "a");
    let of = of.annotation("nginx.ingress.kubernetes.io/ssl-redirect", "false");
    let pierhead = Pierhead::serving(manifests(of).await + &pair.secret("a")).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.status, 200);
}

#[tokio::test]
async fn strict_transport_security_is_a_setting() {
    let manifests = manifests(ingress("main").host("a.example").prefix("/", "one")).await;
    let pierhead = Setup::default().manifests(&manifests).flag("--hsts-max-age=365d").start().await;
    let answer = over_tls(&pierhead, "a.example", "a.example").await;
    assert!(answer.header("strict-transport-security").starts_with("max-age=31536000"), "{answer:?}");
    // RFC 6797 §7.2: never over plain HTTP.
    assert_eq!(get(pierhead.http, "a.example", "/").await.header("strict-transport-security"), "");
    let pierhead = Pierhead::serving(&manifests).await;
    assert_eq!(over_tls(&pierhead, "a.example", "a.example").await.header("strict-transport-security"), "");
}

#[tokio::test]
async fn a_new_certificate_is_served_from_the_next_handshake_on() {
    let (old, new) = (Pair::new(&["a.example"]), Pair::new(&["a.example"]));
    let base = manifests(ingress("main").host("a.example").prefix("/", "one").tls("a.example", "a")).await;
    let pierhead = Pierhead::serving(base.clone() + &old.secret("a")).await;
    let open = connect(pierhead.https, "a.example", &["http/1.1"]).await;
    assert!(shown(&open) == *old.der());
    pierhead.write(base + &new.secret("a"));
    eventually("the new certificate", async || {
        let shown = shown(&try_connect(pierhead.https, "a.example", &[]).await.expect("no handshake fails meanwhile"));
        (shown == *new.der()).then_some(())
    })
    .await;
    let mut sender = client::http1::<Full<Bytes>>(open).await;
    let response = sender.send_request(request("a.example", "/").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200, "connections that are open go on");
}

#[tokio::test]
async fn a_broken_secret_keeps_the_last_good_certificate_and_is_told() {
    let pair = Pair::new(&["a.example"]);
    let base = manifests(ingress("main").host("a.example").prefix("/", "one").tls("a.example", "a")).await;
    let pierhead = Pierhead::serving(base.clone() + &pair.secret("a")).await;
    pierhead.write(base + &pair.secret("a").replace("tls.crt: ", "tls.crt: AAAA"));
    pierhead.told("broken Secret", |line| line["reason"] == "InvalidCertificate").await;
    assert!(shown(&connect(pierhead.https, "a.example", &[]).await) == *pair.der());
}

#[tokio::test]
async fn tls_1_2_is_spoken_too() {
    let pierhead = Pierhead::serving(manifests(ingress("main").host("a.example").prefix("/", "one")).await).await;
    let stream = connect(pierhead.https, "a.example", &[]).await;
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let old = crate::support::tls::connect_tls12(pierhead.https, "a.example").await;
    assert_eq!(old.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
}
