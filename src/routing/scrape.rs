//! What a scrape of the metrics finds in the snapshot in force: endpoints, connections, queues, limits, certificates.
//!
//! It is read when somebody asks; nothing of it is counted while requests run.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{EndpointState, Pool, Snapshot, Unfit, live::Retired, snapshot::same_port};
use crate::{
    model::{Certificate, Compiled, Host},
    telemetry::metrics::{Family, table},
};

/// Reads the snapshot in force, if there still is one.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) current: Weak<ArcSwap<Snapshot>>,
    pub(super) retired: Retired,
    /// The moment that every time in the live state counts from.
    pub(super) epoch: Instant,
}

/// States of an endpoint.
const STATES: [&str; 3] = ["fit", "ejected", "failing_probes"];

/// What the pools of one Service port come to.
#[derive(Default)]
struct Port {
    /// Endpoints by state.
    states: [u64; STATES.len()],
    open: u64,
    idle: u64,
    waiting: u64,
}

impl Port {
    fn of(pools: &[&Arc<Pool>], now: u64) -> Self {
        let (mut port, mut seen) = (Self::default(), BTreeSet::new());
        for pool in pools {
            // Pools of one port share their endpoints.
            for endpoint in pool.endpoints().iter().filter(|endpoint| seen.insert(endpoint.id)) {
                port.add(endpoint, pool, now);
            }
        }
        port
    }

    fn add(&mut self, endpoint: &EndpointState, pool: &Pool, now: u64) {
        let state = match endpoint.unfit(&pool.backend.policy, now) {
            None => 0,
            Some(Unfit::Ejected(_)) => 1,
            Some(Unfit::Probes) => 2,
        };
        self.states[state] += 1;
        self.open += u64::from(endpoint.slots.open());
        self.idle += u64::from(endpoint.slots.idle());
        self.waiting += u64::from(endpoint.slots.waiting());
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(current) = self.current.upgrade() else { return Ok(()) };
        // What has left the configuration leaves the next scrape with the last snapshot that has it.
        if let Ok(mut retired) = self.retired.try_lock() {
            retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        }
        let snapshot = current.load_full();
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut families = upstreams(&snapshot, now);
        families.extend(configuration(&snapshot.compiled));
        families.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

fn upstreams(snapshot: &Snapshot, now: u64) -> Vec<Family<'_>> {
    let mut endpoints = table::ENDPOINTS.family();
    let (mut open, mut idle) = (table::UPSTREAM_CONNECTIONS.family(), table::CONNECTIONS_KEPT.family());
    let (mut in_flight, mut pending) = (table::UPSTREAM_IN_FLIGHT.family(), table::PENDING.family());
    let mut limit = table::LIMIT.family();
    let pools: Vec<&Arc<Pool>> = snapshot.pools().values().collect();
    for of_port in pools.chunk_by(|a, b| same_port(&a.backend.id, &b.backend.id)) {
        let Some(pool) = of_port.first() else { continue };
        let (id, found) = (&pool.backend.id, Port::of(of_port, now));
        let port = id.port.to_string();
        let labels = || vec![Cow::Borrowed(&*id.namespace), Cow::Borrowed(&*id.service), Cow::Owned(port.clone())];
        for (state, count) in STATES.iter().zip(found.states) {
            let mut labels = labels();
            labels.push(Cow::Borrowed(state));
            endpoints.owned(labels, count);
        }
        open.owned(labels(), found.open);
        idle.owned(labels(), found.idle);
        in_flight.owned(labels(), pool.in_flight().into());
        pending.owned(labels(), pool.pending() as u64 + found.waiting);
        if let Some(most) = pool.limit() {
            limit.owned(labels(), most.into());
        }
    }
    vec![endpoints, open, idle, in_flight, pending, limit]
}

fn configuration(compiled: &Compiled) -> [Family<'_>; 3] {
    let model = &compiled.model;
    let mut certificates: BTreeMap<_, &Certificate> = BTreeMap::new();
    for certificate in model.certificates.values().flatten().chain(&model.default_certificate) {
        certificates.insert(&certificate.origin, certificate);
    }
    let mut not_after = table::CERTIFICATE_NOT_AFTER.family();
    for (origin, certificate) in &certificates {
        let seconds = Duration::from_secs(u64::try_from(certificate.not_after).unwrap_or(0)).as_secs_f64();
        not_after.number(&[&origin.namespace, &origin.name], seconds);
    }
    let routes = |host: &Host| host.routes.len() + usize::from(host.default.is_some());
    let mut entries = table::CONFIG_ENTRIES.family();
    for (kind, count) in [
        ("hosts", model.hosts.len()),
        ("routes", model.hosts.values().map(routes).sum::<usize>() + usize::from(model.default.is_some())),
        ("backends", model.backends.len()),
        ("endpoints", model.backends.values().map(|backend| backend.endpoints.len()).sum()),
        ("certificates", certificates.len()),
    ] {
        entries.integer(&[kind], count as u64);
    }
    let mut reasons: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for problem in &compiled.problems {
        *reasons.entry((problem.kind.severity().name(), problem.kind.reason())).or_default() += 1;
    }
    let mut problems = table::PROBLEMS.family();
    for ((severity, reason), count) in reasons {
        problems.integer(&[severity, reason], count);
    }
    [not_after, entries, problems]
}
