//! How many attempts beyond the first a backend may be asked for: a share of its requests, so that retries never turn a
//! brown-out into an outage.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::Serialize;

/// How many retries a backend may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// Retries allowed for a hundred requests.
    pub percent: u32,
    /// Retries allowed in any second, however few requests there are.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

/// Requests and retries of the second under way.
///
/// Threads share it without a lock. At the turn of a second the counts are reset one by one, so what other threads count
/// at that moment may be lost, or count for the wrong second: each of them may have one retry more or fewer then, and a
/// retry that is judged before the requests of the last second are taken over is judged by `min_per_second` alone.
#[derive(Debug, Default)]
pub struct RetrySpending {
    second: AtomicU64,
    previous: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl RetrySpending {
    /// Counts a request. `second` is a monotonic clock in whole seconds.
    pub fn request(&self, second: u64) {
        self.turn_to(second);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a retry out of the budget; false when it is spent.
    pub fn retry(&self, budget: RetryBudget, second: u64) -> bool {
        self.turn_to(second);
        let requests = self.requests.load(Ordering::Relaxed).max(self.previous.load(Ordering::Relaxed));
        let share = u64::from(requests) * u64::from(budget.percent) / 100;
        let allowed = budget.min_per_second.max(u32::try_from(share).unwrap_or(u32::MAX));
        // One that is refused takes nothing of what later requests bring.
        let take = |retries| (retries < allowed).then_some(retries + 1);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn turn_to(&self, second: u64) {
        let before = self.second.load(Ordering::Relaxed);
        if second > before && self.second.compare_exchange(before, second, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let ended = self.requests.swap(0, Ordering::Relaxed);
            self.previous.store(if second == before + 1 { ended } else { 0 }, Ordering::Relaxed);
            self.retries.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(spending: &RetrySpending, second: u64) -> u32 {
        (0..1000).map(|_| u32::from(spending.retry(RetryBudget::default(), second))).sum()
    }

    #[test]
    fn a_quiet_backend_has_ten_retries_a_second() {
        let spending = RetrySpending::default();
        assert_eq!(allowed(&spending, 5), 10);
        assert_eq!(allowed(&spending, 5), 0);
        assert_eq!(allowed(&spending, 6), 10);
    }

    #[test]
    fn a_busy_backend_has_a_fifth_of_its_requests() {
        let spending = RetrySpending::default();
        (0..500).for_each(|_| spending.request(5));
        assert_eq!(allowed(&spending, 5), 100);
        assert_eq!(allowed(&spending, 6), 100, "the second before counts too");
        assert_eq!(allowed(&spending, 9), 10);
    }

    #[test]
    fn what_is_refused_takes_nothing_from_later_requests() {
        let (spending, budget) = (RetrySpending::default(), RetryBudget { percent: 20, min_per_second: 0 });
        let granted = |_| {
            spending.request(5);
            spending.retry(budget, 5)
        };
        assert_eq!((0..100).map(granted).filter(|granted| *granted).count(), 20);
    }
}
