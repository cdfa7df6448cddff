//! One client connection: TLS, protocol, deadlines and drain. What a request gets is `exchange`'s business.

use std::{
    cell::Cell,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ProtocolVersion;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Error, answer,
    clock::{Deadline, Moment, millis},
    exchange,
    headers::{self, Forwarded},
    io::{ClientIo, Phase, Progress},
    record,
    worker::Worker,
};
use crate::{
    matching::RequestHost,
    telemetry::metrics::{Handshake, Process},
    transport::{Proxied, TCP_KEEP_ALIVE, Transport, tune},
};

/// RFC 9113 §3.4: what an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First read of a connection in clear text: most request heads fit.
const FIRST_READ: usize = 2048;
/// Request head in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// HTTP/2 streams a connection.
const MAX_STREAMS: u32 = 128;
/// HTTP/2 flow control windows in bytes: what a client may send before we have passed it on.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 pings tell a client that is gone from one that is idle.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a drain leaves idle HTTP/1.1 connections open. A client that uses one meanwhile is told to close it with the
/// response; closing it at once could cross its next request on the wire.
const LINGER: Duration = Duration::from_secs(5);
/// Time for a last answer to a connection that is given up.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What a listener's connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// Clear text: HTTP/1.1, or HTTP/2 with prior knowledge.
    Plain,
    /// TLS: the protocol is chosen by ALPN.
    Tls,
}

impl Security {
    /// The scheme of URLs that lead to such a listener.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "https",
        }
    }
}

/// Runs hyper's tasks on the thread of their connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// The two ends of a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    /// Address and port of the client.
    pub(super) source: SocketAddr,
    /// Address and port that it came to.
    pub(super) destination: SocketAddr,
}

impl From<Peer> for Proxied {
    fn from(Peer { source, destination }: Peer) -> Self {
        Self::For { source, destination }
    }
}

/// What exchanges know of the connection they came by.
#[derive(Debug)]
pub(super) struct Client {
    /// The thread that serves it.
    pub(super) worker: Rc<Worker>,
    /// Address of the peer.
    pub(super) address: IpAddr,
    /// Its two ends.
    pub(super) peer: Peer,
    /// The address it came to, with the port.
    pub(super) local: HeaderValue,
    /// Whether it is encrypted.
    pub(super) security: Security,
    /// Server name of the handshake.
    pub(super) server_name: Option<RequestHost<'static>>,
    /// Version of TLS; None for clear text.
    pub(super) tls_version: Option<&'static str>,
    /// What backends are told of it.
    pub(super) forwarded: Forwarded,
    progress: Arc<Progress>,
    exchanges: Cell<u32>,
    has_served: Cell<bool>,
    /// How long it may take nothing of what there is to write.
    write_idle: Cell<Duration>,
}

/// What has to happen to a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Overdue {
    /// It is idle: close it in order.
    Idle,
    /// Its request head does not come: 408.
    Head,
    /// It takes nothing of what there is to write: close it.
    Write,
}

impl Client {
    /// An exchange begins.
    pub(super) fn begin(&self) {
        self.exchanges.set(self.exchanges.get() + 1);
        self.has_served.set(true);
        self.write_idle.set(self.worker.settings.timeouts.idle);
        self.progress.enter(Phase::Busy);
    }

    /// An exchange has ended.
    pub(super) fn end(&self) {
        self.exchanges.set(self.exchanges.get() - 1);
        if self.exchanges.get() == 0 {
            self.progress.enter(Phase::Ending);
        }
    }

    /// A response is on its way that may be left untaken for so long. Those of HTTP/2 share a connection, and are watched
    /// one by one.
    pub(super) fn bound_writes(&self, idle: Duration) {
        if !self.is_http2() {
            self.write_idle.set(idle);
        }
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.progress.is_http2()
    }

    /// Part of a request was left unread: the connection must not be closed over it.
    pub(super) fn left_unread(&self) {
        self.progress.linger();
    }

    /// Whether an orderly end can start without crossing a request: HTTP/2 has GOAWAY for it, HTTP/1.1 a response.
    fn may_close(&self) -> bool {
        self.is_http2() || self.exchanges.get() > 0
    }

    /// Whether nothing of a request has come; a head that is on its way has a limit of its own.
    fn is_at_rest(&self) -> bool {
        self.progress.phase().0 == Phase::Idle
    }

    /// Whether no exchange is under way.
    fn is_idle(&self) -> bool {
        self.exchanges.get() == 0
    }

    /// When what will be overdue if nothing moves until then.
    fn due(&self) -> (Moment, Overdue) {
        let timeouts = &self.worker.settings.timeouts;
        let (phase, since) = self.progress.phase();
        let due = match phase {
            Phase::Idle if self.has_served.get() => (since.saturating_add(millis(timeouts.keep_alive)), Overdue::Idle),
            Phase::Idle => (since.saturating_add(millis(timeouts.request_head)), Overdue::Idle),
            Phase::Head => (since.saturating_add(millis(timeouts.request_head)), Overdue::Head),
            Phase::Busy | Phase::Ending => (Moment::MAX, Overdue::Idle),
        };
        let blocked =
            self.progress.write_blocked_since().map(|since| since.saturating_add(millis(self.write_idle.get())));
        let lingering = self.progress.lingering_since().map(|since| since.saturating_add(millis(LAST_WORD)));
        match blocked.into_iter().chain(lingering).min() {
            Some(at) => due.min((at, Overdue::Write)),
            None => due,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.worker.upstreams.forget(&self.peer);
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, security: Security) {
    let _open = Open::new(&worker.metrics.process);
    tune(&stream, Some(TCP_KEEP_ALIVE));
    match security {
        Security::Plain => serve_plain(&worker, stream, peer).await,
        Security::Tls => serve_tls(&worker, stream, peer).await,
    }
}

/// Counts a connection as open for as long as it lives, however it ends.
struct Open<'a>(&'a Process);

impl<'a> Open<'a> {
    fn new(process: &'a Process) -> Self {
        process.accepted.fetch_add(1, Ordering::Relaxed);
        process.connections.fetch_add(1, Ordering::Relaxed);
        Self(process)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_plain(worker: &Rc<Worker>, mut stream: TcpStream, peer: SocketAddr) {
    let first = tokio::time::timeout(worker.settings.timeouts.request_head, sniff(&mut stream));
    let Ok(Ok(prefix)) = first.await else { return };
    let is_http2 = prefix.starts_with(PREFACE);
    let client = client(worker, &stream, peer, Security::Plain, (None, None), is_http2);
    serve_http(client, Transport::Plain(stream), prefix, is_http2).await;
}

async fn serve_tls(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let acceptor = TlsAcceptor::from(Arc::clone(&worker.tls));
    let handshake = tokio::time::timeout(worker.settings.timeouts.handshake, acceptor.accept(stream));
    let process = &worker.metrics.process;
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return process.shook_hands(Handshake::Failure),
        Err(_) => return process.shook_hands(Handshake::Timeout),
    };
    let (tcp, session) = stream.get_ref();
    process.shook_hands(match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => Handshake::Tls12,
        _ => Handshake::Tls13,
    });
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let server_name = session.server_name().and_then(|name| RequestHost::parse(name).ok());
    let server_name = server_name.map(RequestHost::into_owned);
    let tls_version = session.protocol_version().map(|version| match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "TLSv1.3",
    });
    let client = client(worker, tcp, peer, Security::Tls, (server_name, tls_version), is_http2);
    serve_http(client, Transport::Tls(Box::new(stream.into())), Bytes::new(), is_http2).await;
}

/// Reads until it is clear whether the client opens with the HTTP/2 preface.
async fn sniff(stream: &mut TcpStream) -> std::io::Result<Bytes> {
    let mut read = BytesMut::with_capacity(FIRST_READ);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if read.len() >= PREFACE.len() || !PREFACE.starts_with(&read) {
            return Ok(read.freeze());
        }
    }
}

fn client(
    worker: &Rc<Worker>,
    stream: &TcpStream,
    peer: SocketAddr,
    security: Security,
    (server_name, tls_version): (Option<RequestHost<'static>>, Option<&'static str>),
    is_http2: bool,
) -> Rc<Client> {
    let address = peer.ip().to_canonical();
    let local = stream.local_addr().unwrap_or(SocketAddr::new(address, 0));
    let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"));
    let forwarded = Forwarded {
        address: value(address.to_string()),
        proto: HeaderValue::from_static(security.scheme()),
        trusted: worker.settings.trusted_cidrs.iter().any(|cidr| cidr.contains(&address)),
    };
    Rc::new(Client {
        worker: Rc::clone(worker),
        address,
        peer: Peer { source: peer, destination: local },
        local: value(SocketAddr::new(local.ip().to_canonical(), local.port()).to_string()),
        security,
        server_name,
        tls_version,
        forwarded,
        progress: Progress::new(worker.clock.hand(), is_http2),
        exchanges: Cell::new(0),
        has_served: Cell::new(false),
        write_idle: Cell::new(worker.settings.timeouts.idle),
    })
}

async fn serve_http(client: Rc<Client>, transport: Transport, prefix: Bytes, is_http2: bool) {
    let io = TokioIo::new(ClientIo::new(transport, prefix, Arc::clone(&client.progress)));
    let of_service = Rc::clone(&client);
    let service = service_fn(move |request: Request<Incoming>| {
        let client = Rc::clone(&of_service);
        async move { Ok::<_, Infallible>(exchange::serve(client, request).await) }
    });
    if is_http2 {
        let mut connection = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service);
        drive(&client, &mut connection, http2::Connection::graceful_shutdown).await;
        return;
    }
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None) // ours tells an idle connection from a slow head, and answers 408
        .max_header_size(MAX_HEAD)
        .serve_connection(io, service)
        .with_upgrades();
    let overdue = drive(&client, &mut connection, http1::UpgradeableConnection::graceful_shutdown).await;
    if let Some((error, id)) = client.progress.refused() {
        record::refused(&client, error, &id);
        if let Some(parts) = connection.into_parts() {
            close(parts.io.into_inner()).await;
        }
    } else if overdue == Some(Overdue::Head)
        && let Some(parts) = connection.into_parts()
    {
        refuse(&client, parts.io.into_inner()).await;
    }
}

/// Answers a head that does not come, and closes.
async fn refuse(client: &Rc<Client>, mut io: ClientIo) {
    let id = headers::new_request_id();
    let bytes = answer::raw(Error::HeadTimeout, id.to_str().unwrap_or_default());
    record::refused(client, Error::HeadTimeout, &id);
    client.progress.linger();
    // A client too slow for a head may be too slow for this too.
    let _late = tokio::time::timeout(LAST_WORD, io.write_all(&bytes)).await;
    close(io).await;
}

/// Ends a connection so that what was written still arrives.
async fn close(mut io: ClientIo) {
    let _late = tokio::time::timeout(LAST_WORD, io.shutdown()).await;
}

/// Runs a connection to its end, or until a deadline that leaves nothing to hyper.
async fn drive<C>(client: &Rc<Client>, connection: &mut C, shut_down: impl Fn(Pin<&mut C>)) -> Option<Overdue>
where
    C: Future + Unpin,
{
    let participant = client.worker.drain.join();
    let deadline = client.worker.clock.deadline(Duration::ZERO);
    let mut closing = false;
    let mut armed = None;
    let mut linger = None;
    let mut last_word = None;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        if !closing && participant.poll_started(cx).is_ready() {
            let linger = linger.get_or_insert_with(|| client.worker.clock.deadline(LINGER));
            closing = client.may_close() || linger.poll_expired(cx).is_ready() && client.is_at_rest();
            if closing {
                shut_down(Pin::new(connection));
            }
        }
        loop {
            if Pin::new(&mut *connection).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if !closing && linger.is_some() && client.may_close() {
                closing = true;
                shut_down(Pin::new(connection));
            }
            if !client.is_idle() {
                last_word = None; // a request that crossed the GOAWAY on the wire is still served
            }
            let due = last_word.unwrap_or_else(|| client.due());
            match poll_overdue(due, &deadline, &mut armed, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Overdue::Idle) if last_word.is_none() => {
                    closing = true;
                    last_word = Some((client.worker.clock.now().saturating_add(millis(LAST_WORD)), Overdue::Idle));
                    shut_down(Pin::new(connection));
                }
                Poll::Ready(overdue) => return Poll::Ready(Some(overdue)),
            }
        }
    })
    .await
}

/// Ready when something is overdue; the deadline is moved only when there is another to wait for.
fn poll_overdue(
    due: (Moment, Overdue),
    deadline: &Deadline,
    armed: &mut Option<(Moment, Overdue)>,
    cx: &mut Context<'_>,
) -> Poll<Overdue> {
    if *armed != Some(due) {
        *armed = Some(due);
        deadline.reset_at(due.0);
    }
    deadline.poll_expired(cx).map(|()| due.1)
}
