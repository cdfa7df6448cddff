//! Clients: one request on one connection, and steady traffic that counts what fails.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::unverified::Unverified;

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Status of the response.
    pub(crate) status: u16,
    /// The backend that answered; empty when it was Pierhead itself.
    pub(crate) backend: String,
    /// `Location` of the response.
    pub(crate) location: String,
    /// What it says.
    pub(crate) body: String,
}

/// Sends `GET path` for `host` to a port of this host.
pub(crate) async fn get(port: u16, host: &str, path: &str) -> Result<Reply, String> {
    bounded(async {
        let stream = connect(port).await?;
        exchange(stream, host, path).await
    })
    .await
}

/// Sends the same over TLS; gives the certificate of the server as well.
pub(crate) async fn get_tls(port: u16, host: &str, path: &str) -> Result<(Reply, Vec<u8>), String> {
    bounded(async {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = connect(port).await?;
        let stream = tls().connect(name, stream).await.map_err(|error| error.to_string())?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = certificates.first().map(|der| der.to_vec()).unwrap_or_default();
        Ok((exchange(stream, host, path).await?, certificate))
    })
    .await
}

async fn bounded<T>(request: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(Duration::from_secs(10), request).await.unwrap_or_else(|_| Err("no answer in 10 s".to_owned()))
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(|error| error.to_string())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> Result<Reply, String> {
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", host).body(Empty::new()).map_err(|error| error.to_string())?;
    let reply = read(sender.send_request(request).await.map_err(|error| error.to_string())?).await;
    connection.abort();
    reply
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Reply, String> {
    let status = response.status().as_u16();
    let location = response.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let location = location.to_owned();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Reply { status, backend: text("backend"), location, body })
}

fn tls() -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    Arc::new(config).into()
}

/// What steady traffic saw: successes by backend, and every failure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Requests answered 200, by backend.
    pub(crate) answered: BTreeMap<String, usize>,
    /// Everything else.
    pub(crate) failures: Vec<String>,
}

/// Requests one after another on several connections at a time, until it is stopped.
pub(crate) struct Traffic {
    clients: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
}

impl Traffic {
    /// Starts four clients of the HTTP port.
    pub(crate) fn start(port: u16, host: &str, path: &str) -> Self {
        Self::start_with(host, path, move |host, path| async move { get(port, &host, &path).await })
    }

    /// Starts four clients of the TLS port; each request has a handshake of its own.
    pub(crate) fn start_tls(port: u16, host: &str, path: &str) -> Self {
        Self::start_with(host, path, move |host, path| async move {
            get_tls(port, &host, &path).await.map(|(reply, _)| reply)
        })
    }

    fn start_with<F, R>(host: &str, path: &str, send: F) -> Self
    where
        F: Fn(String, String) -> R + Copy + Send + 'static,
        R: Future<Output = Result<Reply, String>> + Send,
    {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = CancellationToken::new();
        let clients = (0..4)
            .map(|_| {
                let (host, path) = (host.to_owned(), path.to_owned());
                let (seen, stop) = (Arc::clone(&seen), stop.clone());
                tokio::spawn(async move {
                    while !stop.is_cancelled() {
                        let reply = send(host.clone(), path.clone()).await;
                        let mut seen = seen.lock().expect("no client panics");
                        match reply {
                            Ok(Reply { status: 200, backend, .. }) => {
                                *seen.answered.entry(backend).or_default() += 1;
                            }
                            other => seen.failures.push(format!("{other:?}")),
                        }
                    }
                })
            })
            .collect();
        Self { clients, seen, stop }
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().expect("no client panics").clone()
    }

    /// Ends the clients after the request they are at.
    pub(crate) async fn stop(self) -> Seen {
        self.stop.cancel();
        for client in self.clients {
            client.await.expect("no client panics");
        }
        let seen = self.seen.lock().expect("no client panics");
        seen.clone()
    }
}
