//! The connections of one thread to one endpoint, in one way, and who waits for one of them.

use std::{
    cell::Cell,
    collections::VecDeque,
    num::NonZeroU32,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use tokio::{sync::oneshot, task::AbortHandle};

use super::super::{
    body::RequestBody,
    bounded::Unanswered,
    clock::{Clock, Moment, millis},
};
use crate::{
    model::{Address, Connections},
    routing::Slots,
};

/// Streams given to one HTTP/2 connection before another is opened: below what servers commonly allow.
const MAX_STREAMS: usize = 100;
/// Age from which a connection to a name serves no new request: what the name means may have changed.
const MAX_AGE_OF_NAMES: Duration = Duration::from_mins(5);

/// What a policy says of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    max_open: Option<NonZeroU32>,
    max_idle: u32,
    idle_timeout: Moment,
    max_requests: u32,
    max_age: Moment,
}

/// Connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The latest is last.
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Requests of this thread that wait for one.
    queue: VecDeque<oneshot::Sender<Kind>>,
    /// Held while an HTTP/2 connection is being opened, so that a burst opens one and not one a request.
    pub(super) opening: Rc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Exclusive>,
    until: Moment,
}

/// What a request is sent by.
#[derive(Debug)]
pub(super) enum Kind {
    /// None once it was given back.
    Exclusive(Option<Box<Exclusive>>),
    Shared(Stream),
}

/// An HTTP/1.1 connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Exclusive {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) unanswered: Unanswered,
    /// The task that reads and writes it; None once the connection has become a tunnel.
    task: Option<AbortHandle>,
    slots: Arc<Slots>,
    /// Those of the request that it serves, or served last.
    terms: Terms,
    opened: Moment,
    served: u32,
    is_idle: bool,
}

/// An HTTP/2 connection. It is closed when the last of its streams has ended and nobody keeps it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<RequestBody>,
    state: Rc<SharedState>,
}

#[derive(Debug)]
struct SharedState {
    slots: Arc<Slots>,
    clock: Clock,
    opened: Moment,
    terms: Cell<Terms>,
    streams: Cell<usize>,
    served: Cell<u32>,
    /// When its last stream ended.
    since: Cell<Moment>,
    retired: Cell<bool>,
}

/// One stream of an HTTP/2 connection; it ends when dropped.
#[derive(Debug)]
pub(super) struct Stream(pub(super) Shared);

impl Terms {
    /// What a policy says of connections to an address. `keep_alive` is how long an idle one is kept unless it says.
    pub(super) fn of(policy: &Connections, address: &Address, keep_alive: Duration) -> Self {
        let max_age = match address {
            Address::Socket(_) => policy.max_age,
            Address::Name { .. } => Some(policy.max_age.map_or(MAX_AGE_OF_NAMES, |age| age.min(MAX_AGE_OF_NAMES))),
        };
        Self {
            max_open: policy.max_per_endpoint,
            max_idle: policy.max_idle_per_endpoint,
            idle_timeout: millis(policy.idle_timeout.unwrap_or(keep_alive)),
            max_requests: policy.max_requests.map_or(u32::MAX, NonZeroU32::get),
            max_age: max_age.map_or(Moment::MAX, millis),
        }
    }

    /// Whether a connection may serve one more request.
    fn allow(&self, served: u32, opened: Moment, now: Moment) -> bool {
        served < self.max_requests && now.saturating_sub(opened) < self.max_age
    }
}

impl Kept {
    /// The latest idle connection that still looks alive.
    pub(super) fn idle(&mut self, terms: &Terms, now: Moment) -> Option<Box<Exclusive>> {
        while let Some(Idle { mut connection, until }) = self.idle.pop() {
            let mut context = Context::from_waker(Waker::noop());
            if now < until
                && terms.allow(connection.served, connection.opened, now)
                && let Poll::Ready(Ok(())) = connection.sender.poll_ready(&mut context)
            {
                connection.rise();
                connection.terms = *terms;
                return Some(connection);
            }
        }
        None
    }

    /// A stream of an HTTP/2 connection that has room for one.
    pub(super) fn vacant(&mut self, terms: &Terms, now: Moment) -> Option<Stream> {
        self.shared.retain(|shared| shared.is_usable(terms, now));
        let shared = self.shared.iter().find(|shared| shared.state.streams.get() < MAX_STREAMS)?;
        shared.state.terms.set(*terms);
        Some(shared.stream())
    }

    /// Keeps a new HTTP/2 connection, and gives a stream of it.
    pub(super) fn share(&mut self, shared: Shared) -> Stream {
        let stream = shared.stream();
        self.shared.push(shared);
        stream
    }

    /// One more request of this thread waits for a connection.
    pub(super) fn wait(&mut self, giver: oneshot::Sender<Kind>) {
        // Nobody waits where one that idles would do: those that are left are stale, and hold slots.
        self.idle.clear();
        self.queue.push_back(giver);
    }

    /// Requests of other threads that wait for a connection to the endpoint.
    fn waiting_elsewhere(&self, slots: &Slots) -> u32 {
        slots.waiting().saturating_sub(u32::try_from(self.queue.len()).unwrap_or(u32::MAX))
    }

    /// Takes a connection back: it goes to a request that waits, or idles, or is closed.
    pub(super) fn take_back(&mut self, mut connection: Box<Exclusive>, now: Moment) {
        let terms = connection.terms;
        connection.served = connection.served.saturating_add(1);
        if !terms.allow(connection.served, connection.opened, now) || connection.slots.are_over(terms.max_open) {
            return;
        }
        let waiting = connection.slots.waiting();
        if waiting > 0 {
            self.queue.retain(|giver| !giver.is_closed());
            // Each thread gets its share: closed here, it makes room for one there.
            if self.waiting_elsewhere(&connection.slots) > fastrand::u32(..waiting) {
                return;
            }
            let Some(returned) = self.hand_over(Kind::Exclusive(Some(connection))) else { return };
            let Kind::Exclusive(Some(returned)) = returned else { return };
            connection = returned;
        }
        if terms.idle_timeout > 0 && connection.rest(terms.max_idle) {
            let until = now.saturating_add(terms.idle_timeout);
            self.idle.push(Idle { connection, until });
        }
    }

    /// Gives a connection to the first that waits; it comes back when nobody does.
    fn hand_over(&mut self, mut kind: Kind) -> Option<Kind> {
        while let Some(giver) = self.queue.pop_front() {
            match giver.send(kind) {
                Ok(()) => return None,
                Err(returned) => kind = returned,
            }
        }
        Some(kind)
    }

    /// A stream ends: its room goes to a request that waits. A connection that has no other is closed where it is not to
    /// idle, or another thread waits for one.
    pub(super) fn vacated(&mut self, stream: Stream, now: Moment) {
        let terms = stream.0.state.terms.get();
        drop(stream);
        if !self.queue.is_empty()
            && let Some(stream) = self.vacant(&terms, now)
        {
            drop(self.hand_over(Kind::Shared(stream)));
        }
        let is_wanted = self.shared.first().is_some_and(|shared| self.waiting_elsewhere(&shared.state.slots) > 0);
        let keeps_idle = |slots: &Slots| terms.idle_timeout > 0 && !slots.are_over(terms.max_open) && !is_wanted;
        self.shared.retain(|shared| shared.state.streams.get() > 0 || keeps_idle(&shared.state.slots));
    }

    /// Closes a connection that serves nobody, the longest idle first, when a request of another thread waits for one. One
    /// at a time, for other threads look for one too.
    pub(super) fn make_room(&mut self) {
        let slots = self.idle.first().map(|idle| &idle.connection.slots);
        let Some(slots) = slots.or(self.shared.first().map(|shared| &shared.state.slots)) else { return };
        self.queue.retain(|giver| !giver.is_closed());
        if self.waiting_elsewhere(slots) == 0 {
            return;
        }
        if !self.idle.is_empty() {
            self.idle.remove(0);
        } else if let Some(at) = self.shared.iter().position(|shared| shared.state.streams.get() == 0) {
            self.shared.remove(at);
        }
    }

    /// Closes what has been idle for too long or is closed; false when there is nothing left.
    pub(super) fn purge(&mut self, now: Moment) -> bool {
        self.idle.retain(|idle| now < idle.until && !idle.connection.sender.is_closed());
        self.shared.retain(|shared| shared.is_fresh(now) && shared.is_usable(&shared.state.terms.get(), now));
        self.queue.retain(|giver| !giver.is_closed());
        let is_opening = Rc::strong_count(&self.opening) > 1;
        is_opening || !self.idle.is_empty() || !self.shared.is_empty() || !self.queue.is_empty()
    }
}

impl Exclusive {
    pub(super) fn new(
        sender: http1::SendRequest<RequestBody>,
        unanswered: Unanswered,
        task: AbortHandle,
        slots: Arc<Slots>,
        terms: Terms,
        opened: Moment,
    ) -> Self {
        Self { sender, unanswered, task: Some(task), slots, terms, opened, served: 0, is_idle: false }
    }

    /// Waits until it can take a request; false when it is closed.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// It closes by itself from here on.
    pub(super) fn detach(&mut self) {
        self.task = None;
    }

    /// Counts it as idle; false when there are as many as allowed.
    fn rest(&mut self, limit: u32) -> bool {
        self.is_idle = self.slots.rest(limit);
        self.is_idle
    }

    fn rise(&mut self) {
        if std::mem::take(&mut self.is_idle) {
            self.slots.rise();
        }
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.rise();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Shared {
    pub(super) fn new(sender: http2::SendRequest<RequestBody>, slots: Arc<Slots>, terms: Terms, clock: Clock) -> Self {
        let state = SharedState {
            slots,
            opened: clock.now(),
            terms: Cell::new(terms),
            streams: Cell::new(0),
            served: Cell::new(0),
            since: Cell::new(clock.now()),
            retired: Cell::new(false),
            clock,
        };
        Self { sender, state: Rc::new(state) }
    }

    fn stream(&self) -> Stream {
        self.state.streams.set(self.state.streams.get() + 1);
        self.state.served.set(self.state.served.get().saturating_add(1));
        Stream(self.clone())
    }

    /// It takes no new streams.
    pub(super) fn retire(&self) {
        self.state.retired.set(true);
    }

    fn is_usable(&self, terms: &Terms, now: Moment) -> bool {
        let state = &self.state;
        !state.retired.get() && !self.sender.is_closed() && terms.allow(state.served.get(), state.opened, now)
    }

    /// Whether it has streams, or has not been without for too long.
    fn is_fresh(&self, now: Moment) -> bool {
        let state = &self.state;
        state.streams.get() > 0 || now.saturating_sub(state.since.get()) < state.terms.get().idle_timeout
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let state = &self.0.state;
        state.streams.set(state.streams.get().saturating_sub(1));
        state.since.set(state.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_names_retire_however_long_the_policy_would_keep_them() {
        let name = Address::Name { host: "shop.example".into(), port: 80 };
        let socket = Address::Socket(([192, 0, 2, 1], 80).into());
        let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
        let cases = [(None, 300_000, Moment::MAX), (Some(minute), 60_000, 60_000), (Some(hour), 300_000, 3_600_000)];
        for (max_age, of_name, of_socket) in cases {
            let policy = Connections { max_age, ..Connections::default() };
            assert_eq!(Terms::of(&policy, &name, minute).max_age, of_name);
            assert_eq!(Terms::of(&policy, &socket, minute).max_age, of_socket);
        }
    }
}
