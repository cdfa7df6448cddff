//! Attempts: pick an endpoint, send, and try again where the policy allows it and it is safe.
//!
//! Safe is what was provably never sent, or what the policy lets reach a backend twice and whose body is still whole. The
//! first kind costs the backend nothing and is bounded by the number of tries; the second is bounded by the backend's
//! retry budget too.

mod grpc;
mod hedge;
mod plan;
mod spare;

use std::{
    net::IpAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use self::{
    plan::{Cost, Ending, Plan},
    spare::Spare,
};
use super::{
    Error,
    affinity::Affinity,
    body::{RequestBody, Upload},
    clock::{limit, millis},
    connection::Client,
    record::Record,
    response::discard,
    upstream::{Checkout, Reuse, SendError},
};
use crate::{
    model::{Address, ServerErrors},
    routing::{EndpointState, Lease, Pool, Selection},
    telemetry::{metrics, trace},
};

/// The attempts of one exchange.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    pub(super) client: &'a Rc<Client>,
    pub(super) pool: &'a Arc<Pool>,
    /// The client.
    pub(super) address: IpAddr,
    /// Where the request belongs.
    pub(super) affinity: Affinity,
    /// The request's body, when it has one.
    pub(super) upload: Option<Rc<Upload>>,
}

/// A response head and the connection that its body comes on.
#[derive(Debug)]
struct Answer {
    response: Response<Incoming>,
    checkout: Checkout,
    /// What it means: its status, or what that of its gRPC call stands for.
    status: u16,
    /// From the request, with what its client has to send of its body, given to the connection.
    latency: Duration,
}

/// A try without a response head.
#[derive(Debug)]
struct Failed {
    error: Error,
    /// The request, when no byte of it was written.
    unsent: Option<Request<RequestBody>>,
    /// As in [`Answer`], or from the beginning of the try.
    latency: Duration,
}

type Outcome = Result<Answer, Failed>;

/// The end of what a try, or the whole exchange, may take.
#[derive(Clone, Copy, Debug)]
struct Until {
    at: Instant,
    error: Error,
}

/// One try at an endpoint.
struct Try<'a> {
    endpoint: &'a Arc<EndpointState>,
    request: Request<RequestBody>,
    reuse: Reuse,
    until: Option<Until>,
    /// Its span, when it is traced.
    span: Option<trace::Attempt>,
}

/// Most bytes that are worth keeping of the body of a request of this method: none when no try could use them.
pub(super) fn replayed(pool: &Pool, method: &Method) -> u64 {
    let retries = &pool.backend.policy.retries;
    let plan = Plan::of(retries, method, pool.backend.protocol.is_http2());
    if plan.repeats() { retries.replay_body } else { 0 }
}

impl Attempts<'_> {
    /// Runs attempts until one has a response head that is passed on, or none may follow.
    pub(super) async fn run(
        &self,
        request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, Checkout), Error> {
        let outcome = self.tries(request, record).await;
        if let Some(upload) = &self.upload {
            match &outcome {
                Ok(_) => upload.settle(),
                Err(_) => upload.close(),
            }
        }
        let Answer { response, checkout, .. } = outcome.map_err(|failed| failed.error)?;
        let masked = self.pool.backend.policy.server_errors == ServerErrors::BadGateway;
        if masked && response.status().is_server_error() {
            discard(response, checkout);
            return Err(Error::ServerError);
        }
        Ok((response, checkout))
    }

    async fn tries(&self, mut request: Request<RequestBody>, record: &mut Record) -> Outcome {
        let retries = &self.pool.backend.policy.retries;
        let mut plan = Plan::of(retries, request.method(), self.pool.backend.protocol.is_http2());
        let mut reuse = Reuse::Idle;
        loop {
            record.attempts += 1;
            let lease = match self.pool.pick(&self.selection(&plan.tried)) {
                Ok(lease) => record.lease.insert(lease),
                Err(why) => return Err(Failed { error: why.into(), unsent: None, latency: Duration::ZERO }),
            };
            let endpoint = Arc::clone(lease.endpoint());
            let spare = plan.repeats().then(|| Spare::of(&request));
            let span = self.span(&mut request, &endpoint, record);
            let one = Try { endpoint: &endpoint, request, reuse, until: self.until(record.expires), span };
            let outcome = match (retries.hedge_after, &spare) {
                // Boxed, for it is rare: the state of two tries would be copied around with every request.
                (Some(after), Some(spare)) if plan.hedges() && spare.is_idempotent() => {
                    Box::pin(self.hedged(one, spare, after, &mut plan, record)).await
                }
                _ => self.attempt(one).await,
            };
            if let Some(lease) = &record.lease {
                self.tell(lease, &outcome);
            }
            let Some(pause) = self.another(&mut plan, &endpoint, &outcome, spare.as_ref(), record.time_left()) else {
                return outcome;
            };
            metrics::count(&self.pool.metrics.retries);
            record.retried(outcome.as_ref().map_or_else(|failed| failed.error.label(), |_| "status"));
            request = match (outcome, spare) {
                (Err(Failed { unsent: Some(request), .. }), _) => request,
                (Ok(answer), Some(spare)) => {
                    discard(answer.response, answer.checkout);
                    spare.request(self.body())
                }
                (Err(_), Some(spare)) => {
                    reuse = Reuse::Never; // other idle connections may be dead too
                    spare.request(self.body())
                }
                (outcome, None) => return outcome,
            };
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// The pause before another try, or None when none may follow this outcome at the endpoint.
    fn another(
        &self,
        plan: &mut Plan<'_>,
        endpoint: &EndpointState,
        outcome: &Outcome,
        spare: Option<&Spare>,
        time_left: Option<Duration>,
    ) -> Option<Duration> {
        let ending = ending(outcome);
        let cost = plan.cost(ending)?;
        plan.tried.push(endpoint.id); // only now: a request that is answered at once allocates nothing
        let repeatable = spare.is_some() && self.upload.as_ref().is_none_or(|upload| upload.is_repeatable());
        if !repeatable && !matches!(ending, Ending::Unsent(_)) {
            return None;
        }
        let at_once = cost == Cost::Nothing && self.has_untried(&plan.tried);
        let pause = if at_once { Duration::ZERO } else { plan.pause() };
        if time_left.is_some_and(|left| left <= pause) || !(cost == Cost::Nothing || self.may_retry()) {
            return None;
        }
        if !(at_once && plan.passes_over(ending)) {
            plan.count();
        }
        Some(pause)
    }

    /// Takes a try out of the budget of the backend.
    fn may_retry(&self) -> bool {
        let may = self.pool.may_retry(self.client.worker.clock.now());
        if !may {
            metrics::count(&self.pool.metrics.budget_refusals);
        }
        may
    }

    /// The body from its beginning.
    fn body(&self) -> RequestBody {
        self.upload.as_ref().map_or_else(RequestBody::empty, Upload::again)
    }

    fn has_untried(&self, tried: &[u64]) -> bool {
        self.pool.endpoints().iter().any(|endpoint| !tried.contains(&endpoint.id))
    }

    fn selection<'a>(&self, tried: &'a [u64]) -> Selection<'a> {
        let worker = &self.client.worker;
        let (thread, now) = (worker.thread, worker.clock.now());
        let Affinity { key, session } = self.affinity;
        Selection { thread, now, client: self.address, key, session, tried }
    }

    /// The span of a try that begins now, which the request names as its parent from here on.
    fn span(
        &self,
        request: &mut Request<RequestBody>,
        endpoint: &EndpointState,
        record: &Record,
    ) -> Option<trace::Attempt> {
        let trace = record.trace.as_ref().filter(|trace| trace.is_sampled())?;
        let (method, target) = (request.method().clone(), request.uri().path_and_query().cloned());
        let ip;
        let (host, port) = match &endpoint.address {
            Address::Socket(address) => {
                ip = address.ip().to_string();
                (ip.as_str(), address.port())
            }
            Address::Name { host, port } => (&**host, *port),
        };
        let scheme = self.pool.backend.protocol.scheme();
        let to = trace::To { number: record.attempts, scheme, host, port };
        trace.attempt(to, &method, target.as_ref().map_or("", |target| target.as_str()), request.headers_mut())
    }

    /// When a try that begins now must have its response head, if ever.
    fn until(&self, expires: Option<Instant>) -> Option<Until> {
        let per_try = self.pool.backend.policy.timeouts.per_try;
        let try_ends = if per_try.is_zero() { None } else { Instant::now().checked_add(per_try) };
        let try_ends = try_ends.map(|at| Until { at, error: Error::AttemptTimeout });
        let request_ends = expires.map(|at| Until { at, error: Error::RequestTimeout });
        try_ends.into_iter().chain(request_ends).min_by_key(|until| until.at)
    }

    /// Tells the pool how a try ended: whether the endpoint is to blame, and how long it took at least.
    fn tell(&self, lease: &Lease, outcome: &Outcome) {
        let now = self.client.worker.clock.now();
        let (ended, latency) = match outcome {
            Ok(answer) => (metrics::Outcome::Answered(answer.response.status().as_u16()), answer.latency),
            Err(failed) => (metrics::Outcome::Failed(failed.error.reason()), failed.latency),
        };
        self.pool.metrics.attempted(self.client.worker.thread, ended, latency);
        match outcome {
            Ok(answer) => lease.answered(answer.status, answer.latency, now),
            Err(failed) if self.is_of_endpoint(failed) => lease.failed(failed.latency, now),
            Err(failed) if failed.unsent.is_none() && !self.awaits_client() => lease.abandoned(failed.latency, now),
            Err(_) => {}
        }
    }

    /// Whether the endpoint is to blame for a try: not for want of the client's body, or of time.
    fn is_of_endpoint(&self, failed: &Failed) -> bool {
        let timeouts = &self.pool.backend.policy.timeouts;
        match failed.error {
            Error::AttemptTimeout => !self.awaits_client(),
            // Most of the time of the request may have passed before this try began.
            Error::RequestTimeout => !self.awaits_client() && failed.latency >= timeouts.request / 2,
            error => error.is_of_endpoint(),
        }
    }

    fn awaits_client(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.awaits_client())
    }

    /// How long an endpoint that was asked then has taken by now.
    fn waited(&self, asked: Instant) -> Duration {
        self.upload.as_ref().map_or_else(|| asked.elapsed(), |upload| upload.waited(asked))
    }

    /// Sends the request to one endpoint and waits for the response head.
    async fn attempt(&self, one: Try<'_>) -> Outcome {
        let Try { endpoint, mut request, mut reuse, until, mut span } = one;
        let (upstreams, peer, began) = (&self.client.worker.upstreams, self.client.peer, Instant::now());
        let failed = |error: Error, unsent, span: Option<trace::Attempt>| {
            if let Some(span) = span {
                span.failed(error.label());
            }
            Failed { error, unsent, latency: self.waited(began) }
        };
        let patience = until.filter(|until| until.error == Error::AttemptTimeout).map(|until| until.at);
        loop {
            let opening = pin!(upstreams.checkout(self.pool, endpoint, reuse, peer, patience));
            let mut checkout = match before(until, opening).await {
                Ok(checkout) => checkout,
                Err(error) => return Err(failed(error, Some(request), span)),
            };
            let asked = Instant::now();
            let sent = before(until, pin!(self.send(&mut checkout, request))).await;
            match sent {
                Ok(response) => {
                    let status = grpc::status(&response);
                    if let Some(span) = span.take() {
                        span.answered(response.status().as_u16(), response.version());
                    }
                    return Ok(Answer { response, checkout, status, latency: self.waited(asked) });
                }
                // The idle connection was closed under us: that is no try, it takes a new connection.
                Err(SendError { unsent: Some(unsent), .. }) if reuse == Reuse::Idle => {
                    (request, reuse) = (unsent, Reuse::Never);
                }
                Err(SendError { error, unsent }) => return Err(failed(error, unsent, span)),
            }
        }
    }

    /// Sends and waits for the response head, as long as something moves.
    async fn send(
        &self,
        checkout: &mut Checkout,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let worker = &self.client.worker;
        let policy = self.pool.backend.policy.timeouts.response_head;
        let limit = limit(policy.unwrap_or(worker.settings.timeouts.response_head));
        let limit = || self.upload.as_ref().map_or(limit, |upload| upload.patience(limit));
        let (asked, deadline) = (worker.clock.now(), worker.clock.deadline(limit()));
        let mut sent = pin!(checkout.send(request, self.upload.clone()));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(sent) = sent.as_mut().poll(cx) {
                return Poll::Ready(sent);
            }
            while deadline.poll_expired(cx).is_ready() {
                // The limit counts from the last byte of the body, and not while the client is waited for.
                let now = worker.clock.now();
                let moved = self.upload.as_ref().map_or(asked, |upload| upload.progress.get().max(asked));
                let due = if self.awaits_client() { now } else { moved }.saturating_add(millis(limit()));
                if due <= now {
                    return Poll::Ready(Err(Error::ResponseTimeout.into()));
                }
                deadline.reset_at(due);
            }
            Poll::Pending
        })
        .await
    }
}

fn ending(outcome: &Outcome) -> Ending {
    match outcome {
        Ok(answer) => Ending::Answered(answer.status),
        Err(Failed { error, unsent: Some(_), .. }) => Ending::Unsent(*error),
        Err(Failed { error, unsent: None, .. }) => Ending::Failed(*error),
    }
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self { error, unsent: None }
    }
}

/// Waits for the work, but no longer than until the given moment.
async fn before<T, E: From<Error>>(
    until: Option<Until>,
    work: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> Result<T, E> {
    match until {
        None => work.await,
        Some(until) => {
            let outcome = tokio::time::timeout_at(until.at, work).await;
            outcome.unwrap_or_else(|_| Err(until.error.into()))
        }
    }
}
