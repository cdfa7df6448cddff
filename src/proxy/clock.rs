//! Coarse deadlines for one thread: arming one costs no system call and no timer entry.
//!
//! A single task ticks; at each tick it wakes whoever's deadline has passed. A deadline therefore fires up to two ticks
//! late and never early, which is what limits of seconds ask for.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

/// How often deadlines are looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// A moment on the thread's coarse clock: milliseconds since [`Live::epoch`](crate::routing::Live::epoch).
pub(super) type Moment = u64;

/// The coarse clock of one thread.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    start: Instant,
    now: Arc<AtomicU64>,
    entries: Rc<RefCell<Slab<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    at: Moment,
    waker: Option<Waker>,
}

impl Clock {
    /// A clock whose moments count from `start`.
    pub(super) fn new(start: Instant) -> Self {
        Self { start, now: Arc::default(), entries: Rc::default() }
    }

    /// The moment of the last tick.
    pub(super) fn now(&self) -> Moment {
        self.now.load(Ordering::Relaxed)
    }

    /// The hand of the clock, for those that live on other threads' terms (hyper wants upgradable I/O to be `Send`).
    pub(super) fn hand(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.now)
    }

    /// A deadline `after` from now.
    pub(super) fn deadline(&self, after: Duration) -> Deadline {
        let at = self.after(after);
        let key = self.entries.borrow_mut().insert(Entry { at, waker: None });
        Deadline { clock: self.clone(), key }
    }

    fn after(&self, after: Duration) -> Moment {
        self.now().saturating_add(millis(after.saturating_add(TICK)))
    }

    /// Moves the hand and wakes those whose deadline has passed.
    pub(super) fn tick(&self) {
        let now = millis(self.start.elapsed());
        self.now.store(now, Ordering::Relaxed);
        let mut due = Vec::new();
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.at <= now {
                due.extend(entry.waker.take());
            }
        }
        for waker in due {
            waker.wake();
        }
    }
}

/// Milliseconds of a duration, as far as they fit.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A limit of time in which zero means that there is none.
pub(super) fn limit(duration: Duration) -> Duration {
    if duration.is_zero() { Duration::MAX } else { duration }
}

/// One deadline; it is forgotten when dropped.
#[derive(Debug)]
pub(super) struct Deadline {
    clock: Clock,
    key: usize,
}

impl Deadline {
    /// Moves the deadline to `after` from now.
    pub(super) fn reset(&self, after: Duration) {
        let at = self.clock.after(after);
        self.clock.entries.borrow_mut()[self.key].at = at;
    }

    /// Moves the deadline to a moment.
    pub(super) fn reset_at(&self, at: Moment) {
        self.clock.entries.borrow_mut()[self.key].at = at.saturating_add(millis(TICK));
    }

    /// Ready once the deadline has passed.
    pub(super) fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        let entry = &mut self.clock.entries.borrow_mut()[self.key];
        if entry.at <= self.clock.now() {
            return Poll::Ready(());
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clock.entries.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_fires_late_never_early() {
        let clock = Clock::new(Instant::now());
        let deadline = clock.deadline(Duration::from_millis(500));
        let context = Context::from_waker(Waker::noop());
        clock.now.store(549, Ordering::Relaxed);
        assert!(deadline.poll_expired(&context).is_pending(), "it was armed up to a tick before");
        clock.now.store(550, Ordering::Relaxed);
        assert!(deadline.poll_expired(&context).is_ready());
        deadline.reset(Duration::from_millis(500));
        assert!(deadline.poll_expired(&context).is_pending());
        drop(deadline);
        assert!(clock.entries.borrow().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tick_wakes_those_whose_deadline_has_passed() {
        let clock = Clock::new(Instant::now());
        let deadline = clock.deadline(Duration::ZERO);
        let wait = std::future::poll_fn(|cx| deadline.poll_expired(cx));
        let tick = async {
            while clock.now() < millis(TICK) {
                tokio::time::sleep(TICK / 5).await;
                clock.tick();
            }
        };
        tokio::join!(wait, tick);
    }
}
