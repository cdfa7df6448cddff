//! What the pages count: gathered once for each of them from the snapshot in force.

use std::{collections::BTreeMap, sync::Arc};

use super::certificates::{self, Use};
use crate::{
    model::{Action, BackendId, Model, Problem, Route, Severity, Unavailable},
    routing::{Pool, Snapshot, same_port},
};

/// The snapshot in force with what is counted in it.
pub(super) struct Facts<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Milliseconds since the epoch of the live state.
    pub(super) now: u64,
    fitness: BTreeMap<&'a BackendId, Fitness>,
    /// Every certificate once, the first to expire first.
    pub(super) certificates: Vec<Use<'a>>,
    pub(super) routes: usize,
    /// Routes that answer 503.
    pub(super) unserved: usize,
    pub(super) errors: usize,
    pub(super) warnings: usize,
}

/// Endpoints of a backend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fitness {
    pub(super) all: usize,
    pub(super) fit: usize,
    /// So few are fit that the policy sends requests to all.
    pub(super) panics: bool,
}

impl Fitness {
    fn of(pool: &Pool, now: u64) -> Self {
        let policy = &pool.backend.policy;
        let all = pool.endpoints().len();
        let fit = pool.endpoints().iter().filter(|endpoint| endpoint.unfit(policy, now).is_none()).count();
        Self { all, fit, panics: pool.panics(fit) }
    }

    /// Why requests are answered 503; None when they are not.
    pub(super) fn refusal(self) -> Option<&'static str> {
        match self {
            Self { all: 0, .. } => Some("its Service has no endpoint"),
            Self { fit: 0, panics: false, .. } => Some("none of its endpoints is fit"),
            _ => None,
        }
    }
}

impl<'a> Facts<'a> {
    /// Counts what is in a snapshot.
    pub(super) fn gather(snapshot: &'a Snapshot, now: u64) -> Self {
        let fitness = snapshot.pools().iter().map(|(id, pool)| (id, Fitness::of(pool, now))).collect();
        let certificates = certificates::uses(&snapshot.compiled.model);
        let mut facts = Self { snapshot, now, fitness, certificates, routes: 0, unserved: 0, errors: 0, warnings: 0 };
        for route in facts.routes() {
            facts.routes += 1;
            facts.unserved += usize::from(facts.refusal(route).is_some());
        }
        for problem in facts.problems() {
            match problem.kind.severity() {
                Severity::Error => facts.errors += 1,
                Severity::Warning => facts.warnings += 1,
            }
        }
        facts
    }

    pub(super) fn model(&self) -> &'a Model {
        &self.snapshot.compiled.model
    }

    /// Every route, as requests are matched: by host, and in each the strongest first.
    pub(super) fn routes(&self) -> impl Iterator<Item = &'a Arc<Route>> + use<'a> {
        let model = self.model();
        model.hosts.values().flat_map(|host| host.routes.iter().chain(&host.default)).chain(&model.default)
    }

    pub(super) fn problems(&self) -> &'a [Problem] {
        &self.snapshot.compiled.problems
    }

    pub(super) fn fitness(&self, id: &BackendId) -> Fitness {
        self.fitness.get(id).copied().unwrap_or_default()
    }

    /// Why requests of a route are answered 503; None when they are served.
    pub(super) fn refusal(&self, route: &Route) -> Option<&'static str> {
        match &route.action {
            Action::Unavailable(Unavailable::BackendUnresolved) => Some("its Service or port cannot be used"),
            Action::Unavailable(Unavailable::Unprotected) => Some("what protects it is not supported"),
            Action::Forward(id) => self.fitness(id).refusal(),
        }
    }

    /// Backends that have no endpoint, or one that is not fit.
    pub(super) fn impaired(&self) -> usize {
        self.fitness.values().filter(|fitness| fitness.fit < fitness.all || fitness.all == 0).count()
    }

    /// Endpoints over all Service ports, and those of them that are fit.
    pub(super) fn endpoints(&self) -> Fitness {
        self.ports().fold(Fitness::default(), |sum, (id, _)| {
            let Fitness { all, fit, .. } = self.fitness(id);
            Fitness { all: sum.all + all, fit: sum.fit + fit, panics: false }
        })
    }

    /// Requests in flight to backends.
    pub(super) fn in_flight(&self) -> u64 {
        self.ports().map(|(_, pool)| u64::from(pool.in_flight())).sum()
    }

    /// One pool of each Service port: its pools share endpoints and counts.
    fn ports(&self) -> impl Iterator<Item = (&'a BackendId, &'a Arc<Pool>)> + use<'a> {
        let mut last = None;
        self.snapshot.pools().iter().filter(move |(id, _)| !last.replace(*id).is_some_and(|last| same_port(last, id)))
    }
}
