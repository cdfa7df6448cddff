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

/// What became of a configuration that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// A snapshot was built of it.
    Built,
    /// It agrees with the one before: nothing was built, and its provenance is told from now on.
    Annotated,
}

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

    /// Puts a configuration in force; builds only what is new in it. Callers take turns.
    pub fn publish(&self, compiled: Arc<Compiled>) -> Published {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.current.load_full();
        let (next, published) = if self.is_published() && previous.compiled.agrees_with(&compiled) {
            (previous.annotated(compiled), Published::Annotated)
        } else {
            let threads = self.metrics.threads();
            let site = Site { metrics: &self.metrics, threads, replica: self.replica, now: self.now() };
            (Snapshot::build(compiled, Some(&previous), &site), Published::Built)
        };
        self.current.store(Arc::new(next));
        self.published.store(true, Ordering::Release);
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        retired.push(previous);
        published
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origin, Problem, ProblemKind, Provenance};

    #[test]
    fn a_change_of_provenance_alone_builds_nothing_and_is_told() {
        let live = Live::new(Arc::new(Metrics::new(1)), "test");
        let origin = Origin::new("Ingress", "shop", "other");
        let created = |seconds| [(origin.clone(), seconds)].into();
        let with = |seconds| Compiled {
            provenance: Provenance { created: created(seconds), ..Provenance::default() },
            ..Compiled::default()
        };
        // The first is put in force even when it says nothing.
        assert_eq!(live.publish(Arc::new(with(1))), Published::Built);
        assert!(live.is_published());
        assert_eq!(live.publish(Arc::new(with(2))), Published::Annotated);
        assert_eq!(live.load().compiled.provenance.created, created(2));
        let kind = ProblemKind::Malformed(String::new());
        let problems = vec![Problem { origin: origin.clone(), field: String::new(), kind }];
        assert_eq!(live.publish(Arc::new(Compiled { problems, ..with(2) })), Published::Built);
    }
}
