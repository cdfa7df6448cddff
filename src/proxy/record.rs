//! What is remembered of an exchange until it ends, then counted and logged, once.

use std::{
    fmt::Display,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts};

use super::{Error, body::Upload, connection::Client, worker::InFlight};
use crate::{
    matching::RequestHost,
    model::Action,
    routing::{Entry, Lease, Permit, Target},
    telemetry::{
        access_log,
        metrics::{Ended, Outcome, RouteMetrics},
        trace::{Decision, Trace},
    },
};

/// One exchange under way. Dropped before its end, the client has gone.
#[derive(Debug)]
pub(super) struct Record {
    client: Rc<Client>,
    started: Instant,
    /// For the access log and the span; absent when there is neither.
    request: Option<Box<RequestLine>>,
    /// The route, once found.
    entry: Option<Arc<Entry>>,
    /// Counts against the limit of the process.
    pub(super) in_flight: Option<InFlight>,
    /// Counts against the limit of the backend.
    pub(super) permit: Option<Permit>,
    /// The endpoint of the last attempt; counts in its requests in flight.
    pub(super) lease: Option<Lease>,
    /// When the whole exchange must have ended, if ever.
    pub(super) expires: Option<tokio::time::Instant>,
    /// The request body, when there is one.
    pub(super) upload: Option<Rc<Upload>>,
    /// Whether the request has a body.
    has_body: bool,
    /// Tries made.
    pub(super) attempts: u32,
    /// Status of the response, once its head is known.
    pub(super) status: Option<u16>,
    /// The trace it belongs to, when there is a tracer.
    pub(super) trace: Option<Trace>,
    reason: Option<Error>,
    /// Why tries were followed by others.
    retries: Vec<&'static str>,
    /// From the request head to the response head.
    response_time: Option<Duration>,
    bytes_sent: u64,
    ended: bool,
}

#[derive(Debug)]
struct RequestLine {
    time: SystemTime,
    request_id: HeaderValue,
    address: IpAddr,
    method: Method,
    uri: Uri,
    host: Vec<u8>,
    version: Version,
    /// Fields that the log names.
    headers: Box<[Option<HeaderValue>]>,
    response_headers: Box<[Option<HeaderValue>]>,
}

impl Record {
    /// Starts with the request head.
    pub(super) fn start(client: &Rc<Client>, head: &Parts, request_id: &HeaderValue, address: IpAddr) -> Self {
        client.begin();
        let trace = client.worker.tracer.begin(&head.headers, decision(client));
        let layout = client.worker.access_log.layout();
        let sampled = trace.as_ref().is_some_and(Trace::is_sampled);
        let request = (layout.is_some() || sampled).then(|| {
            let authority = head.uri.authority().map(|a| a.as_str().as_bytes());
            let host = authority.or_else(|| head.headers.get(header::HOST).map(HeaderValue::as_bytes));
            Box::new(RequestLine {
                time: SystemTime::now(),
                request_id: request_id.clone(),
                address,
                method: head.method.clone(),
                uri: head.uri.clone(),
                host: host.unwrap_or_default().to_vec(),
                version: head.version,
                headers: layout.map(|layout| layout.request_headers(&head.headers)).unwrap_or_default(),
                response_headers: Box::default(),
            })
        });
        Self {
            client: Rc::clone(client),
            started: Instant::now(),
            request,
            entry: None,
            in_flight: None,
            permit: None,
            lease: None,
            expires: None,
            upload: None,
            has_body: false,
            attempts: 0,
            status: None,
            trace,
            reason: None,
            retries: Vec::new(),
            response_time: None,
            bytes_sent: 0,
            ended: false,
        }
    }

    /// The request has a body: unless all of it is read, the connection ends with it.
    pub(super) fn expect_body(&mut self) {
        self.has_body = true;
    }

    /// The exchange must end within this time from its request head on; zero means no limit.
    pub(super) fn expire_after(&mut self, limit: Duration) {
        let at = self.started.checked_add(limit).filter(|_| !limit.is_zero());
        self.expires = at.map(tokio::time::Instant::from_std);
    }

    /// What is left of the time it must end in; None without a limit.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.expires.map(|at| at.saturating_duration_since(tokio::time::Instant::now()))
    }

    /// The request has a route.
    pub(super) fn route(&mut self, entry: &Arc<Entry>) {
        entry.metrics.begin(self.client.worker.thread);
        self.entry = Some(Arc::clone(entry));
    }

    /// The host in its normal form, once it is known to have one.
    pub(super) fn set_host(&mut self, host: &str) {
        if let Some(request) = &mut self.request {
            request.host.clear();
            request.host.extend_from_slice(host.as_bytes());
        }
    }

    /// A try is followed by another, for this reason.
    pub(super) fn retried(&mut self, reason: &'static str) {
        self.retries.push(reason);
        if let Some(trace) = &self.trace {
            trace.retried(reason);
        }
    }

    /// The head of the response is ready.
    pub(super) fn responds(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status.get_or_insert(status.as_u16());
        let Some(request) = &mut self.request else { return };
        self.response_time = Some(self.started.elapsed());
        if let Some(layout) = self.client.worker.access_log.layout() {
            request.response_headers = layout.response_headers(headers);
        }
    }

    /// We answer by ourselves, for this reason.
    pub(super) fn answered(&mut self, error: Error) {
        self.status = Some(error.status().as_u16());
        self.count(error);
        if let Some(Target::Pool(pool)) = self.entry.as_ref().map(|entry| &entry.target) {
            pool.metrics.refused(error.reason());
        }
    }

    /// Counts why the exchange ends as it does: an answer of ours that nobody takes keeps its own reason.
    fn count(&mut self, error: Error) {
        if self.reason.is_some() {
            return;
        }
        self.reason = Some(error);
        let worker = &self.client.worker;
        worker.metrics.process.answered(worker.thread, error.reason());
    }

    /// Counts bytes of the response body.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes_sent += bytes;
    }

    /// The exchange broke off after the response head.
    pub(super) fn fail(&mut self, error: Error) {
        self.count(error);
        self.complete();
    }

    /// The exchange has ended: counts and logs it, once.
    pub(super) fn complete(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let worker = &self.client.worker;
        let duration = self.started.elapsed();
        let status = self.status.unwrap_or_else(|| Error::ClientGone.status().as_u16());
        let received = self.upload.as_ref().map_or(0, |upload| upload.bytes.get());
        let ended = Ended { status, duration, received, sent: self.bytes_sent };
        match &self.entry {
            Some(entry) => entry.metrics.end(worker.thread, ended),
            None => count_unrouted(&worker.metrics.unrouted, worker.thread, ended),
        }
        self.log(status, duration);
        if self.has_body && !self.upload.as_ref().is_some_and(|upload| upload.ended.get()) {
            self.client.left_unread();
        }
        self.client.end();
    }

    fn log(&self, status: u16, duration: Duration) {
        let Some(request) = &self.request else { return };
        let route = self.entry.as_ref().map(|entry| &entry.route);
        let service = route.and_then(|route| match &route.action {
            Action::Forward(id) => Some(&*id.service),
            Action::Unavailable(_) => None,
        });
        let address = self.lease.as_ref().map(|lease| &lease.endpoint().address);
        let request_id = request.request_id.to_str().unwrap_or_default();
        let ids = self.trace.as_ref().map(Trace::ids);
        let record = access_log::Record {
            client: request.address,
            method: request.method.as_str(),
            host: &request.host,
            path: request.uri.path().as_bytes(),
            query: request.uri.query().map(str::as_bytes),
            protocol: protocol(request.version),
            status,
            reason: self.reason.map(Error::label),
            server_error: status >= 500 || self.reason.is_some_and(|error| error.status().is_server_error()),
            bytes_sent: self.bytes_sent,
            bytes_received: self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
            duration,
            response_time: self.response_time,
            upstream: address.map(|address| address as &dyn Display),
            attempts: self.attempts,
            retries: &self.retries,
            namespace: route.map_or("", |route| &route.origin.namespace),
            ingress: route.map_or("", |route| &route.origin.name),
            route: route.and_then(|route| route.path.as_ref()).map(|path| match path.text() {
                "" => "/",
                text => text,
            }),
            service: service.unwrap_or_default(),
            trace: ids.map(|(trace, span)| (trace as &dyn Display, span as &dyn Display)),
            request_headers: &request.headers,
            response_headers: &request.response_headers,
            ..line(&self.client, request.time, request_id)
        };
        self.client.worker.access_log.record(&record);
        if let Some(trace) = &self.trace {
            self.client.worker.tracer.end(trace, &record);
        }
    }
}

/// Who decides what is sampled: a peer that may say who its client is may say this too.
fn decision(client: &Client) -> Decision {
    if client.forwarded.trusted { Decision::Client } else { Decision::Local }
}

/// Counts and logs bytes that never became a request.
pub(super) fn refused(client: &Client, error: Error, request_id: &HeaderValue) {
    let worker = &client.worker;
    let status = error.status().as_u16();
    worker.metrics.process.answered(worker.thread, error.reason());
    let ended = Ended { status, duration: Duration::ZERO, received: 0, sent: 0 };
    count_unrouted(&worker.metrics.unrouted, worker.thread, ended);
    let request_id = request_id.to_str().unwrap_or_default();
    worker.access_log.record(&access_log::Record {
        status,
        reason: Some(error.label()),
        ..line(client, SystemTime::now(), request_id)
    });
}

/// What is known of a request when only its connection is.
fn line<'a>(client: &'a Client, time: SystemTime, request_id: &'a str) -> access_log::Record<'a> {
    access_log::Record {
        time,
        request_id,
        client: client.address,
        peer: client.peer.source,
        local: client.peer.destination,
        method: "",
        scheme: client.security.scheme(),
        host: b"",
        path: b"",
        query: None,
        protocol: "",
        tls_version: client.tls_version,
        sni: client.server_name.as_ref().map(RequestHost::as_str),
        status: 0,
        reason: None,
        server_error: false,
        bytes_sent: 0,
        bytes_received: 0,
        duration: Duration::ZERO,
        response_time: None,
        upstream: None,
        attempts: 0,
        retries: &[],
        namespace: "",
        ingress: "",
        route: None,
        service: "",
        trace: None,
        request_headers: &[],
        response_headers: &[],
    }
}

/// It was never under way by a route.
fn count_unrouted(unrouted: &RouteMetrics, thread: usize, ended: Ended) {
    unrouted.begin(thread);
    unrouted.end(thread, ended);
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            let awaited = self.upload.as_ref().is_none_or(|upload| !upload.awaits_client());
            if let Some(lease) = &self.lease {
                let (worker, waited) = (&self.client.worker, self.started.elapsed());
                if awaited {
                    lease.abandoned(waited, worker.clock.now());
                }
                if self.status.is_none() {
                    lease.metrics().attempted(worker.thread, Outcome::Abandoned, waited);
                }
            }
            self.fail(Error::ClientGone);
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/?",
    }
}
