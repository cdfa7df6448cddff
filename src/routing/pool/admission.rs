//! How many requests a backend has at a time, and those that wait for their turn.
//!
//! The policy's own limit counts a request to its end. An adaptive limit moves by response heads, so it counts a request
//! only until its response head: streams and tunnels that stay open do not hold it.
//!
//! While nobody waits, nothing is locked. Who waits is let in first come, first served, and those who come later do not
//! overtake.

use std::{
    cell::Cell,
    collections::VecDeque,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::oneshot;

use super::Line;
use crate::{
    balance::{AdaptiveLimit, Bounds, RetrySpending},
    model::Limits,
};

/// No limit.
const UNLIMITED: u32 = u32::MAX;
/// An adaptive limit is never less.
const LEAST: u32 = 3;
/// One request in flight, and one without a response head, in a word of both counts.
const IN_FLIGHT: u64 = 1 << 32;
const WITHOUT_HEAD: u64 = 1;

/// What is known of one port of a Service over all its endpoints, whatever routes ask of it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct BackendState {
    /// Requests in flight in the upper half; in the lower those of them without a response head.
    requests: Line<AtomicU64>,
    /// What the policy in force says of the limit.
    adapts: AtomicBool,
    least: AtomicU32,
    most: AtomicU32,
    adaptive: AdaptiveLimit,
    /// Length of the queue.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    pub(super) retries: Line<RetrySpending>,
    /// One thread at a time ejects: another would count the ejected before this one is among them.
    pub(super) ejecting: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// By number, which ascends.
    waiters: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Default for BackendState {
    fn default() -> Self {
        Self {
            requests: Line::default(),
            adapts: AtomicBool::new(false),
            least: AtomicU32::new(LEAST),
            most: AtomicU32::new(UNLIMITED),
            adaptive: AdaptiveLimit::default(),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            retries: Line::default(),
            ejecting: AtomicBool::new(false),
        }
    }
}

impl BackendState {
    pub(super) fn in_flight(&self) -> u32 {
        in_flight(self.requests.load(Ordering::Relaxed))
    }

    pub(super) fn pending(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The limit in force; None when there is none.
    pub(super) fn limit(&self) -> Option<u32> {
        let most = Some(self.bounds().most).filter(|most| *most != UNLIMITED);
        self.adapted().or(most)
    }

    /// The adaptive limit in force.
    fn adapted(&self) -> Option<u32> {
        self.adapts.load(Ordering::SeqCst).then(|| self.adaptive.limit(self.bounds()))
    }

    /// Puts the limits of a policy in force, for a backend of so many endpoints. Whom they let in is let in at once.
    pub(super) fn apply(&self, limits: &Limits, endpoints: usize) {
        // Each endpoint has one request, or the limit would keep endpoints idle.
        let least = u32::try_from(endpoints).unwrap_or(u32::MAX).max(LEAST);
        self.least.store(least, Ordering::SeqCst);
        self.most.store(limits.max_concurrent_requests.map_or(UNLIMITED, NonZeroU32::get), Ordering::SeqCst);
        self.adapts.store(limits.adaptive, Ordering::SeqCst);
        self.hand_out_if_any();
    }

    /// Moves an adaptive limit by an answer.
    pub(super) fn answered(&self, latency: Duration, now: u64) {
        if self.adapts.load(Ordering::Relaxed) {
            let microseconds = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
            let unanswered = without_head(self.requests.load(Ordering::Relaxed));
            if self.adaptive.answered(microseconds, unanswered, self.bounds(), now).is_some() {
                self.hand_out_if_any();
            }
        }
    }

    /// Ends a measurement of an adaptive limit that is overdue, as it keeps requests out. Whether it did.
    fn ends_overdue(&self, now: u64) -> bool {
        let ended = self.adapts.load(Ordering::Relaxed) && self.adaptive.end_overdue(self.bounds(), now).is_some();
        if ended {
            self.hand_out_if_any();
        }
        ended
    }

    fn bounds(&self) -> Bounds {
        Bounds { least: self.least.load(Ordering::SeqCst), most: self.most.load(Ordering::SeqCst) }
    }

    /// Admits a request, now or later; None when as many wait already as may.
    pub(super) fn admit(self: &Arc<Self>, limits: &Limits, now: u64) -> Option<Admission> {
        let may_take = || self.waiting.load(Ordering::SeqCst) == 0 && self.take();
        if may_take() || (self.ends_overdue(now) && may_take()) {
            return Some(Admission::Now(Permit::new(Arc::clone(self))));
        }
        if limits.max_pending == 0 {
            return None;
        }
        let mut queue = self.queue();
        if queue.waiters.len() >= limits.max_pending as usize {
            return None;
        }
        let (sender, turn) = oneshot::channel();
        let number = queue.next;
        queue.next += 1;
        queue.waiters.push_back((number, sender));
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        drop(queue);
        self.hand_out(); // a place may have become free before anybody could see that we wait
        Some(Admission::Later(Pending { state: Some(Arc::clone(self)), number, turn }))
    }

    /// Takes a place if there is one.
    fn take(&self) -> bool {
        let (most, adapted) = (self.most.load(Ordering::SeqCst), self.adapted());
        if most == UNLIMITED && adapted.is_none() {
            self.requests.fetch_add(IN_FLIGHT + WITHOUT_HEAD, Ordering::SeqCst);
            return true;
        }
        let more = |before: u64| {
            let may = in_flight(before) < most && adapted.is_none_or(|limit| without_head(before) < limit);
            may.then(|| before + IN_FLIGHT + WITHOUT_HEAD)
        };
        self.requests.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Gives a place back, or the part of it that counts until the response head.
    fn release(&self, place: u64) {
        self.requests.fetch_sub(place, Ordering::SeqCst);
        self.hand_out_if_any();
    }

    /// Sequentially consistent with `admit`: it says that it waits and then looks for a place, those who call this make a
    /// place and then look for who waits, so one of them sees the other.
    fn hand_out_if_any(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.hand_out();
        }
    }

    /// Gives free places to those who wait, in order.
    fn hand_out(&self) {
        let mut queue = self.queue();
        while !queue.waiters.is_empty() && self.take() {
            let first = queue.waiters.pop_front();
            // Whoever left has taken its number out of the queue, so there is always somebody.
            let _there = first.map(|(_, turn)| turn.send(()));
        }
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
    }

    /// Takes a waiter out of the queue; a place that it was given already goes on to the next.
    fn leave(&self, number: u64) {
        let mut queue = self.queue();
        if let Ok(at) = queue.waiters.binary_search_by_key(&number, |(number, _)| *number) {
            queue.waiters.remove(at);
            self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
            return;
        }
        drop(queue);
        self.release(IN_FLIGHT + WITHOUT_HEAD);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_flight(requests: u64) -> u32 {
    u32::try_from(requests >> 32).unwrap_or(u32::MAX)
}

fn without_head(requests: u64) -> u32 {
    u32::try_from(requests & (IN_FLIGHT - 1)).unwrap_or(u32::MAX)
}

/// A request that may go on, now or later.
#[derive(Debug)]
pub enum Admission {
    /// It may go on.
    Now(Permit),
    /// It has to wait for its turn.
    Later(Pending),
}

/// One request admitted to a backend; it ends when dropped.
#[derive(Debug)]
pub struct Permit {
    state: Arc<BackendState>,
    has_head: Cell<bool>,
}

impl Permit {
    fn new(state: Arc<BackendState>) -> Self {
        Self { state, has_head: Cell::new(false) }
    }

    /// The request has the response head that is passed on: it counts no more for an adaptive limit.
    pub fn answered(&self) {
        if !self.has_head.replace(true) {
            self.state.release(WITHOUT_HEAD);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.state.release(if self.has_head.get() { IN_FLIGHT } else { IN_FLIGHT + WITHOUT_HEAD });
    }
}

/// A request that waits for its turn; dropped before, it leaves the queue.
#[derive(Debug)]
pub struct Pending {
    state: Option<Arc<BackendState>>,
    number: u64,
    turn: oneshot::Receiver<()>,
}

impl Future for Pending {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        // The sender lives in the queue of the state, and the state in us: it speaks before it goes.
        let _turn = ready!(Pin::new(&mut self.turn).poll(cx));
        self.state.take().map_or(Poll::Pending, |state| Poll::Ready(Permit::new(state)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.leave(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_pending: u32) -> Limits {
        Limits { max_pending, ..Limits::default() }
    }

    fn limited(limit: u32) -> Arc<BackendState> {
        let state = Arc::<BackendState>::default();
        state.apply(&Limits { max_concurrent_requests: NonZeroU32::new(limit), ..limits(0) }, 1);
        state
    }

    fn now(admission: Option<Admission>) -> Permit {
        match admission {
            Some(Admission::Now(permit)) => permit,
            other => panic!("expected a place, got {other:?}"),
        }
    }

    fn later(admission: Option<Admission>) -> Pending {
        match admission {
            Some(Admission::Later(pending)) => pending,
            other => panic!("expected to wait, got {other:?}"),
        }
    }

    fn turn(pending: &mut Pending) -> Option<Permit> {
        match Pin::new(pending).poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn those_who_wait_are_let_in_in_order_and_not_overtaken() {
        let (state, limits) = (limited(1), limits(3));
        let first = now(state.admit(&limits, 0));
        let (mut a, mut b) = (later(state.admit(&limits, 0)), later(state.admit(&limits, 0)));
        assert!(turn(&mut a).is_none() && turn(&mut b).is_none());
        assert_eq!((state.in_flight(), state.pending()), (1, 2));
        drop(first);
        assert!(turn(&mut b).is_none());
        let mut c = later(state.admit(&limits, 0));
        let of_a = turn(&mut a).expect("the place goes to who came first");
        drop(of_a);
        drop(turn(&mut b).unwrap());
        assert!(turn(&mut c).is_some());
        assert_eq!((state.in_flight(), state.pending()), (0, 0));
    }

    #[test]
    fn more_than_may_wait_are_refused() {
        let (state, limits) = (limited(1), limits(1));
        let _first = now(state.admit(&limits, 0));
        let waiting = later(state.admit(&limits, 0));
        assert!(state.admit(&limits, 0).is_none());
        drop(waiting);
        assert!(state.admit(&limits, 0).is_some(), "who leaves makes room");
    }

    #[test]
    fn a_place_given_to_who_left_goes_to_the_next() {
        let (state, limits) = (limited(1), limits(2));
        let first = now(state.admit(&limits, 0));
        let (a, mut b) = (later(state.admit(&limits, 0)), later(state.admit(&limits, 0)));
        drop(first); // the place is given to a, which leaves without having looked
        drop(a);
        assert!(turn(&mut b).is_some());
        assert_eq!(state.in_flight(), 0);
    }

    #[test]
    fn a_higher_limit_lets_in_those_who_wait() {
        let (state, limits) = (limited(1), limits(2));
        let _first = now(state.admit(&limits, 0));
        let (mut a, mut b) = (later(state.admit(&limits, 0)), later(state.admit(&limits, 0)));
        let raised = |limit| Limits { max_concurrent_requests: NonZeroU32::new(limit), ..limits.clone() };
        state.apply(&raised(2), 1);
        let _a = turn(&mut a).expect("one more");
        assert!(turn(&mut b).is_none());
        state.apply(&raised(0), 1); // none
        assert!(turn(&mut b).is_some());
    }

    #[test]
    fn an_adaptive_limit_holds_while_the_policy_asks_for_it() {
        let (state, adaptive) = (limited(100), Limits { adaptive: true, ..limits(0) });
        state.apply(&adaptive, 1);
        let started = state.limit().expect("a limit although the policy names none");
        let _permits: Vec<Permit> = (0..started).map(|_| now(state.admit(&adaptive, 0))).collect();
        assert!(state.admit(&adaptive, 0).is_none());
        (0..2_000).for_each(|millisecond| state.answered(Duration::from_millis(1), millisecond));
        let grown = state.limit().unwrap();
        assert!(grown > started, "it is reached, and answers come as quickly as before");
        assert!(matches!(state.admit(&adaptive, 0), Some(Admission::Now(_))));
        state.apply(&adaptive, 500);
        assert!(state.limit().unwrap() >= 500, "each endpoint has one");
        state.apply(&limits(0), 1);
        assert_eq!(state.limit(), None);
    }

    #[test]
    fn streams_hold_the_limit_of_the_policy_and_not_the_adaptive_one() {
        let state = Arc::<BackendState>::default();
        let both = Limits { adaptive: true, max_concurrent_requests: NonZeroU32::new(20), ..limits(1) };
        state.apply(&both, 1);
        let adapted = state.limit().unwrap();
        assert!(adapted < 20);
        let mut streams: Vec<Permit> = (0..adapted).map(|_| now(state.admit(&both, 0))).collect();
        let mut waiting = later(state.admit(&both, 0));
        assert!(turn(&mut waiting).is_none());
        streams[0].answered();
        let let_in = turn(&mut waiting).expect("a response head makes room");
        let_in.answered();
        streams.push(let_in);
        while streams.len() < 20 {
            streams.iter().for_each(Permit::answered);
            streams.push(now(state.admit(&both, 0)));
        }
        streams.iter().for_each(Permit::answered);
        assert!(matches!(state.admit(&both, 0), Some(Admission::Later(_))), "20 are in flight");
        drop(streams);
        assert_eq!(state.requests.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn threads_never_exceed_the_limit_and_nobody_is_forgotten() {
        let (state, limits) = (limited(3), limits(1_000));
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    for _ in 0..2_000 {
                        let _permit = match state.admit(&limits, 0).unwrap() {
                            Admission::Now(permit) => permit,
                            Admission::Later(pending) => runtime.block_on(pending),
                        };
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert_eq!((state.in_flight(), state.pending()), (0, 0));
    }
}
