//! Counts by their labels, for as long as somebody holds them: what has gone from the configuration leaves the scrape.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Counts that were resolved and are still in a snapshot.
#[derive(Debug)]
pub(super) struct Resolved<L, M>(Mutex<Known<L, M>>);

/// Below so many it is not worth to look for those that nobody holds.
const FEW: usize = 64;

#[derive(Debug)]
struct Known<L, M> {
    counts: HashMap<L, Weak<M>>,
    /// How many were left when those that nobody holds were last forgotten.
    held: usize,
}

impl<L, M> Default for Resolved<L, M> {
    fn default() -> Self {
        Self(Mutex::new(Known { counts: HashMap::new(), held: 0 }))
    }
}

impl<L: Eq + Hash, M> Known<L, M> {
    /// Forgets those that nobody holds.
    fn forget(&mut self) {
        self.counts.retain(|_, counts| counts.strong_count() > 0);
        self.held = self.counts.len();
    }
}

impl<L: Clone + Ord + Hash, M> Resolved<L, M> {
    /// The counts with these labels; the same labels share them for as long as anybody holds them.
    pub(super) fn resolve(&self, labels: L, new: impl FnOnce() -> M) -> Arc<M> {
        let mut known = self.lock();
        if let Some(known) = known.counts.get(&labels).and_then(Weak::upgrade) {
            return known;
        }
        // Not only when somebody scrapes: nobody may.
        if known.counts.len() >= 2 * known.held.max(FEW) {
            known.forget();
        }
        let new = Arc::new(new());
        known.counts.insert(labels, Arc::downgrade(&new));
        new
    }

    /// The counts with these labels, if anybody holds them.
    pub(super) fn find(&self, labels: &L) -> Option<Arc<M>> {
        self.lock().counts.get(labels).and_then(Weak::upgrade)
    }

    /// Those of today, sorted; forgets those that nobody holds.
    pub(super) fn current(&self) -> Vec<(L, Arc<M>)> {
        let mut known = self.lock();
        known.forget();
        let mut current: Vec<_> = known.counts.iter().filter_map(|(l, m)| Some((l.clone(), m.upgrade()?))).collect();
        current.sort_by(|(a, _), (b, _)| a.cmp(b));
        current
    }

    fn lock(&self) -> MutexGuard<'_, Known<L, M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_forgotten_though_nobody_scrapes() {
        let resolved = Resolved::default();
        let held: Vec<_> = (0..100).map(|label| resolved.resolve(label, || label)).collect();
        for label in 100..10_000 {
            resolved.resolve(label, || label);
        }
        let known = resolved.lock().counts.len();
        assert!(known <= 2 * held.len(), "{known}");
        assert!((0..100).all(|label| Arc::ptr_eq(&held[label], &resolved.resolve(label, || 0))), "those held stay");
    }

    #[test]
    fn to_look_for_counts_makes_none() {
        let resolved = Resolved::default();
        assert_eq!(resolved.find(&1), None);
        assert!(resolved.lock().counts.is_empty());
        let held = resolved.resolve(1, || "one");
        assert!(resolved.find(&1).is_some_and(|found| Arc::ptr_eq(&found, &held)));
    }
}
