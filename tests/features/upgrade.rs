//! WebSocket and other upgrades.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::support::{
    backend::Backend,
    client::{Raw, raw, status_of},
    manifests::{governed, ingress, service},
    pierhead::Pierhead,
    soon,
    tls::connect,
};

async fn serving(one: &Backend) -> Pierhead {
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    Pierhead::serving(manifests).await
}

#[tokio::test]
async fn a_websocket_echoes() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let request = "ws://a.example/chat".into_client_request().unwrap();
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let (mut socket, response) = soon("handshake", Box::pin(client_async(request, stream))).await.unwrap();
    assert_eq!(response.status(), 101);
    for text in ["one", "two", &"x".repeat(200_000)] {
        socket.send(Message::text(text)).await.unwrap();
        let echo = soon("echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echo.into_text().unwrap().as_str(), text);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = soon("close", socket.next()).await {}
    drop(socket);
    let line = pierhead.logged_path("/chat").await;
    assert_eq!(line["status"], 101);
}

#[tokio::test]
async fn a_websocket_echoes_over_tls() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let request = "wss://a.example/chat".into_client_request().unwrap();
    let stream = connect(pierhead.https, "a.example", &["http/1.1"]).await;
    let (mut socket, _) = soon("handshake", Box::pin(client_async(request, stream))).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let echo = soon("echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap().as_str(), "hello");
}

#[tokio::test]
async fn an_upgrade_that_the_backend_refuses_is_a_plain_response() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let request = "ws://a.example/refuse-upgrade".into_client_request().unwrap();
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    match soon("handshake", Box::pin(client_async(request, stream))).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 200),
        other => panic!("expected a plain response, got {other:?}"),
    }
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_the_next_request() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let upgrade =
        "GET /refuse-upgrade HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let both = raw(pierhead.http, format!("{upgrade}{next}")).await;
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
    let paths: Vec<_> = one.seen().iter().map(|seen| seen["path"].clone()).collect();
    assert_eq!(paths, ["/refuse-upgrade", "/next"]);
}

#[tokio::test]
async fn h2c_upgrades_are_not_forwarded() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let request = "GET / HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade, http2-settings, close\r\nupgrade: \
                   h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    let response = raw(pierhead.http, request).await;
    // RFC 9113 §3.1: the upgrade to h2c is obsolete.
    assert_eq!(status_of(&response), 200, "{response}");
    assert!(!response.contains(r#"["upgrade""#), "{response}");
}

#[tokio::test]
async fn upgrade_without_connection_or_on_http_1_0_is_a_plain_request() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    for request in [
        "GET / HTTP/1.1\r\nhost: a.example\r\nupgrade: websocket\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: a.example\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let response = raw(pierhead.http, request).await;
        assert_eq!(status_of(&response), 200, "{response}"); // RFC 9110 §7.8
        assert!(!response.contains(r#"["upgrade""#), "{response}");
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_the_client_leaves() {
    let one = Backend::start("one").await;
    let pierhead = serving(&one).await;
    let mut client = Raw::connect(pierhead.http).await;
    let upgrade = "GET /gone HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: \
                   websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    client.write(upgrade).await;
    assert_eq!(status_of(&client.head().await), 101);
    drop(client);
    assert_eq!(pierhead.logged_path("/gone").await["status"], 101);
}

#[tokio::test]
async fn tunnels_do_not_hold_an_adaptive_limit() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(governed(&[one.address], "limits: {adaptive: true}")).await;
    let upgrade = "GET /tunnel HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: \
                   websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    let mut tunnels = Vec::new();
    for number in 0..20 {
        let mut client = Raw::connect(pierhead.http).await;
        client.write(upgrade).await;
        assert_eq!(status_of(&client.head().await), 101, "tunnel {number}: the limit starts at 8");
        tunnels.push(client);
    }
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(status_of(&client.head().await), 200);
}
