//! The model in the form requests need it: indexed, with live state carried over.

use std::{collections::BTreeMap, sync::Arc};

use super::{Certificates, HostRoutes, Hosts, Pool};
use crate::{
    model::{Action, BackendId, Compiled, Route, Unavailable, Variant},
    telemetry::metrics::{Metrics, RouteLabels, RouteMetrics},
};

/// One consistent configuration: routes, endpoints and certificates of the same moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What it was built of.
    pub compiled: Arc<Compiled>,
    /// Routes by host and path.
    pub hosts: Hosts,
    /// Certificates by server name.
    pub certificates: Certificates,
    pools: BTreeMap<BackendId, Arc<Pool>>,
}

/// Where and when a snapshot is built.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Counts requests.
    pub metrics: &'a Metrics,
    /// Data-plane threads.
    pub threads: usize,
    /// Hash of the name of this replica: its own among those that serve the same.
    pub replica: u64,
    /// Milliseconds since [`Live::epoch`](super::Live::epoch).
    pub now: u64,
}

/// A route with what its requests need.
#[derive(Debug)]
pub struct Entry {
    /// The rule.
    pub route: Arc<Route>,
    /// Where its requests go.
    pub target: Target,
    /// Counts its requests.
    pub metrics: Arc<RouteMetrics>,
}

/// Where the requests of a route go.
#[derive(Debug)]
pub enum Target {
    /// To an endpoint of this pool.
    Pool(Arc<Pool>),
    /// Nowhere: they are answered 503.
    Unavailable(Unavailable),
}

impl Snapshot {
    /// Indexes the model; pools keep what `previous` knows of the same backend and address.
    pub fn build(compiled: Arc<Compiled>, previous: Option<&Self>, site: &Site<'_>) -> Self {
        let model = &compiled.model;
        let mut pools = BTreeMap::<BackendId, Arc<Pool>>::new();
        for (id, backend) in &model.backends {
            let known = previous.and_then(|snapshot| snapshot.pools.get(id));
            let pool = match known {
                Some(pool) if pool.backend == *backend => Arc::clone(pool),
                _ => {
                    let sibling = sibling(id, &pools).or_else(|| sibling(id, &previous?.pools));
                    Arc::new(Pool::build(Arc::clone(backend), known.map(|pool| &**pool), sibling, site))
                }
            };
            pools.insert(id.clone(), pool);
        }
        apply_limits(&pools);
        let entry = |route: &Arc<Route>| {
            let target = match &route.action {
                Action::Forward(id) => match pools.get(id) {
                    Some(pool) => Target::Pool(Arc::clone(pool)),
                    None => Target::Unavailable(Unavailable::BackendUnresolved),
                },
                Action::Unavailable(reason) => Target::Unavailable(*reason),
            };
            let metrics = site.metrics.route(route_labels(route));
            Arc::new(Entry { route: Arc::clone(route), target, metrics })
        };
        let mut hosts = Hosts::default();
        for (pattern, host) in &model.hosts {
            hosts.insert(pattern, HostRoutes::build(&host.routes, host.default.as_ref(), entry));
        }
        if let Some(default) = &model.default {
            hosts.set_default(entry(default));
        }
        let certificates = Certificates::build(model);
        Self { compiled, hosts, certificates, pools }
    }

    /// The same with another provenance: `compiled` agrees with what this was built of.
    pub(super) fn annotated(&self, compiled: Arc<Compiled>) -> Self {
        Self { compiled, ..self.clone() }
    }

    /// Pools by backend.
    pub fn pools(&self) -> &BTreeMap<BackendId, Arc<Pool>> {
        &self.pools
    }
}

/// A pool of the same Service port, of which a route asks for something else.
fn sibling<'a>(id: &BackendId, pools: &'a BTreeMap<BackendId, Arc<Pool>>) -> Option<&'a Pool> {
    let plain = BackendId { variant: Variant::default(), ..id.clone() }; // the first of its port
    let (first, pool) = pools.range(plain..).next()?;
    same_port(first, id).then_some(&**pool)
}

/// Puts the limits of each Service port in force by the most endpoints that one of its pools has, whatever was built last.
fn apply_limits(pools: &BTreeMap<BackendId, Arc<Pool>>) {
    let pools: Vec<&Arc<Pool>> = pools.values().collect();
    for of_port in pools.chunk_by(|a, b| same_port(&a.backend.id, &b.backend.id)) {
        if let Some(largest) = of_port.iter().max_by_key(|pool| pool.endpoints().len()) {
            largest.apply_limits(largest.endpoints().len());
        }
    }
}

/// Whether both are pools of one Service port, which share all that is known of it.
pub fn same_port(a: &BackendId, b: &BackendId) -> bool {
    (&a.namespace, &a.service, a.port) == (&b.namespace, &b.service, b.port)
}

/// What the requests of a route are counted by.
pub fn route_labels(route: &Route) -> RouteLabels {
    let service = match &route.action {
        Action::Forward(id) => Arc::clone(&id.service),
        Action::Unavailable(_) => Arc::default(),
    };
    RouteLabels { namespace: Arc::clone(&route.origin.namespace), ingress: Arc::clone(&route.origin.name), service }
}
