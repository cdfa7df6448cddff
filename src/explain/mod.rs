//! Why a request gets the answer it gets: which rule takes it, what else came near, and what would be picked.
//!
//! The decision is made of the parts that decide on requests: the checks of `proxy`, the index and the pools of
//! `routing`. The order in which they are asked is written here once more, and tests compare it with traffic. Explaining
//! counts nothing, takes no turn and leaves no trace in the live state.

mod backend;
mod near;
mod request;
mod settings;
mod text;
mod view;

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::HeaderValue;

pub use self::{
    request::{Request, RequestError},
    view::{Answer, Asked, BackendView, By, EndpointView, Explanation, Near, Rule, Setting, Source, Told},
};
use crate::{
    filters::{Filter, Head},
    matching::{HostPattern, NormalPath, PathPattern, RequestHost},
    model::{Compiled, Origin, Problem, ProblemKind},
    proxy::{self, Error},
    routing::{Entry, Live, Snapshot},
    telemetry::Reason,
};

/// Most rules that came near which are shown.
const NEAR: usize = 8;
/// Most problems that are shown.
const PROBLEMS: usize = 20;

/// What is known besides the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The state of the process that serves.
    Live,
    /// Nothing: endpoints count as fit and idle.
    ObjectsOnly,
}

/// Explains a request by the snapshot in force.
pub fn explain(live: &Live, request: &Request, knowledge: Knowledge) -> Explanation {
    let snapshot = live.load();
    let decision = Decision::make(&snapshot, request);
    let mut view = Explanation {
        request: asked(request, &decision),
        answer: Answer::error(Error::NoRoute),
        host: None,
        route: None,
        filters: Vec::new(),
        near: Vec::new(),
        near_left_out: 0,
        backend: None,
        problems: Vec::new(),
        hints: Vec::new(),
    };
    let Decision { host, path, routed } = decision;
    let pattern = host.as_ref().and_then(|host| snapshot.hosts.pattern(host));
    view.host = pattern.as_ref().map(kind_of_host);
    let mut origins = Vec::new();
    match &routed {
        Err(error) => view.answer = Answer::error(*error),
        Ok(Routed::Options) => view.answer = Answer::own(200, "OPTIONS * asks about the server as a whole"),
        Ok(Routed::Entry(entry)) => {
            view.route = Some(rule(&snapshot.compiled, entry));
            origins.push(entry.route.origin.clone());
            let filtered = filter(entry, request, host.as_ref(), path.as_ref(), &mut view);
            if !filtered {
                backend::explain(&mut view, entry, live, &snapshot, request, knowledge);
            }
            backend::origins(entry, &snapshot.compiled, &mut origins);
        }
    }
    if let (Some(host), Some(path), false) = (&host, &path, matches!(routed, Err(Error::Misdirected))) {
        let winner = match &routed {
            Ok(Routed::Entry(entry)) => Some(&entry.route),
            _ => None,
        };
        let (compiled, path) = (&*snapshot.compiled, &*path.matching);
        let near = near::Search { compiled, host, pattern: pattern.as_ref(), path, winner }.run();
        view.near_left_out = near.len().saturating_sub(NEAR);
        for candidate in near.into_iter().take(NEAR) {
            origins.push(candidate.origin.clone());
            view.near.push(candidate.show(compiled));
        }
    }
    view.problems = problems(&snapshot.compiled, &origins, view.host.is_none() && host.is_some());
    let hints = hints(&view, request, &routed);
    view.hints.extend(hints);
    view
}

enum Routed {
    Options,
    Entry(Arc<Entry>),
}

/// What is decided on a request before its filters, in the order in which the proxy decides.
struct Decision<'a> {
    host: Option<RequestHost<'static>>,
    path: Option<NormalPath<'a>>,
    routed: Result<Routed, Error>,
}

impl<'a> Decision<'a> {
    fn make(snapshot: &Snapshot, request: &'a Request) -> Self {
        let mut decision = Self { host: None, path: None, routed: Err(Error::NoRoute) };
        decision.routed = decision.route(snapshot, request);
        decision
    }

    fn route(&mut self, snapshot: &Snapshot, request: &'a Request) -> Result<Routed, Error> {
        proxy::check(&request.head)?;
        let authority = proxy::authority(&request.head, &HeaderValue::from_static("localhost"))?;
        let host = proxy::host(&authority)?.into_owned();
        self.host = Some(host.clone());
        if request.head.uri.path() == "*" {
            return Ok(Routed::Options);
        }
        let path = proxy::path(&request.head.uri)?;
        self.path = Some(path.clone());
        if request.secure && !snapshot.certificates.same_domain(server_name(request).as_ref(), &host) {
            return Err(Error::Misdirected);
        }
        snapshot.hosts.find(&host, &path).cloned().map(Routed::Entry).ok_or(Error::NoRoute)
    }
}

/// The name that a client would give in the handshake: that of the URL, unless it is an address (RFC 6066 §3).
fn server_name(request: &Request) -> Option<RequestHost<'static>> {
    let host = RequestHost::parse(&request.url_authority).ok()?.into_owned();
    let bare = host.as_str().trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_err().then_some(host)
}

impl Answer {
    fn error(error: Error) -> Self {
        Self {
            by: By::Error,
            status: Some(error.status().as_u16()),
            reason: Some(error.reason()),
            message: error.to_string(),
            location: None,
        }
    }

    fn own(status: u16, message: &str) -> Self {
        Self { by: By::Pierhead, status: Some(status), reason: None, message: message.to_owned(), location: None }
    }
}

fn asked(request: &Request, decision: &Decision<'_>) -> Asked {
    let given = request.head.uri.path();
    let mut notes = Vec::new();
    match &decision.path {
        Some(path) => {
            if path.forwarded != given {
                notes.push(format!("dot segments removed: the backend gets {}", path.forwarded));
            }
            if path.matching != path.forwarded {
                notes.push(format!("slashes merged, escapes decoded: rules are compared with {}", path.matching));
            }
            if path.matching.contains("%2F") {
                notes.push("%2F stays a character of its segment".to_owned());
            }
        }
        None => notes.extend(NormalPath::parse(given).err().filter(|_| given != "*").map(|why| why.to_string())),
    }
    Asked {
        method: request.head.method.to_string(),
        url: request.url.clone(),
        host: decision.host.as_ref().map_or(String::new(), |host| host.as_str().to_owned()),
        path: decision.path.as_ref().map_or(String::new(), |path| path.forwarded.to_string()),
        compared_as: decision.path.as_ref().map_or(String::new(), |path| path.matching.to_string()),
        client: request.client.to_string(),
        notes,
    }
}

fn kind_of_host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(name) => format!("the exact host {name}"),
        HostPattern::Wildcard(_) => format!("the wildcard {pattern}"),
        HostPattern::Any => "rules without host".to_owned(),
    }
}

/// Says what the filters do; true when one of them answers.
fn filter(
    entry: &Entry,
    request: &Request,
    host: Option<&RequestHost<'_>>,
    path: Option<&NormalPath<'_>>,
    view: &mut Explanation,
) -> bool {
    let (Some(host), Some(path)) = (host, path) else { return false };
    let query = request.head.uri.query();
    let head = Head { secure: request.secure, host: host.as_str(), path: &path.forwarded, query };
    for filter in &entry.route.filters {
        let Filter::HttpsRedirect(_) = filter;
        let Some(redirect) = filter.apply(&head) else {
            let why = if head.secure { "the request came over TLS" } else { "ACME challenges pass" };
            view.filters.push(format!("redirect to HTTPS: not applied, {why}"));
            continue;
        };
        view.filters.push("redirect to HTTPS: applied, the request came over plain HTTP".to_owned());
        let message = "plain HTTP is redirected to HTTPS before any backend is asked";
        view.answer = Answer { location: Some(redirect.location), ..Answer::own(redirect.status, message) };
        return true;
    }
    false
}

fn rule(compiled: &Compiled, entry: &Entry) -> Rule {
    let route = &entry.route;
    rule_of(compiled, &route.host, route.path.as_ref(), &route.origin, &route.field)
}

fn rule_of(compiled: &Compiled, host: &HostPattern, path: Option<&PathPattern>, origin: &Origin, field: &str) -> Rule {
    let path = path.map_or("default backend".to_owned(), ToString::to_string);
    Rule { host: host.to_string(), path, source: source(compiled, origin, field) }
}

fn source(compiled: &Compiled, origin: &Origin, field: &str) -> Source {
    let place = compiled.provenance.places.get(origin);
    let created = compiled.provenance.created.get(origin).and_then(|seconds| u64::try_from(*seconds).ok());
    Source {
        origin: origin.to_string(),
        field: field.to_owned(),
        place: place.map(|place| format!("{}:{}", place.file.display(), place.line_of(field))),
        created: created
            .map(|seconds| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()),
    }
}

fn problems(compiled: &Compiled, origins: &[Origin], of_hosts: bool) -> Vec<Told> {
    let concerns = |problem: &&Problem| {
        // An Ingress that could not be read, or a host that is none, may be the one that is missed.
        let malformed = matches!(problem.kind, ProblemKind::Malformed(_)) && problem.origin.kind == "Ingress";
        let no_host = problem.field.rsplit('.').next() == Some("host");
        origins.contains(&problem.origin) || of_hosts && (malformed || no_host)
    };
    let told = |problem: &Problem| Told {
        severity: problem.kind.severity().name(),
        source: source(compiled, &problem.origin, &problem.field),
        message: problem.kind.to_string(),
    };
    compiled.problems.iter().filter(concerns).take(PROBLEMS).map(told).collect()
}

fn hints(view: &Explanation, request: &Request, routed: &Result<Routed, Error>) -> Vec<String> {
    let mut hints = Vec::new();
    let host = &view.request.host;
    match (view.answer.reason, &view.answer.location) {
        (Some(Reason::NoRoute), _) if view.host.is_none() => hints.push(format!(
            "give an Ingress of our class a rule with `host: {host}`, or a default backend to what no rule takes"
        )),
        (Some(Reason::NoRoute), _) => hints.push(format!(
            "add a path that takes {} to host {host}, or `spec.defaultBackend` to one of its Ingresses",
            view.request.compared_as
        )),
        (Some(Reason::BackendUnresolved | Reason::Unprotected), _) => {
            hints.push("mend what the problems above name".to_owned());
        }
        (Some(Reason::Misdirected), _) => hints.push(
            "the host is not of the certificate that the name in the handshake gets: ask for the host by its own URL"
                .to_owned(),
        ),
        (Some(Reason::BadRequest), _) => {
            hints.push("mend the client: no setting lets such a request through".to_owned());
        }
        (_, Some(location)) => hints.push(format!(
            "explain {location} for what follows, or turn the redirect off with the annotation \
             pierhead.dev/ssl-redirect: \"false\""
        )),
        _ => {}
    }
    if request.head.headers.contains_key("x-forwarded-proto")
        && !request.secure
        && matches!(routed, Ok(Routed::Entry(_)))
    {
        hints.push(
            "X-Forwarded-Proto counts only from --trusted-cidr; here the request counts as plain HTTP: explain the \
             https:// URL for one that a trusted proxy received over TLS"
                .to_owned(),
        );
    }
    hints
}
