//! Settings of the data plane, with their defaults.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    time::Duration,
};

use ipnet::IpNet;

/// How the data plane listens and what it allows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses for HTTP/1.1 and, with prior knowledge, HTTP/2 in clear text.
    pub http: Vec<SocketAddr>,
    /// Addresses for TLS; the protocol is chosen by ALPN.
    pub https: Vec<SocketAddr>,
    /// Other ports of this process, such as the admin port: on an address of this host they are never connected to.
    pub reserved_ports: Vec<u16>,
    /// Threads that serve traffic; each accepts on every address.
    pub threads: NonZeroUsize,
    /// Peers whose `X-Forwarded-*` fields are believed.
    pub trusted_cidrs: Vec<IpNet>,
    /// Requests in flight over the whole process; more are answered 503. None means no limit.
    pub max_concurrent_requests: Option<NonZeroUsize>,
    /// Largest request body in bytes; more is answered 413. None means no limit.
    pub max_body_bytes: Option<u64>,
    /// `max-age` of `Strict-Transport-Security` on responses over TLS. None sends none.
    pub hsts: Option<Duration>,
    /// Send `Server: pierhead` when the backend named none.
    pub server_header: bool,
    /// Add `Via` (RFC 9110 §7.6.3) to requests and responses.
    pub via: bool,
    /// Limits of time.
    pub timeouts: Timeouts,
}

/// Limits of time. None of them is zero.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// First byte to end of a request head, and how long a new connection may say nothing.
    pub request_head: Duration,
    /// TLS handshake.
    pub handshake: Duration,
    /// Client connection without a request.
    pub keep_alive: Duration,
    /// Between reads or writes of a body.
    pub idle: Duration,
    /// End of the request head sent to head of the response.
    pub response_head: Duration,
    /// Connection to an endpoint without a request.
    pub upstream_keep_alive: Duration,
    /// Upgraded connection, such as a WebSocket, on which nothing moves.
    pub tunnel: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: vec![(Ipv4Addr::UNSPECIFIED, 8080).into()],
            https: vec![(Ipv4Addr::UNSPECIFIED, 8443).into()],
            reserved_ports: Vec::new(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            trusted_cidrs: Vec::new(),
            max_concurrent_requests: None,
            max_body_bytes: None,
            hsts: None,
            server_header: true,
            via: false,
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_head: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            idle: Duration::from_mins(1),
            response_head: Duration::from_mins(1),
            upstream_keep_alive: Duration::from_mins(1),
            tunnel: Duration::from_hours(1),
        }
    }
}
