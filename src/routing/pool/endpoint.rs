//! What is known of one endpoint of a backend.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use super::Slots;
use crate::model::Address;

/// What is known of one endpoint of a backend. All threads share it, and it outlives snapshots for as long as its backend
/// has the address.
#[derive(Debug)]
pub struct EndpointState {
    /// Unique in this process: an address that goes and comes back is another endpoint.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    /// Hash of the address: the same in every process.
    pub identity: u64,
    /// Connections to it.
    pub slots: Arc<Slots>,
    in_flight: AtomicU32,
    passes_probes: AtomicBool,
    probe_failure: ArcSwapOption<String>,
}

impl EndpointState {
    pub(super) fn new(address: Address) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            identity: xxhash_rust::xxh3::xxh3_64(address.to_string().as_bytes()),
            address,
            slots: Arc::default(),
            in_flight: AtomicU32::new(0),
            passes_probes: AtomicBool::new(true),
            probe_failure: ArcSwapOption::empty(),
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
    pub fn probed(&self, passes: bool, _now: u64) {
        self.passes_probes.store(passes, Ordering::Relaxed);
    }

    /// Why the last probe that failed did; None when none did since probes began.
    pub fn probe_failure(&self) -> Option<Arc<String>> {
        self.probe_failure.load_full()
    }

    /// A probe failed for this reason; None forgets the last one.
    pub fn set_probe_failure(&self, reason: Option<String>) {
        self.probe_failure.store(reason.map(Arc::new));
    }
}

/// One request in flight to an endpoint; it ends when dropped.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<EndpointState>,
    /// What the client's cookie of affinity must say from now on; None when it says that already, or there is none.
    pub session: Option<u64>,
}

impl Lease {
    pub(super) fn new(endpoint: Arc<EndpointState>, session: Option<u64>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, session }
    }

    /// The endpoint that was picked.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// A response head with this status came `latency` after the request was given to the connection.
    pub fn answered(&self, _status: u16, _latency: Duration, _now: u64) {}

    /// No response head came: the connection failed, broke, or took too long.
    pub fn failed(&self, _now: u64) {}
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
