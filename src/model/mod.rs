//! What is wanted: the immutable value that sources compile into and the data plane serves from.
//!
//! It knows nothing of Kubernetes and does no I/O. Types derive `Serialize` for golden files and `/debug/snapshot`
//! (private keys are left out), never `Deserialize`: the schemas users write live in `sources`.

mod backend;
mod builder;
mod certificate;
mod endpoint_tls;
mod origin;
mod place;
mod policy;
mod problem;
mod provenance;
mod route;

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

pub use backend::{Address, Backend, BackendId, BackendTarget, Endpoint, Protocol, Scope, Variant};
pub use builder::Builder;
pub use certificate::Certificate;
pub use endpoint_tls::{EndpointTls, Verification};
pub use origin::Origin;
pub use place::{Place, Text};
pub use policy::{
    ActiveCheck, AffinityMode, Backoff, Connections, CookieAffinity, HashOn, Health, Limits, LoadBalancing, Policy,
    Probe, ProxyProtocol, Retries, RetryOn, SameSite, ServerErrors, Timeouts, ZonePreference,
};
pub use problem::{Problem, ProblemKind, Severity};
pub use provenance::{Loss, Lost, Provenance, SettingsOrigin};
pub use route::{Action, Route, Unavailable};

use crate::matching::HostPattern;

/// Everything the data plane needs, as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Model {
    /// Routes by host.
    pub hosts: BTreeMap<HostPattern, Host>,
    /// Takes what no host took; without it the answer is 404.
    pub default: Option<Arc<Route>>,
    /// Every backend that a route names.
    pub backends: BTreeMap<BackendId, Arc<Backend>>,
    /// Hosts served over TLS; None for those that use the default certificate.
    pub certificates: BTreeMap<HostPattern, Option<Arc<Certificate>>>,
    /// Certificate for hosts without one; None means one signed by ourselves at start.
    pub default_certificate: Option<Arc<Certificate>>,
}

/// The routes of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Routes, strongest match first.
    pub routes: Vec<Arc<Route>>,
    /// Takes what no path took.
    pub default: Option<Arc<Route>>,
}

/// A model together with everything that was wrong on the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compiled {
    /// What is wanted.
    pub model: Model,
    /// What was wrong, sorted.
    pub problems: Vec<Problem>,
    /// Where it comes from.
    #[serde(skip)]
    pub provenance: Provenance,
    /// Which compilation of what is watched it is, or holds the result of; zero when nothing is watched.
    #[serde(skip)]
    pub revision: u64,
}

impl Compiled {
    /// Whether traffic gets the same from both, and the same is wrong with them: only provenance and revision may differ.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.model == other.model && self.problems == other.problems
    }
}
