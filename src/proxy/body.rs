//! Bodies on their way: the client's towards the endpoint, the endpoint's towards the client.
//!
//! Both stream frame by frame, trailers included; a side that does not read is not read for.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    Error,
    clock::{Clock, Deadline, Moment},
    record::Record,
    upstream::Checkout,
};

/// Errors as hyper wants them; [`Upload::failure`] and [`Record`] carry the meaning.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is known of a request body while it is sent; absent for requests without one.
#[derive(Debug)]
pub(super) struct Upload {
    /// When it last moved.
    pub(super) progress: Cell<Moment>,
    /// Whether all of it was taken from the client.
    pub(super) ended: Cell<bool>,
    /// Why it broke off.
    pub(super) failure: Cell<Option<Error>>,
    /// Bytes taken so far.
    pub(super) bytes: Cell<u64>,
}

/// The request body as the endpoint's connection reads it.
#[derive(Debug, Default)]
pub(super) struct RequestBody(Option<Streamed>);

#[derive(Debug)]
struct Streamed {
    incoming: Incoming,
    upload: Rc<Upload>,
    clock: Clock,
    idle: Duration,
    limit: u64,
    stalled: Option<Deadline>,
}

impl RequestBody {
    /// No body at all.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// The client's body; at most `limit` bytes of it, never silent for longer than `idle`.
    pub(super) fn streamed(incoming: Incoming, clock: &Clock, idle: Duration, limit: u64) -> (Self, Rc<Upload>) {
        let upload = Rc::new(Upload {
            progress: Cell::new(clock.now()),
            ended: Cell::new(false),
            failure: Cell::new(None),
            bytes: Cell::new(0),
        });
        let streamed =
            Streamed { incoming, upload: Rc::clone(&upload), clock: clock.clone(), idle, limit, stalled: None };
        (Self(Some(streamed)), upload)
    }
}

impl Streamed {
    fn fail(&self, error: Error) -> Result<Frame<Bytes>, BoxError> {
        self.upload.failure.set(Some(error));
        Err(error.into())
    }
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

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut body.incoming).poll_frame(cx) else {
            let stalled = body.stalled.get_or_insert_with(|| body.clock.deadline(body.idle));
            return stalled.poll_expired(cx).map(|()| Some(body.fail(Error::BodyTimeout)));
        };
        body.stalled = None;
        body.upload.progress.set(body.clock.now());
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                let bytes = body.upload.bytes.get() + length;
                body.upload.bytes.set(bytes);
                if bytes > body.limit {
                    return Poll::Ready(Some(body.fail(Error::BodyTooLarge)));
                }
                body.upload.ended.set(body.incoming.is_end_stream());
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(body.fail(failure(&error))),
            None => {
                body.upload.ended.set(true);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.incoming.size_hint())
    }
}

/// The response body as the client's connection reads it. Ends the exchange when it ends or is dropped.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Source {
    /// Our own words.
    Own(Bytes),
    /// The endpoint's.
    Upstream(Upstream),
}

#[derive(Debug)]
struct Upstream {
    incoming: Incoming,
    checkout: Option<Checkout>,
    clock: Clock,
    idle: Duration,
    stalled: Option<Deadline>,
}

impl ResponseBody {
    /// Our own words; without any, the exchange ends here.
    pub(super) fn own(body: Bytes, record: Option<Box<Record>>) -> Self {
        let mut body = Self { source: Source::Own(body), record };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// No body, and an exchange that goes on elsewhere.
    pub(super) fn none() -> Self {
        Self { source: Source::Own(Bytes::new()), record: None }
    }

    /// The endpoint's body, never silent for longer than `idle`; its connection is given back once all is read.
    pub(super) fn upstream(
        incoming: Incoming,
        checkout: Checkout,
        record: Box<Record>,
        clock: &Clock,
        idle: Duration,
    ) -> Self {
        let upstream = Upstream { incoming, checkout: Some(checkout), clock: clock.clone(), idle, stalled: None };
        let mut body = Self { source: Source::Upstream(upstream), record: Some(record) };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// All was read: the connection may serve another request.
    fn finish(&mut self) {
        if let Source::Upstream(upstream) = &mut self.source
            && let Some(checkout) = upstream.checkout.take()
        {
            checkout.give_back();
        }
        if let Some(mut record) = self.record.take() {
            record.complete();
        }
    }

    fn cut(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(mut record) = self.record.take() {
            record.fail(Error::ResponseCut);
        }
        Poll::Ready(Some(Err(Error::ResponseCut.into())))
    }
}

impl Upstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            let stalled = self.stalled.get_or_insert_with(|| self.clock.deadline(self.idle));
            return stalled.poll_expired(cx).map(|()| Some(Err(())));
        };
        if let Some(stalled) = &self.stalled {
            stalled.reset(self.idle);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(drop)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Upstream(upstream) => upstream.poll_frame(cx),
        };
        match std::task::ready!(frame) {
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut self.record, frame.data_ref()) {
                    record.sent(data.remaining() as u64);
                }
                if self.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(())) => self.cut(),
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Upstream(upstream) => upstream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(upstream) => upstream.incoming.size_hint(),
        }
    }
}
