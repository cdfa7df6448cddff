//! Traces: what a collector is sent, what an endpoint sees, and that neither is waited for.
#![cfg(feature = "otel")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use tokio::net::TcpListener;

use crate::support::{
    backend::{Backend, blackhole, refusing},
    client::{get, raw, seen_in, status_of},
    eventually,
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The `TraceService` of a collector, over gRPC.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let collector = serving.clone();
                let service = service_fn(move |request| collector.clone().export(request));
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        collector
    }

    async fn export(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
        assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        // A message is preceded by a flag for compression and its length.
        self.requests.lock().unwrap().push(ExportTraceServiceRequest::decode(&body[5..]).unwrap());
        let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
        let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(status)];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
        Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits for the spans of the request of this path: its own, and those of its attempts in order.
    async fn spans_of(&self, path: &str) -> (Span, Vec<Span>) {
        eventually(&format!("spans of {path}"), async || {
            let all = self.spans();
            let server = all.iter().find(|span| text(span, "url.path").as_deref() == Some(path))?.clone();
            let mut attempts: Vec<_> = all.into_iter().filter(|span| span.parent_span_id == server.span_id).collect();
            attempts.sort_by_key(|span| span.start_time_unix_nano);
            Some((server, attempts))
        })
        .await
    }
}

fn find<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?.value.as_ref()
}

fn text(span: &Span, name: &str) -> Option<String> {
    match find(&span.attributes, name)? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn number(span: &Span, name: &str) -> Option<i64> {
    match find(&span.attributes, name)? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

async fn traced(collector: &Collector, manifests: String) -> Pierhead {
    Setup::default().manifests(manifests).flag(format!("--otlp-endpoint=http://{}", collector.address)).start().await
}

fn to_one(one: &Backend) -> String {
    ingress("main").host("a.example").prefix("/shop", "one").to_string() + &service("one", &[one.address])
}

/// Asks with these fields; what the endpoint saw of `traceparent` comes back.
async fn ask(pierhead: &Pierhead, path: &str, fields: &str) -> (Vec<String>, Vec<String>) {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n{fields}\r\n");
    let answer = raw(pierhead.http, asked).await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    let seen = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    (seen_in(&seen, "traceparent"), seen_in(&seen, "tracestate"))
}

#[tokio::test]
async fn a_trace_of_the_client_goes_on_and_the_endpoint_sees_our_span() {
    let (one, collector) = (Backend::start("one").await, Collector::start().await);
    let pierhead = traced(&collector, to_one(&one)).await;
    let fields = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\nuser-agent: test/1\r\n");
    let (seen, state) = ask(&pierhead, "/shop/x", &fields).await;
    let (server, attempts) = collector.spans_of("/shop/x").await;
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((server.kind(), server.name.as_str()), (SpanKind::Server, "GET /shop"));
    for (name, expected) in [
        ("http.request.method", "GET"),
        ("http.route", "/shop"),
        ("server.address", "a.example"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("url.scheme", "http"),
        ("user_agent.original", "test/1"),
        ("pierhead.namespace", "default"),
        ("pierhead.ingress", "main"),
        ("pierhead.service", "one"),
        ("pierhead.endpoint", &one.address.to_string()),
    ] {
        assert_eq!(text(&server, name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(number(&server, "http.response.status_code"), Some(200));
    let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((attempt.kind(), hex(&attempt.trace_id)), (SpanKind::Client, TRACE.to_owned()));
    assert_eq!(text(attempt, "url.full"), Some(format!("http://{}/shop/x", one.address)));
    assert_eq!(seen, [format!("00-{TRACE}-{}-01", hex(&attempt.span_id))]);
    assert_eq!(state, ["a=b"]);
    let line = pierhead.logged_path("/shop/x").await;
    assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE.into(), &hex(&server.span_id).into()));
    let resource = collector.requests.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(find(&resource.attributes, "service.name"), Some(&Value::StringValue("pierhead".into())));
}

#[tokio::test]
async fn a_trace_begins_where_the_client_has_none_that_is_valid() {
    let (one, collector) = (Backend::start("one").await, Collector::start().await);
    let pierhead = traced(&collector, to_one(&one)).await;
    let broken = format!("traceparent: 00-{TRACE}-0-01\r\ntracestate: a=b\r\n");
    for (path, fields) in [("/shop/none", ""), ("/shop/broken", &broken)] {
        let (seen, state) = ask(&pierhead, path, fields).await;
        let (server, attempts) = collector.spans_of(path).await;
        assert!(server.parent_span_id.is_empty(), "{server:?}");
        assert_ne!(hex(&server.trace_id), TRACE);
        assert_eq!(seen, [format!("00-{}-{}-01", hex(&server.trace_id), hex(&attempts[0].span_id))]);
        assert!(state.is_empty(), "{path}: {state:?}");
    }
}

#[tokio::test]
async fn each_attempt_has_a_span() {
    let (one, collector) = (Backend::start("one").await, Collector::start().await);
    let (gone, _held) = refusing();
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string()
        + &service("one", &[gone, one.address])
        + &backend_policy("one", "loadBalancing: {strategy: RoundRobin}");
    let pierhead = traced(&collector, manifests).await;
    get(pierhead.http, "a.example", "/1").await;
    get(pierhead.http, "a.example", "/2").await;
    let retried = pierhead.logged("a retry", |line| line["attempts"] == 2).await;
    let (server, attempts) = collector.spans_of(retried["path"].as_str().unwrap()).await;
    let [first, second] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!(text(first, "error.type").as_deref(), Some("connect_failed"));
    assert_eq!(number(first, "http.request.resend_count"), None);
    assert_eq!(number(second, "http.request.resend_count"), Some(1));
    assert_eq!(number(second, "http.response.status_code"), Some(200));
    assert_eq!((server.events.len(), server.events[0].name.as_str()), (1, "pierhead.retry"));
    assert_eq!(first.status.as_ref().unwrap().code, 2, "an error");
    assert_eq!(server.status.map_or(0, |status| status.code), 0, "the client got its answer");
}

#[tokio::test]
async fn what_is_not_sampled_has_no_span_and_says_so_to_the_endpoint() {
    let (one, collector) = (Backend::start("one").await, Collector::start().await);
    let flag = format!("--otlp-endpoint=http://{}", collector.address);
    let setup = Setup::default().manifests(to_one(&one)).flag(flag).flag("--trace-sample=0");
    let pierhead = setup.flag("--trusted-cidr=127.0.0.0/8").start().await;
    let parent = |flags: &str| format!("00-{TRACE}-{PARENT}-{flags}");
    let (seen, _) = ask(&pierhead, "/shop/not", &format!("traceparent: {}\r\n", parent("00"))).await;
    assert_eq!(seen, [parent("00")], "it passes unchanged");
    let (seen, _) = ask(&pierhead, "/shop/new", "").await;
    assert!(seen[0].ends_with("-00"), "{seen:?}");
    ask(&pierhead, "/shop/sampled", &format!("traceparent: {}\r\n", parent("01"))).await;
    collector.spans_of("/shop/sampled").await;
    assert!(collector.spans().iter().all(|span| hex(&span.trace_id) == TRACE), "only what the client sampled");
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn a_client_that_is_not_trusted_keeps_its_trace_and_does_not_decide_what_is_sampled() {
    let (one, collector) = (Backend::start("one").await, Collector::start().await);
    for (sample, flag, told) in [("0", "01", "00"), ("1", "00", "01")] {
        let otlp = format!("--otlp-endpoint=http://{}", collector.address);
        let setup = Setup::default().manifests(to_one(&one)).flag(otlp).flag(format!("--trace-sample={sample}"));
        let mut pierhead = setup.start().await;
        let fields = format!("traceparent: 00-{TRACE}-{PARENT}-{flag}\r\ntracestate: a=b\r\n");
        let (seen, state) = ask(&pierhead, "/shop", &fields).await;
        assert!(seen[0].starts_with(&format!("00-{TRACE}-")) && seen[0].ends_with(&format!("-{told}")), "{seen:?}");
        assert!(!seen[0].contains(PARENT), "another flag is of another parent: {seen:?}");
        assert_eq!(state, ["a=b"]);
        pierhead.signal("TERM").await;
        assert!(pierhead.ended().await.success());
        assert_eq!(collector.spans().len(), if sample == "0" { 0 } else { 2 }, "--trace-sample={sample}");
    }
}

#[tokio::test]
async fn without_a_tracer_the_fields_pass_through() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(to_one(&one)).await;
    let (seen, state) = ask(&pierhead, "/shop", "traceparent: anything\r\ntracestate: a=b\r\n").await;
    assert_eq!((seen, state), (vec!["anything".to_owned()], vec!["a=b".to_owned()]));
    let (seen, _) = ask(&pierhead, "/shop", "").await;
    assert!(seen.is_empty());
}

#[tokio::test]
async fn the_last_spans_are_exported_before_the_end() {
    let (one, collector) = (Backend::start("one").await, Collector::start().await);
    let mut pierhead = traced(&collector, to_one(&one)).await;
    ask(&pierhead, "/shop/last", "").await;
    pierhead.signal("TERM").await;
    assert!(pierhead.ended().await.success());
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn a_collector_that_is_gone_or_silent_loses_spans_and_no_request() {
    let one = Backend::start("one").await;
    let (gone, _refuses) = refusing();
    let (silent, _held) = blackhole().await;
    for (address, is_counted_soon) in [(gone, true), (silent, false)] {
        let flag = format!("--otlp-endpoint=http://{address}");
        let mut pierhead = Setup::default().manifests(to_one(&one)).flag(flag).start().await;
        ask(&pierhead, "/shop", "").await;
        if is_counted_soon {
            let dropped = "pierhead_trace_spans_dropped_total 2";
            eventually("dropped spans", async || pierhead.metrics().await.contains(dropped).then_some(())).await;
        }
        ask(&pierhead, "/shop", "").await;
        pierhead.signal("TERM").await;
        assert!(pierhead.ended().await.success(), "the collector does not hold the process back");
    }
}
