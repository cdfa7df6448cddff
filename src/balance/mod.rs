//! Which endpoint takes the next request: pure choice over a view of the candidates.
//!
//! A strategy neither owns endpoints nor counts requests; `routing` does. It returns an index and never one that is
//! closed.

mod retry_budget;

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

pub use retry_budget::RetryBudget;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Strategy {
    /// Each in turn, over all threads.
    #[default]
    RoundRobin,
    /// Each with the same probability.
    Random,
    /// The one with fewer requests in flight of two drawn at random (Mitzenmacher's power of two choices).
    LeastRequest,
}

/// What a strategy sees of the endpoints of a backend.
pub trait Candidates {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the endpoint may be chosen.
    fn is_open(&self, index: usize) -> bool;
    /// Requests in flight to the endpoint, over all threads.
    fn in_flight(&self, index: usize) -> u32;
}

impl Strategy {
    /// Chooses an open candidate; None when all are closed. `turn` is the backend's own counter.
    pub fn choose(self, candidates: &impl Candidates, turn: &AtomicUsize) -> Option<usize> {
        let len = candidates.len();
        if len == 0 {
            return None;
        }
        match self {
            Self::RoundRobin => first_open_from(turn.fetch_add(1, Ordering::Relaxed) % len, candidates),
            Self::Random => first_open_from(fastrand::usize(..len), candidates),
            Self::LeastRequest => {
                let one = first_open_from(fastrand::usize(..len), candidates)?;
                if len == 1 {
                    return Some(one);
                }
                let other = first_open_from((one + 1 + fastrand::usize(..len - 1)) % len, candidates)?;
                Some(if candidates.in_flight(other) < candidates.in_flight(one) { other } else { one })
            }
        }
    }
}

/// The index of highest random weight for a key (rendezvous hashing): when an endpoint goes, only its keys move.
///
/// `identity` gives bytes that name an endpoint the same way in every process.
pub fn rendezvous<I: AsRef<[u8]>>(
    candidates: &impl Candidates,
    key: &[u8],
    identity: impl Fn(usize) -> I,
) -> Option<usize> {
    let seed = xxhash_rust::xxh3::xxh3_64(key);
    (0..candidates.len())
        .filter(|&index| candidates.is_open(index))
        .max_by_key(|&index| xxhash_rust::xxh3::xxh3_64_with_seed(identity(index).as_ref(), seed))
}

fn first_open_from(start: usize, candidates: &impl Candidates) -> Option<usize> {
    let len = candidates.len();
    (0..len).map(|step| (start + step) % len).find(|&index| candidates.is_open(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<(bool, u32)>);

    impl Candidates for Fixed {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn is_open(&self, index: usize) -> bool {
            self.0[index].0
        }
        fn in_flight(&self, index: usize) -> u32 {
            self.0[index].1
        }
    }

    fn counts(strategy: Strategy, candidates: &Fixed, picks: usize) -> Vec<usize> {
        let turn = AtomicUsize::new(usize::MAX - 1); // the counter wraps on the way
        let mut counts = vec![0; candidates.len()];
        for _ in 0..picks {
            counts[strategy.choose(candidates, &turn).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_gives_each_the_same() {
        let four = Fixed(vec![(true, 0); 4]);
        assert_eq!(counts(Strategy::RoundRobin, &four, 400), [100; 4], "also where the counter wraps");
    }

    #[test]
    fn no_strategy_chooses_a_closed_endpoint() {
        let candidates = Fixed(vec![(false, 0), (true, 9), (false, 0)]);
        for strategy in [Strategy::RoundRobin, Strategy::Random, Strategy::LeastRequest] {
            assert_eq!(counts(strategy, &candidates, 50), [0, 50, 0], "{strategy:?}");
            assert_eq!(strategy.choose(&Fixed(vec![(false, 0); 3]), &AtomicUsize::new(0)), None);
            assert_eq!(strategy.choose(&Fixed(vec![]), &AtomicUsize::new(0)), None);
        }
    }

    #[test]
    fn least_request_avoids_the_busiest() {
        fastrand::seed(7);
        let candidates = Fixed(vec![(true, 0), (true, 100), (true, 1)]);
        let counts = counts(Strategy::LeastRequest, &candidates, 600);
        assert_eq!(counts[1], 0, "two different ones are drawn, the busiest loses each time");
        assert!(counts[0] > counts[2], "{counts:?}");
    }

    #[test]
    fn rendezvous_moves_only_the_keys_of_the_endpoint_that_went() {
        let (all, mut less) = (Fixed(vec![(true, 0); 5]), Fixed(vec![(true, 0); 5]));
        less.0[2].0 = false;
        let mut on_each = [0; 5];
        for key in 0..1000_u32 {
            let before = rendezvous(&all, &key.to_be_bytes(), usize::to_be_bytes).unwrap();
            let after = rendezvous(&less, &key.to_be_bytes(), usize::to_be_bytes).unwrap();
            on_each[before] += 1;
            assert!(before == 2 || before == after, "key {key} moved from {before} to {after}");
        }
        assert!(on_each.iter().all(|&n| (140..=260).contains(&n)), "{on_each:?}");
    }
}
