//! Limits of time for a response that an HTTP/2 client does not take.
//!
//! hyper asks a body for nothing while the client's window is closed, and the body's own limits are looked at only when it
//! is asked. A task beside it lets go of the backend; of the stream only its place in the connection is left.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::task::AbortHandle;

use super::{
    super::{
        Error,
        body::BoxError,
        clock::{Clock, Moment, millis},
    },
    ResponseBody,
};

/// A body that is cut when its time is over, whether or not it is asked for more.
#[derive(Debug)]
pub(super) struct Watched {
    shared: Rc<Shared>,
    clock: Clock,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    body: RefCell<ResponseBody>,
    /// When the client last took a frame; None while it waits for one.
    taken: Cell<Option<Moment>>,
}

impl Watched {
    /// Cuts the body when the client takes nothing for `idle`, or in any case after `left`.
    pub(super) fn new(body: ResponseBody, clock: Clock, idle: Duration, left: Option<Duration>) -> Self {
        let shared = Rc::new(Shared { body: RefCell::new(body), taken: Cell::new(Some(clock.now())) });
        let end = left.map_or(Moment::MAX, |left| clock.now().saturating_add(millis(left)));
        let task = tokio::task::spawn_local(watch(Rc::clone(&shared), clock.clone(), millis(idle), end));
        Self { shared, clock, task: task.abort_handle() }
    }

    /// As of the body.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut *self.shared.body.borrow_mut()).poll_frame(cx);
        self.shared.taken.set(frame.is_ready().then(|| self.clock.now()));
        frame
    }

    /// Reads something of the body.
    pub(super) fn with<T>(&self, read: impl FnOnce(&ResponseBody) -> T) -> T {
        read(&self.shared.body.borrow())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(shared: Rc<Shared>, clock: Clock, idle: Moment, end: Moment) {
    let deadline = clock.deadline(Duration::ZERO);
    let error = loop {
        let since = shared.taken.get().unwrap_or(clock.now());
        deadline.reset_at(end.min(since.saturating_add(idle)));
        poll_fn(|cx| deadline.poll_expired(cx)).await;
        if end <= clock.now() {
            break Error::RequestTimeout;
        }
        if shared.taken.get().is_some_and(|taken| taken.saturating_add(idle) <= clock.now()) {
            break Error::ClientGone;
        }
    };
    shared.body.borrow_mut().give_up(error);
}
