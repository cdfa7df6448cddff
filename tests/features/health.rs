//! Active health checks: what probes ask, what they make of the answers, and where the traffic goes then.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};

use crate::support::{
    backend::{Backend, Speaks, blackhole, refusing, scripted},
    client::{get, read_head, seen_in},
    eventually,
    manifests::{backend_policy, ingress, service, service_with},
    pierhead::{Pierhead, Setup},
    soon,
    tls::{Authority, server},
};

fn rules() -> String {
    ingress("main").host("a.example").prefix("/", "one").to_string()
}

/// How often tests probe. A probe that takes longer fails, so that this is also the longest stall that they bear.
const EVERY: &str = "interval: 1s, timeout: 1s";

/// A check of the endpoints, in flow style: `check("http: {path: /healthz}, unhealthy: 1")`.
fn check(active: &str) -> String {
    health(&format!("active: {{{EVERY}, {active}}}"))
}

fn health(health: &str) -> String {
    backend_policy("one", &format!("health: {{{health}}}"))
}

async fn told(pierhead: &Pierhead, message: &str, address: SocketAddr) -> serde_json::Value {
    let is_it = |line: &serde_json::Value| line["message"] == message && line["endpoint"] == address.to_string();
    pierhead.told(&format!("{message}: {address}"), is_it).await
}

fn was_told(pierhead: &Pierhead, message: &str) -> bool {
    pierhead.log().iter().any(|line| line["message"] == message)
}

/// The backends that answer `count` requests.
async fn answering(pierhead: &Pierhead, count: usize) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for _ in 0..count {
        used.insert(get(pierhead.http, "a.example", "/").await.backend());
    }
    used
}

/// An endpoint whose connections the test answers one by one.
struct ByHand {
    address: SocketAddr,
    connections: mpsc::UnboundedReceiver<(String, TcpStream)>,
}

impl ByHand {
    async fn start() -> Self {
        let (sender, connections) = mpsc::unbounded_channel();
        let address = scripted(move |mut stream, _| {
            let sender = sender.clone();
            async move {
                let head = read_head(&mut stream).await;
                let _ended = sender.send((head, stream));
            }
        })
        .await;
        Self { address, connections }
    }

    async fn probe(&mut self) -> (String, TcpStream) {
        soon("probe", self.connections.recv()).await.unwrap()
    }

    /// Answers the next probe with a status; gives its head.
    async fn answer(&mut self, status: u16) -> String {
        let (head, mut stream) = self.probe().await;
        stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        head
    }
}

#[tokio::test]
async fn an_http_probe_asks_for_the_path_and_names_itself() {
    let mut one = ByHand::start().await;
    let policy = check("http: {path: \"/healthz?deep=1\"}");
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    let head = one.answer(200).await.to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", one.address)), "{head}");
    assert!(head.contains("\r\nuser-agent: pierhead-health/"), "{head}");
    let policy = check("http: {path: /healthz, host: shop.example}");
    pierhead.write(rules() + &service("one", &[one.address]) + &policy);
    let named = async || one.answer(200).await.contains("\r\nhost: shop.example\r\n").then_some(());
    eventually("the host of the check", named).await;
}

#[tokio::test]
async fn exactly_so_many_probes_in_a_row_make_an_endpoint_unfit_and_fit_again() {
    let mut one = ByHand::start().await;
    let policy = check("http: {path: /healthz}, healthy: 2, unhealthy: 3");
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    for status in [500, 500, 200, 500, 500] {
        one.answer(status).await;
    }
    // A probe begins after the one before it was judged.
    let (_, third) = one.probe().await;
    assert!(!was_told(&pierhead, "endpoint unfit"));
    drop(third); // closed without an answer
    let line = told(&pierhead, "endpoint unfit", one.address).await;
    assert_eq!(line["backend"], "default/one:80");
    for status in [200, 500, 200] {
        one.answer(status).await;
    }
    let (_, mut second) = one.probe().await;
    assert!(!was_told(&pierhead, "endpoint fit"));
    second.write_all(b"HTTP/1.1 204 x\r\n\r\n").await.unwrap();
    told(&pierhead, "endpoint fit", one.address).await;
    let metrics = pierhead.metrics().await;
    assert!(metrics.contains("pierhead_health_probes_total{result=\"failure\"} 6"), "{metrics}");
}

#[tokio::test]
async fn probes_start_an_interval_apart() {
    let mut one = ByHand::start().await;
    let policy = health("active: {http: {path: /healthz}, interval: 700ms, timeout: 700ms}");
    let _pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    one.answer(200).await;
    let first = Instant::now();
    for _ in 0..3 {
        one.answer(200).await;
    }
    // Three intervals, less what the first may have waited to be seen; later ones only add.
    let passed = first.elapsed();
    // An interval of the default, 10 s, would be longer than four times what three of these take.
    let bounds = Duration::from_millis(2 * 700)..Duration::from_millis(12 * 700);
    assert!(bounds.contains(&passed), "the fourth came {passed:?} after the first");
}

#[tokio::test]
async fn the_reason_of_an_unfit_endpoint_is_shown() {
    let one = Backend::start("one").await;
    one.set_health(500);
    let policy = check("http: {path: /healthz}, unhealthy: 1, healthy: 1");
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    let view = async || get(pierhead.admin, "admin", "/debug/backends").await.json()[0]["endpoints"][0].clone();
    told(&pierhead, "endpoint unfit", one.address).await;
    let shown = view().await;
    assert_eq!((&shown["fit"], &shown["probeFailure"]), (&false.into(), &"status 500".into()), "{shown}");
    one.set_health(200);
    told(&pierhead, "endpoint fit", one.address).await;
    let shown = view().await;
    assert_eq!((&shown["fit"], &shown["probeFailure"]), (&true.into(), &serde_json::Value::Null), "{shown}");
}

#[tokio::test]
async fn statuses_outside_of_those_expected_fail() {
    let mut one = ByHand::start().await;
    let policy = check("http: {path: /healthz, expect: [\"200-204\", \"418\"]}, healthy: 1, unhealthy: 1");
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    for status in [200, 204, 418] {
        one.answer(status).await;
    }
    one.answer(205).await;
    assert_eq!(told(&pierhead, "endpoint unfit", one.address).await["reason"], "status 205");
    one.answer(418).await;
    told(&pierhead, "endpoint fit", one.address).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_fails() {
    let (silent, _held) = blackhole().await;
    let mut accepts = ByHand::start().await;
    let policy = check("http: {path: /healthz}, unhealthy: 1");
    let pierhead = Pierhead::serving(rules() + &service("one", &[silent, accepts.address]) + &policy).await;
    let (_, _unanswered) = accepts.probe().await;
    for address in [silent, accepts.address] {
        assert_eq!(told(&pierhead, "endpoint unfit", address).await["reason"], "no answer in time");
    }
}

/// An endpoint that says `begins`, and `flood` without end.
async fn flooding(begins: &'static [u8], flood: &'static [u8]) -> SocketAddr {
    scripted(move |mut stream, _| async move {
        let flood = flood.repeat(4096);
        let mut sent = stream.write_all(begins).await;
        while sent.is_ok() {
            sent = stream.write_all(&flood).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_talk_without_end_are_unfit_and_hold_up_nothing() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let probes: [(&str, &str, &[u8], &[u8]); 3] = [
        ("http", "http: {}", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("kubernetes.io/h2c", "http: {}", SETTINGS, PING),
        ("kubernetes.io/h2c", "grpc: {}", SETTINGS, SETTINGS),
    ];
    for (app_protocol, probe, begins, flood) in probes {
        // More than the process has threads for probes.
        let mut endpoints = Vec::new();
        for _ in 0..4 {
            endpoints.push(flooding(begins, flood).await);
        }
        let service = service_with("one", &format!("appProtocol: {app_protocol}"), &endpoints);
        let manifests = rules() + &service + &check(&format!("{probe}, unhealthy: 1"));
        let mut pierhead = Setup::default().flag("--drain-delay=0s").manifests(manifests).start().await;
        for address in endpoints {
            let reason = told(&pierhead, "endpoint unfit", address).await["reason"].clone();
            assert_ne!(reason, "no answer in time", "it was not left to talk until then");
        }
        assert_eq!(get(pierhead.admin, "admin", "/livez").await.status, 200);
        pierhead.signal("TERM").await;
        assert_eq!(pierhead.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn another_port_is_probed_where_the_check_names_one() {
    let (traffic, health) = (Backend::start("traffic").await, Backend::start("health").await);
    let policy = check(&format!("http: {{path: /healthz}}, port: {}, unhealthy: 1", health.address.port()));
    let pierhead = Pierhead::serving(rules() + &service("one", &[traffic.address]) + &policy).await;
    eventually("a probe", async || (!health.probes().is_empty()).then_some(())).await;
    let host = seen_in(&health.probes()[0], "host");
    assert_eq!(host, [health.address.to_string()], "the host is the address that is probed");
    health.set_health(503);
    assert_eq!(told(&pierhead, "endpoint unfit", traffic.address).await["reason"], "status 503");
    assert!(traffic.probes().is_empty());
}

#[tokio::test]
async fn traffic_avoids_an_unfit_endpoint_until_it_recovers() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    one.set_health(500);
    let policy = check("http: {path: /healthz}, healthy: 2, unhealthy: 2");
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address, two.address]) + &policy).await;
    told(&pierhead, "endpoint unfit", one.address).await;
    assert_eq!(answering(&pierhead, 20).await, BTreeSet::from(["two".to_owned()]));
    one.set_health(200);
    told(&pierhead, "endpoint fit", one.address).await;
    assert_eq!(answering(&pierhead, 20).await.len(), 2);
    assert!(!pierhead.log().iter().any(|line| line["endpoint"] == two.address.to_string() && line["level"] == "INFO"));
}

#[tokio::test]
async fn below_the_panic_threshold_fitness_is_ignored() {
    let backends = [Backend::start("1").await, Backend::start("2").await, Backend::start("3").await];
    let endpoints: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let active = format!("active: {{http: {{path: /healthz}}, {EVERY}, unhealthy: 1, healthy: 1}}");
    let policy = health(&format!("{active}, panicThreshold: 50"));
    let pierhead = Pierhead::serving(rules() + &service("one", &endpoints) + &policy).await;
    backends[0].set_health(500);
    told(&pierhead, "endpoint unfit", endpoints[0]).await;
    assert_eq!(answering(&pierhead, 30).await.len(), 2, "two of three are fit");
    backends[1].set_health(500);
    told(&pierhead, "endpoint unfit", endpoints[1]).await;
    assert_eq!(answering(&pierhead, 30).await.len(), 3, "one of three is fit: all are used");
}

#[tokio::test]
async fn without_a_panic_threshold_nothing_is_sent_to_unfit_endpoints() {
    let one = Backend::start("one").await;
    one.set_health(500);
    let active = format!("active: {{http: {{path: /healthz}}, {EVERY}, unhealthy: 1, healthy: 1}}");
    let policy = health(&format!("{active}, panicThreshold: 0"));
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    told(&pierhead, "endpoint unfit", one.address).await;
    let answer = get(pierhead.http, "a.example", "/refused").await;
    assert_eq!(answer.status, 503);
    let line = pierhead.logged_path("/refused").await;
    assert!(line.to_string().contains("no_healthy_endpoint"), "{line}");
    assert_eq!(one.seen().len(), one.probes().len(), "no request reached it");
    one.set_health(200);
    told(&pierhead, "endpoint fit", one.address).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "one");
}

#[tokio::test]
async fn endpoints_that_come_are_probed_and_those_that_go_are_not() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let policy = check("http: {path: /healthz}, unhealthy: 1");
    let pierhead = Pierhead::serving(rules() + &service("one", &[one.address]) + &policy).await;
    eventually("probes of the first", async || (one.probes().len() > 1).then_some(())).await;
    pierhead.write(rules() + &service("one", &[two.address]) + &policy);
    eventually("probes of the second", async || (two.probes().len() > 1).then_some(())).await;
    let before = one.probes().len();
    let more = two.probes().len() + 5;
    eventually("more probes of the second", async || (two.probes().len() > more).then_some(())).await;
    assert_eq!(one.probes().len(), before, "an endpoint that went is left alone");
}

#[tokio::test]
async fn a_changed_check_takes_effect_and_keeps_the_verdict() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let to_both = |policy: &str| rules() + &service("one", &[one.address, two.address]) + policy;
    one.set_health(500);
    let policy = check("http: {path: /healthz}, unhealthy: 1, healthy: 1");
    let pierhead = Pierhead::serving(to_both(&policy)).await;
    told(&pierhead, "endpoint unfit", one.address).await;
    pierhead.write(to_both(&check("http: {path: \"/healthz?again\"}, unhealthy: 1, healthy: 1")));
    let asked_anew = async || {
        let probes = one.probes();
        probes.iter().any(|probe| probe["path"] == "/healthz?again").then_some(())
    };
    eventually("a probe of the new check", asked_anew).await;
    assert_eq!(answering(&pierhead, 10).await, BTreeSet::from(["two".to_owned()]));
    assert!(!was_told(&pierhead, "endpoint fit"));
    // Without a check the endpoint is fit, whatever it would say.
    pierhead.write(to_both(""));
    let both = async || (answering(&pierhead, 4).await.len() == 2).then_some(());
    eventually("both are used", both).await;
}

#[tokio::test]
async fn a_tcp_probe_passes_where_a_connection_opens() {
    let (address, socket) = refusing();
    let policy = check("tcp: {}, unhealthy: 2, healthy: 1");
    let pierhead = Pierhead::serving(rules() + &service("one", &[address]) + &policy).await;
    let reason = told(&pierhead, "endpoint unfit", address).await["reason"].to_string();
    assert!(reason.contains("refused"), "{reason}");
    socket.listen(16).unwrap();
    told(&pierhead, "endpoint fit", address).await;
}

#[tokio::test]
async fn a_tcp_probe_of_a_tls_endpoint_takes_a_handshake() {
    let (one, clear) = (Backend::tls("one").await, Backend::start("clear").await);
    let policy = check("tcp: {}, unhealthy: 1");
    let service = service_with("one", "appProtocol: https", &[one.address, clear.address]);
    let pierhead = Pierhead::serving(rules() + &service + &policy).await;
    told(&pierhead, "endpoint unfit", clear.address).await;
    let before = one.connections();
    eventually("more probes", async || (one.connections() > before + 1).then_some(())).await;
    assert!(!pierhead.log().iter().any(|line| line["endpoint"] == one.address.to_string()));
}

#[tokio::test]
async fn http_probes_speak_the_protocol_of_the_backend() {
    for (app_protocol, version) in [("kubernetes.io/h2c", "HTTP/2.0"), ("https", "HTTP/1.1")] {
        let one = if app_protocol == "https" { Backend::tls("one").await } else { Backend::h2c("one").await };
        let policy = check("http: {path: /healthz, host: shop.example}, unhealthy: 1, healthy: 1");
        let service = service_with("one", &format!("appProtocol: {app_protocol}"), &[one.address]);
        let pierhead = Pierhead::serving(rules() + &service + &policy).await;
        eventually("probes", async || (one.probes().len() > 1).then_some(())).await;
        let probe = one.probes()[0].clone();
        assert_eq!((&probe["version"], &probe["path"]), (&version.into(), &"/healthz".into()));
        one.set_health(404);
        assert_eq!(told(&pierhead, "endpoint unfit", one.address).await["reason"], "status 404");
        one.set_health(200);
        told(&pierhead, "endpoint fit", one.address).await;
    }
}

#[tokio::test]
async fn probes_verify_an_endpoint_as_traffic_does() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (trusted, is_fit) in [(&authority, true), (&other, false)] {
        let config = server(&authority.issue(&["cart.internal"]));
        let one = Backend::speaking("one", Speaks { tls: Some(config), ..Speaks::default() }).await;
        let tls = "tls: {hostname: cart.internal, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}";
        let active = format!("active: {{http: {{path: /healthz}}, {EVERY}, unhealthy: 1}}");
        let policy = backend_policy("one", &format!("{tls}\n  health: {{{active}}}"));
        let manifests = rules() + &service("one", &[one.address]) + &trusted.config_map("ca") + &policy;
        let pierhead = Pierhead::serving(manifests).await;
        if is_fit {
            eventually("probes", async || (one.probes().len() > 1).then_some(())).await;
            assert_eq!(one.probes()[0]["serverName"], "cart.internal");
            assert!(!was_told(&pierhead, "endpoint unfit"));
        } else {
            let reason = told(&pierhead, "endpoint unfit", one.address).await["reason"].to_string();
            assert!(reason.contains("TLS failed"), "{reason}");
            assert!(one.seen().is_empty(), "not a byte of the request");
        }
    }
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    for app_protocol in ["kubernetes.io/h2c", "https"] {
        let one = if app_protocol == "https" { Backend::tls("one").await } else { Backend::h2c("one").await };
        let manifests = |service_name: &str| {
            let policy = check(&format!("grpc: {{service: {service_name:?}}}, unhealthy: 1, healthy: 1"));
            rules() + &service_with("one", &format!("appProtocol: {app_protocol}"), &[one.address]) + &policy
        };
        let pierhead = Pierhead::serving(manifests("")).await;
        eventually("probes", async || (one.probes().len() > 1).then_some(())).await;
        let probe = one.probes()[0].clone();
        assert_eq!((&probe["method"], seen_in(&probe, "te")), (&"POST".into(), vec!["trailers".to_owned()]));
        for (health, reason) in [(503, "not serving"), (501, "gRPC status 12")] {
            assert!(!was_told(&pierhead, "endpoint unfit") || health == 501);
            one.set_health(health);
            let unfit = |line: &serde_json::Value| line["message"] == "endpoint unfit" && line["reason"] == reason;
            pierhead.told(reason, unfit).await;
            one.set_health(200);
            let fits = if health == 503 { 1 } else { 2 };
            let fit = |line: &&serde_json::Value| line["message"] == "endpoint fit";
            let recovered = async || (pierhead.log().iter().filter(fit).count() == fits).then_some(());
            eventually("recovery", recovered).await;
        }
        pierhead.write(manifests("shop"));
        let asked = async || one.probes().iter().any(|probe| probe["body"] == 11).then_some(());
        eventually("a probe for the service", asked).await;
        pierhead.write(manifests("nobody"));
        pierhead.told("an unknown service", |line| line["reason"] == "gRPC status 5").await;
    }
}

#[tokio::test]
async fn a_grpc_probe_of_a_server_without_http2_fails() {
    let one = Backend::start("one").await;
    let pierhead =
        Pierhead::serving(rules() + &service("one", &[one.address]) + &check("grpc: {}, unhealthy: 1")).await;
    told(&pierhead, "endpoint unfit", one.address).await;
}

#[tokio::test]
async fn probes_open_with_a_local_proxy_header() {
    let (sender, mut opened) = mpsc::unbounded_channel();
    let address = scripted(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let mut bytes = [0; 16 + 3];
            if stream.read_exact(&mut bytes).await.is_ok() {
                let _ended = sender.send(bytes);
            }
        }
    })
    .await;
    let active = format!("active: {{http: {{path: /healthz}}, {EVERY}}}");
    let policy = backend_policy("one", &format!("proxyProtocol: V2\n  health: {{{active}}}"));
    let _pierhead = Pierhead::serving(rules() + &service("one", &[address]) + &policy).await;
    let bytes = soon("header", opened.recv()).await.unwrap();
    // Version 2, command LOCAL, no address; then the request.
    assert_eq!(&bytes[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET");
}

#[tokio::test]
async fn many_endpoints_of_many_backends_are_told_apart() {
    let one = Backend::start("one").await;
    one.set_health(500);
    let mut manifests = rules();
    for (name, path) in [("one", "/healthz"), ("two", "/status/200")] {
        write!(manifests, "{}", ingress(name).host(&format!("{name}.example")).prefix("/", name)).unwrap();
        manifests += &service(name, &[one.address]);
        let active = format!("active: {{http: {{path: {path}}}, {EVERY}, unhealthy: 1}}");
        manifests += &backend_policy(name, &format!("health: {{{active}, panicThreshold: 0}}"));
    }
    let pierhead = Pierhead::serving(manifests).await;
    told(&pierhead, "endpoint unfit", one.address).await;
    assert_eq!(get(pierhead.http, "one.example", "/").await.status, 503);
    assert_eq!(get(pierhead.http, "two.example", "/").await.status, 200, "another backend, another verdict");
}

#[tokio::test]
async fn our_own_ports_are_never_probed() {
    let pierhead = Pierhead::serving("").await;
    let policy = check(&format!("tcp: {{}}, unhealthy: 1, port: {}", pierhead.admin.port()));
    let one = Backend::start("one").await;
    pierhead.write(rules() + &service("one", &[one.address]) + &policy);
    let reason = told(&pierhead, "endpoint unfit", one.address).await["reason"].to_string();
    assert!(reason.contains("nothing is ever sent to this address"), "{reason}");
}
