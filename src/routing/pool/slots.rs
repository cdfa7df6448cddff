//! The connections to one endpoint over all threads: how many are open, how many of them idle, and who waits for one.
//!
//! Threads keep their connections to themselves. Here they only count them, and learn that another thread needs one.

use std::{
    num::NonZeroU32,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::Notify;

/// Requests that wait for a connection to any endpoint.
static ALL_WAITING: AtomicU32 = AtomicU32::new(0);

/// Counts of the connections to one endpoint.
#[derive(Debug, Default)]
pub struct Slots {
    open: AtomicU32,
    idle: AtomicU32,
    waiting: AtomicU32,
    freed: Notify,
}

/// The right to one connection, given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// Whether a request waits for a connection to some endpoint.
    pub fn somebody_waits() -> bool {
        ALL_WAITING.load(Ordering::Relaxed) > 0
    }

    /// Connections that are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that idle. Shared ones, of HTTP/2, never count.
    pub fn idle(&self) -> u32 {
        self.idle.load(Ordering::Relaxed)
    }

    /// Requests that wait for a connection to this endpoint.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether there are as many connections as allowed. None means that there is no limit.
    pub fn is_full(&self, limit: Option<NonZeroU32>) -> bool {
        limit.is_some_and(|limit| self.open.load(Ordering::SeqCst) >= limit.get())
    }

    /// Whether a request would find a connection: an idle one, or one that may be opened.
    pub fn has_room(&self, limit: Option<NonZeroU32>) -> bool {
        !self.is_full(limit) || self.idle.load(Ordering::Relaxed) > 0
    }

    /// Whether there are more connections than allowed now: the limit was higher before.
    pub fn are_over(&self, limit: Option<NonZeroU32>) -> bool {
        limit.is_some_and(|limit| self.open.load(Ordering::Relaxed) > limit.get())
    }

    /// Takes a slot, unless there are as many connections as allowed or others were there first.
    pub fn take(self: &Arc<Self>, limit: Option<NonZeroU32>) -> Option<Slot> {
        if limit.is_some() && self.waiting() > 0 { None } else { self.take_free(limit) }
    }

    fn take_free(self: &Arc<Self>, limit: Option<NonZeroU32>) -> Option<Slot> {
        let free = |open| limit.is_none_or(|limit| open < limit.get()).then_some(open + 1);
        // SeqCst: whoever registers and then finds no slot must not miss one that is freed meanwhile.
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).ok()?;
        Some(Slot(Arc::clone(self)))
    }

    /// Waits for a slot, first come, first served.
    pub async fn wait(self: &Arc<Self>, limit: Option<NonZeroU32>) -> Slot {
        let is_first = self.waiting.fetch_add(1, Ordering::SeqCst) == 0;
        ALL_WAITING.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        let mut freed = pin!(self.freed.notified());
        let mut may_take = is_first;
        loop {
            may_take |= freed.as_mut().enable();
            if may_take && let Some(slot) = self.take_free(limit) {
                if self.waiting() > 1 && !self.is_full(limit) {
                    self.freed.notify_one(); // freed twice before the next one came to wait
                }
                return slot;
            }
            freed.as_mut().await;
            freed.set(self.freed.notified());
            may_take = true;
        }
    }

    /// Counts one more idle connection; false when there are as many as allowed.
    pub fn rest(&self, limit: u32) -> bool {
        if self.idle.fetch_add(1, Ordering::Relaxed) < limit {
            return true;
        }
        self.rise();
        false
    }

    /// An idle connection is used or closed.
    pub fn rise(&self) {
        self.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.freed.notify_one();
    }
}

struct Waiting<'a>(&'a Slots);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        ALL_WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        task::{Context, Poll, Waker},
    };

    use super::*;

    const TWO: Option<NonZeroU32> = NonZeroU32::new(2);

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn slots_are_given_up_to_the_limit_and_again_once_free() {
        let slots = Arc::new(Slots::default());
        let (one, two) = (slots.take(TWO), slots.take(TWO));
        assert!(one.is_some() && two.is_some() && slots.take(TWO).is_none() && slots.is_full(TWO));
        assert!(slots.take(None).is_some(), "without a limit there is always one");
        drop(one);
        assert!(slots.take(TWO).is_some());
    }

    #[test]
    fn those_who_wait_are_served_in_turn_and_before_those_who_come() {
        let slots = Arc::new(Slots::default());
        let (one, two) = (slots.take(TWO), slots.take(TWO));
        let (mut first, mut second) = (Box::pin(slots.wait(TWO)), Box::pin(slots.wait(TWO)));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        assert_eq!(slots.waiting(), 2);
        drop(one);
        assert!(slots.take(TWO).is_none(), "others were there first");
        assert!(poll(second.as_mut()).is_pending());
        let Poll::Ready(_first) = poll(first.as_mut()) else { panic!("the first is not served") };
        drop(two);
        assert!(poll(second.as_mut()).is_ready());
        assert_eq!(slots.waiting(), 0);
    }

    #[test]
    fn one_who_leaves_passes_the_slot_on() {
        let slots = Arc::new(Slots::default());
        let (one, _two) = (slots.take(TWO), slots.take(TWO));
        let (mut first, mut second) = (Box::pin(slots.wait(TWO)), Box::pin(slots.wait(TWO)));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        drop(one);
        drop(first);
        assert!(poll(second.as_mut()).is_ready());
    }

    #[test]
    fn all_that_is_freed_at_once_is_taken() {
        let slots = Arc::new(Slots::default());
        let held = (slots.take(TWO), slots.take(TWO));
        let mut first = Box::pin(slots.wait(TWO));
        assert!(poll(first.as_mut()).is_pending());
        drop(held);
        let (mut second, mut third) = (Box::pin(slots.wait(TWO)), Box::pin(slots.wait(TWO)));
        let (two, three) = (poll(second.as_mut()), poll(third.as_mut()));
        let one = poll(first.as_mut());
        let served = [&one, &two, &three].into_iter().filter(|poll| poll.is_ready()).count();
        assert_eq!(served, 2);
    }

    #[test]
    fn idle_connections_are_counted_up_to_the_limit() {
        let slots = Slots::default();
        assert!(slots.rest(1) && !slots.rest(1));
        slots.rise();
        assert!(slots.rest(1) && !slots.rest(0));
    }
}
