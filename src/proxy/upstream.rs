//! Connections to endpoints: one pool per thread, keyed by endpoint, without locks.
//!
//! HTTP/1.1 connections serve one request at a time and wait in a list, last in first out; HTTP/2 connections are shared.
//! A connection goes back only when request and response are complete; in doubt it is closed.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use foldhash::fast::RandomState;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::AbortHandle;

use super::{
    Error,
    body::{RequestBody, Upload},
    bounded::{Bounded, Unanswered},
    clock::{Clock, Moment, millis},
    connection::{LocalExecutor, Peer},
};
use crate::{
    routing::{EndpointState, Pool},
    transport::{Dialer, Transport},
};

/// Idle HTTP/1.1 connections kept for one endpoint by one thread.
const MAX_IDLE: usize = 128;
/// Streams given to one HTTP/2 connection before another is opened: below what servers commonly allow.
const MAX_STREAMS: usize = 100;
/// Largest response head in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// HTTP/2 flow control windows in bytes: what an endpoint may send before we have passed it on.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 pings tell a dead connection from an idle one.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct Upstreams {
    endpoints: RefCell<HashMap<Key, Endpoint, RandomState>>,
    dialers: RefCell<HashMap<Way, Rc<Dialer>, RandomState>>,
    clock: Clock,
    keep_alive: Moment,
    own_ports: Arc<[u16]>,
}

/// An endpoint and [`Pool::transport_id`].
type Key = (u64, u64);
/// [`Pool::transport_id`] and what else dialling depends on.
type Way = (u64, Option<Duration>);

#[derive(Debug, Default)]
struct Endpoint {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Held while an HTTP/2 connection is being opened, so that a burst opens one and not one a request.
    opening: Rc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Idle {
    connection: Exclusive,
    since: Moment,
}

/// An HTTP/1.1 connection; dropping it closes it.
#[derive(Debug)]
struct Exclusive {
    sender: http1::SendRequest<RequestBody>,
    unanswered: Unanswered,
    /// The task that reads and writes it; None once the connection has become a tunnel.
    task: Option<AbortHandle>,
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// An HTTP/2 connection.
#[derive(Clone, Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    since: Rc<Cell<Moment>>,
}

/// A connection for one request. Unless it is given back, it is closed (HTTP/1.1) or the stream is reset (HTTP/2).
#[derive(Debug)]
pub(super) struct Checkout {
    kind: Kind,
    upstreams: Rc<Upstreams>,
    endpoint: Key,
    upload: Option<Rc<Upload>>,
    retired: bool,
}

#[derive(Debug)]
enum Kind {
    Exclusive(Option<Exclusive>),
    Shared(Shared),
}

/// A request that was not answered.
#[derive(Debug)]
pub(super) struct SendError {
    /// Why.
    pub(super) error: Error,
    /// The request, when no byte of it was written.
    pub(super) unsent: Option<Request<RequestBody>>,
}

/// Whether a pooled connection will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// The latest idle one, if there is one.
    Idle,
    /// A new one: an idle one has just turned out to be stale.
    Never,
}

impl Upstreams {
    /// No connections yet. `own_ports` are those of this process.
    pub(super) fn new(clock: Clock, keep_alive: Duration, own_ports: Arc<[u16]>) -> Rc<Self> {
        let keep_alive = millis(keep_alive);
        Rc::new(Self { endpoints: RefCell::default(), dialers: RefCell::default(), clock, keep_alive, own_ports })
    }

    /// Gives a connection to the endpoint of the pool, opened within its connect timeout if there is none.
    pub(super) async fn checkout(
        self: &Rc<Self>,
        pool: &Pool,
        endpoint: &Arc<EndpointState>,
        reuse: Reuse,
        peer: Peer,
    ) -> Result<Checkout, Error> {
        let (protocol, connect_timeout) = (pool.backend.protocol, pool.backend.policy.timeouts.connect);
        let key = (endpoint.id, pool.transport_id);
        let opening = Opening { dialer: self.dialer(pool), endpoint, peer };
        let kind = if protocol.is_http2() {
            // The limit holds for the turn in the queue too: one connection is opened at a time.
            Kind::Shared(Box::pin(within(connect_timeout, self.shared(key, &opening, reuse))).await?)
        } else {
            let idle = if reuse == Reuse::Idle { self.idle(key) } else { None };
            Kind::Exclusive(Some(match idle {
                Some(connection) => connection,
                // Boxed: opening is rare, and its state would be copied around with every request.
                None => Box::pin(within(connect_timeout, self.open_http1(&opening))).await?,
            }))
        };
        Ok(Checkout { kind, upstreams: Rc::clone(self), endpoint: key, upload: None, retired: false })
    }

    /// The latest idle connection that still looks alive.
    fn idle(&self, endpoint: Key) -> Option<Exclusive> {
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = &mut endpoints.get_mut(&endpoint)?.idle;
        while let Some(mut candidate) = idle.pop() {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(())) = candidate.connection.sender.poll_ready(&mut context) {
                return Some(candidate.connection);
            }
        }
        None
    }

    async fn shared(&self, key: Key, opening: &Opening<'_>, reuse: Reuse) -> Result<Shared, Error> {
        let existing = || self.endpoints.borrow_mut().entry(key).or_default().vacant();
        if reuse == Reuse::Idle
            && let Some(shared) = existing()
        {
            return Ok(shared);
        }
        let turn = Rc::clone(&self.endpoints.borrow_mut().entry(key).or_default().opening);
        let _turn = turn.lock().await;
        if let Some(shared) = existing() {
            return Ok(shared);
        }
        let sender = self.open_http2(opening).await?;
        let shared = Shared { sender, streams: Rc::default(), since: Rc::new(Cell::new(self.clock.now())) };
        shared.streams.set(1);
        self.endpoints.borrow_mut().entry(key).or_default().shared.push(shared.clone());
        Ok(shared)
    }

    async fn open_http1(&self, opening: &Opening<'_>) -> Result<Exclusive, Error> {
        let unanswered = Unanswered::new();
        let transport = Bounded::new(opening.dial().await?, unanswered.clone());
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD);
        let (sender, connection) =
            builder.handshake(TokioIo::new(transport)).await.map_err(|_| Error::ConnectFailed)?;
        let task = tokio::task::spawn_local(async move {
            // Its errors reach the request, or concern nobody.
            let _ended = connection.with_upgrades().await;
        });
        Ok(Exclusive { sender, unanswered, task: Some(task.abort_handle()) })
    }

    async fn open_http2(&self, opening: &Opening<'_>) -> Result<http2::SendRequest<RequestBody>, Error> {
        let transport = opening.dial().await?;
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|_| Error::ConnectFailed)?;
        tokio::task::spawn_local(async move {
            let _ended = connection.await;
        });
        Ok(sender)
    }

    fn dialer(&self, pool: &Pool) -> Rc<Dialer> {
        let (policy, own_ports) = (&pool.backend.policy, &self.own_ports);
        let build = || Rc::new(Dialer::build(policy, pool.backend.protocol, Arc::clone(own_ports)));
        let mut dialers = self.dialers.borrow_mut();
        Rc::clone(dialers.entry((pool.transport_id, policy.connections.tcp_keepalive)).or_insert_with(build))
    }

    /// Closes what has been idle for too long or is closed, and forgets endpoints without connections.
    pub(super) fn purge(&self) {
        let now = self.clock.now();
        let fresh = |since: Moment| now.saturating_sub(since) < self.keep_alive;
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.idle.retain(|idle| fresh(idle.since) && !idle.connection.sender.is_closed());
            endpoint
                .shared
                .retain(|shared| (shared.streams.get() > 0 || fresh(shared.since.get())) && !shared.sender.is_closed());
            let in_use = Rc::strong_count(&endpoint.opening) > 1;
            in_use || !endpoint.idle.is_empty() || !endpoint.shared.is_empty()
        });
    }
}

/// What a connection is opened with.
struct Opening<'a> {
    dialer: Rc<Dialer>,
    endpoint: &'a EndpointState,
    peer: Peer,
}

impl Opening<'_> {
    async fn dial(&self) -> Result<Transport, Error> {
        self.dialer.dial(&self.endpoint.address, self.peer.into()).await.map_err(|error| {
            tracing::debug!(endpoint = %self.endpoint.address, error = &error as &dyn std::error::Error, "not connected");
            error.into()
        })
    }
}

impl Endpoint {
    /// An HTTP/2 connection with room for a stream, which is taken.
    fn vacant(&mut self) -> Option<Shared> {
        self.shared.retain(|shared| !shared.sender.is_closed());
        let shared = self.shared.iter().find(|shared| shared.streams.get() < MAX_STREAMS)?;
        shared.streams.set(shared.streams.get() + 1);
        Some(shared.clone())
    }
}

impl Checkout {
    /// Sends the request and waits for the response head.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        upload: Option<Rc<Upload>>,
    ) -> Result<Response<Incoming>, SendError> {
        self.upload = upload;
        let sent = match &mut self.kind {
            Kind::Exclusive(Some(connection)) => {
                connection.unanswered.asked();
                let sent = connection.sender.try_send_request(request).await;
                connection.unanswered.answered();
                sent
            }
            Kind::Shared(shared) => shared.sender.try_send_request(request).await,
            Kind::Exclusive(None) => return Err(SendError { error: Error::UpstreamReset, unsent: Some(request) }),
        };
        sent.map_err(|mut failed| {
            let unsent = failed.take_message();
            SendError { error: self.classify(failed.error()), unsent }
        })
    }

    fn classify(&self, error: &hyper::Error) -> Error {
        if let Some(failure) = self.upload.as_ref().and_then(|upload| upload.failure.get()) {
            return failure;
        }
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
        let is_endless = source.is_some_and(|source| source.kind() == std::io::ErrorKind::InvalidData);
        if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() || is_endless {
            return Error::UpstreamMalformed;
        }
        Error::UpstreamReset
    }

    /// The connection serves no other request, whatever becomes of this one.
    pub(super) fn retire(&mut self) {
        self.retired = true;
    }

    /// The response is read to its end: the connection may serve the next request, if the request was sent to its end.
    pub(super) fn give_back(mut self) {
        let sent = self.upload.as_ref().is_none_or(|upload| upload.ended.get());
        let Kind::Exclusive(connection) = &mut self.kind else { return };
        let Some(connection) = connection.take() else { return };
        if !sent || self.retired || connection.sender.is_closed() {
            return; // hyper neither closes nor reuses it by itself (hyper#4176)
        }
        let since = self.upstreams.clock.now();
        let mut endpoints = self.upstreams.endpoints.borrow_mut();
        let idle = &mut endpoints.entry(self.endpoint).or_default().idle;
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since });
        }
    }

    /// The connection becomes a tunnel: it is neither given back nor closed.
    pub(super) fn detach(mut self) {
        if let Kind::Exclusive(Some(connection)) = &mut self.kind {
            connection.task = None; // it still has to hand the upgraded connection over
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Kind::Shared(shared) = &self.kind {
            shared.streams.set(shared.streams.get().saturating_sub(1));
            shared.since.set(self.upstreams.clock.now());
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::ConnectTimeout))
}
