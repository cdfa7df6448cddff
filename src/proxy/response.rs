//! The response on its way to the client: the endpoint's, or one of our own.
//!
//! Bodies stream frame by frame, trailers included; a client that does not read is not read for. A response that breaks
//! off after its head is never given a clean end.

mod watched;

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    upgrade::OnUpgrade,
};
use tokio::time::Sleep;

use self::watched::Watched;
use super::{
    Error,
    body::{BoxError, is_cut},
    clock::{Clock, Deadline},
    connection::{Client, Security},
    headers,
    record::Record,
    upgrade,
    upstream::Checkout,
};

/// Most bytes of a response that nobody wants which are read to keep its connection, and how long that may take.
const DISCARDED: u64 = 16 * 1024;
const DISCARD_TIME: Duration = Duration::from_millis(500);

/// Passes the endpoint's response to the client; a matching 101 opens the tunnel. The body is never silent for longer
/// than `idle`.
pub(super) fn respond(
    client: &Rc<Client>,
    response: Response<Incoming>,
    mut checkout: Checkout,
    record: &mut Option<Box<Record>>,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    idle: Duration,
) -> Result<Response<ResponseBody>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::open(client, response, checkout, record, upgrade);
    }
    let (mut head, body) = response.into_parts();
    let version = head.version;
    if headers::is_doubtful(&head.headers) {
        checkout.retire();
    }
    headers::prepare_response(&mut head.headers, head.status)?;
    finish_head(client, &mut head.headers, head.version);
    head.version = Version::HTTP_11;
    let mut record = record.take().ok_or(Error::ClientGone)?;
    record.responds(head.status, &head.headers);
    client.bound_writes(idle);
    let body = ResponseBody::relayed(client, (body, version), checkout, record, idle);
    Ok(Response::from_parts(head, body))
}

/// Drops a response that is not passed on. Its connection is kept when little is left to read of it.
pub(super) fn discard(response: Response<Incoming>, mut checkout: Checkout) {
    if headers::is_doubtful(response.headers()) {
        checkout.retire();
    }
    checkout.seal();
    let mut body = response.into_body();
    if body.is_end_stream() {
        return checkout.give_back();
    }
    if body.size_hint().exact().is_some_and(|length| length <= DISCARDED) {
        tokio::task::spawn_local(async move {
            let read = async {
                while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            };
            if tokio::time::timeout(DISCARD_TIME, read).await.is_ok() && body.is_end_stream() {
                checkout.give_back();
            }
        });
    }
}

/// A response of our own.
pub(super) fn own(
    client: &Client,
    mut record: Option<Box<Record>>,
    response: Response<Bytes>,
    error: Option<Error>,
    is_head: bool,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let length = body.len();
    if let Some(record) = &mut record {
        match error {
            Some(error) => {
                record.answered(error);
                if error.ends_connection() && !client.is_http2() {
                    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
            }
            None => record.status = Some(head.status.as_u16()),
        }
    }
    finish_head(client, &mut head.headers, head.version);
    if let Some(record) = &mut record {
        record.responds(head.status, &head.headers);
    }
    if is_head {
        // RFC 9110 §9.3.2: the fields of the GET, without its content.
        head.headers.insert(header::CONTENT_LENGTH, length.into());
        return Response::from_parts(head, ResponseBody::own(Bytes::new(), record));
    }
    Response::from_parts(head, ResponseBody::own(body, record))
}

/// Sets the fields that every response has.
///
/// `received` is the version that the response came in.
pub(super) fn finish_head(client: &Client, headers: &mut HeaderMap, received: Version) {
    let settings = &client.worker.settings;
    if settings.server_header {
        headers.entry(header::SERVER).or_insert(HeaderValue::from_static("pierhead"));
    }
    if settings.via {
        headers.append(header::VIA, HeaderValue::from_static(via(received)));
    }
    if client.security == Security::Tls
        && let Some(policy) = &client.worker.strict_transport_security
    {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| policy.clone());
    }
}

/// What `Via` says of us for a message that came in this version (RFC 9110 §7.6.3).
pub(super) fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0 pierhead",
        Version::HTTP_2 => "2 pierhead",
        _ => "1.1 pierhead",
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
    Relayed(Relayed),
    /// The endpoint's, for an HTTP/2 client.
    Watched(Watched),
    /// What is left of the endpoint's when its time is over.
    Cut(Error),
}

#[derive(Debug)]
struct Relayed {
    incoming: Incoming,
    /// What the endpoint speaks.
    version: Version,
    checkout: Option<Checkout>,
    clock: Clock,
    idle: Duration,
    stalled: Option<Deadline>,
    /// The end of what the whole exchange may take.
    expiry: Option<Pin<Box<Sleep>>>,
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
    pub(super) fn relayed(
        client: &Client,
        (incoming, version): (Incoming, Version),
        checkout: Checkout,
        record: Box<Record>,
        idle: Duration,
    ) -> Self {
        let (clock, left) = (client.worker.clock.clone(), record.time_left());
        let expiry = record.expires.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let (checkout, stalled) = (Some(checkout), None);
        let relayed = Relayed { incoming, version, checkout, clock: clock.clone(), idle, stalled, expiry };
        let mut body = Self { source: Source::Relayed(relayed), record: Some(record) };
        if body.is_end_stream() {
            body.finish();
        } else if client.is_http2() {
            return Self { source: Source::Watched(Watched::new(body, clock, idle, left)), record: None };
        }
        body
    }

    /// Lets go of the endpoint and of all that is counted; the client gets no clean end.
    fn give_up(&mut self, error: Error) {
        let _cut = self.cut(error);
        self.source = Source::Cut(error);
    }

    /// All was read: the connection may serve another request.
    fn finish(&mut self) {
        if let Source::Relayed(relayed) = &mut self.source
            && let Some(checkout) = relayed.checkout.take()
        {
            checkout.give_back();
        }
        if let Some(mut record) = self.record.take() {
            record.complete();
        }
    }

    fn cut(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(mut record) = self.record.take() {
            record.fail(error);
        }
        Poll::Ready(Some(Err(error.into())))
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Some(Err(Error::RequestTimeout)));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            let stalled = self.stalled.get_or_insert_with(|| self.clock.deadline(self.idle));
            return stalled.poll_expired(cx).map(|()| Some(Err(Error::ResponseCut)));
        };
        if let Some(stalled) = &self.stalled {
            stalled.reset(self.idle);
        }
        if frame.is_none() && is_cut(&self.incoming, self.version) {
            return Poll::Ready(Some(Err(Error::ResponseCut)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Error::ResponseCut)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Relayed(relayed) => relayed.poll_frame(cx),
            Source::Watched(watched) => return watched.poll_frame(cx),
            Source::Cut(error) => Poll::Ready(Some(Err(*error))),
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
            Some(Err(error)) => self.cut(error),
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Relayed(relayed) => relayed.incoming.is_end_stream(),
            Source::Watched(watched) => watched.with(Body::is_end_stream),
            Source::Cut(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Relayed(relayed) => relayed.incoming.size_hint(),
            Source::Watched(watched) => watched.with(Body::size_hint),
            Source::Cut(_) => SizeHint::default(),
        }
    }
}
