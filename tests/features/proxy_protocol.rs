//! The PROXY protocol: endpoints learn who the client is, and no client comes by a connection that names another.

use std::sync::Arc;

use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};

use crate::support::{
    backend::{Backend, Speaks, scripted},
    client::{self, Answer, get, read_head, request},
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
    proxy_header, soon,
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

#[tokio::test]
async fn a_connection_whose_response_nobody_wanted_ends_with_its_client_too() {
    let (client_is_gone, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (gone, ended) = (Arc::clone(&client_is_gone), Arc::clone(&closed));
    let address = scripted(move |mut stream, number| {
        let (gone, ended) = (Arc::clone(&gone), Arc::clone(&ended));
        async move {
            let _header = proxy_header(&mut stream).await;
            read_head(&mut stream).await;
            if number == 0 {
                // A response that is followed by another try; its end comes after the client has left.
                let _sent = stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\n").await;
                gone.notified().await;
                let _sent = stream.write_all(b"late").await;
                let _end = stream.read(&mut [0]).await;
                ended.notify_one();
            } else {
                let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _end = stream.read(&mut [0]).await;
                gone.notify_one();
            }
        }
    })
    .await;
    let policy = backend_policy("one", "proxyProtocol: V1\n  retries: {retryOn: [GatewayError]}");
    let ingress = ingress("main").host("a.example").prefix("/", "one").to_string();
    let manifests = ingress + &service("one", &[address]) + &policy;
    let pierhead = Setup::default().manifests(manifests).flag("--threads=1").start().await;
    let mut client = Client::connect(&pierhead).await;
    assert_eq!(client.get("/x").await.status, 200);
    drop(client);
    soon("the end of the first connection", closed.notified()).await;
}
