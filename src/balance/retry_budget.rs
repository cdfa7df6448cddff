//! How many attempts beyond the first a backend may be asked for: a share of its requests, so that retries never turn a
//! brown-out into an outage.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Retries allowed for a hundred requests.
const PERCENT: u32 = 20;
/// Retries allowed in any second, however few requests there are.
const MIN_PER_SECOND: u32 = 10;

/// Requests and retries of the second under way. Threads share it; a race at the turn of a second may let one more pass.
#[derive(Debug, Default)]
pub struct RetryBudget {
    second: AtomicU64,
    previous: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl RetryBudget {
    /// Counts a request. `second` is a monotonic clock in whole seconds.
    pub fn request(&self, second: u64) {
        self.turn_to(second);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a retry out of the budget; false when it is spent.
    pub fn retry(&self, second: u64) -> bool {
        self.turn_to(second);
        let requests = self.requests.load(Ordering::Relaxed).max(self.previous.load(Ordering::Relaxed));
        let allowed = MIN_PER_SECOND.max(requests / 100 * PERCENT + requests % 100 * PERCENT / 100);
        self.retries.fetch_add(1, Ordering::Relaxed) < allowed
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

    fn allowed(budget: &RetryBudget, second: u64) -> u32 {
        (0..1000).map(|_| u32::from(budget.retry(second))).sum()
    }

    #[test]
    fn a_quiet_backend_has_ten_retries_a_second() {
        let budget = RetryBudget::default();
        assert_eq!(allowed(&budget, 5), 10);
        assert_eq!(allowed(&budget, 5), 0);
        assert_eq!(allowed(&budget, 6), 10);
    }

    #[test]
    fn a_busy_backend_has_a_fifth_of_its_requests() {
        let budget = RetryBudget::default();
        (0..500).for_each(|_| budget.request(5));
        assert_eq!(allowed(&budget, 5), 100);
        assert_eq!(allowed(&budget, 6), 100, "the second before counts too");
        assert_eq!(allowed(&budget, 9), 10);
    }
}
