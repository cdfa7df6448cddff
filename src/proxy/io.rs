//! A client connection as hyper reads and writes it, with an eye on its progress.
//!
//! It counts no bytes of bodies and knows no HTTP; it notes when something last moved, so that the connection's task can
//! tell a slow head from an idle connection, and it puts our own answer in the place of hyper's bare one when a request
//! never became a request.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Error, answer, clock::Moment, headers};
use crate::transport::Transport;

/// Bytes thrown away at a time while a connection lingers.
const DISCARDED: usize = 4096;

/// Where a connection stands. Kept in atomics because hyper wants upgradable I/O to be `Send`; one thread uses it.
#[derive(Debug)]
pub(super) struct Progress {
    now: Arc<AtomicU64>,
    phase: AtomicU8,
    since: AtomicU64,
    write_blocked: AtomicBool,
    write_since: AtomicU64,
    /// Whether the first line of the head has come.
    has_line: AtomicBool,
    lingers: AtomicBool,
    lingering_since: AtomicU64,
    refused: Mutex<Option<(Error, HeaderValue)>>,
    is_http2: bool,
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request head.
    Head,
    /// Requests are under way.
    Busy,
    /// The last response has ended but is not written out yet.
    Ending,
}

impl Progress {
    pub(super) fn new(now: Arc<AtomicU64>, is_http2: bool) -> Arc<Self> {
        let since = now.load(Ordering::Relaxed);
        Arc::new(Self {
            now,
            phase: AtomicU8::new(Phase::Idle as u8),
            since: since.into(),
            write_blocked: AtomicBool::new(false),
            write_since: since.into(),
            has_line: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            lingering_since: Moment::MAX.into(),
            refused: Mutex::new(None),
            is_http2,
        })
    }

    fn now(&self) -> Moment {
        self.now.load(Ordering::Relaxed)
    }

    /// The phase and when it began.
    pub(super) fn phase(&self) -> (Phase, Moment) {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Ending,
        };
        (phase, self.since.load(Ordering::Relaxed))
    }

    /// Enters a phase now.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// Since when the client takes nothing of what there is to write; None while it does.
    pub(super) fn write_blocked_since(&self) -> Option<Moment> {
        self.write_blocked.load(Ordering::Relaxed).then(|| self.write_since.load(Ordering::Relaxed))
    }

    /// Why bytes that were no request were refused, and the id given to them, if they were.
    pub(super) fn refused(&self) -> Option<(Error, HeaderValue)> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When it ends, the end waits for the client.
    ///
    /// A socket that is closed over unread bytes is reset, and the reset overtakes the last answer (RFC 9112 §9.6).
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    /// Since when the end waits for the client.
    pub(super) fn lingering_since(&self) -> Option<Moment> {
        Some(self.lingering_since.load(Ordering::Relaxed)).filter(|since| *since != Moment::MAX)
    }

    /// Whether the connection speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2
    }

    fn is_at_rest(&self) -> bool {
        self.phase.load(Ordering::Relaxed) <= Phase::Head as u8
    }

    /// Takes note of bytes from an HTTP/1.1 client.
    fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() || !self.is_at_rest() {
            return;
        }
        let begins = self.phase().0 == Phase::Idle;
        if begins {
            self.enter(Phase::Head);
        }
        if begins || !self.has_line.load(Ordering::Relaxed) {
            self.has_line.store(bytes.contains(&b'\n'), Ordering::Relaxed);
        }
    }

    fn wrote(&self, blocked: bool) {
        if blocked {
            if !self.write_blocked.swap(true, Ordering::Relaxed) {
                self.write_since.store(self.now(), Ordering::Relaxed);
            }
        } else {
            self.write_blocked.store(false, Ordering::Relaxed);
        }
    }
}

/// A client connection.
#[derive(Debug)]
pub(super) struct ClientIo {
    transport: Transport,
    /// What was read while finding out the protocol.
    prefix: Bytes,
    progress: Arc<Progress>,
    /// Our answer in the place of hyper's, while it is being written.
    answer: Bytes,
    is_shut: bool,
}

impl ClientIo {
    pub(super) fn new(transport: Transport, prefix: Bytes, progress: Arc<Progress>) -> Self {
        Self { transport, prefix, progress, answer: Bytes::new(), is_shut: false }
    }

    fn poll_transport_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.progress.wrote(written.is_pending());
        written
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.answer.has_remaining() {
            let answer = self.answer.clone();
            let written = std::task::ready!(self.poll_transport_write(cx, &answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes hyper's own answer to bytes that were no request, to put ours in its place.
    ///
    /// Outside of an exchange hyper writes nothing else on HTTP/1.1, so the bytes are that answer and nothing more.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if !self.progress.is_at_rest() || !self.answer.is_empty() {
            return false;
        }
        let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let error = match status {
            Some(b"431") if self.progress.has_line.load(Ordering::Relaxed) => Error::HeadTooLarge,
            Some(b"431" | b"414") => Error::TargetTooLong,
            Some(b"400") => Error::BadRequest("it is not an HTTP request that can be read without doubt"),
            _ => return false,
        };
        let id = headers::new_request_id();
        self.answer = answer::raw(error, id.to_str().unwrap_or_default());
        self.progress.linger();
        *self.progress.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((error, id));
        true
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = if this.prefix.is_empty() {
            Pin::new(&mut this.transport).poll_read(cx, buf)
        } else {
            let length = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix.split_to(length));
            if this.prefix.is_empty() {
                this.prefix = Bytes::new(); // gives the memory back
            }
            Poll::Ready(Ok(()))
        };
        // On HTTP/2 bytes may be no request: pings, settings, window updates.
        if !this.progress.is_http2 {
            this.progress.read(&buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return match self.poll_answer(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(bytes.len())), // the rest goes with the flush
            };
        }
        self.poll_transport_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.progress.is_at_rest() {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, slices);
        self.progress.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_answer(cx))?;
        // TLS takes what the socket does not, so only its flush tells that the client stopped reading.
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.progress.wrote(flushed.is_pending());
        std::task::ready!(flushed)?;
        // hyper flushes us only when its own buffer is empty: all of the response is written.
        if self.progress.phase().0 == Phase::Ending {
            self.progress.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            std::task::ready!(self.poll_answer(cx))?;
            std::task::ready!(Pin::new(&mut self.transport).poll_shutdown(cx))?;
            self.is_shut = true;
            self.progress.lingering_since.store(self.progress.now(), Ordering::Relaxed);
        }
        if !self.progress.lingers.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut unread = [std::mem::MaybeUninit::uninit(); DISCARDED];
        loop {
            let mut unread = ReadBuf::uninit(&mut unread);
            std::task::ready!(Pin::new(&mut self.transport).poll_read(cx, &mut unread))?;
            if unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
