//! What a line can say: one table of fields serves JSON, templates and docs/access-log.md.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, header};

/// What is known of a request when it has ended. Bytes that come from outside may hold anything; they are escaped.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// When its head arrived.
    pub time: SystemTime,
    /// `X-Request-ID`.
    pub request_id: &'a str,
    /// The client, behind trusted proxies.
    pub client: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// Method; empty for bytes that never became a request, as all that they did not say.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host in its normal form.
    pub host: &'a [u8],
    /// Path as it was received.
    pub path: &'a [u8],
    /// Query as it was received, without the question mark.
    pub query: Option<&'a [u8]>,
    /// `HTTP/1.1` and so on.
    pub protocol: &'a str,
    /// `TLSv1.3` and so on; None for clear text.
    pub tls_version: Option<&'a str>,
    /// Server name of the handshake.
    pub sni: Option<&'a str>,
    /// Status sent to the client; 499 when it left before.
    pub status: u16,
    /// One word why we answered by ourselves or cut the response; None when the response is the backend's.
    pub reason: Option<&'a str>,
    /// Whether it ended in an error of ours or of the backend: 5xx, or a response that was cut.
    pub server_error: bool,
    /// Response body bytes.
    pub bytes_sent: u64,
    /// Request body bytes.
    pub bytes_received: u64,
    /// Head received to response ended.
    pub duration: Duration,
    /// Head received to response head; None when there was none.
    pub response_time: Option<Duration>,
    /// Endpoint of the last attempt.
    pub upstream: Option<&'a dyn Display>,
    /// Tries made.
    pub attempts: u32,
    /// Why each try but the last was followed by another.
    pub retries: &'a [&'static str],
    /// Namespace of the object whose route took the request.
    pub namespace: &'a str,
    /// Its name.
    pub ingress: &'a str,
    /// Path of its rule.
    pub route: Option<&'a str>,
    /// Service the request went to.
    pub service: &'a str,
    /// Trace and span of the request, in hexadecimal.
    pub trace: Option<(&'a dyn Display, &'a dyn Display)>,
    /// Request fields that the layout names, in its order.
    pub request_headers: &'a [Option<HeaderValue>],
    /// Response fields that the layout names, in its order.
    pub response_headers: &'a [Option<HeaderValue>],
}

/// A field of the log.
#[derive(Debug)]
pub struct Field {
    /// Name in templates, and member of the JSON object.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// Its type or unit.
    pub unit: &'static str,
    /// As it stands in a JSON line.
    pub example: &'static str,
    pub(super) read: Read,
}

/// Where a field comes from.
#[derive(Debug)]
pub(super) enum Read {
    Record(for<'a> fn(&'a Record<'a>) -> Value<'a>),
    RequestHeader(HeaderName),
}

/// A value on its way into a line.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Absent,
    /// Anything, to be escaped.
    Bytes(&'a [u8]),
    /// Known to need no escapes.
    Plain(&'a dyn Display),
    /// A list of words of ours.
    Words(&'a [&'static str]),
    Number(u64),
    Seconds(Duration),
    Time(SystemTime),
}

impl<'a> Value<'a> {
    fn text(text: &'a str) -> Self {
        if text.is_empty() { Self::Absent } else { Self::Bytes(text.as_bytes()) }
    }
}

macro_rules! field {
    ($name:literal, $unit:literal, $example:literal, $meaning:literal, $read:expr) => {
        Field { name: $name, meaning: $meaning, unit: $unit, example: $example, read: Read::Record($read) }
    };
}

/// Every field, in the order of a JSON line.
pub static FIELDS: &[Field] = &[
    field!("time", "RFC 3339, UTC", "\"2026-03-01T12:00:00.123Z\"", "When the request head arrived.", |r| {
        Value::Time(r.time)
    }),
    field!(
        "request_id",
        "text",
        "\"5f0c…\"",
        "`X-Request-ID`: the client's, or a new UUID; the backend sees the same.",
        |r| Value::text(r.request_id)
    ),
    field!(
        "client",
        "address",
        "\"192.0.2.7\"",
        "The client; behind `--trusted-cidr` the nearest that is not trusted.",
        |r| Value::Plain(&r.client)
    ),
    field!("peer", "address:port", "\"192.0.2.7:51000\"", "The other end of the connection.", |r| Value::Plain(
        &r.peer
    )),
    field!("local", "address:port", "\"10.0.0.4:8443\"", "Our end of the connection.", |r| Value::Plain(&r.local)),
    field!("scheme", "`http`, `https`", "\"https\"", "Whether the connection is encrypted.", |r| Value::text(r.scheme)),
    field!("method", "text", "\"GET\"", "Method.", |r| Value::text(r.method)),
    field!("host", "text", "\"shop.example\"", "Host, in lower case and without the port.", |r| match r.host {
        [] => Value::Absent,
        host => Value::Bytes(host),
    }),
    field!("path", "text", "\"/cart\"", "Path as it was received, without the query.", |r| match r.path {
        [] => Value::Absent,
        path => Value::Bytes(path),
    }),
    field!("query", "text", "\"item=1\"", "Query as it was received, without the question mark.", |r| {
        r.query.map_or(Value::Absent, Value::Bytes)
    }),
    field!("protocol", "text", "\"HTTP/2\"", "Version of HTTP that the client speaks.", |r| Value::text(r.protocol)),
    field!("tls_version", "text", "\"TLSv1.3\"", "Version of TLS; absent for clear text.", |r| {
        r.tls_version.map_or(Value::Absent, Value::text)
    }),
    field!("sni", "text", "\"shop.example\"", "Server name of the TLS handshake.", |r| r
        .sni
        .map_or(Value::Absent, Value::text)),
    field!(
        "status",
        "number",
        "200",
        "Status sent to the client; 499 when the client left before there was one.",
        |r| { Value::Number(r.status.into()) }
    ),
    field!(
        "reason",
        "word",
        "\"no_route\"",
        "Why Pierhead answered by itself or cut the response; absent when the response is the backend's.",
        |r| r.reason.map_or(Value::Absent, Value::text)
    ),
    field!("bytes_sent", "bytes", "5120", "Response body.", |r| Value::Number(r.bytes_sent)),
    field!("bytes_received", "bytes", "0", "Request body.", |r| Value::Number(r.bytes_received)),
    field!("duration", "seconds", "0.012345", "From the request head to the end of the response.", |r| {
        Value::Seconds(r.duration)
    }),
    field!(
        "response_time",
        "seconds",
        "0.011000",
        "From the request head to the response head, all attempts included: the time to first byte.",
        |r| r.response_time.map_or(Value::Absent, Value::Seconds)
    ),
    field!("upstream", "address:port", "\"10.1.0.9:8080\"", "Endpoint of the last attempt.", |r| {
        r.upstream.map_or(Value::Absent, Value::Plain)
    }),
    field!("attempts", "number", "1", "Attempts made, hedges included.", |r| Value::Number(r.attempts.into())),
    field!(
        "retries",
        "words",
        "\"connect_failed,status\"",
        "Why attempts were followed by others: reasons, `status` for a response that the policy retries, `hedge`.",
        |r| Value::Words(r.retries)
    ),
    field!("namespace", "text", "\"shop\"", "Namespace of the Ingress whose rule took the request.", |r| {
        Value::text(r.namespace)
    }),
    field!("ingress", "text", "\"front\"", "Its name; with `--backend`, that of the flag.", |r| Value::text(r.ingress)),
    field!("route", "text", "\"/cart\"", "Path of the rule that took the request.", |r| {
        r.route.map_or(Value::Absent, Value::text)
    }),
    field!("service", "text", "\"cart\"", "Service that the request was for.", |r| Value::text(r.service)),
    Field {
        name: "user_agent",
        meaning: "`User-Agent`.",
        unit: "text",
        example: "\"curl/8.5\"",
        read: Read::RequestHeader(header::USER_AGENT),
    },
    Field {
        name: "referer",
        meaning: "`Referer`.",
        unit: "text",
        example: "\"https://shop.example/\"",
        read: Read::RequestHeader(header::REFERER),
    },
    field!("trace_id", "hexadecimal", "\"4bf92f3577b34da6a3ce929d0e0e4736\"", "Trace; absent without tracing.", |r| {
        r.trace.map_or(Value::Absent, |(trace, _)| Value::Plain(trace))
    }),
    field!("span_id", "hexadecimal", "\"00f067aa0ba902b7\"", "Span of the request; absent without tracing.", |r| {
        r.trace.map_or(Value::Absent, |(_, span)| Value::Plain(span))
    }),
];
