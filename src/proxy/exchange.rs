//! One request and its response: checked, routed, limited, and handed to the attempts.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri, Version, header, request::Parts};
use hyper::body::{Body, Incoming};

use super::{
    Error,
    affinity::{self, Affinity},
    answer,
    attempt::{self, Attempts},
    body::{BodyLimits, RequestBody},
    clock,
    connection::{Client, Security},
    headers,
    record::Record,
    request,
    response::{ResponseBody, own, respond, via},
};
use crate::{
    filters::{self, Redirect},
    matching::{NormalPath, RequestHost},
    model::{EndpointTls, Protocol, Unavailable},
    routing::{Admission, Entry, Pool, Target},
};

/// Serves one request. Whatever happens is an answer.
pub(super) async fn serve(client: Rc<Client>, request: http::Request<Incoming>) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let id = headers::request_id(&head.headers);
    let accept = head.headers.get(header::ACCEPT).cloned();
    let is_head = head.method == Method::HEAD;
    let address = client_address(&client, &head);
    let mut record = Some(Box::new(Record::start(&client, &head, &id, address)));
    if let Some(record) = record.as_mut().filter(|_| !body.is_end_stream()) {
        record.expect_body();
    }
    let exchange = Exchange { client: &client, record: &mut record, id: &id, address };
    match exchange.run(head, body).await {
        Ok(response) => response,
        Err(error) => own(&client, record, answer::answer(error, accept.as_ref(), &id), Some(error), is_head),
    }
}

/// The client's address: the peer, or what a trusted peer says, from the right up to the first that is not trusted.
fn client_address(client: &Client, head: &Parts) -> IpAddr {
    if !client.forwarded.trusted {
        return client.address;
    }
    let trusted = |address: &IpAddr| client.worker.settings.trusted_cidrs.iter().any(|cidr| cidr.contains(address));
    let chain = head.headers.get_all(headers::X_FORWARDED_FOR).iter();
    let elements = chain.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut nearest = client.address;
    // Behind an element that cannot be read anything may stand: the client wrote it.
    for address in elements.rev().map_while(|text| forwarded_address(text.trim())) {
        nearest = address;
        if !trusted(&address) {
            break;
        }
    }
    nearest
}

/// An element of `X-Forwarded-For`: an address, which some proxies give with the port.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

struct Exchange<'a> {
    client: &'a Rc<Client>,
    record: &'a mut Option<Box<Record>>,
    id: &'a HeaderValue,
    address: IpAddr,
}

impl Exchange<'_> {
    async fn run(mut self, head: Parts, body: Incoming) -> Result<Response<ResponseBody>, Error> {
        request::check(&head)?;
        let authority = request::authority(&head, &self.client.local)?;
        let host = request::host(&authority)?;
        if let Some(record) = self.record.as_mut() {
            record.set_host(host.as_str());
        }
        if head.uri.path() == "*" {
            return Ok(self.options());
        }
        let uri = head.uri.clone();
        let path = request::path(&uri)?;
        let entry = self.find(&host, &path)?;
        if let Some(record) = self.record.as_mut() {
            record.route(&entry);
        }
        if let Some(redirect) = self.filter(&entry, &head, &host, &path) {
            return Ok(self.redirect(&redirect, head.method == Method::HEAD));
        }
        let admitted = self.admit(&entry).await?;
        let target = Destination { uri: &uri, path: &path, authority: &authority };
        self.forward(admitted, head, body, &target).await
    }

    fn find(&self, host: &RequestHost<'_>, path: &NormalPath<'_>) -> Result<Arc<Entry>, Error> {
        let named = self.client.server_name.as_ref();
        self.client.worker.routes.with(|snapshot| {
            if self.client.security == Security::Tls && !snapshot.certificates.same_domain(named, host) {
                return Err(Error::Misdirected);
            }
            snapshot.hosts.find(host, path).cloned().ok_or(Error::NoRoute)
        })
    }

    fn filter(&self, entry: &Entry, head: &Parts, host: &RequestHost<'_>, path: &NormalPath<'_>) -> Option<Redirect> {
        if entry.route.filters.is_empty() {
            return None;
        }
        let at_proxy = || {
            let proto = head.headers.get("x-forwarded-proto");
            self.client.forwarded.trusted && proto.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
        };
        let secure = self.client.security == Security::Tls || at_proxy();
        let head = filters::Head { secure, host: host.as_str(), path: &path.forwarded, query: head.uri.query() };
        entry.route.filters.iter().find_map(|filter| filter.apply(&head))
    }

    /// Counts the request in, when it is its turn; it stays counted until its record ends.
    async fn admit(&mut self, entry: &Arc<Entry>) -> Result<Admitted, Error> {
        let clock = &self.client.worker.clock;
        let in_flight = self.client.worker.admit().ok_or(Error::Overloaded)?;
        let pool = match &entry.target {
            Target::Pool(pool) => Arc::clone(pool),
            Target::Unavailable(reason) => return Err(Error::Unavailable(*reason)),
        };
        let policy = &pool.backend.policy;
        if policy.tls == EndpointTls::Unavailable {
            return Err(Error::Unavailable(Unavailable::Unprotected));
        }
        let record = self.record.as_mut().ok_or(Error::ClientGone)?;
        record.expire_after(policy.timeouts.request);
        let permit = match pool.admit(clock.now()).ok_or(Error::BackendLimit)? {
            Admission::Now(permit) => permit,
            Admission::Later(pending) => {
                let (wait, error) = match record.time_left() {
                    Some(left) if left < policy.limits.pending_timeout => (left, Error::RequestTimeout),
                    _ => (policy.limits.pending_timeout, Error::PendingTimeout),
                };
                let deadline = clock.deadline(wait);
                tokio::select! {
                    biased;
                    permit = pending => permit,
                    () = std::future::poll_fn(|cx| deadline.poll_expired(cx)) => return Err(error),
                }
            }
        };
        Ok(Admitted { in_flight, permit, pool })
    }

    async fn forward(
        self,
        admitted: Admitted,
        mut head: Parts,
        body: Incoming,
        target: &Destination<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let worker = &self.client.worker;
        let limit = worker.settings.max_body_bytes.unwrap_or(u64::MAX);
        if body.size_hint().lower() > limit {
            return Err(Error::BodyTooLarge);
        }
        let pool = admitted.pool;
        let record = self.record.as_mut().ok_or(Error::ClientGone)?;
        record.in_flight = Some(admitted.in_flight);
        record.permit = Some(admitted.permit);
        let policy = &pool.backend.policy;
        let affinity = Affinity::read(policy, &head.uri, &head.headers, self.address);
        let timeouts = &policy.timeouts;
        let idle = clock::limit(timeouts.idle.unwrap_or(worker.settings.timeouts.idle));
        let wanted = headers::upgrade(&head.headers, head.version);
        let on_upgrade = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
        head.extensions.clear();
        headers::prepare_request(&mut head.headers, target.authority, &self.client.forwarded, self.address);
        head.headers.insert(headers::X_REQUEST_ID, self.id.clone());
        if let Some(trace) = &record.trace {
            trace.prepare(&mut head.headers);
        }
        if worker.settings.via {
            head.headers.append(header::VIA, HeaderValue::from_static(via(head.version)));
        }
        let (body, upload) = if body.is_end_stream() {
            (RequestBody::empty(), None)
        } else {
            let limits = BodyLimits { bytes: limit, kept: attempt::replayed(&pool, &head.method), idle };
            let (body, upload) = RequestBody::streamed(body, head.version, &worker.clock, limits);
            (body, Some(upload))
        };
        record.upload.clone_from(&upload);
        let upgrade = wanted.zip(on_upgrade).filter(|_| !pool.backend.protocol.is_http2() && upload.is_none());
        if let Some((protocol, _)) = &upgrade {
            headers::ask_upgrade(&mut head.headers, protocol);
        }
        target.write_to(&mut head, pool.backend.protocol, upload.is_some() && body.size_hint().exact().is_none())?;
        let attempts = Attempts { client: self.client, pool: &pool, address: self.address, affinity, upload };
        let (mut response, checkout) = attempts.run(http::Request::from_parts(head, body), record).await?;
        if let Some(permit) = &record.permit {
            permit.answered();
        }
        let session = record.lease.as_ref().and_then(|lease| lease.session);
        if let (Some(affinity), Some(session)) = (&policy.cookie_affinity, session)
            && let Some(cookie) = affinity::set_cookie(affinity, session)
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        respond(self.client, response, checkout, self.record, upgrade, idle)
    }

    /// RFC 9110 §9.3.7: `OPTIONS *` asks about the server as a whole.
    fn options(self) -> Response<ResponseBody> {
        let mut response = Response::new(Bytes::new());
        response.headers_mut().insert(header::ALLOW, answer::ALLOWED);
        own(self.client, self.record.take(), response, None, false)
    }

    fn redirect(self, redirect: &Redirect, is_head: bool) -> Response<ResponseBody> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
        if let Ok(location) = HeaderValue::from_bytes(redirect.location.as_bytes()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        own(self.client, self.record.take(), response, None, is_head)
    }
}

/// A request that may go on, and to where.
struct Admitted {
    in_flight: super::worker::InFlight,
    permit: crate::routing::Permit,
    pool: Arc<Pool>,
}

/// What the request names, in the form it is passed on.
struct Destination<'a> {
    uri: &'a Uri,
    path: &'a NormalPath<'a>,
    authority: &'a HeaderValue,
}

impl Destination<'_> {
    /// Puts target, host, version and framing into the head as the endpoint's protocol has them.
    fn write_to(&self, head: &mut Parts, protocol: Protocol, length_is_unknown: bool) -> Result<(), Error> {
        let invalid = Error::BadRequest("its target is not valid");
        let unchanged = self.path.forwarded == self.uri.path();
        let path_and_query = if let (true, Some(path_and_query)) = (unchanged, self.uri.path_and_query()) {
            path_and_query.clone()
        } else {
            let query = self.uri.query().map_or(String::new(), |query| format!("?{query}"));
            format!("{}{query}", self.path.forwarded).parse().map_err(|_| invalid)?
        };
        if protocol.is_http2() {
            let uri = Uri::builder()
                .scheme(protocol.scheme())
                .authority(self.authority.as_bytes())
                .path_and_query(path_and_query);
            head.uri = uri.build().map_err(|_| invalid)?;
            head.headers.remove(header::HOST);
            head.version = Version::HTTP_2;
            return Ok(());
        }
        if !unchanged || self.uri.authority().is_some() {
            head.uri = Uri::from(path_and_query);
        }
        head.headers.insert(header::HOST, self.authority.clone());
        headers::join_cookies(&mut head.headers);
        head.version = Version::HTTP_11;
        if length_is_unknown {
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok(())
    }
}
