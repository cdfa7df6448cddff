//! The model in the form requests need it: indexed, with live state carried over.

use std::{collections::BTreeMap, sync::Arc};

use super::{Certificates, HostRoutes, Hosts, Pool};
use crate::{
    model::{Action, BackendId, Compiled, Route, Unavailable},
    telemetry::metrics::{Metrics, RouteLabels, RouteMetrics},
};

/// One consistent configuration: routes, endpoints and certificates of the same moment.
#[derive(Debug)]
pub struct Snapshot {
    /// What it was built of.
    pub compiled: Arc<Compiled>,
    /// Routes by host and path.
    pub hosts: Hosts,
    /// Certificates by server name.
    pub certificates: Certificates,
    pools: BTreeMap<BackendId, Arc<Pool>>,
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
    pub fn build(compiled: Arc<Compiled>, previous: Option<&Self>, metrics: &Metrics) -> Self {
        let model = &compiled.model;
        let pools: BTreeMap<BackendId, Arc<Pool>> = model
            .backends
            .iter()
            .map(|(id, backend)| {
                let known = previous.and_then(|snapshot| snapshot.pools.get(id));
                let pool = match known {
                    Some(pool) if pool.backend == *backend => Arc::clone(pool),
                    _ => Arc::new(Pool::build(Arc::clone(backend), known.map(|pool| &**pool))),
                };
                (id.clone(), pool)
            })
            .collect();
        let entry = |route: &Arc<Route>| {
            let target = match &route.action {
                Action::Forward(id) => match pools.get(id) {
                    Some(pool) => Target::Pool(Arc::clone(pool)),
                    None => Target::Unavailable(Unavailable::BackendUnresolved),
                },
                Action::Unavailable(reason) => Target::Unavailable(*reason),
            };
            let metrics = metrics.route(labels(route));
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

    /// Pools by backend.
    pub fn pools(&self) -> &BTreeMap<BackendId, Arc<Pool>> {
        &self.pools
    }
}

fn labels(route: &Route) -> RouteLabels {
    let service = match &route.action {
        Action::Forward(id) => Arc::clone(&id.service),
        Action::Unavailable(_) => Arc::default(),
    };
    RouteLabels { namespace: Arc::clone(&route.origin.namespace), ingress: Arc::clone(&route.origin.name), service }
}
