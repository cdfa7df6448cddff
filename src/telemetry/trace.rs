//! Traces of sampled requests: the context that is passed on, and spans for the request and each of its attempts.
//!
//! The decision falls with the request head; what is not sampled builds no span. Finished spans go through a bounded
//! queue to the control half, which exports them; when that does not keep up they are dropped and counted. Without a
//! tracer, `traceparent` and `tracestate` pass through like any field.

mod context;
#[cfg(feature = "otel")]
mod otlp;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use tokio::sync::{mpsc, oneshot};

use self::context::Parent;
pub use self::context::{SpanId, TraceId};
use super::{access_log::Record, metrics::Process};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Requests whose spans may wait for the exporter.
#[cfg(feature = "otel")]
const WAITING: usize = 2048;

/// Most bytes of the text of an attribute.
const LONGEST: usize = 1024;

/// Which requests are traced, and where spans go.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// URL of the collector; None for no tracing.
    pub endpoint: Option<String>,
    /// Share of the requests that are sampled, 0 to 1; those of trusted clients that decided follow them.
    pub sample: f64,
}

/// Begins traces. Clones feed the same exporter.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Queue>);

#[derive(Clone, Debug)]
struct Queue {
    sample: f64,
    spans: mpsc::Sender<Message>,
    process: Arc<Process>,
}

/// What the exporter is sent.
#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "the exporter reads it"))]
enum Message {
    Spans(Vec<Span>),
    /// Everything before this is exported: tell so.
    Flush(oneshot::Sender<()>),
}

/// Part of a trace.
#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "the exporter reads it"))]
struct Span {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    state: Option<HeaderValue>,
    kind: Kind,
    name: String,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    /// Why each attempt was followed by another.
    retries: Vec<(&'static str, SystemTime)>,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a request that we were sent.
    Server,
    /// Of one that we sent.
    Client,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "the exporter reads it"))]
enum Value {
    Text(String),
    Number(i64),
}

impl Tracer {
    /// Starts the exporter on the runtime of the caller; one that traces nothing without an endpoint.
    ///
    /// # Errors
    /// When the endpoint or what the environment says of it cannot be used.
    #[cfg(feature = "otel")]
    pub fn start(settings: &Settings, identity: &str, process: Arc<Process>) -> Result<Self, otlp::Error> {
        let Some(endpoint) = &settings.endpoint else { return Ok(Self::default()) };
        let (spans, messages) = mpsc::channel(WAITING);
        otlp::start(endpoint, identity, messages, Arc::clone(&process))?;
        Ok(Self(Some(Queue { sample: settings.sample, spans, process })))
    }

    /// Begins the part of a trace that a request is; None when nothing is traced.
    pub fn begin(&self, headers: &HeaderMap, decision: Decision) -> Option<Trace> {
        let queue = self.0.as_ref()?;
        let mut found = headers.get_all(TRACEPARENT).iter();
        let parent = match (found.next(), found.next()) {
            (Some(one), None) => Parent::read(one.as_bytes()),
            _ => None,
        };
        let decided = parent.filter(|_| decision == Decision::Client).map(|parent| parent.sampled);
        // Drawn, and not taken from the identifier, which the client chooses.
        let sampled = decided.unwrap_or_else(|| fastrand::f64() < queue.sample);
        Some(Trace {
            id: parent.map_or_else(TraceId::new, |parent| parent.trace),
            span: SpanId::new(),
            parent: parent.map(|parent| parent.span),
            field_stands: parent.is_some_and(|parent| parent.sampled == sampled),
            sampled: sampled.then(|| {
                Rc::new(Sampled {
                    state: headers.get(TRACESTATE).filter(|_| parent.is_some()).and_then(kept),
                    user_agent: headers.get(header::USER_AGENT).cloned(),
                    attempts: RefCell::default(),
                    retries: RefCell::default(),
                })
            }),
        })
    }

    /// Ends the span of the request, and hands all to the exporter. Never waits.
    pub fn end(&self, trace: &Trace, record: &Record<'_>) {
        let (Some(queue), Some(sampled)) = (&self.0, &trace.sampled) else { return };
        let mut spans = sampled.attempts.take();
        spans.push(Span {
            trace: trace.id,
            id: trace.span,
            parent: trace.parent,
            state: sampled.state.clone(),
            kind: Kind::Server,
            name: name(record.method, record.route),
            began: record.time,
            ended: record.time.checked_add(record.duration).unwrap_or(record.time),
            attributes: attributes(record, sampled.user_agent.as_ref()),
            retries: sampled.retries.take(),
            failed: record.server_error,
        });
        let count = spans.len() as u64;
        if queue.spans.try_send(Message::Spans(spans)).is_err() {
            queue.process.spans_dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Waits until what was sent before is exported, but at most for `patience`.
    pub async fn finish(&self, patience: Duration) {
        let Some(queue) = &self.0 else { return };
        let (done, exported) = oneshot::channel();
        let flush = async {
            if queue.spans.send(Message::Flush(done)).await.is_ok() {
                let _ended = exported.await;
            }
        };
        let _late = tokio::time::timeout(patience, flush).await;
    }
}

/// Whose decision to sample holds for a request that belongs to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// That of the client.
    Client,
    /// Our own: anybody can set a flag.
    Local,
}

/// The trace that a request belongs to. One that is not sampled allocates nothing.
#[derive(Debug)]
pub struct Trace {
    id: TraceId,
    span: SpanId,
    parent: Option<SpanId>,
    /// The `traceparent` of the client says what we would.
    field_stands: bool,
    sampled: Option<Rc<Sampled>>,
}

/// What is known of the part of a sampled trace that is here.
#[derive(Debug)]
struct Sampled {
    state: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    /// Spans of those that have ended.
    attempts: RefCell<Vec<Span>>,
    retries: RefCell<Vec<(&'static str, SystemTime)>>,
}

/// One try at an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct To<'a> {
    /// Which of the request, from one.
    pub number: u32,
    /// Whether it is encrypted.
    pub scheme: &'static str,
    /// Host name or address of the endpoint.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
}

impl Trace {
    /// Identifiers of the trace and of the request's span.
    pub fn ids(&self) -> (&TraceId, &SpanId) {
        (&self.id, &self.span)
    }

    /// Whether it has spans.
    pub fn is_sampled(&self) -> bool {
        self.sampled.is_some()
    }

    /// Makes the fields say our own trace when the client had none that is valid, and our decision when it is another.
    pub fn prepare(&self, headers: &mut HeaderMap) {
        if self.parent.is_none() {
            headers.remove(TRACESTATE); // W3C Trace Context §4.3: it belongs to the parent that was not there
        }
        if !self.field_stands {
            // W3C Trace Context §3.4: with another flag goes another parent.
            headers.insert(TRACEPARENT, context::field(self.id, self.span, self.is_sampled()));
        }
    }

    /// An attempt is followed by another, for this reason.
    pub fn retried(&self, reason: &'static str) {
        if let Some(sampled) = &self.sampled {
            sampled.retries.borrow_mut().push((reason, SystemTime::now()));
        }
    }

    /// Begins the span of an attempt, which the endpoint sees as its parent; None when nothing is sampled.
    pub fn attempt(&self, to: To<'_>, method: &Method, target: &str, headers: &mut HeaderMap) -> Option<Attempt> {
        let sampled = self.sampled.as_ref()?;
        let id = SpanId::new();
        headers.insert(TRACEPARENT, context::field(self.id, id, true));
        let now = SystemTime::now();
        let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.to_owned() };
        let mut attributes = vec![
            ("http.request.method", text(known(method.as_str()))),
            ("url.full", text(&format!("{}://{host}:{}{target}", to.scheme, to.port))),
            ("server.address", text(to.host)),
            ("server.port", Value::Number(to.port.into())),
        ];
        if to.number > 1 {
            attributes.push(("http.request.resend_count", Value::Number(i64::from(to.number) - 1)));
        }
        let span = Span {
            trace: self.id,
            id,
            parent: Some(self.span),
            state: sampled.state.clone(),
            kind: Kind::Client,
            name: name(method.as_str(), None),
            began: now,
            ended: now,
            attributes,
            retries: Vec::new(),
            failed: false,
        };
        Some(Attempt { of: Rc::clone(sampled), span: Some(span) })
    }
}

/// The span of an attempt under way. Dropped before its end, the attempt was cancelled.
#[derive(Debug)]
pub struct Attempt {
    of: Rc<Sampled>,
    span: Option<Span>,
}

impl Attempt {
    /// The head of a response came.
    pub fn answered(mut self, status: u16, version: Version) {
        if let Some(span) = &mut self.span {
            span.failed = status >= 400;
            span.attributes.push(("http.response.status_code", Value::Number(status.into())));
            let version = if version == Version::HTTP_2 { "2" } else { "1.1" };
            span.attributes.push(("network.protocol.version", text(version)));
            if span.failed {
                span.attributes.push(("error.type", text(&status.to_string())));
            }
        }
        self.end();
    }

    /// It ended without one.
    pub fn failed(mut self, reason: &'static str) {
        if let Some(span) = &mut self.span {
            span.failed = true;
            span.attributes.push(("error.type", text(reason)));
        }
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.ended = SystemTime::now();
            self.of.attempts.borrow_mut().push(span);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(span) = &mut self.span {
            span.attributes.push(("error.type", text("cancelled")));
        }
        self.end();
    }
}

/// At most [`LONGEST`] bytes of it: what waits for the exporter is bounded.
fn text(text: &str) -> Value {
    Value::Text(text[..text.floor_char_boundary(LONGEST)].to_owned())
}

/// As [`text`]. What is not UTF-8 becomes U+FFFD.
fn lossy(bytes: &[u8]) -> Value {
    // A character that is cut here begins behind what is kept.
    text(&String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST + 3)]))
}

/// A copy that holds no more than itself, and not the memory that its request was read into; None for a long one.
fn kept(state: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(state.as_bytes()).ok().filter(|state| state.len() <= LONGEST)
}

/// The method, as OpenTelemetry wants it: others could be any number of names.
fn known(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => method,
        _ => "_OTHER",
    }
}

/// Low in cardinality: the method and the path of the rule.
fn name(method: &str, route: Option<&str>) -> String {
    let method = if known(method) == "_OTHER" { "HTTP" } else { method };
    route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"))
}

/// Names are those of the semantic conventions for HTTP of OpenTelemetry, and `pierhead.*` for what they lack.
fn attributes(record: &Record<'_>, user_agent: Option<&HeaderValue>) -> Vec<(&'static str, Value)> {
    let number = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let mut all = vec![
        ("http.request.method", text(known(record.method))),
        ("url.path", lossy(record.path)),
        ("url.scheme", text(record.scheme)),
        ("http.response.status_code", number(record.status.into())),
        ("server.address", lossy(record.host)),
        ("server.port", number(record.local.port().into())),
        ("client.address", Value::Text(record.client.to_string())),
        ("network.peer.address", Value::Text(record.peer.ip().to_string())),
        ("network.peer.port", number(record.peer.port().into())),
        ("network.protocol.version", text(record.protocol.trim_start_matches("HTTP/"))),
        ("http.request.body.size", number(record.bytes_received)),
        ("http.response.body.size", number(record.bytes_sent)),
        ("pierhead.request_id", text(record.request_id)),
    ];
    if known(record.method) == "_OTHER" {
        all.push(("http.request.method_original", text(record.method)));
    }
    if record.server_error {
        all.push(("error.type", record.reason.map_or_else(|| Value::Text(record.status.to_string()), text)));
    }
    let known = [
        ("url.query", record.query.map(lossy)),
        ("http.route", record.route.map(text)),
        ("user_agent.original", user_agent.map(|value| lossy(value.as_bytes()))),
        ("tls.protocol.version", record.tls_version.map(|version| text(version.trim_start_matches("TLSv")))),
        ("pierhead.reason", record.reason.map(text)),
        ("pierhead.namespace", Some(record.namespace).filter(|text| !text.is_empty()).map(text)),
        ("pierhead.ingress", Some(record.ingress).filter(|text| !text.is_empty()).map(text)),
        ("pierhead.service", Some(record.service).filter(|text| !text.is_empty()).map(text)),
        ("pierhead.endpoint", record.upstream.map(|address| Value::Text(address.to_string()))),
    ];
    all.extend(known.into_iter().filter_map(|(name, value)| Some((name, value?))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Traces this share; what is sent comes out.
    fn tracer(sample: f64) -> (Tracer, mpsc::Receiver<Message>) {
        let (spans, messages) = mpsc::channel(1);
        (Tracer(Some(Queue { sample, spans, process: Arc::default() })), messages)
    }

    #[test]
    fn attributes_are_cut_between_characters() {
        let of = |value| match value {
            Value::Text(text) => (text.len(), text.capacity(), text.contains('\u{fffd}')),
            Value::Number(_) => panic!("a number"),
        };
        let long = "a".to_owned() + &"ä".repeat(40_000);
        assert_eq!(of(text(&long)), (LONGEST - 1, LONGEST - 1, false));
        assert_eq!(of(lossy(long.as_bytes())), (LONGEST - 1, LONGEST - 1, false));
        assert_eq!(of(lossy(&[0xff; 4000])).0, LONGEST / 3 * 3);
        assert_eq!(of(text("short")), (5, 5, false));
    }

    #[test]
    fn a_request_that_is_not_sampled_has_a_context_and_nothing_else() {
        let (tracer, _messages) = tracer(0.0);
        let mut headers = HeaderMap::new();
        let trace = tracer.begin(&headers, Decision::Local).unwrap();
        assert!(!trace.is_sampled());
        assert!(std::mem::size_of::<Option<Trace>>() <= 64, "it is part of every request");
        let queue = tracer.0.as_ref().unwrap();
        assert_eq!((queue.spans.strong_count(), Arc::strong_count(&queue.process)), (1, 1));
        trace.prepare(&mut headers);
        assert!(headers[TRACEPARENT].to_str().unwrap().ends_with("-00"));
    }
}
