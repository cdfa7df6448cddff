//! A backend is one port of one Service, with the addresses that serve it now.

use std::{fmt, net::SocketAddr, sync::Arc};

use serde::{Serialize, Serializer};

use super::Policy;

/// Names a backend: a Service and one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Number of the Service port; zero when the backend is no Service.
    pub port: u16,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

impl Serialize for BackendId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One port of one Service and where it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its name.
    pub id: BackendId,
    /// How its endpoints are spoken to.
    pub protocol: Protocol,
    /// Addresses to use now, sorted, without duplicates. Empty means that nothing can answer.
    pub endpoints: Vec<Endpoint>,
    /// Requests of one client stay on one endpoint (Service `sessionAffinity: ClientIP`).
    pub client_ip_affinity: bool,
    /// How requests are balanced and limited.
    pub policy: Arc<Policy>,
}

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    #[default]
    Http1,
    /// HTTP/2 in clear text with prior knowledge (RFC 9113 §3.3), also for gRPC.
    H2c,
    /// HTTP/1.1 over TLS. The certificate is not verified.
    Https,
    /// HTTP/2 over TLS by ALPN, also for gRPC. The certificate is not verified.
    H2,
}

impl Protocol {
    /// Whether requests are multiplexed on few connections.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

/// One address that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// IP address and port.
    Socket(SocketAddr),
    /// A name of the domain name system, resolved at each connect; never to loopback or link-local.
    Name {
        /// Host name.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
