//! The PROXY protocol: endpoints learn who the client is, and no client comes by a connection that names another.

use http_body_util::Full;

use crate::support::{
    backend::{Backend, Speaks},
    client::{self, Answer, get, request},
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
    soon,
    tls::{Authority, server},
};

fn manifests(one: &Backend, spec: &str) -> String {
    let ingress = ingress("main").host("a.example").prefix("/", "one").to_string();
    ingress + &service("one", &[one.address]) + &backend_policy("one", spec)
}

async fn behind_proxy() -> Backend {
    Backend::speaking("one", Speaks { proxy: true, ..Speaks::default() }).await
}

/// A client with a connection of its own.
struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<bytes::Bytes>>,
    source: std::net::SocketAddr,
    destination: std::net::SocketAddr,
}

impl Client {
    async fn connect(pierhead: &Pierhead) -> Self {
        let stream = tokio::net::TcpStream::connect(pierhead.http).await.unwrap();
        let (source, destination) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        Self { sender: client::http1(stream).await, source, destination }
    }

    async fn get(&mut self, path: &str) -> Answer {
        soon("connection", self.sender.ready()).await.unwrap();
        let response = self.sender.send_request(request("a.example", path).body(Full::default()).unwrap());
        Answer::read(soon("answer", response).await.unwrap()).await.unwrap()
    }

    /// The header that names it.
    fn header(&self, version: &str, family: &str) -> String {
        let (source, destination) = (self.source, self.destination);
        format!("{version} {family} {} {} {} {}", source.ip(), destination.ip(), source.port(), destination.port())
    }
}

#[tokio::test]
async fn endpoints_learn_both_ends_of_the_client_connection() {
    for (address, family) in [("127.0.0.1", "TCP4"), ("[::1]", "TCP6")] {
        for (name, version) in [("V1", "1"), ("V2", "2")] {
            let one = behind_proxy().await;
            let manifests = manifests(&one, &format!("proxyProtocol: {name}"));
            let pierhead = Setup::default().manifests(manifests).flag(format!("--http={address}:0")).start().await;
            let mut client = Client::connect(&pierhead).await;
            let answer = client.get("/x").await;
            assert_eq!(answer.json()["proxied"], client.header(version, family));
        }
    }
}

#[tokio::test]
async fn each_client_has_connections_of_its_own_and_they_end_with_it() {
    let one = behind_proxy().await;
    let pierhead = Setup::default().manifests(manifests(&one, "proxyProtocol: V2")).flag("--threads=1").start().await;
    let (mut a, mut b) = (Client::connect(&pierhead).await, Client::connect(&pierhead).await);
    for _ in 0..5 {
        for client in [&mut a, &mut b] {
            let answer = client.get("/x").await;
            assert_eq!(answer.json()["proxied"], client.header("2", "TCP4"));
        }
    }
    assert_eq!(one.connections(), 2, "each client uses its own again");
    one.keeps(2).await;
    drop(a);
    one.keeps(1).await;
    drop(b);
    one.keeps(0).await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let authority = Authority::new();
    let tls = Some(server(&authority.issue(&["cart.internal"])));
    let one = Backend::speaking("one", Speaks { proxy: true, tls, ..Speaks::default() }).await;
    let trust = "tls: {hostname: cart.internal, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}";
    let spec = format!("proxyProtocol: V2\n  {trust}");
    let pierhead = Pierhead::serving(manifests(&one, &spec) + &authority.config_map("ca")).await;
    let mut client = Client::connect(&pierhead).await;
    let answer = client.get("/x").await;
    assert_eq!(answer.json()["proxied"], client.header("2", "TCP4"));
    assert_eq!(answer.json()["serverName"], "cart.internal");
}

#[tokio::test]
async fn clients_do_not_share_http2_connections_either() {
    let one = Backend::speaking("one", Speaks { proxy: true, h2c: true, ..Speaks::default() }).await;
    let spec = "proxyProtocol: V1\n  protocol: H2C";
    let pierhead = Setup::default().manifests(manifests(&one, spec)).flag("--threads=1").start().await;
    let (mut a, mut b) = (Client::connect(&pierhead).await, Client::connect(&pierhead).await);
    for _ in 0..5 {
        for client in [&mut a, &mut b] {
            let answer = client.get("/x").await;
            assert_eq!(answer.json()["proxied"], client.header("1", "TCP4"));
            assert_eq!(answer.json()["version"], "HTTP/2.0");
        }
    }
    assert_eq!(one.connections(), 2);
    drop((a, b));
    one.keeps(0).await;
}

#[tokio::test]
async fn without_the_policy_connections_serve_anybody() {
    let one = Backend::start("one").await;
    let all = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    let pierhead = Setup::default().manifests(all).flag("--threads=1").start().await;
    for _ in 0..5 {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200);
    }
    assert_eq!(one.connections(), 1);
}
