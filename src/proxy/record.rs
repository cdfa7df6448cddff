//! What is remembered of an exchange until it ends, then counted and logged, once.

use std::{
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Method, Uri, Version, header, request::Parts};

use super::{Error, body::Upload, connection::Client, worker::InFlight};
use crate::{
    model::Action,
    routing::{Entry, Lease, Permit, Target},
    telemetry::{
        access_log,
        metrics::{Ended, Outcome, RouteMetrics},
    },
};

/// One exchange under way. Dropped before its end, the client has gone.
#[derive(Debug)]
pub(super) struct Record {
    client: Rc<Client>,
    started: Instant,
    /// For the access log; absent when there is none.
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
    reason: Option<Error>,
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
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

impl Record {
    /// Starts with the request head.
    pub(super) fn start(client: &Rc<Client>, head: &Parts, request_id: &HeaderValue, address: IpAddr) -> Self {
        client.begin();
        let request = client.worker.access_log.is_on().then(|| {
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
                user_agent: head.headers.get(header::USER_AGENT).cloned(),
                referer: head.headers.get(header::REFERER).cloned(),
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
            reason: None,
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

    /// We answer by ourselves, for this reason.
    pub(super) fn answered(&mut self, error: Error) {
        self.status = Some(error.status().as_u16());
        self.count(error);
        if let Some(Target::Pool(pool)) = self.entry.as_ref().map(|entry| &entry.target) {
            pool.metrics.refused(error.reason());
        }
    }

    fn count(&mut self, error: Error) {
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
        if let Some(request) = &self.request {
            let route = self.entry.as_ref().map(|entry| &entry.route);
            let service = route.and_then(|route| match &route.action {
                Action::Forward(id) => Some(&*id.service),
                Action::Unavailable(_) => None,
            });
            let address = self.lease.as_ref().map(|lease| &lease.endpoint().address);
            let path = request.uri.path_and_query().map_or("", |path| path.as_str());
            worker.access_log.record(&access_log::Record {
                time: request.time,
                request_id: request.request_id.to_str().unwrap_or_default(),
                client: request.address,
                method: request.method.as_str(),
                host: &request.host,
                path: path.as_bytes(),
                protocol: protocol(request.version),
                status,
                reason: self.reason.map(Error::label),
                bytes_sent: self.bytes_sent,
                bytes_received: received,
                duration,
                upstream: address.map(|address| address as &dyn std::fmt::Display),
                attempts: self.attempts,
                ingress: route.map_or(("", ""), |route| (&route.origin.namespace, &route.origin.name)),
                service: service.unwrap_or_default(),
                user_agent: request.user_agent.as_ref().map(HeaderValue::as_bytes),
                referer: request.referer.as_ref().map(HeaderValue::as_bytes),
            });
        }
        if self.has_body && !self.upload.as_ref().is_some_and(|upload| upload.ended.get()) {
            self.client.left_unread();
        }
        self.client.end();
    }
}

/// Counts and logs bytes that never became a request.
pub(super) fn refused(client: &Client, error: Error, request_id: &HeaderValue) {
    let worker = &client.worker;
    let status = error.status().as_u16();
    worker.metrics.process.answered(worker.thread, error.reason());
    let ended = Ended { status, duration: Duration::ZERO, received: 0, sent: 0 };
    count_unrouted(&worker.metrics.unrouted, worker.thread, ended);
    worker.access_log.record(&access_log::Record {
        time: SystemTime::now(),
        request_id: request_id.to_str().unwrap_or_default(),
        client: client.address,
        method: "",
        host: b"",
        path: b"",
        protocol: "",
        status,
        reason: Some(error.label()),
        bytes_sent: 0,
        bytes_received: 0,
        duration: Duration::ZERO,
        upstream: None,
        attempts: 0,
        ingress: ("", ""),
        service: "",
        user_agent: None,
        referer: None,
    });
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
