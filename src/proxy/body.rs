//! The client's body on its way to the endpoint.
//!
//! It streams frame by frame, trailers included; an endpoint that does not read is not read for. What was taken from the
//! client is kept, up to a limit, for as long as another try may need it: that one reads it first, and then the rest.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{
    Error,
    clock::{Clock, Deadline, Moment},
};

/// Errors as hyper wants them; [`Upload::failure`] and the record of the exchange carry the meaning.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Frames below so many bytes are copied to be kept: each would hold the memory that it was read into.
const SMALL: usize = 4096;

/// What a request body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Most bytes in all.
    pub(super) bytes: u64,
    /// Most bytes that are kept for another try.
    pub(super) kept: u64,
    /// How long it may be silent. [`Duration::MAX`] means no limit.
    pub(super) idle: Duration,
}

/// A request body and what is known of it while it is sent; absent for requests without one.
#[derive(Debug)]
pub(super) struct Upload {
    /// When it last moved.
    pub(super) progress: Cell<Moment>,
    /// The same, to the microsecond.
    taken: Cell<Instant>,
    /// Whether all of it was taken from the client.
    pub(super) ended: Cell<bool>,
    /// Whether the latest reader has given all of it to its connection.
    pub(super) delivered: Cell<bool>,
    /// Why it broke off.
    pub(super) failure: Cell<Option<Error>>,
    /// Bytes taken so far.
    pub(super) bytes: Cell<u64>,
    /// Whether the endpoint would read and the client does not write.
    awaits_client: Cell<bool>,
    /// Number of the latest reader: earlier ones take nothing more from the client.
    latest: Cell<u32>,
    source: RefCell<Source>,
    /// What the client speaks.
    version: Version,
    clock: Clock,
    limits: BodyLimits,
}

#[derive(Debug)]
struct Source {
    incoming: Option<Incoming>,
    /// None once another try could not have all of it.
    kept: Option<Kept>,
    /// Whether the latest reader is still there.
    is_read: bool,
}

/// What was taken from the client so far.
#[derive(Debug, Default)]
struct Kept {
    room: u64,
    data: Vec<Bytes>,
    /// The latest small frames, in one piece.
    small: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Upload {
    fn new(incoming: Incoming, version: Version, clock: &Clock, limits: BodyLimits) -> Self {
        // Of what is known to be too large nothing is kept.
        let room = if incoming.size_hint().lower() > limits.kept { 0 } else { limits.kept };
        Self {
            progress: Cell::new(clock.now()),
            taken: Cell::new(Instant::now()),
            ended: Cell::new(false),
            delivered: Cell::new(false),
            failure: Cell::new(None),
            bytes: Cell::new(0),
            awaits_client: Cell::new(false),
            latest: Cell::new(0),
            source: RefCell::new(Source {
                incoming: Some(incoming),
                kept: Some(Kept { room, ..Kept::default() }),
                is_read: false,
            }),
            version,
            clock: clock.clone(),
            limits,
        }
    }

    /// The body from its beginning, for one more try; only while [`Self::is_repeatable`] does it have one.
    pub(super) fn again(self: &Rc<Self>) -> RequestBody {
        let number = self.latest.get() + 1;
        self.latest.set(number);
        self.delivered.set(false);
        self.awaits_client.set(false);
        let mut source = self.source.borrow_mut();
        source.is_read = true;
        let (data, trailers) = source.kept.as_mut().map(Kept::copy).unwrap_or_default();
        let replay = Replay { left: data.iter().map(|data| data.len() as u64).sum(), data: data.into_iter(), trailers };
        RequestBody(Some(Reader { upload: Rc::clone(self), number, replay, stalled: None }))
    }

    /// Whether all that was taken from the client could be sent again.
    pub(super) fn is_repeatable(&self) -> bool {
        self.source.borrow().kept.is_some()
    }

    /// Whether all of it is there to be sent again without the client.
    pub(super) fn is_kept_whole(&self) -> bool {
        self.ended.get() && self.is_repeatable()
    }

    /// Whether it is the client that the endpoint waits for.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.get()
    }

    /// How long its endpoint may be silent when it has so long for the response head: what there is of the body it has to
    /// take before.
    pub(super) fn patience(&self, head: Duration) -> Duration {
        if self.ended.get() { head } else { head.min(self.limits.idle) }
    }

    /// How long an endpoint that was asked then has taken by now, without the time that the client took for its body.
    pub(super) fn waited(&self, asked: Instant) -> Duration {
        asked.max(self.taken.get()).elapsed()
    }

    /// No other try follows: what was kept for one is given up.
    pub(super) fn settle(&self) {
        let mut source = self.source.borrow_mut();
        source.kept = None;
        if !source.is_read {
            source.incoming = None;
        }
    }

    /// Nobody reads any further.
    pub(super) fn close(&self) {
        let mut source = self.source.borrow_mut();
        (source.incoming, source.kept) = (None, None);
    }

    fn fail(&self, error: Error) -> Result<Frame<Bytes>, BoxError> {
        self.failure.set(Some(error));
        Err(error.into())
    }

    /// Notes what came from the client, or why nothing more comes.
    fn took(&self, source: &mut Source, frame: hyper::Result<Frame<Bytes>>) -> Result<Frame<Bytes>, BoxError> {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return self.fail(failure(&error)),
        };
        let bytes = self.bytes.get() + frame.data_ref().map_or(0, |data| data.len() as u64);
        self.bytes.set(bytes);
        if bytes > self.limits.bytes {
            return self.fail(Error::BodyTooLarge);
        }
        source.keep(&frame);
        self.ended.set(frame.is_trailers() || source.incoming.as_ref().is_none_or(Incoming::is_end_stream));
        Ok(frame)
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        if let Some(data) = frame.data_ref() {
            match kept.room.checked_sub(data.len() as u64) {
                Some(room) => {
                    kept.room = room;
                    kept.push(data);
                }
                None => self.kept = None,
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            kept.trailers = Some(trailers.clone());
        }
    }
}

impl Kept {
    fn push(&mut self, data: &Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(data);
        } else {
            self.join();
            self.data.push(data.clone());
        }
    }

    fn join(&mut self) {
        if !self.small.is_empty() {
            self.data.push(std::mem::take(&mut self.small).freeze());
        }
    }

    /// All of it, to be read from the beginning.
    fn copy(&mut self) -> (Vec<Bytes>, Option<HeaderMap>) {
        self.join();
        (self.data.clone(), self.trailers.clone())
    }
}

/// Whether a body that gives nothing more was cut: hyper takes a stream or connection of HTTP/2 that ends with `NO_ERROR`
/// for the end of the body, but only `END_STREAM` is (RFC 9113 §8.1). Of HTTP/1.1 it tells itself.
pub(super) fn is_cut(incoming: &Incoming, version: Version) -> bool {
    version == Version::HTTP_2 && !incoming.is_end_stream()
}

/// Why the client's body broke off: it left, or its framing cannot be read.
fn failure(error: &hyper::Error) -> Error {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match source.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => {
            Error::BadRequest("the framing of its body is not valid")
        }
        _ => Error::ClientGone,
    }
}

/// The request body as the endpoint's connection reads it.
#[derive(Debug, Default)]
pub(super) struct RequestBody(Option<Reader>);

#[derive(Debug)]
struct Reader {
    upload: Rc<Upload>,
    number: u32,
    replay: Replay,
    stalled: Option<Deadline>,
}

/// What an earlier try has taken from the client already.
#[derive(Debug)]
struct Replay {
    left: u64,
    data: std::vec::IntoIter<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Replay {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        let Some(data) = self.data.next() else { return self.trailers.take().map(Frame::trailers) };
        self.left -= data.len() as u64;
        Some(Frame::data(data))
    }

    fn is_over(&self) -> bool {
        self.data.len() == 0 && self.trailers.is_none()
    }
}

impl RequestBody {
    /// No body at all.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// The client's body.
    pub(super) fn streamed(
        incoming: Incoming,
        version: Version,
        clock: &Clock,
        limits: BodyLimits,
    ) -> (Self, Rc<Upload>) {
        let upload = Rc::new(Upload::new(incoming, version, clock, limits));
        (upload.again(), upload)
    }
}

impl Reader {
    fn is_latest(&self) -> bool {
        self.upload.latest.get() == self.number
    }

    fn is_over(&self) -> bool {
        self.replay.is_over() && self.upload.ended.get()
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let upload = &*self.upload;
        if upload.ended.get() {
            return Poll::Ready(None);
        }
        let mut source = upload.source.borrow_mut();
        let incoming = source.incoming.as_mut().filter(|_| upload.latest.get() == self.number);
        let Some(incoming) = incoming else { return Poll::Ready(Some(Err(Error::ClientGone.into()))) };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
            upload.awaits_client.set(true);
            let stalled = self.stalled.get_or_insert_with(|| upload.clock.deadline(upload.limits.idle));
            return stalled.poll_expired(cx).map(|()| Some(upload.fail(Error::BodyTimeout)));
        };
        self.stalled = None;
        upload.awaits_client.set(false);
        upload.progress.set(upload.clock.now());
        upload.taken.set(Instant::now());
        if frame.is_none() {
            if is_cut(incoming, upload.version) {
                return Poll::Ready(Some(upload.fail(Error::ClientGone)));
            }
            upload.ended.set(true);
        }
        Poll::Ready(frame.map(|frame| upload.took(&mut source, frame)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(reader) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match reader.replay.next() {
            Some(frame) => {
                reader.upload.progress.set(reader.upload.clock.now());
                Poll::Ready(Some(Ok(frame)))
            }
            None => reader.poll_client(cx),
        };
        if frame.is_ready() && reader.is_over() && reader.is_latest() {
            reader.upload.delivered.set(true);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Reader::is_over)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(reader) = &self.0 else { return SizeHint::with_exact(0) };
        let source = reader.upload.source.borrow();
        let rest = source.incoming.as_ref().map(Body::size_hint).unwrap_or_default();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(reader.replay.left));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(reader.replay.left));
        }
        hint
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_latest() {
            let mut source = self.upload.source.borrow_mut();
            source.is_read = false;
            if source.kept.is_none() {
                source.incoming = None;
            }
        }
    }
}
