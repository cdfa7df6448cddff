//! The rules that every front end shares: first claim wins, nothing dangles.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::{
    Action, Backend, BackendId, Certificate, Compiled, Loss, Lost, Model, Origin, Problem, ProblemKind, Provenance,
    Route, SettingsOrigin, Unavailable,
};
use crate::{
    filters::Filter,
    matching::{HostPattern, PathPattern},
};

/// Collects routes, backends and certificates into a [`Model`].
///
/// Sources claim in a total order, strongest claim first (oldest object, then namespace/name). The first claim on a
/// (host, path) wins; the loser is told by a [`ProblemKind::Conflict`] and keeps its other routes.
#[derive(Debug, Default)]
pub struct Builder {
    model: Model,
    problems: Vec<Problem>,
    provenance: Provenance,
    claims: BTreeMap<(HostPattern, Option<PathPattern>), Origin>,
}

impl Builder {
    /// An empty model.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports something that was wrong.
    pub fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether the backend is there already.
    pub fn has_backend(&self, id: &BackendId) -> bool {
        self.model.backends.contains_key(id)
    }

    /// Adds a backend that routes may name.
    pub fn backend(&mut self, backend: Backend) {
        self.model.backends.entry(backend.id.clone()).or_insert_with(|| Arc::new(backend));
    }

    /// Makes the host known: its requests fall through to no other, even where no path takes them.
    pub fn host(&mut self, host: HostPattern) {
        self.model.hosts.entry(host).or_default();
    }

    /// Claims a path of a host, or with no path the host's default backend.
    pub fn route(&mut self, route: Route) {
        match self.claims.entry((route.host.clone(), route.path.clone())) {
            Entry::Occupied(holder) => {
                let what = match &route.path {
                    None => format!("the default backend of host {}", route.host),
                    Some(path) => format!("host {} {path}", route.host),
                };
                let winner = holder.get().clone();
                let kind = ProblemKind::Conflict { what, winner: winner.clone() };
                self.problems.push(Problem { origin: route.origin.clone(), field: route.field.clone(), kind });
                self.provenance.lost.push(lost(route, winner));
            }
            Entry::Vacant(claim) => {
                claim.insert(route.origin.clone());
                let host = self.model.hosts.entry(route.host.clone()).or_default();
                match route.path {
                    None => host.default = Some(Arc::new(route)),
                    Some(_) => host.routes.push(Arc::new(route)),
                }
            }
        }
    }

    /// Whether somebody has claimed the class-wide default backend.
    pub fn has_default(&self) -> bool {
        self.model.default.is_some()
    }

    /// Claims the class-wide default backend: what no host took.
    pub fn default_route(&mut self, route: Route) {
        if let Some(holder) = &self.model.default {
            let winner = holder.origin.clone();
            let kind = ProblemKind::Conflict { what: "the class-wide default backend".into(), winner: winner.clone() };
            self.problems.push(Problem { origin: route.origin.clone(), field: route.field.clone(), kind });
            self.provenance.lost.push(lost(route, winner));
            return;
        }
        self.model.default = Some(Arc::new(route));
    }

    /// Marks a host as served over TLS, with its certificate if it has one of its own.
    ///
    /// The first certificate of a host wins; another one is a conflict.
    pub fn tls(&mut self, origin: &Origin, field: &str, host: HostPattern, certificate: Option<Arc<Certificate>>) {
        let Some(certificate) = certificate else {
            self.host_with_tls(host);
            return;
        };
        match self.model.certificates.entry(host).or_default() {
            slot @ None => *slot = Some(certificate),
            Some(held) if held.origin == certificate.origin => {}
            Some(held) => {
                let what = "the certificate of this host".to_owned();
                let kind = ProblemKind::Conflict { what, winner: held.origin.clone() };
                self.problems.push(Problem { origin: origin.clone(), field: field.to_owned(), kind });
            }
        }
    }

    /// Marks a host as served over TLS with the default certificate, unless it has one of its own.
    pub fn host_with_tls(&mut self, host: HostPattern) {
        self.model.certificates.entry(host).or_default();
    }

    /// Sets the certificate for hosts without one of their own.
    pub fn default_certificate(&mut self, certificate: Arc<Certificate>) {
        self.model.default_certificate = Some(certificate);
    }

    /// Takes down a rule that becomes no route.
    pub fn lost(&mut self, lost: Lost) {
        self.provenance.lost.push(lost);
    }

    /// Takes down when an object was created, in seconds since 1970.
    pub fn created(&mut self, origin: Origin, seconds: i64) {
        self.provenance.created.insert(origin, seconds);
    }

    /// Takes down where the settings of a backend come from.
    pub fn settings(&mut self, id: BackendId, origin: SettingsOrigin) {
        self.provenance.settings.insert(id, origin);
    }

    /// Takes over what is known of the origins of a part.
    pub fn provenance(&mut self, part: &Provenance) {
        let Provenance { places, created, lost, settings } = part.clone();
        self.provenance.places.extend(places);
        self.provenance.created.extend(created);
        self.provenance.lost.extend(lost);
        for (id, origin) in settings {
            self.provenance.settings.entry(id).or_insert(origin);
        }
    }

    /// The model and what was wrong, with each host's routes strongest first.
    pub fn finish(self) -> Compiled {
        let Self { mut model, mut problems, provenance, .. } = self;
        let backends = std::mem::take(&mut model.backends);
        for (pattern, host) in &mut model.hosts {
            let covered = model.certificates.contains_key(pattern)
                || pattern.wildcard().is_some_and(|wildcard| model.certificates.contains_key(&wildcard));
            let routes = host.routes.iter_mut().chain(host.default.as_mut());
            for route in routes {
                settle(Arc::make_mut(route), covered, &backends);
            }
            host.routes.sort_by(|a, b| a.path.cmp(&b.path));
        }
        if let Some(route) = &mut model.default {
            settle(Arc::make_mut(route), false, &backends);
        }
        model.backends = backends;
        problems.sort();
        problems.dedup();
        Compiled { model, problems, provenance, revision: 0 }
    }
}

fn lost(route: Route, winner: Origin) -> Lost {
    let Route { origin, field, host, path, .. } = route;
    Lost { origin, field, host, path, why: Loss::Conflict(winner) }
}

/// Keeps the invariants: no route names a missing backend, no plain host redirects to TLS unless forced.
fn settle(route: &mut Route, covered: bool, backends: &BTreeMap<BackendId, Arc<Backend>>) {
    if let Action::Forward(id) = &route.action
        && !backends.contains_key(id)
    {
        route.action = Action::Unavailable(Unavailable::BackendUnresolved);
    }
    route
        .filters
        .retain(|filter| covered || !matches!(filter, Filter::HttpsRedirect(redirect) if redirect.only_with_tls));
}
