//! Connections to endpoints: one pool per thread, keyed by endpoint and by how it is spoken to, without locks.
//!
//! HTTP/1.1 connections serve one request at a time and wait in a list, last in first out; HTTP/2 connections are shared.
//! A connection goes back only when request and response are complete; in doubt it is closed. One that was opened with a
//! PROXY header serves only the client that the header names, and is closed with that client's connection.
//!
//! Threads share nothing but counts ([`Slots`]): where those are at a limit, a request waits until a connection of its
//! own thread is given back, or one of any thread is closed for it.

mod checkout;
mod kept;

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

pub(super) use self::checkout::{Checkout, SendError};
use self::kept::{Exclusive, Kept, Kind, Shared, Stream, Terms};
use super::{
    Error,
    bounded::{Bounded, Unanswered},
    clock::{Clock, Moment},
    connection::{LocalExecutor, Peer},
};
use crate::{
    routing::{EndpointState, Pool, Slot, Slots},
    telemetry::metrics,
    transport::{DialTimes, Dialer, Transport},
};

/// Largest response head in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// HTTP/2 flow control windows in bytes: what an endpoint may send before we have passed it on.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 pings tell a dead connection from an idle one.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a way of dialling is remembered after its last use, in milliseconds.
const DIALER_REST: Moment = 5 * 60 * 1000;

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct Upstreams {
    /// Those that serve anybody.
    common: RefCell<ByKey>,
    /// Those that serve one client, until that is gone.
    bound: RefCell<HashMap<Peer, ByKey, RandomState>>,
    dialers: RefCell<HashMap<Way, (Rc<Dialer>, Moment), RandomState>>,
    clock: Clock,
    keep_alive: Duration,
    own_ports: Arc<[u16]>,
}

type ByKey = HashMap<Key, Kept, RandomState>;
/// An endpoint and [`Pool::transport_id`].
type Key = (u64, u64);
/// [`Pool::transport_id`] and what else dialling depends on.
type Way = (u64, DialTimes);

/// Where the connections of a checkout are kept.
#[derive(Debug)]
struct Place {
    key: Key,
    /// The client that they serve; None for those that serve anybody.
    client: Option<Box<Peer>>,
}

/// What a connection is opened for.
struct Opening<'a> {
    pool: &'a Pool,
    endpoint: &'a EndpointState,
    place: &'a Place,
    peer: Peer,
    terms: Terms,
    deadline: Instant,
    /// Until when it may wait for others to have done with theirs.
    patience: Instant,
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
    /// No connections yet. Idle ones are kept for `keep_alive`, unless a policy says otherwise. `own_ports` are those of
    /// this process.
    pub(super) fn new(clock: Clock, keep_alive: Duration, own_ports: Arc<[u16]>) -> Rc<Self> {
        Rc::new(Self {
            common: RefCell::default(),
            bound: RefCell::default(),
            dialers: RefCell::default(),
            clock,
            keep_alive,
            own_ports,
        })
    }

    /// Gives a connection to the endpoint of the pool, opened within its connect timeout if there is none. It waits no
    /// longer than until `patience` for one that others have.
    ///
    /// # Errors
    /// [`Error::ConnectionLimit`] when the endpoint has as many connections as its policy allows and none came free in
    /// that time; others when none could be opened.
    pub(super) async fn checkout(
        self: &Rc<Self>,
        pool: &Pool,
        endpoint: &Arc<EndpointState>,
        reuse: Reuse,
        peer: Peer,
        patience: Option<Instant>,
    ) -> Result<Checkout, Error> {
        let is_bound = pool.backend.policy.proxy_protocol.is_some();
        let place = Place { key: (endpoint.id, pool.transport_id), client: is_bound.then(|| Box::new(peer)) };
        let terms = Terms::of(&pool.backend.policy.connections, &endpoint.address, self.keep_alive);
        let is_http2 = pool.backend.protocol.is_http2();
        let kept = if reuse == Reuse::Never {
            None
        } else if is_http2 {
            self.vacant(&place, &terms).map(Kind::Shared)
        } else {
            self.idle(&place, &terms).map(|connection| Kind::Exclusive(Some(connection)))
        };
        let kind = if let Some(kind) = kept {
            kind
        } else {
            let deadline = Instant::now() + pool.backend.policy.timeouts.connect;
            let patience = patience.map_or(deadline, |patience| patience.min(deadline));
            let opening = Opening { pool, endpoint, place: &place, peer, terms, deadline, patience };
            // Boxed: opening is rare, and its state would be copied around with every request.
            if is_http2 {
                Kind::Shared(Box::pin(self.shared(&opening)).await?)
            } else {
                Kind::Exclusive(Some(Box::pin(self.exclusive(&opening)).await?))
            }
        };
        Ok(Checkout::new(kind, Rc::clone(self), place))
    }

    /// Works on what is kept at a place.
    fn kept<T>(&self, place: &Place, work: impl FnOnce(&mut Kept) -> T) -> T {
        match &place.client {
            None => work(self.common.borrow_mut().entry(place.key).or_default()),
            Some(client) => work(self.bound.borrow_mut().entry(**client).or_default().entry(place.key).or_default()),
        }
    }

    /// Works on what is kept at a place, unless that is the place of a client that is gone.
    fn kept_still<T>(&self, place: &Place, work: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        let is_gone = place.client.as_deref().is_some_and(|client| !self.bound.borrow().contains_key(client));
        (!is_gone).then(|| self.kept(place, work))
    }

    fn idle(&self, place: &Place, terms: &Terms) -> Option<Box<Exclusive>> {
        self.kept(place, |kept| kept.idle(terms, self.clock.now()))
    }

    fn vacant(&self, place: &Place, terms: &Terms) -> Option<Stream> {
        self.kept(place, |kept| kept.vacant(terms, self.clock.now()))
    }

    /// A new HTTP/1.1 connection, or one that came free while there was no slot for one.
    async fn exclusive(&self, opening: &Opening<'_>) -> Result<Box<Exclusive>, Error> {
        loop {
            match self.slot(opening).await? {
                Granted::Slot(slot) => return within(opening.deadline, self.open_http1(opening, slot)).await,
                Granted::Given(Kind::Exclusive(Some(mut connection))) => {
                    if timeout_at(opening.deadline, connection.ready()).await == Ok(true) {
                        return Ok(connection);
                    }
                }
                Granted::Given(_) => {}
            }
        }
    }

    /// A stream of a new HTTP/2 connection, or of one that had room first.
    async fn shared(&self, opening: &Opening<'_>) -> Result<Stream, Error> {
        let turn = self.kept(opening.place, |kept| Rc::clone(&kept.opening));
        // One connection is opened at a time; the limit of time holds for the wait too.
        let Ok(_turn) = timeout_at(opening.patience, turn.lock()).await else {
            let is_full = opening.endpoint.slots.is_full(opening.max_connections());
            return Err(if is_full { Error::ConnectionLimit } else { Error::ConnectTimeout });
        };
        loop {
            if let Some(stream) = self.vacant(opening.place, &opening.terms) {
                return Ok(stream);
            }
            match self.slot(opening).await? {
                Granted::Slot(slot) => {
                    let shared = within(opening.deadline, self.open_http2(opening, slot)).await?;
                    return Ok(self.kept(opening.place, |kept| kept.share(shared)));
                }
                Granted::Given(Kind::Shared(stream)) => return Ok(stream),
                Granted::Given(_) => {}
            }
        }
    }

    /// Waits until one more connection may be opened, or one of this thread is given back.
    async fn slot(&self, opening: &Opening<'_>) -> Result<Granted, Error> {
        let (slots, limit) = (&opening.endpoint.slots, opening.max_connections());
        if let Some(slot) = slots.take(limit) {
            return Ok(Granted::Slot(slot));
        }
        let (sender, given) = oneshot::channel();
        self.kept(opening.place, |kept| kept.wait(sender));
        tokio::select! {
            biased;
            Ok(kind) = given => Ok(Granted::Given(kind)),
            slot = slots.wait(limit) => Ok(Granted::Slot(slot)),
            () = tokio::time::sleep_until(opening.patience) => Err(Error::ConnectionLimit),
        }
    }

    async fn open_http1(&self, opening: &Opening<'_>, slot: Slot) -> Result<Box<Exclusive>, Error> {
        let unanswered = Unanswered::new();
        let transport = Bounded::new(self.dial(opening).await?, unanswered.clone(), slot);
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD);
        let (sender, connection) =
            builder.handshake(TokioIo::new(transport)).await.map_err(|_| Error::ConnectFailed)?;
        let task = tokio::task::spawn_local(async move {
            // Its errors reach the request, or concern nobody.
            let _ended = connection.with_upgrades().await;
        });
        let slots = Arc::clone(&opening.endpoint.slots);
        let (terms, now) = (opening.terms, self.clock.now());
        Ok(Box::new(Exclusive::new(sender, unanswered, task.abort_handle(), slots, terms, now)))
    }

    async fn open_http2(&self, opening: &Opening<'_>, slot: Slot) -> Result<Shared, Error> {
        // Its streams have windows of their own.
        let transport = Bounded::new(self.dial(opening).await?, Unanswered::new(), slot);
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
        Ok(Shared::new(sender, Arc::clone(&opening.endpoint.slots), opening.terms, self.clock.clone()))
    }

    async fn dial(&self, opening: &Opening<'_>) -> Result<Transport, Error> {
        let address = &opening.endpoint.address;
        let dialled = self.dialer(opening.pool).dial(address, opening.peer.into()).await;
        if dialled.is_ok() {
            metrics::count(&opening.pool.metrics.connections_opened);
        }
        dialled.map_err(|error| {
            tracing::debug!(endpoint = %address, error = &error as &dyn std::error::Error, "no connection");
            error.into()
        })
    }

    fn dialer(&self, pool: &Pool) -> Rc<Dialer> {
        let (policy, own_ports) = (&pool.backend.policy, &self.own_ports);
        let build = || (Rc::new(Dialer::build(policy, pool.backend.protocol, Arc::clone(own_ports))), 0);
        let mut dialers = self.dialers.borrow_mut();
        let way = (pool.transport_id, DialTimes::of(policy));
        let (dialer, used) = dialers.entry(way).or_insert_with(build);
        *used = self.clock.now();
        Rc::clone(dialer)
    }

    /// Closes what idles where requests, of any thread, wait for a connection.
    pub(super) fn make_room(&self) {
        if !Slots::somebody_waits() {
            return;
        }
        let bound = &mut *self.bound.borrow_mut();
        for kept in self.common.borrow_mut().values_mut().chain(bound.values_mut().flat_map(HashMap::values_mut)) {
            kept.make_room();
        }
    }

    /// Closes what has been idle for too long or is closed, and forgets endpoints without connections.
    pub(super) fn purge(&self) {
        let now = self.clock.now();
        self.common.borrow_mut().retain(|_, kept| kept.purge(now));
        for of_client in self.bound.borrow_mut().values_mut() {
            of_client.retain(|_, kept| kept.purge(now));
        }
        self.dialers.borrow_mut().retain(|_, (_, used)| now.saturating_sub(*used) < DIALER_REST);
    }

    /// Closes the connections that serve a client that is gone.
    pub(super) fn forget(&self, client: &Peer) {
        // Taken out first: closing a connection may come back here.
        let _closed = self.bound.borrow_mut().remove(client);
    }
}

/// What a request that needs a connection gets.
enum Granted {
    /// It may open one.
    Slot(Slot),
    /// One that has come free.
    Given(Kind),
}

impl Opening<'_> {
    fn max_connections(&self) -> Option<std::num::NonZeroU32> {
        self.pool.backend.policy.connections.max_per_endpoint
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout_at(deadline, work).await.unwrap_or(Err(Error::ConnectTimeout))
}
