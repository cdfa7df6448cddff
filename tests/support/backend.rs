//! Backends: servers in the test's own process that tell what they saw.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::eventually;

type Body = BoxBody<Bytes, Infallible>;

/// A backend on a loopback port of its own.
///
/// It answers with what it saw as JSON, except for paths that begin with `/status/N`, `/slow` (until [`Backend::release`]),
/// `/trailers`, `/stream/BYTES`, `/chunked`, `/refuse-upgrade` and WebSocket handshakes, which it echoes. Health checks, for
/// `/healthz` or by gRPC, get what [`Backend::set_health`] says; all others wait for [`Backend::set_delay`] and fail with
/// [`Backend::set_failure`].
#[derive(Clone)]
pub struct Backend {
    /// Name in its answers.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Value>>,
    connections: AtomicUsize,
    /// Connections that are open now.
    open: AtomicUsize,
    /// The most requests that were ever under way at once.
    most_waiting: AtomicUsize,
    /// Requests under way; one that is cancelled leaves too.
    waiting: AtomicUsize,
    released: watch::Sender<bool>,
    /// How long each answer takes.
    delay: watch::Sender<Duration>,
    /// Status of each answer; zero for what the path says.
    failure: AtomicU16,
    /// Status of answers to health checks; zero for 200.
    health: AtomicU16,
}

/// What a backend speaks.
#[derive(Clone, Default)]
pub struct Speaks {
    /// HTTP/2 in clear text, and nothing else.
    pub h2c: bool,
    /// TLS, and HTTP/1.1 or HTTP/2 by ALPN.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// A header of the PROXY protocol comes first.
    pub proxy: bool,
    /// Whatever each connection begins with, of all that; `h2c` and `proxy` say nothing then.
    pub anything: bool,
}

/// What a backend knows of one of its connections; it tells so with each request.
#[derive(Clone, Default)]
struct Connection {
    /// Counts from 1.
    number: usize,
    /// The PROXY header, written as version 1 is.
    proxied: Option<String>,
    /// Server name of the handshake.
    server_name: Option<String>,
    shows_certificate: bool,
}

impl Backend {
    /// A backend that speaks HTTP/1.1.
    pub async fn start(name: &'static str) -> Self {
        Self::speaking(name, Speaks::default()).await
    }

    /// A backend that speaks HTTP/1.1, on the IPv6 loopback address.
    pub async fn ipv6(name: &'static str) -> Self {
        Self::listen(name, Speaks::default(), Ipv6Addr::LOCALHOST.into()).await
    }

    /// A backend that speaks TLS with a certificate of nobody's, and HTTP/1.1 or HTTP/2 by ALPN.
    pub async fn tls(name: &'static str) -> Self {
        let tls = super::tls::server(&super::tls::Pair::new(&["backend.invalid"]));
        Self::speaking(name, Speaks { tls: Some(tls), ..Speaks::default() }).await
    }

    /// A backend that speaks HTTP/2 in clear text, and nothing else.
    pub async fn h2c(name: &'static str) -> Self {
        Self::speaking(name, Speaks { h2c: true, ..Speaks::default() }).await
    }

    /// A backend that speaks what the test wants.
    pub async fn speaking(name: &'static str, speaks: Speaks) -> Self {
        Self::listen(name, speaks, Ipv4Addr::LOCALHOST.into()).await
    }

    async fn listen(name: &'static str, speaks: Speaks, ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let backend = Self { name, address: listener.local_addr().unwrap(), state: Arc::default() };
        let accepting = backend.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = accepting.state.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (backend, speaks) = (accepting.clone(), speaks.clone());
                tokio::spawn(async move {
                    backend.state.open.fetch_add(1, Ordering::SeqCst);
                    backend.clone().serve(stream, &speaks, number).await;
                    backend.state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        backend
    }

    async fn serve(self, mut stream: TcpStream, speaks: &Speaks, number: usize) {
        let mut connection = Connection { number, ..Connection::default() };
        let begins = async |stream: &TcpStream, with: &[u8]| speaks.anything && begin(stream).await == with;
        if speaks.proxy || begins(&stream, b"PROX").await || begins(&stream, b"\r\n\r\n").await {
            connection.proxied = super::proxy_header(&mut stream).await;
        }
        let is_tls = !speaks.anything || begin(&stream).await[0] == 22;
        let Some(tls) = speaks.tls.as_ref().filter(|_| is_tls) else {
            let is_http2 = speaks.h2c || begins(&stream, b"PRI ").await;
            self.speak(stream, is_http2, connection).await;
            return;
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(tls));
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let session = stream.get_ref().1;
        connection.server_name = session.server_name().map(str::to_owned);
        connection.shows_certificate = session.peer_certificates().is_some();
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        self.speak(stream, is_http2, connection).await;
    }

    async fn speak(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
        connection: Connection,
    ) {
        let service = service_fn(move |request| {
            let (backend, connection) = (self.clone(), connection.clone());
            async move { Ok::<_, Infallible>(backend.answer(request, &connection).await) }
        });
        let io = TokioIo::new(stream);
        // Errors are the proxy's doing and show in what the client sees.
        let _closed = if is_http2 {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
        } else {
            hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
        };
    }

    async fn answer(self, mut request: Request<Incoming>, connection: &Connection) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if request.headers().contains_key(header::UPGRADE) && !path.starts_with("/refuse-upgrade") {
            self.remember(&request, connection, 0, None);
            return upgrade(&mut request);
        }
        let _waiting = Waiting::new(&self.state);
        if path.starts_with("/early") {
            self.remember(&request, connection, 0, None);
            return text(StatusCode::PAYLOAD_TOO_LARGE, "not read");
        }
        let (head, body) = request.into_parts();
        let collected = body.collect().await;
        let Ok(collected) = collected else { return text(StatusCode::BAD_REQUEST, "the body broke off") };
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        let seen = self.remember(&Request::from_parts(head, ()), connection, body.len(), trailers.as_ref());
        self.answer_to(&path, seen, body).await
    }

    async fn answer_to(&self, path: &str, seen: Value, body: Bytes) -> Response<Body> {
        match path {
            "/healthz" => return text(self.health(), self.name),
            "/grpc.health.v1.Health/Check" => return grpc_health(&body, self.health()),
            _ => {}
        }
        self.take_time().await;
        if let Ok(failure) = StatusCode::from_u16(self.state.failure.load(Ordering::SeqCst)) {
            return text(failure, self.name);
        }
        let mut segments = path.split('/').skip(1);
        match (segments.next().unwrap_or_default(), segments.next()) {
            ("status", Some(status)) => text(StatusCode::from_bytes(status.as_bytes()).unwrap(), self.name),
            ("grpc-status", Some(status)) => {
                // Trailers-Only, as servers answer what fails at once.
                let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
                response.header("grpc-status", status).body(Full::default().boxed()).unwrap()
            }
            ("slow", _) => {
                let mut released = self.state.released.subscribe();
                let _closed = released.wait_for(|released| *released).await;
                json_answer(&seen)
            }
            ("trailers", _) => trailers(body),
            ("chunked", _) => chunked(),
            ("stream", Some(bytes)) => stream(bytes.parse().unwrap()),
            _ => json_answer(&seen),
        }
    }

    fn remember<B>(
        &self,
        request: &Request<B>,
        connection: &Connection,
        body: usize,
        trailers: Option<&HeaderMap>,
    ) -> Value {
        let pairs = |headers: &HeaderMap| -> Vec<(String, String)> {
            headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
        };
        let seen = json!({
            "backend": self.name,
            "method": request.method().as_str(),
            "target": request.uri().to_string(),
            "path": request.uri().path_and_query().map(http::uri::PathAndQuery::as_str),
            "version": format!("{:?}", request.version()),
            "headers": pairs(request.headers()),
            "trailers": trailers.map(pairs),
            "body": body,
            "connection": connection.number,
            "proxied": connection.proxied,
            "serverName": connection.server_name,
            "showsCertificate": connection.shows_certificate,
        });
        self.state.seen.lock().unwrap().push(seen.clone());
        seen
    }

    /// Every request seen so far.
    pub fn seen(&self) -> Vec<Value> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The last request that was seen; null when there is none.
    pub fn last(&self) -> Value {
        self.state.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// How many requests were seen so far, without health checks.
    pub fn requests(&self) -> usize {
        self.state.seen.lock().unwrap().iter().filter(|seen| !is_probe(seen)).count()
    }

    /// Health checks seen so far.
    pub fn probes(&self) -> Vec<Value> {
        self.state.seen.lock().unwrap().iter().filter(|seen| is_probe(seen)).cloned().collect()
    }

    /// Answers to health checks have this status from now on; 200 is healthy, for gRPC too.
    pub fn set_health(&self, status: u16) {
        self.state.health.store(status, Ordering::SeqCst);
    }

    fn health(&self) -> StatusCode {
        StatusCode::from_u16(self.state.health.load(Ordering::SeqCst)).unwrap_or(StatusCode::OK)
    }

    /// Each answer takes so long from now on, also those that are under way.
    pub fn set_delay(&self, delay: Duration) {
        self.state.delay.send_replace(delay);
    }

    /// Waits from now until the delay of the moment has passed.
    async fn take_time(&self) {
        let (start, mut delay) = (tokio::time::Instant::now(), self.state.delay.subscribe());
        loop {
            let end = start + *delay.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                _ = delay.changed() => {}
            }
        }
    }

    /// Each answer has this status from now on; None for what the path says.
    pub fn set_failure(&self, status: Option<u16>) {
        self.state.failure.store(status.unwrap_or_default(), Ordering::SeqCst);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Waits until exactly `count` connections are open.
    pub async fn keeps(&self, count: usize) {
        let there = async || (self.open() == count).then_some(());
        eventually(&format!("{count} connections to backend {}", self.name), there).await;
    }

    /// The most requests that were ever under way at once.
    pub fn most_waiting(&self) -> usize {
        self.state.most_waiting.load(Ordering::SeqCst)
    }

    /// Waits until exactly `count` requests are under way.
    pub async fn waits_for(&self, count: usize) {
        let there = async || (self.state.waiting.load(Ordering::SeqCst) == count).then_some(());
        eventually(&format!("{count} requests at backend {}", self.name), there).await;
    }

    /// Lets `/slow` answer, now and later.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }
}

fn is_probe(seen: &Value) -> bool {
    let path = seen["path"].as_str().unwrap();
    path.starts_with("/healthz") || path.starts_with("/grpc.health.v1.Health/")
}

/// The first bytes that come, which stay to be read; zeros when the connection ends before.
async fn begin(stream: &TcpStream) -> [u8; 4] {
    let mut bytes = [0; 4];
    while stream.peek(&mut bytes).await.is_ok_and(|read| (1..4).contains(&read)) {
        tokio::task::yield_now().await;
    }
    bytes
}

struct Waiting(Arc<State>);

impl Waiting {
    fn new(state: &Arc<State>) -> Self {
        let before = state.waiting.fetch_add(1, Ordering::SeqCst);
        state.most_waiting.fetch_max(before + 1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    Response::builder().status(status).body(Full::from(text).boxed()).unwrap()
}

fn json_answer(seen: &Value) -> Response<Body> {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(seen.to_string()).boxed())
        .unwrap()
}

fn frames(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + Sync + 'static>) -> Body {
    http_body_util::BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok))))
}

/// The body as it came, with trailers as gRPC sends them.
fn trailers(body: Bytes) -> Response<Body> {
    let trailers =
        HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    Response::builder()
        .header(header::TRAILER, "grpc-status")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(frames([Frame::data(body), Frame::trailers(trailers)]))
        .unwrap()
}

/// An answer to `grpc.health.v1.Health/Check`: the server as a whole and the service `shop` are SERVING with 200 and
/// `NOT_SERVING` otherwise; others are `NOT_FOUND`. 501 stands for a server without the service.
fn grpc_health(request: &[u8], health: StatusCode) -> Response<Body> {
    let is_known = matches!(request, [0, 0, 0, 0, 0] | [0, 0, 0, 0, 6, 0x0a, 4, b's', b'h', b'o', b'p']);
    let status = match health {
        StatusCode::NOT_IMPLEMENTED => "12",
        _ if !is_known => "5",
        _ => "0",
    };
    let serving = if health == StatusCode::OK { 1 } else { 2 };
    let trailers =
        HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))]);
    let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
    if status != "0" {
        // Trailers-Only, as servers answer what fails at once.
        let mut response = response.body(Full::default().boxed()).unwrap();
        response.headers_mut().extend(trailers);
        return response;
    }
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]);
    response.body(frames([Frame::data(message), Frame::trailers(trailers)])).unwrap()
}

fn chunked() -> Response<Body> {
    Response::new(frames(["one,", "two,", "three"].map(|part| Frame::data(Bytes::from(part)))))
}

fn stream(bytes: usize) -> Response<Body> {
    const PART: usize = 64 * 1024;
    let part = Bytes::from(vec![b'x'; PART]);
    let parts = bytes.div_ceil(PART);
    Response::new(frames((0..parts).map(move |at| Frame::data(part.slice(..PART.min(bytes - at * PART))))))
}

/// Accepts a WebSocket and echoes its messages.
fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                break;
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, key.unwrap_or_default())
        .body(Full::default().boxed())
        .unwrap()
}

/// A server that does with each connection what `script` says; the second argument counts connections from 0.
pub async fn scripted<F>(script: impl Fn(TcpStream, usize) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream, count));
            count += 1;
        }
    });
    address
}

/// Answers the first request of an HTTP/2 connection with these frames, as they are.
pub async fn answer_in_frames(stream: &mut TcpStream, frames: &[&[u8]]) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const HEADERS: u8 = 1;
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.read_exact(&mut [0; 24]).await.unwrap();
    stream.write_all(SETTINGS).await.unwrap();
    let mut head = [0; 9];
    while head[3] != HEADERS {
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
    }
    stream.write_all(&frames.concat()).await.unwrap();
}

/// A server that reads a request head, writes `reply` and closes; with `reset`, by RST.
pub async fn replies(reply: &'static [u8], reset: bool) -> SocketAddr {
    scripted(move |mut stream, _| async move {
        use tokio::io::AsyncWriteExt as _;
        super::client::read_head(&mut stream).await;
        let _sent = stream.write_all(reply).await;
        if reset {
            let _set = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    })
    .await
}

/// An address that refuses connections: bound, not listening, held by the socket that is returned with it.
pub fn refusing() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

/// An address where connections neither open nor fail: its queue is full and nobody accepts.
pub async fn blackhole() -> (SocketAddr, Vec<socket2::Socket>) {
    let (address, socket) = refusing();
    socket.listen(0).unwrap();
    let mut held = vec![socket];
    // A backlog of zero still takes a connection or two: fill it until one does not open.
    loop {
        let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let connect = tokio::task::spawn_blocking(move || {
            let opened = filler.connect_timeout(&address.into(), Duration::from_millis(300));
            (filler, opened.is_ok())
        });
        let (filler, opened) = connect.await.unwrap();
        held.push(filler);
        if !opened {
            return (address, held);
        }
        assert!(held.len() < 64, "the queue never fills");
    }
}
