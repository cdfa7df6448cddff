//! Clients: one that asks politely, and one that writes any bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::soon;

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailer fields.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// Reads a response to its end.
    pub async fn read(response: hyper::Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Self { status: head.status.as_u16(), headers: head.headers, body: collected.to_bytes(), trailers })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The backend that answered; empty for an answer of the proxy's own.
    pub fn backend(&self) -> String {
        let seen: Option<Value> = serde_json::from_slice(&self.body).ok();
        seen.and_then(|seen| Some(seen["backend"].as_str()?.to_owned())).unwrap_or_default()
    }

    /// A field; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Every value of a request field that the backend saw.
    pub fn seen(&self, name: &str) -> Vec<String> {
        seen_in(&self.json(), name)
    }
}

/// Every value of a field in what a backend saw.
pub fn seen_in(seen: &Value, name: &str) -> Vec<String> {
    let pairs = seen["headers"].as_array().unwrap().iter();
    pairs.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

/// A GET request.
pub fn request(host: &str, path: &str) -> http::request::Builder {
    Request::get(path).header("host", host)
}

/// Asks on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    let request = request(host, path).body(Full::default()).unwrap();
    send(address, request).await
}

/// Asks on a connection of its own; None when that fails.
pub async fn try_get(address: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    try_send(address, request(host, path).body(Full::default()).unwrap()).await
}

/// Sends a request on a connection of its own.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let what = format!("answer to {} {}", request.method(), request.uri());
    soon(&what, try_send(address, request)).await.unwrap_or_else(|| panic!("no {what}"))
}

/// Sends a request on a connection of its own; None when that fails.
pub async fn try_send(address: SocketAddr, request: Request<Full<Bytes>>) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.ok()?;
    let mut sender = http1(stream).await;
    Answer::read(sender.send_request(request).await.ok()?).await.ok()
}

/// An HTTP/1.1 connection.
pub async fn http1<B>(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> http1::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// An HTTP/2 connection.
pub async fn http2<B>(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> http2::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request for HTTP/2.
pub fn h2_request(scheme: &str, authority: &str, path: &str) -> http::request::Builder {
    Request::builder().version(http::Version::HTTP_2).uri(format!("{scheme}://{authority}{path}"))
}

/// A connection that writes any bytes.
pub struct Raw(pub TcpStream);

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        Self(soon("connection", TcpStream::connect(address)).await.unwrap())
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon("write", self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads up to the end of a head.
    pub async fn head(&mut self) -> String {
        soon("response head", read_head(&mut self.0)).await
    }

    /// Reads so many bytes.
    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        soon("bytes", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Reads until the other side closes or resets.
    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _reset = soon("end of the connection", self.0.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// Writes bytes on a connection of their own and reads until the other side closes.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(address).await;
    raw.write(bytes).await;
    raw.rest().await
}

/// The status of a raw response.
pub fn status_of(response: &str) -> u16 {
    response.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {response:?}"))
}

/// Reads up to and with the empty line; less when the stream ends before.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// 200, for comparisons.
pub const OK: u16 = StatusCode::OK.as_u16();
