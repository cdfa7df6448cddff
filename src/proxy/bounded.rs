//! An endpoint's connection that may not talk without end before it answers.
//!
//! hyper takes interim responses (1xx) as they come, all that the socket holds in one turn of the thread. An endpoint
//! that sends nothing else would keep the thread from everybody else, and no deadline would fire.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{routing::Slot, transport::Transport};

/// Bytes an endpoint may send before its response head is complete. The head itself is bounded by hyper; what comes with
/// it of the content is read in the same turn, and hyper buffers far less than this.
const MAX_UNANSWERED: u64 = 2 * 1024 * 1024;
/// The request under way is answered: its content is counted by nobody here.
const ANSWERED: u64 = u64::MAX;

/// How much came since the request, shared with the side that sends requests. One thread uses it; hyper wants `Send`.
#[derive(Clone, Debug)]
pub(super) struct Unanswered(Arc<AtomicU64>);

impl Unanswered {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(ANSWERED)))
    }

    /// A request is sent.
    pub(super) fn asked(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Its response head is there.
    pub(super) fn answered(&self) {
        self.0.store(ANSWERED, Ordering::Relaxed);
    }

    /// Counts bytes; false when they are too many.
    fn came(&self, bytes: u64) -> bool {
        let before = self.0.load(Ordering::Relaxed);
        if before == ANSWERED {
            return true;
        }
        self.0.store(before + bytes, Ordering::Relaxed);
        before + bytes <= MAX_UNANSWERED
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Bounded {
    transport: Transport,
    unanswered: Unanswered,
    /// It counts among those of its endpoint for as long as it is open, whatever it is used for.
    _slot: Slot,
}

impl Bounded {
    pub(super) fn new(transport: Transport, unanswered: Unanswered, slot: Slot) -> Self {
        Self { transport, unanswered, _slot: slot }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.transport).poll_read(cx, buf))?;
        let bytes = buf.filled().len() - before;
        if self.unanswered.came(bytes as u64) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "no response among all that the endpoint sent")))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
