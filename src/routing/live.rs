//! The snapshot in force, behind one atomic pointer.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, Cache};

use super::{Site, Snapshot, scrape::Scrape};
use crate::{model::Compiled, telemetry::metrics::Metrics};

/// Snapshots that were in force and may still be held by a thread.
pub(super) type Retired = Arc<Mutex<Vec<Arc<Snapshot>>>>;

/// Publishes snapshots; any thread may read the one in force.
#[derive(Clone, Debug)]
pub struct Live {
    current: Arc<ArcSwap<Snapshot>>,
    published: Arc<AtomicBool>,
    /// Snapshots that were in force: kept while a thread still holds them, so that no request pays for dropping one.
    retired: Retired,
    metrics: Arc<Metrics>,
    replica: u64,
    epoch: Instant,
}

impl Live {
    /// Nothing is published yet: every lookup finds nothing. `replica` is the name of this process among its replicas.
    pub fn new(metrics: Arc<Metrics>, replica: &str) -> Self {
        let replica = xxhash_rust::xxh3::xxh3_64(replica.as_bytes());
        let site = Site { metrics: &metrics, threads: metrics.threads(), replica, now: 0 };
        let current = Arc::new(ArcSwap::from_pointee(Snapshot::build(Arc::default(), None, &site)));
        let epoch = Instant::now();
        let retired = Retired::default();
        metrics.register(Scrape { current: Arc::downgrade(&current), retired: Arc::clone(&retired), epoch });
        Self { current, published: Arc::default(), retired, metrics, replica, epoch }
    }

    /// The moment that every time in the live state counts from.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Milliseconds since the epoch.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Builds a snapshot of the model and puts it in force. Callers take turns.
    pub fn publish(&self, compiled: Arc<Compiled>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.current.load_full();
        let threads = self.metrics.threads();
        let site = Site { metrics: &self.metrics, threads, replica: self.replica, now: self.now() };
        let next = Arc::new(Snapshot::build(compiled, Some(&previous), &site));
        self.current.store(next);
        self.published.store(true, Ordering::Release);
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        retired.push(previous);
    }

    /// Whether anything was ever published.
    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Acquire)
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A reader for one thread.
    pub fn reader(&self) -> Reader {
        Reader(RefCell::new(Cache::new(Arc::clone(&self.current))))
    }
}

/// Reads the snapshot in force at the cost of one atomic load while it does not change. Belongs to one thread.
#[derive(Debug)]
pub struct Reader(RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>);

impl Reader {
    /// Calls `look` with the snapshot in force; what is needed longer is cloned out of it.
    pub fn with<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(self.0.borrow_mut().load())
    }
}
