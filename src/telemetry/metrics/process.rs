//! What is counted of the process as a whole: connections, TLS, answers, configurations.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Reason,
    histogram::{Count, DURATION, Durations, Shards},
    table,
};

/// Counts that belong to no route.
#[derive(Debug)]
pub struct Process {
    /// Connections of clients open now.
    pub connections: AtomicI64,
    /// Client connections accepted.
    pub accepted: AtomicU64,
    handshakes: [AtomicU64; HANDSHAKES.len()],
    /// Requests that did not end with the whole response of an endpoint, by number of the reason.
    answers: Shards<[Count; Reason::ALL.len()]>,
    /// Health probes that passed.
    pub probes_passed: AtomicU64,
    /// Health probes that failed.
    pub probes_failed: AtomicU64,
    /// Configurations published.
    pub config_publishes: AtomicU64,
    /// Configurations that could not be.
    pub config_failures: AtomicU64,
    /// When the last was, in milliseconds since 1970.
    last_publish: AtomicU64,
    /// Written by whoever publishes; they take turns.
    build: Durations,
    propagation: std::sync::Mutex<Durations>,
    /// Access log lines dropped because the output did not keep up.
    pub access_log_dropped: AtomicU64,
    /// Spans that the collector took.
    pub spans_exported: AtomicU64,
    /// Spans dropped because the collector did not keep up, or refused them.
    pub spans_dropped: AtomicU64,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With TLS 1.2.
    Tls12,
    /// With TLS 1.3.
    Tls13,
    /// The client or we refused it.
    Failure,
    /// It took too long.
    Timeout,
}

/// Version and result of each end of a handshake, in the order of [`Handshake`].
const HANDSHAKES: [[&str; 2]; 4] =
    [["TLSv1.2", "success"], ["TLSv1.3", "success"], ["none", "failure"], ["none", "timeout"]];

impl Default for Process {
    /// Counts for one data-plane thread.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Process {
    /// Counts for `threads` data-plane threads.
    pub fn new(threads: usize) -> Self {
        Self {
            connections: AtomicI64::default(),
            accepted: AtomicU64::default(),
            handshakes: Default::default(),
            answers: Shards::new(threads),
            probes_passed: AtomicU64::default(),
            probes_failed: AtomicU64::default(),
            config_publishes: AtomicU64::default(),
            config_failures: AtomicU64::default(),
            last_publish: AtomicU64::default(),
            build: Durations::default(),
            propagation: std::sync::Mutex::default(),
            access_log_dropped: AtomicU64::default(),
            spans_exported: AtomicU64::default(),
            spans_dropped: AtomicU64::default(),
        }
    }

    /// Counts an end for this reason on `thread`.
    pub fn answered(&self, thread: usize, reason: Reason) {
        self.answers.of(thread)[reason as usize].add(1);
    }

    /// Counts a handshake with a client.
    pub fn shook_hands(&self, handshake: Handshake) {
        self.handshakes[handshake as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A configuration was put in force, which took so long. Callers take turns.
    pub fn published(&self, duration: Duration) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_publish.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.build.record(&DURATION, micros(duration));
        self.config_publishes.fetch_add(1, Ordering::Relaxed);
    }

    /// An event came into force so long after it came.
    pub fn propagated(&self, duration: Duration) {
        let propagation = self.propagation.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        propagation.record(&DURATION, micros(duration));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Vec::new();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (metric, value) in [
            (&table::CONNECTIONS, u64::try_from(self.connections.load(Ordering::Relaxed)).unwrap_or(0)),
            (&table::ACCEPTED, load(&self.accepted)),
            (&table::PUBLISHES, load(&self.config_publishes)),
            (&table::PUBLISH_FAILURES, load(&self.config_failures)),
            (&table::ACCESS_LOG_DROPPED, load(&self.access_log_dropped)),
            (&table::SPANS_EXPORTED, load(&self.spans_exported)),
            (&table::SPANS_DROPPED, load(&self.spans_dropped)),
        ] {
            let mut family = metric.family();
            family.integer(&[], value);
            families.push(family);
        }
        let mut handshakes = table::HANDSHAKES.family();
        for (labels, count) in HANDSHAKES.iter().zip(&self.handshakes) {
            handshakes.integer(labels, load(count));
        }
        let mut probes = table::PROBES.family();
        probes.integer(&["pass"], load(&self.probes_passed));
        probes.integer(&["failure"], load(&self.probes_failed));
        let mut answers = table::ANSWERS.family();
        for (number, reason) in Reason::ALL.iter().enumerate() {
            let count = self.answers.sum(|shard| &shard[number]);
            if count > 0 {
                answers.integer(&[reason.label()], count);
            }
        }
        let mut last = table::LAST_PUBLISH.family();
        if load(&self.last_publish) > 0 {
            last.number(&[], Duration::from_millis(load(&self.last_publish)).as_secs_f64());
        }
        let mut build = table::BUILD_DURATION.family();
        build.distribution(&[], Durations::distribution(&DURATION, [&self.build].into_iter()));
        let mut propagation = table::PROPAGATION.family();
        let held = self.propagation.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        propagation.distribution(&[], Durations::distribution(&DURATION, [&*held].into_iter()));
        drop(held);
        families.extend([handshakes, probes, answers, last, build, propagation]);
        families.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}
