//! Attempts: pick an endpoint, send, and try again where that is safe.
//!
//! Safe is what was provably never sent, or what is idempotent and has no body. The first kind costs the backend nothing
//! and is bounded by the number of tries; the second is bounded by the backend's retry budget too.

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Instant};

use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;

use super::{
    Error,
    body::{RequestBody, Upload},
    clock::millis,
    connection::Client,
    error::Retry,
    record::Record,
    upstream::{Checkout, Reuse, SendError},
};
use crate::routing::{Lease, Pool, Selection};

/// Tries in all.
const MAX_TRIES: u32 = 3;

/// A request on its way to an endpoint.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) request: Request<RequestBody>,
    /// Its body's state, when it has one.
    pub(super) upload: Option<Rc<Upload>>,
}

/// The attempts of one exchange.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    pub(super) client: &'a Rc<Client>,
    pub(super) pool: &'a Arc<Pool>,
    /// The client, for affinity.
    pub(super) address: IpAddr,
}

/// A request head that can be sent once more.
struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
}

impl Spare {
    /// RFC 9110 §9.2.2: idempotent methods; without a body there is nothing that could not be sent again.
    fn of(outgoing: &Outgoing) -> Option<Self> {
        let request = &outgoing.request;
        (outgoing.upload.is_none() && request.method().is_idempotent()).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        request
    }
}

impl Attempts<'_> {
    /// Runs attempts until one has a response head or none may follow.
    pub(super) async fn run(
        &self,
        mut outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, Checkout), Error> {
        let upstreams = &self.client.worker.upstreams;
        let mut tried = Vec::new();
        let mut reuse = Reuse::Idle;
        loop {
            record.attempts += 1;
            let lease = self.pool.pick(&self.selection(&tried))?;
            let endpoint = Arc::clone(lease.endpoint());
            let lease = record.lease.insert(lease);
            let mut checkout = match upstreams.checkout(self.pool, &endpoint, reuse, self.client.peer).await {
                Ok(checkout) => checkout,
                Err(error) => {
                    self.failed(lease, error);
                    self.may_follow(error, record.attempts, true)?;
                    tried.push(endpoint.id);
                    continue;
                }
            };
            let spare = Spare::of(&outgoing);
            let asked = Instant::now();
            let error = match self.send(&mut checkout, outgoing).await {
                Ok(response) => {
                    lease.answered(response.status().as_u16(), asked.elapsed(), self.client.worker.clock.now());
                    return Ok((response, checkout));
                }
                Err((SendError { unsent: Some(request), .. }, upload)) if record.attempts < MAX_TRIES => {
                    // The idle connection was closed under us, so others may be stale too: a new one from here on.
                    outgoing = Outgoing { request, upload };
                    reuse = Reuse::Never;
                    continue;
                }
                Err((failed, _)) => failed.error,
            };
            self.failed(lease, error);
            self.may_follow(error, record.attempts, spare.is_some())?;
            let Some(spare) = spare else { return Err(error) };
            outgoing = Outgoing { request: spare.into_request(), upload: None };
            tried.push(endpoint.id);
            reuse = Reuse::Never;
        }
    }

    fn selection<'a>(&self, tried: &'a [u64]) -> Selection<'a> {
        let worker = &self.client.worker;
        let (thread, now) = (worker.thread, worker.clock.now());
        Selection { thread, now, client: self.address, key: None, session: None, tried }
    }

    /// Tells the pool of a try that failed by the fault of its endpoint.
    fn failed(&self, lease: &Lease, error: Error) {
        if error.is_of_endpoint() {
            lease.failed(self.client.worker.clock.now());
        }
    }

    /// Passes when another attempt may follow this failure, else fails with it.
    fn may_follow(&self, error: Error, attempts: u32, repeatable: bool) -> Result<(), Error> {
        let allowed = attempts < MAX_TRIES
            && match error.retryable() {
                Retry::Never => false,
                Retry::NeverSent => true,
                Retry::IfIdempotent => repeatable && self.pool.may_retry(self.client.worker.clock.now()),
            };
        if allowed { Ok(()) } else { Err(error) }
    }

    /// Sends and waits for the response head, as long as something moves.
    async fn send(
        &self,
        checkout: &mut Checkout,
        outgoing: Outgoing,
    ) -> Result<Response<Incoming>, (SendError, Option<Rc<Upload>>)> {
        let clock = &self.client.worker.clock;
        let limit = self.client.worker.settings.timeouts.response_head;
        let deadline = clock.deadline(limit);
        let Outgoing { request, upload } = outgoing;
        let mut sent = std::pin::pin!(checkout.send(request, upload.clone()));
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(sent) = sent.as_mut().poll(cx) {
                return std::task::Poll::Ready(sent.map_err(|failed| (failed, upload.clone())));
            }
            while deadline.poll_expired(cx).is_ready() {
                // A body that still moves keeps the wait alive: the limit counts from its last byte.
                let due = upload.as_ref().map_or(0, |upload| upload.progress.get().saturating_add(millis(limit)));
                if due <= clock.now() {
                    let error = SendError { error: Error::ResponseTimeout, unsent: None };
                    return std::task::Poll::Ready(Err((error, None)));
                }
                deadline.reset_at(due);
            }
            std::task::Poll::Pending
        })
        .await
    }
}
