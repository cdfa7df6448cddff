//! What is counted of the requests of one route.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    histogram::{Count, DURATION, Durations, SIZE, Shards, Sizes},
    resolved::Resolved,
    table,
};

/// Status classes in the order they are counted in.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The class of a status, as a place in [`CLASSES`].
pub(super) fn class(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}

/// The labels of a route: which object declared it and where its requests go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RouteLabels {
    /// Namespace of the declaring object.
    pub namespace: Arc<str>,
    /// Name of the Ingress, or of the flag.
    pub ingress: Arc<str>,
    /// Service the requests go to; empty for none.
    pub service: Arc<str>,
}

/// One request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Status of its response.
    pub status: u16,
    /// From its head to the end of the response.
    pub duration: Duration,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the body of its response.
    pub sent: u64,
}

/// Counts the requests of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    shards: Shards<Shard>,
}

/// One thread's counts.
#[derive(Debug, Default)]
struct Shard {
    begun: Count,
    /// Those that ended, by status class.
    classes: [Count; CLASSES.len()],
    duration: Durations,
    received: Sizes,
    sent: Sizes,
}

impl RouteMetrics {
    /// Counts for `threads` data-plane threads.
    pub fn new(threads: usize) -> Self {
        Self { shards: Shards::new(threads) }
    }

    /// A request of the route is under way on `thread`, which tells its end too.
    pub fn begin(&self, thread: usize) {
        self.shards.of(thread).begun.add(1);
    }

    /// One that is under way on `thread` has ended.
    pub fn end(&self, thread: usize, ended: Ended) {
        let shard = self.shards.of(thread);
        shard.classes[class(ended.status)].add(1);
        shard.duration.record(&DURATION, u64::try_from(ended.duration.as_micros()).unwrap_or(u64::MAX));
        shard.received.record(&SIZE, ended.received);
        shard.sent.record(&SIZE, ended.sent);
    }

    /// Requests that have ended, and those of them with a server error.
    pub fn ended(&self) -> (u64, u64) {
        let of = |class: usize| self.shards.sum(|shard| &shard.classes[class]);
        ((0..CLASSES.len()).map(of).sum(), of(CLASSES.len() - 1))
    }

    /// Requests under way.
    fn in_flight(&self) -> u64 {
        // What ended is read first: a request that ends meanwhile counts as under way, never less than none.
        let (ended, _) = self.ended();
        self.shards.sum(|shard| &shard.begun).saturating_sub(ended)
    }
}

/// The routes of the snapshots in use.
pub(super) type Routes = Resolved<RouteLabels, RouteMetrics>;

impl Collector for Routes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.current();
        let mut requests = table::REQUESTS.family();
        let mut in_flight = table::REQUESTS_IN_FLIGHT.family();
        let mut durations = table::REQUEST_DURATION.family();
        let (mut received, mut sent) = (table::REQUEST_BODY.family(), table::RESPONSE_BODY.family());
        for (labels, route) in &routes {
            let RouteLabels { namespace, ingress, service } = labels;
            let labels: [&str; 3] = [namespace, ingress, service];
            let mut seen = 0;
            for (class, name) in CLASSES.iter().enumerate() {
                let count = route.shards.sum(|shard| &shard.classes[class]);
                if count > 0 {
                    requests.integer(&[namespace, ingress, service, *name], count);
                }
                seen += count;
            }
            let shards = || route.shards.iter();
            if seen > 0 || route.in_flight() > 0 {
                in_flight.integer(&labels, route.in_flight());
            }
            durations.distribution(&labels, Durations::distribution(&DURATION, shards().map(|shard| &shard.duration)));
            received.distribution(&labels, Sizes::distribution(&SIZE, shards().map(|shard| &shard.received)));
            sent.distribution(&labels, Sizes::distribution(&SIZE, shards().map(|shard| &shard.sent)));
        }
        [requests, in_flight, durations, received, sent].iter().try_for_each(|family| family.encode(&mut encoder))
    }
}
