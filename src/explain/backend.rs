//! The backend of a rule: its endpoints, its settings, and what would be picked.

use super::{
    Answer, By, Explanation, Knowledge, Request,
    settings::{settings, text},
    source,
    view::{BackendView, EndpointView},
};
use crate::{
    balance::Strategy,
    model::{Compiled, EndpointTls, Origin, Problem, ProblemKind, Unavailable},
    proxy::{Affinity, Error},
    routing::{Certainty, Entry, Live, Pool, Preview, Selection, Snapshot, Target, Unfit},
    telemetry::Reason,
};

/// Says where the rule leads to.
pub(super) fn explain(
    view: &mut Explanation,
    entry: &Entry,
    live: &Live,
    snapshot: &Snapshot,
    request: &Request,
    knowledge: Knowledge,
) {
    let pool = match &entry.target {
        Target::Pool(pool) => pool,
        Target::Unavailable(reason) => {
            view.answer = Answer::error(Error::Unavailable(*reason));
            return;
        }
    };
    let now = live.now();
    let policy = &pool.backend.policy;
    let affinity = Affinity::read(policy, &request.head.uri, &request.head.headers, request.client);
    let (key, session) = (affinity.key, affinity.session);
    let selection = Selection { thread: 0, now, client: request.client, key, session, tried: &[] };
    let preview = pool.preview(&selection);
    let is_full = pool.limit().is_some_and(|limit| pool.in_flight() >= limit);
    let may_wait = pool.pending() < policy.limits.max_pending as usize;
    view.answer = match &preview {
        _ if policy.tls == EndpointTls::Unavailable => Answer::error(Error::Unavailable(Unavailable::Unprotected)),
        _ if is_full && !may_wait => Answer::error(Error::BackendLimit),
        Err(why) => Answer::error((*why).into()),
        Ok(_) => Answer {
            by: By::Backend,
            status: None,
            reason: None,
            message: format!("from backend {}", pool.backend.id),
            location: None,
        },
    };
    let origin = snapshot.compiled.provenance.settings.get(&pool.backend.id).cloned().unwrap_or_default();
    let preview = preview.ok();
    let certain = preview.as_ref().and_then(|preview| preview.certain);
    view.backend = Some(BackendView {
        id: pool.backend.id.to_string(),
        policy: origin.policy.as_ref().map(|policy| source(&snapshot.compiled, policy, "")),
        in_flight: (knowledge == Knowledge::Live).then(|| pool.in_flight()),
        limit: pool.limit(),
        pending: pool.pending(),
        pick: pick(pool, preview.as_ref(), &selection),
        picked: certain.map(|(index, _)| pool.endpoints()[index].address.to_string()),
        endpoints: endpoints(pool, preview.as_ref(), now),
        settings: settings(&pool.backend, &origin, &entry.route),
    });
    view.hints.extend(hints(view.answer.reason, pool, preview.as_ref(), is_full));
    if knowledge == Knowledge::ObjectsOnly && policy.load_balancing.subset.is_some() {
        view.hints
            .push("each replica uses a subset of the endpoints of its own: ask a running one by --admin".to_owned());
    }
}

/// The objects that the backend of a rule is made of.
pub(super) fn origins(entry: &Entry, compiled: &Compiled, origins: &mut Vec<Origin>) {
    let Target::Pool(pool) = &entry.target else { return };
    let id = &pool.backend.id;
    origins.push(Origin::new("Service", id.namespace.clone(), id.service.clone()));
    let settings = compiled.provenance.settings.get(id);
    origins.extend(settings.and_then(|settings| settings.policy.clone()));
    origins.extend(settings.into_iter().flat_map(|settings| settings.slices.iter().cloned()));
    let of_service = |problem: &&Problem| {
        let origin = &problem.origin;
        // Of a slice that could not be read only the name is known, as generated from that of the Service. A policy that
        // is refused names its target only in its text.
        let slice = origin.kind == "EndpointSlice"
            && matches!(problem.kind, ProblemKind::Malformed(_))
            && origin.name.rsplit_once('-').is_some_and(|(service, _)| service == &*id.service);
        let policy = origin.kind == "BackendPolicy" && pool.backend.policy.tls == EndpointTls::Unavailable;
        origin.namespace == id.namespace && (slice || policy)
    };
    origins.extend(compiled.problems.iter().filter(of_service).map(|problem| problem.origin.clone()));
}

fn endpoints(pool: &Pool, preview: Option<&Preview>, now: u64) -> Vec<EndpointView> {
    let backend = &pool.backend;
    let view = |(index, state): (usize, &std::sync::Arc<crate::routing::EndpointState>)| {
        let endpoint = pool.declared(state);
        let prospect = preview.map(|preview| preview.endpoints[index]);
        let is_candidate = prospect.is_some_and(|prospect| prospect.is_open);
        let failure = || state.probe_failure().map_or(String::new(), |failure| format!(": {failure}"));
        let fitness = match state.unfit(&backend.policy, now) {
            None => "fit".to_owned(),
            Some(Unfit::Probes) => format!("unfit, its probes fail{}", failure()),
            Some(Unfit::Ejected(time)) => format!("ejected, comes back in {} s", time.as_secs() + 1),
        };
        EndpointView {
            address: state.address.to_string(),
            state: fitness,
            is_candidate,
            share_percent: prospect.map_or(0.0, |prospect| prospect.share * 100.0),
            weight: endpoint.map_or(1, |endpoint| endpoint.weight),
            near: endpoint.is_none_or(|endpoint| endpoint.is_near),
            in_flight: state.in_flight(),
            latency_milliseconds: state.latency(now),
            ramp_percent: state.ramp(backend.policy.load_balancing.slow_start, now) * 100.0,
        }
    };
    pool.endpoints().iter().enumerate().map(view).collect()
}

fn pick(pool: &Pool, preview: Option<&Preview>, selection: &Selection<'_>) -> String {
    let policy = &pool.backend.policy;
    let Some(preview) = preview else { return "none can be picked".to_owned() };
    if let Some((index, why)) = preview.certain {
        let why = match why {
            Certainty::Cookie => "the cookie of the client names it".to_owned(),
            Certainty::ClientAddress => format!("clients stay by their address, here {}", selection.client),
            Certainty::Hash => {
                let on = policy.load_balancing.hash_on.as_ref().map(text).unwrap_or_default();
                format!("the hash of {on} belongs to it")
            }
            Certainty::OnlyOne => "no other one may be picked".to_owned(),
        };
        return format!("{}: {why}", pool.endpoints()[index].address);
    }
    let how = match policy.load_balancing.strategy {
        Strategy::RoundRobin => "each candidate in turn, by weight (RoundRobin)".to_owned(),
        Strategy::Random => "a candidate at random, by weight (Random)".to_owned(),
        Strategy::LeastRequest { choices } => {
            format!("of {choices} candidates drawn by weight the one with fewer requests in flight (LeastRequest)")
        }
        Strategy::PeakEwma { choices } => {
            format!("of {choices} candidates drawn by weight the one with the lower latency and load (PeakEwma)")
        }
        Strategy::ConsistentHash { .. } | Strategy::Maglev => {
            let on = policy.load_balancing.hash_on.as_ref().map(text).unwrap_or_default();
            format!("a candidate at random: the request has no {on} to hash")
        }
    };
    match &policy.cookie_affinity {
        Some(cookie) => format!("{how}; the client then stays with it by cookie {}", cookie.name),
        None => how,
    }
}

fn hints(reason: Option<Reason>, pool: &Pool, preview: Option<&Preview>, is_full: bool) -> Vec<String> {
    let id = &pool.backend.id;
    let mut hints = Vec::new();
    match reason {
        Some(Reason::NoEndpoint) => hints.push(format!(
            "no Pod of Service {}/{} is ready for this port: kubectl -n {} get endpointslices -l \
             kubernetes.io/service-name={}",
            id.namespace, id.service, id.namespace, id.service
        )),
        Some(Reason::NoneFit) => {
            hints.push("every endpoint is unfit, and health.panicThreshold is 0: mend the endpoints".to_owned());
        }
        Some(Reason::BackendLimit) => {
            hints.push("raise limits.maxConcurrentRequests or limits.maxPending, or add endpoints".to_owned());
        }
        Some(Reason::Unprotected) => {
            hints.push("mend the tls of the BackendPolicy, as the problems above say".to_owned());
        }
        _ if is_full => hints.push("the backend is at its limit: the request waits for its turn".to_owned()),
        _ => {}
    }
    if preview.is_some_and(|preview| preview.panic) {
        hints.push("fewer endpoints are fit than health.panicThreshold: fitness does not count now".to_owned());
    }
    hints
}
