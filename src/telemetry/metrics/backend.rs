//! What is counted of one port of a Service, whatever routes ask of it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Reason,
    histogram::{Count, DURATION, Durations, Shards},
    resolved::Resolved,
    route::{CLASSES, class},
    table,
};

/// The labels of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BackendLabels {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Number of its port.
    pub port: u16,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a response head of this status.
    Answered(u16),
    /// Without one.
    Failed(Reason),
    /// Another attempt was faster, or the client left.
    Abandoned,
}

/// Counts of one backend.
#[derive(Debug)]
pub struct BackendMetrics {
    shards: Shards<Shard>,
    /// Attempts made because another one failed.
    pub retries: AtomicU64,
    /// Attempts made beside another one that was slow.
    pub hedges: AtomicU64,
    /// Retries and hedges not made: the budget was spent.
    pub budget_refusals: AtomicU64,
    /// Endpoints ejected.
    pub ejections: AtomicU64,
    /// Connections opened.
    pub connections_opened: AtomicU64,
    refusals: [AtomicU64; REFUSALS.len()],
}

/// Finds one of the counts that are rare.
type Pick = fn(&BackendMetrics) -> &AtomicU64;

/// Refusals by a limit of the backend.
const REFUSALS: [Reason; 3] = [Reason::BackendLimit, Reason::PendingTimeout, Reason::ConnectionLimit];

/// Reasons for an attempt to fail, abandonment, and status classes.
const OUTCOMES: usize = CLASSES.len() + 1 + Reason::ALL.len();

/// One thread's counts.
#[derive(Debug)]
struct Shard {
    outcomes: [Count; OUTCOMES],
    duration: Durations,
}

impl Default for Shard {
    fn default() -> Self {
        Self { outcomes: std::array::from_fn(|_| Count::default()), duration: Durations::default() }
    }
}

impl BackendMetrics {
    /// Counts for `threads` data-plane threads.
    pub fn new(threads: usize) -> Self {
        Self {
            shards: Shards::new(threads),
            retries: AtomicU64::default(),
            hedges: AtomicU64::default(),
            budget_refusals: AtomicU64::default(),
            ejections: AtomicU64::default(),
            connections_opened: AtomicU64::default(),
            refusals: Default::default(),
        }
    }

    /// An attempt ended on `thread` after `duration`.
    pub fn attempted(&self, thread: usize, outcome: Outcome, duration: Duration) {
        let shard = self.shards.of(thread);
        let place = match outcome {
            Outcome::Answered(status) => class(status),
            Outcome::Abandoned => CLASSES.len(),
            Outcome::Failed(reason) => CLASSES.len() + 1 + reason as usize,
        };
        shard.outcomes[place].add(1);
        if outcome != Outcome::Abandoned {
            shard.duration.record(&DURATION, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// A request was refused for this reason, if that is a limit of the backend.
    pub fn refused(&self, reason: Reason) {
        if let Some(at) = REFUSALS.iter().position(|refusal| *refusal == reason) {
            count(&self.refusals[at]);
        }
    }
}

/// Counts one more of what is rare.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn outcome(place: usize) -> &'static str {
    match place.checked_sub(CLASSES.len()) {
        None => CLASSES[place],
        Some(0) => "abandoned",
        Some(above) => Reason::ALL[above - 1].label(),
    }
}

/// The backends of the snapshots in use.
pub(super) type Backends = Resolved<BackendLabels, BackendMetrics>;

impl Collector for Backends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let backends: Vec<_> = self.current().into_iter().map(|(l, m)| (l.port.to_string(), l, m)).collect();
        let (mut attempts, mut durations) = (table::ATTEMPTS.family(), table::ATTEMPT_DURATION.family());
        let mut refusals = table::REFUSALS.family();
        let rare: [(_, Pick); 5] = [
            (&table::RETRIES, |metrics| &metrics.retries),
            (&table::HEDGES, |metrics| &metrics.hedges),
            (&table::BUDGET_REFUSALS, |metrics| &metrics.budget_refusals),
            (&table::EJECTIONS, |metrics| &metrics.ejections),
            (&table::CONNECTIONS_OPENED, |metrics| &metrics.connections_opened),
        ];
        let mut rare = rare.map(|(metric, pick)| (metric.family(), pick));
        for (port, BackendLabels { namespace, service, .. }, metrics) in &backends {
            for place in 0..OUTCOMES {
                let count = metrics.shards.sum(|shard| &shard.outcomes[place]);
                if count > 0 {
                    attempts.integer(&[namespace, service, port, outcome(place)], count);
                }
            }
            let shards = metrics.shards.iter().map(|shard| &shard.duration);
            durations.distribution(&[namespace, service, port], Durations::distribution(&DURATION, shards));
            for (reason, count) in REFUSALS.iter().zip(&metrics.refusals) {
                refusals.integer(&[namespace, service, port, reason.label()], count.load(Ordering::Relaxed));
            }
            for (family, pick) in &mut rare {
                family.integer(&[namespace, service, port], pick(metrics).load(Ordering::Relaxed));
            }
        }
        let common = [attempts, durations, refusals];
        common.iter().chain(rare.iter().map(|(family, _)| family)).try_for_each(|family| family.encode(&mut encoder))
    }
}
