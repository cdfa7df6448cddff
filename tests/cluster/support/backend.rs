//! Echo servers on addresses of their own: each answers who it is and what it was sent.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The port that every backend listens on.
pub(crate) const PORT: u16 = 8080;

/// 10.99.0.1 is the node.
static NEXT: AtomicU16 = AtomicU16::new(2);

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its address; the port is [`PORT`].
    pub(crate) ip: IpAddr,
    accepting: JoinHandle<()>,
    stop: CancellationToken,
    held: watch::Sender<usize>,
}

impl Backend {
    /// Listens on an address that no other backend has.
    pub(crate) async fn start(name: &str) -> Self {
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 99, high, low));
        let listener = TcpListener::bind(SocketAddr::new(ip, PORT)).await.expect("an address of loopback");
        let stop = CancellationToken::new();
        let held = watch::Sender::new(0);
        let accepting = tokio::spawn(accept(listener, name.to_owned(), stop.clone(), held.clone()));
        Self { ip, accepting, stop, held }
    }

    /// Waits until a request for `/hold` is here. Such are never answered.
    pub(crate) async fn holds_one(&self) {
        let mut held = self.held.subscribe();
        let one = held.wait_for(|held| *held > 0);
        tokio::time::timeout(super::DEADLINE, one).await.expect("a request in time").expect("the sender is ours");
    }

    /// Takes no more connections and ends each after the request in flight on it.
    pub(crate) fn retire(&self) {
        self.accepting.abort();
        self.stop.cancel();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.retire();
    }
}

async fn accept(listener: TcpListener, name: String, stop: CancellationToken, held: watch::Sender<usize>) {
    while let Ok((connection, _)) = listener.accept().await {
        let (name, stop, held) = (name.clone(), stop.clone(), held.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let (name, held) = (name.clone(), held.clone());
                async move {
                    if request.uri().path() == "/hold" {
                        held.send_modify(|held| *held += 1);
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(echo(&name, &request))
                }
            });
            let mut connection =
                std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
}

fn echo(name: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let headers: Vec<(&str, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let path = request.uri().path_and_query().map(ToString::to_string);
    let body = json!({ "backend": name, "method": request.method().as_str(), "path": path, "headers": headers });
    Response::new(Full::new(Bytes::from(body.to_string())))
}
