//! How requests to a backend are balanced, limited, retried and checked, as typed values.
//!
//! Defaults are filled in, except where a setting of the process has the default: those are None. Blocks that say
//! nothing but defaults are left out when serialised.

use std::{
    collections::BTreeSet,
    num::{NonZeroU16, NonZeroU32},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, Serializer};

use super::EndpointTls;
use crate::balance::{OutlierDetection, RetryBudget, Strategy};

/// What a `BackendPolicy` says about a backend, with defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancing: LoadBalancing,
    /// Keeps the requests of one client on one endpoint by a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_affinity: Option<CookieAffinity>,
    /// Connections to endpoints.
    #[serde(skip_serializing_if = "is_default")]
    pub connections: Connections,
    /// Limits on what the backend gets.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Times allowed.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// When a request is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Retries,
    /// What becomes of a response with a server error once retries are spent.
    #[serde(skip_serializing_if = "is_default")]
    pub server_errors: ServerErrors,
    /// How endpoints are found to be unfit.
    #[serde(skip_serializing_if = "is_default")]
    pub health: Health,
    /// How endpoints are verified when they are spoken to over TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: EndpointTls,
    /// Version of the PROXY protocol that connections open with; None for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadBalancing {
    /// The algorithm.
    pub strategy: Strategy,
    /// What requests are hashed by; None for strategies that do not hash.
    pub hash_on: Option<HashOn>,
    /// A new or recovered endpoint gets its full share after this time. Zero means at once.
    #[serde(serialize_with = "duration")]
    pub slow_start: Duration,
    /// Which endpoints come first.
    pub zone: ZonePreference,
    /// How many endpoints this replica uses. None means all.
    pub subset: Option<NonZeroU32>,
}

/// What requests are hashed by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HashOn {
    /// The value of a field, by its lower-case name.
    Header(Arc<str>),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// The value of a parameter of the query.
    Query(Arc<str>),
    /// The path without the query.
    Path,
    /// The address of the client.
    SourceIp,
}

/// Which endpoints come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ZonePreference {
    /// Those that the hints of their slice give to our zone, where there are hints (Kubernetes `trafficDistribution`).
    #[default]
    Hints,
    /// Those of our zone.
    PreferClose,
    /// None before others.
    Any,
}

/// Keeps the requests of one client on one endpoint by a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CookieAffinity {
    /// Name of the cookie, an RFC 6265 token.
    pub name: Arc<str>,
    /// How long the client keeps it. None means until the client ends its session.
    #[serde(serialize_with = "optional_duration")]
    pub ttl: Option<Duration>,
    /// `Path` attribute.
    pub path: Arc<str>,
    /// `SameSite` attribute.
    pub same_site: SameSite,
    /// `Secure` attribute.
    pub secure: bool,
    /// What the cookie names.
    pub mode: AffinityMode,
}

/// `SameSite` attribute of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the values of RFC 6265bis")]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// What a cookie of affinity names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum AffinityMode {
    /// The endpoint: a client stays with it for as long as it is there and fit.
    #[default]
    Persistent,
    /// The client: new endpoints take over their share of the clients.
    Balanced,
}

/// Connections to endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Connections to one endpoint, over all threads. None means no limit.
    pub max_per_endpoint: Option<NonZeroU32>,
    /// Idle HTTP/1.1 connections kept for one endpoint, over all threads.
    pub max_idle_per_endpoint: u32,
    /// How long an idle connection is kept. None means as the settings say; zero that none is kept.
    #[serde(serialize_with = "optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// Requests that one connection serves. None means no limit.
    pub max_requests: Option<NonZeroU32>,
    /// Age from which a connection serves no new request. None means no limit.
    #[serde(serialize_with = "optional_duration")]
    pub max_age: Option<Duration>,
    /// Silence after which the kernel asks whether the endpoint is still there. None means that it never does.
    #[serde(serialize_with = "optional_duration")]
    pub tcp_keepalive: Option<Duration>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max_per_endpoint: None,
            max_idle_per_endpoint: 128,
            idle_timeout: None,
            max_requests: None,
            max_age: None,
            tcp_keepalive: Some(Duration::from_secs(30)),
        }
    }
}

/// Limits on what the backend gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Requests in flight to the backend over all its endpoints. None means no limit.
    pub max_concurrent_requests: Option<NonZeroU32>,
    /// Requests that wait while the limit is reached; more are answered 503.
    pub max_pending: u32,
    /// How long one waits before it is answered 503.
    #[serde(serialize_with = "duration")]
    pub pending_timeout: Duration,
    /// Lower the limit to what the backend answers without queueing.
    pub adaptive: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_concurrent_requests: None, max_pending: 0, pending_timeout: Duration::from_secs(1), adaptive: false }
    }
}

/// Times allowed. Zero means no limit, except for `connect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// To open a connection, with TLS where there is TLS. Not zero.
    #[serde(serialize_with = "duration")]
    pub connect: Duration,
    /// End of the request sent to head of the response. None means as the settings say.
    #[serde(serialize_with = "optional_duration")]
    pub response_head: Option<Duration>,
    /// Between reads or writes of a body. None means as the settings say.
    #[serde(serialize_with = "optional_duration")]
    pub idle: Option<Duration>,
    /// One attempt, from its connection to its response head.
    #[serde(serialize_with = "duration")]
    pub per_try: Duration,
    /// The whole exchange, from the request head to the end of the response.
    #[serde(serialize_with = "duration")]
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let zero = Duration::ZERO;
        Self { connect: Duration::from_secs(5), response_head: None, idle: None, per_try: zero, request: zero }
    }
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// Tries besides the first.
    pub attempts: u32,
    /// What a try may be followed for by another.
    pub on: BTreeSet<RetryOn>,
    /// Statuses that [`RetryOn::StatusCodes`] means.
    pub status_codes: BTreeSet<u16>,
    /// Methods whose requests may reach a backend twice.
    pub methods: BTreeSet<Arc<str>>,
    /// Largest request body in bytes that is kept to be sent again.
    pub replay_body: u64,
    /// Pause before a retry.
    pub backoff: Backoff,
    /// Retries allowed for the requests of the backend.
    pub budget: RetryBudget,
    /// A second try starts when the first has no response head after this time. None means never.
    #[serde(serialize_with = "optional_duration")]
    pub hedge_after: Option<Duration>,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: BTreeSet::from([RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::RefusedStream]),
            status_codes: BTreeSet::new(),
            // RFC 9110 §9.2.2: idempotent methods, without TRACE, which is never forwarded.
            methods: ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].map(Arc::from).into(),
            replay_body: 64 * 1024,
            backoff: Backoff::default(),
            budget: RetryBudget::default(),
            hedge_after: None,
        }
    }
}

/// What a try may be followed for by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RetryOn {
    /// No connection, or no TLS: the endpoint cannot have seen the request.
    ConnectFailure,
    /// The connection broke before the response head, or the try took longer than allowed.
    Reset,
    /// An HTTP/2 endpoint said that it did not look at the request (RFC 9113 §8.7).
    RefusedStream,
    /// 502, 503 or 504.
    GatewayError,
    /// Any status from 500 to 599.
    ServerError,
    /// One of [`Retries::status_codes`].
    StatusCodes,
}

/// Pause before a retry: drawn between zero and `base · 2ⁿ`, at most `max`, before retry n, the first being n = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Backoff {
    /// Bound before the first retry.
    #[serde(serialize_with = "duration")]
    pub base: Duration,
    /// Bound of all bounds.
    #[serde(serialize_with = "duration")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

/// What becomes of a response with a server error once retries are spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ServerErrors {
    /// It is passed on unchanged.
    #[default]
    Relay,
    /// It becomes a 502 of our own, so that nothing of it reaches the client.
    BadGateway,
}

/// How endpoints are found to be unfit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Probes. None means that none are sent.
    pub active: Option<ActiveCheck>,
    /// Judgement by the outcome of requests. None means that there is none.
    pub outlier: Option<OutlierDetection>,
    /// Percentage of fit endpoints below which fitness is ignored. Zero means never.
    pub panic_threshold: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { active: None, outlier: None, panic_threshold: 50 }
    }
}

/// Probes of each endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActiveCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between the starts of two probes of one endpoint. Not zero.
    #[serde(serialize_with = "duration")]
    pub interval: Duration,
    /// Time allowed for one probe. Not zero.
    #[serde(serialize_with = "duration")]
    pub timeout: Duration,
    /// Passes in a row that make an unfit endpoint fit.
    pub healthy: NonZeroU32,
    /// Failures in a row that make a fit endpoint unfit.
    pub unhealthy: NonZeroU32,
    /// Port that is probed. None means that of the endpoint.
    pub port: Option<NonZeroU16>,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Probe {
    /// A GET whose status is expected.
    Http {
        /// Path with an optional query.
        path: Arc<str>,
        /// `Host` of the request. None means the address.
        host: Option<Arc<str>>,
        /// Statuses that pass.
        expect: Vec<RangeInclusive<u16>>,
    },
    /// That a connection opens.
    Tcp,
    /// `grpc.health.v1.Health/Check`: SERVING passes.
    Grpc {
        /// The service that is asked for; empty for the server as a whole.
        service: Arc<str>,
    },
}

/// Version of the PROXY protocol (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProxyProtocol {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn optional_duration<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.collect_str(&humantime::format_duration(*duration)),
        None => serializer.serialize_none(),
    }
}
