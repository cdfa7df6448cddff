//! What is known of one endpoint of a backend, and one request to it.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use super::{Line, Pool, Slots};
use crate::{
    balance::{self, Outcome, Outcomes, PeakEwma},
    model::{Address, Policy},
    telemetry::metrics::BackendMetrics,
};

/// What is known of one endpoint of a backend. All threads share it, and it outlives snapshots for as long as its backend
/// has the address.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    /// Unique in this process: an address that goes and comes back is another endpoint.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    /// Hash of the address: the same in every process.
    pub identity: u64,
    /// Connections to it.
    pub slots: Arc<Slots>,
    in_flight: Line<AtomicU32>,
    passes_probes: AtomicBool,
    probe_failure: ArcSwapOption<String>,
    /// When it joined endpoints in use, or last passed its probes again; zero when it was there from the start.
    in_use_since: AtomicU64,
    latency: Line<PeakEwma>,
    pub(super) outcomes: Outcomes,
    /// Counts changes of fitness of all endpoints of the backend.
    changes: Arc<AtomicU32>,
}

/// Why an endpoint gets no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its probes fail.
    Probes,
    /// Its requests failed; it comes back after this time.
    Ejected(Duration),
}

impl Unfit {
    /// The state in words, as it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probes => "Probes fail",
            Self::Ejected(_) => "Ejected",
        }
    }

    /// What brought it there.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Probes => "its probes fail",
            Self::Ejected(_) => "its requests failed",
        }
    }

    /// Until it comes back; None when that is up to its probes.
    pub fn rest(self) -> Option<Duration> {
        match self {
            Self::Probes => None,
            Self::Ejected(rest) => Some(rest),
        }
    }
}

impl EndpointState {
    pub(super) fn new(address: Address, in_use_since: u64, changes: Arc<AtomicU32>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            identity: identity(&address),
            address,
            slots: Arc::default(),
            in_flight: Line::default(),
            passes_probes: AtomicBool::new(true),
            probe_failure: ArcSwapOption::empty(),
            in_use_since: AtomicU64::new(in_use_since),
            latency: Line::default(),
            outcomes: Outcomes::default(),
            changes,
        }
    }

    /// Requests in flight to it now, over all threads.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether its probes pass; true where there are none.
    pub fn passes_probes(&self) -> bool {
        self.passes_probes.load(Ordering::Relaxed)
    }

    /// Its probes pass, or fail, from `now` on. `now` counts milliseconds since [`Live::epoch`](crate::routing::Live::epoch).
    pub fn probed(&self, passes: bool, now: u64) {
        if self.passes_probes.swap(passes, Ordering::Relaxed) != passes {
            if passes {
                self.in_use_since.store(now.max(1), Ordering::Relaxed);
            }
            self.changed();
        }
    }

    /// Why the last probe that failed did; None when none did since probes began.
    pub fn probe_failure(&self) -> Option<Arc<String>> {
        self.probe_failure.load_full()
    }

    /// A probe failed for this reason; None forgets the last one.
    pub fn set_probe_failure(&self, reason: Option<String>) {
        self.probe_failure.store(reason.map(Arc::new));
    }

    /// Why a policy has it get no requests; None when it is fit.
    pub fn unfit(&self, policy: &Policy, now: u64) -> Option<Unfit> {
        if policy.health.active.is_some() && !self.passes_probes() {
            return Some(Unfit::Probes);
        }
        let until = self.outcomes.ejected_until();
        let ejected = policy.health.outlier.is_some() && now < until;
        ejected.then(|| Unfit::Ejected(Duration::from_millis(until - now)))
    }

    /// The part of its weight that it gets now: less than 1 for the time of slow start after it joined or recovered.
    pub fn ramp(&self, slow_start: Duration, now: u64) -> f32 {
        if slow_start.is_zero() {
            return 1.0;
        }
        let since = self.in_use_since.load(Ordering::Relaxed).max(self.outcomes.ejected_until());
        // Before `since` it is ejected, and in use only because too few are fit: then it has its share as they have.
        if since == 0 || now < since {
            return 1.0;
        }
        balance::ramp(Duration::from_millis(now - since), slow_start)
    }

    /// Decayed peak latency in milliseconds; zero when nothing is known. Only strategies that weigh latency have it
    /// recorded.
    pub fn latency(&self, now: u64) -> f32 {
        self.latency.latency(now)
    }

    /// Its fitness changed: pools look again.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Hash of an address, the same in every process.
pub(super) fn identity(address: &Address) -> u64 {
    xxhash_rust::xxh3::xxh3_64(address.to_string().as_bytes())
}

/// One request in flight to an endpoint; it ends when dropped.
///
/// How it went is told once, by the first of the methods that tell.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    index: usize,
    /// Whether its latency is still to be told.
    waits: Cell<bool>,
    /// What the client's cookie of affinity must say from now on; None when it says that already, or there is none.
    pub session: Option<u64>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, index: usize, session: Option<u64>, now: u64) -> Self {
        let endpoint = &pool.endpoints[index];
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        let waits = pool.weighs_latency();
        if waits {
            endpoint.latency.asked(now);
        }
        Self { pool, index, waits: Cell::new(waits), session }
    }

    /// The endpoint that was picked.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.pool.endpoints[self.index]
    }

    /// Counts what becomes of requests to its backend.
    pub fn metrics(&self) -> &BackendMetrics {
        &self.pool.metrics
    }

    /// A response head with this status came `latency` after the request was given to the connection.
    pub fn answered(&self, status: u16, latency: Duration, now: u64) {
        if self.waits.take() {
            match status {
                502..=504 => self.endpoint().latency.failed(latency, now), // it has not done what it was asked for
                _ => self.endpoint().latency.answered(latency, now),
            }
        }
        if status < 500 {
            self.pool.state.answered(latency, now);
        }
        let outcome = if status < 500 { Outcome::Success } else { Outcome::Error };
        self.pool.judge(self.index, outcome, now);
    }

    /// No response head came in this time: the connection failed, broke, or took too long.
    pub fn failed(&self, elapsed: Duration, now: u64) {
        if self.waits.take() {
            self.endpoint().latency.failed(elapsed, now);
        }
        self.pool.judge(self.index, Outcome::Error, now);
    }

    /// We stopped waiting for a response head after this time, by no fault of the endpoint: it is not judged.
    pub fn abandoned(&self, elapsed: Duration, now: u64) {
        if self.waits.take() {
            self.endpoint().latency.abandoned(elapsed, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let endpoint = self.endpoint();
        endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.waits.take() {
            endpoint.latency.left();
        }
    }
}
