//! A backend is one port of one Service, with the addresses that serve it now.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Serialize, Serializer};

use super::Policy;

/// Names a backend: a Service, one of its ports, and what a route asks of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Number of the Service port; zero when the backend is no Service.
    pub port: u16,
    /// What a route asks for in place of what the Service says.
    pub variant: Variant,
}

/// What a route asks for in place of what its Service says. Routes that ask for different things of one Service port use
/// different backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variant {
    /// Protocol; None for the Service's own.
    pub protocol: Option<Protocol>,
    /// Which addresses are used.
    pub target: BackendTarget,
}

/// Which addresses of a Service are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendTarget {
    /// Those of its endpoints.
    #[default]
    Endpoints,
    /// Its cluster IP, which leaves the choice of an endpoint to the cluster's network.
    ClusterIp,
}

impl BackendId {
    /// The port of a Service as the Service describes it.
    pub fn new(namespace: impl Into<Arc<str>>, service: impl Into<Arc<str>>, port: u16) -> Self {
        Self { namespace: namespace.into(), service: service.into(), port, variant: Variant::default() }
    }
}

impl fmt::Display for BackendId {
    /// `namespace/service:port`, then `+` and each thing that is asked for: `shop/cart:80+Https+ClusterIp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)?;
        if let Some(protocol) = self.variant.protocol {
            write!(f, "+{protocol:?}")?;
        }
        match self.variant.target {
            BackendTarget::Endpoints => Ok(()),
            BackendTarget::ClusterIp => f.write_str("+ClusterIp"),
        }
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
    /// Addresses to use now, sorted by address, without duplicates. Empty means that nothing can answer.
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
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS by ALPN, also for gRPC.
    H2,
}

impl Protocol {
    /// Whether requests are multiplexed on few connections.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// The same over TLS.
    #[must_use]
    pub fn over_tls(self) -> Self {
        match self {
            Self::Http1 | Self::Https => Self::Https,
            Self::H2c | Self::H2 => Self::H2,
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// The scheme of URLs of such endpoints.
    pub fn scheme(self) -> &'static str {
        if self.is_tls() { "https" } else { "http" }
    }

    /// What is spoken, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::H2c => "HTTP/2 in clear text",
            Self::Https => "HTTP/1.1 over TLS",
            Self::H2 => "HTTP/2 over TLS",
        }
    }
}

/// One address that serves a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its share relative to the other endpoints. Zero gets nothing while another has more.
    #[serde(skip_serializing_if = "is_one")]
    pub weight: u16,
    /// Whether it comes before those that are not: it is in our zone, or meant for it. Where none is, all are.
    #[serde(skip_serializing_if = "is_true")]
    pub is_near: bool,
}

impl Endpoint {
    /// An endpoint as any other.
    pub fn new(address: Address) -> Self {
        Self { address, weight: 1, is_near: true }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference to the field")]
fn is_one(weight: &u16) -> bool {
    *weight == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference to the field")]
fn is_true(flag: &bool) -> bool {
    *flag
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

/// How far an IP address reaches, as far as it matters to whether traffic may be sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An ordinary address.
    Ordinary,
    /// This host itself.
    Loopback,
    /// Link-local, unspecified or multicast: never an endpoint.
    Forbidden,
}

impl Scope {
    /// The scope of an address; an IPv4 address mapped into IPv6 counts as the IPv4 address that it is.
    pub fn of(address: IpAddr) -> Self {
        let (loopback, forbidden) = match address.to_canonical() {
            IpAddr::V4(ip) => {
                (ip.is_loopback(), ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
            }
            IpAddr::V6(ip) => {
                (ip.is_loopback(), ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast())
            }
        };
        match (loopback, forbidden) {
            (true, _) => Self::Loopback,
            (false, true) => Self::Forbidden,
            (false, false) => Self::Ordinary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_no_endpoint_are_told_apart() {
        let cases = [
            ("10.0.0.1", Scope::Ordinary),
            ("127.0.0.1", Scope::Loopback),
            ("127.8.9.1", Scope::Loopback),
            ("169.254.169.254", Scope::Forbidden),
            ("0.0.0.0", Scope::Forbidden),
            ("224.0.0.1", Scope::Forbidden),
            ("255.255.255.255", Scope::Forbidden),
            ("fd00::1", Scope::Ordinary),
            ("::1", Scope::Loopback),
            ("::", Scope::Forbidden),
            ("fe80::1", Scope::Forbidden),
            ("ff02::1", Scope::Forbidden),
            ("::ffff:127.0.0.1", Scope::Loopback),
            ("::ffff:169.254.169.254", Scope::Forbidden),
            ("::ffff:10.0.0.1", Scope::Ordinary),
        ];
        for (address, scope) in cases {
            assert_eq!(Scope::of(address.parse().unwrap()), scope, "{address}");
        }
    }

    #[test]
    fn an_id_names_what_is_asked_for() {
        let mut id = BackendId::new("shop", "cart", 80);
        assert_eq!(id.to_string(), "shop/cart:80");
        id.variant = Variant { protocol: Some(Protocol::Https), target: BackendTarget::ClusterIp };
        assert_eq!(id.to_string(), "shop/cart:80+Https+ClusterIp");
    }
}
