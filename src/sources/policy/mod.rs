//! The policy block that users write, shared by the CRD and manifest files, and its conversion into typed values.
//!
//! One module for each block: its schema, and its value in [`model::Policy`]. The rules of the schema are applied by the
//! API server alone, so the conversion holds them too. It never fails: what is refused is told and counts as not
//! written. A new field is added here, in [`model::Policy`], and in the code that acts on it.
#![expect(unreachable_pub, reason = "the derive macros repeat the structs inside of functions")]

mod affinity;
mod connections;
mod health;
mod limits;
mod load_balancing;
mod protocol;
mod refusals;
mod retries;
mod size;
mod time;
mod timeouts;
mod tls;
mod written;

pub use affinity::{AffinityModeName, Cookie, SameSiteName, SessionAffinity};
pub use connections::Connections;
pub use health::{ActiveCheck, GrpcProbe, Health, HttpProbe, Outlier, TcpProbe};
pub use limits::Limits;
pub use load_balancing::{Hash, HashOnName, LoadBalancing, StrategyName, Subset, ZoneName};
pub use protocol::{ProtocolName, ProxyProtocolName};
pub use retries::{Backoff, Budget, Hedge, Retries, RetryOnName, ServerErrorsName};
pub use size::Size;
pub use time::{PositiveTime, Time};
pub use timeouts::Timeouts;
pub use tls::{CertificateReference, CertificateReferenceKind, Reference, ReferenceKind, Tls};

pub(super) use refusals::Refusals;
pub(super) use tls::{Judged, References};
pub(super) use written::written;

use std::sync::Arc;

use super::kubernetes::api::BackendPolicySpec;
use crate::model::{self, BackendId, EndpointTls, Protocol};

/// A policy with its references followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Converted {
    /// How requests are balanced, limited, retried and checked; a cookie may still be without a name.
    policy: Arc<model::Policy>,
    /// How endpoints are spoken to; None for what the Service port says.
    protocol: Option<ProtocolName>,
}

impl Converted {
    /// The policy of a backend.
    pub(super) fn policy(&self, backend: &BackendId) -> Arc<model::Policy> {
        let mut policy = Arc::clone(&self.policy);
        let nameless = policy.cookie_affinity.clone().filter(|cookie| cookie.name.is_empty());
        if let Some(cookie) = nameless {
            let named = model::CookieAffinity { name: affinity::name_for(backend), ..cookie };
            Arc::make_mut(&mut policy).cookie_affinity = Some(named);
        }
        policy
    }

    /// The same, but nothing is sent in clear text: what it leaves unprotected is unavailable.
    pub(super) fn closed(&self) -> Self {
        let mut closed = self.clone();
        if closed.policy.tls == EndpointTls::Unverified {
            Arc::make_mut(&mut closed.policy).tls = EndpointTls::Unavailable;
        }
        closed
    }

    /// How endpoints of a port are spoken to whose Service says `own`, where a route may have `asked` for something.
    ///
    /// With `tls` it is always a protocol over TLS.
    pub(super) fn protocol(&self, own: Protocol, asked: Option<Protocol>) -> Protocol {
        let with_tls = self.policy.tls != EndpointTls::Unverified;
        let protocol = asked.or(self.protocol.map(|name| name.protocol(with_tls))).unwrap_or(own);
        if with_tls { protocol.over_tls() } else { protocol }
    }
}

/// Fills in defaults and follows references.
pub(super) fn convert(spec: &BackendPolicySpec, references: &impl References, refusals: &mut Refusals) -> Converted {
    let load_balancing = spec.load_balancing.convert(refusals);
    let cookie_affinity = spec.session_affinity.as_ref().map(|affinity| affinity.convert(refusals));
    let cookie_affinity = cookie_affinity.filter(|_| {
        let hashes = load_balancing.hash_on.is_some();
        if hashes {
            let expected = "no affinity by cookie beside a strategy that hashes";
            refusals.refuse("sessionAffinity", "cookie", expected);
        }
        !hashes
    });
    let tls = spec.tls.as_ref().map_or(EndpointTls::Unverified, |tls| tls.convert(references, refusals));
    let protocol = spec.protocol.filter(|protocol| {
        let clear = *protocol == ProtocolName::H2C && spec.tls.is_some();
        if clear {
            refusals.refuse("protocol", "H2C", "HTTP1, HTTP2 or GRPC beside tls: H2C is clear text");
        }
        !clear
    });
    let policy = model::Policy {
        load_balancing,
        cookie_affinity,
        connections: spec.connections.as_ref().map(|block| block.convert(refusals)).unwrap_or_default(),
        limits: spec.limits.as_ref().map(|block| block.convert(refusals)).unwrap_or_default(),
        timeouts: spec.timeouts.as_ref().map(|block| block.convert(refusals)).unwrap_or_default(),
        retries: spec.retries.as_ref().map(|block| block.convert(refusals)).unwrap_or_default(),
        server_errors: spec.server_errors.into(),
        health: spec.health.as_ref().map(|block| block.convert(refusals)).unwrap_or_default(),
        tls,
        proxy_protocol: spec.proxy_protocol.map(Into::into),
    };
    Converted { policy: Arc::new(policy), protocol }
}
