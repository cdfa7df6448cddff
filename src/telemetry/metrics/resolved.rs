//! Counts by their labels, for as long as somebody holds them: what has gone from the configuration leaves the scrape.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Counts that were resolved and are still in a snapshot.
#[derive(Debug)]
pub(super) struct Resolved<L, M>(Mutex<HashMap<L, Weak<M>>>);

impl<L, M> Default for Resolved<L, M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Clone + Ord + Hash, M> Resolved<L, M> {
    /// The counts with these labels; the same labels share them for as long as anybody holds them.
    pub(super) fn resolve(&self, labels: L, new: impl FnOnce() -> M) -> Arc<M> {
        let mut known = self.lock();
        if let Some(known) = known.get(&labels).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(new());
        known.insert(labels, Arc::downgrade(&new));
        new
    }

    /// Those of today, sorted; forgets those that nobody holds.
    pub(super) fn current(&self) -> Vec<(L, Arc<M>)> {
        let mut known = self.lock();
        known.retain(|_, counts| counts.strong_count() > 0);
        let mut current: Vec<_> = known.iter().filter_map(|(l, m)| Some((l.clone(), m.upgrade()?))).collect();
        current.sort_by(|(a, _), (b, _)| a.cmp(b));
        current
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<L, Weak<M>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
