//! The client's body on its way to the endpoint.
//!
//! It streams frame by frame, trailers included; an endpoint that does not read is not read for.

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
