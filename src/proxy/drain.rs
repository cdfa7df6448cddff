//! Telling the connections of one thread to finish, without a shared lock on their way.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;

/// The thread's drain switch.
#[derive(Clone, Debug, Default)]
pub(super) struct Drain(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    started: Cell<bool>,
    wakers: RefCell<Slab<Option<Waker>>>,
    all_left: RefCell<Option<Waker>>,
}

impl Drain {
    /// Starts draining: every participant is woken.
    pub(super) fn start(&self) {
        self.0.started.set(true);
        let wakers: Vec<Waker> = self.0.wakers.borrow_mut().iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Takes part until dropped.
    pub(super) fn join(&self) -> Participant {
        let key = self.0.wakers.borrow_mut().insert(None);
        Participant { drain: self.clone(), key }
    }

    /// Ends when every participant has left.
    pub(super) async fn all_left(&self) {
        std::future::poll_fn(|cx| {
            if self.0.wakers.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.0.all_left.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One connection, tunnel or listener that a drain waits for.
#[derive(Debug)]
pub(super) struct Participant {
    drain: Drain,
    key: usize,
}

impl Participant {
    /// Ready once draining has started.
    pub(super) fn poll_started(&self, cx: &Context<'_>) -> Poll<()> {
        if self.drain.0.started.get() {
            return Poll::Ready(());
        }
        let waker = &mut self.drain.0.wakers.borrow_mut()[self.key];
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends once draining has started.
    pub(super) async fn started(&self) {
        std::future::poll_fn(|cx| self.poll_started(cx)).await;
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        let mut wakers = self.drain.0.wakers.borrow_mut();
        wakers.remove(self.key);
        if wakers.is_empty()
            && let Some(waker) = self.drain.0.all_left.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn participants_are_told_and_waited_for() {
        let drain = Drain::default();
        let (one, two) = (drain.join(), drain.join());
        let told = async {
            one.started().await;
            drop(one);
        };
        let other = async {
            two.started().await;
            drop(two);
        };
        let driver = async {
            drain.start();
            drain.all_left().await;
        };
        tokio::join!(told, other, driver);
    }
}
