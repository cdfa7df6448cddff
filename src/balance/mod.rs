//! Which endpoint takes the next request: pure choice over a view of the candidates.
//!
//! A strategy neither owns endpoints nor counts requests; `routing` does. It returns an index and never one that is
//! closed.

mod outlier;
mod peak_ewma;
mod rendezvous;
mod retry_budget;
mod slow_start;

use std::{
    num::{NonZeroU8, NonZeroU32},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;

pub use outlier::OutlierDetection;
pub use peak_ewma::PeakEwma;
pub use rendezvous::subset;
pub use retry_budget::{RetryBudget, RetrySpending};
pub use slow_start::ramp;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Strategy {
    /// Each in turn, by weight.
    #[default]
    RoundRobin,
    /// Each with a probability by weight.
    Random,
    /// Of `choices` drawn at random the one with the fewest requests in flight for its weight (Mitzenmacher's power of
    /// two choices).
    LeastRequest {
        /// How many are drawn.
        choices: NonZeroU8,
    },
    /// Of `choices` drawn at random the one with the lowest product of decaying peak latency and requests in flight, for
    /// its weight (Finagle).
    PeakEwma {
        /// How many are drawn.
        choices: NonZeroU8,
    },
    /// The next on a ring from the hash of the request, passing by those that have more than their share (Mirrokni,
    /// Thorup and Zadimoghaddam: consistent hashing with bounded loads).
    ConsistentHash {
        /// Largest load of an endpoint in percent of the mean, at least 100. None means no bound.
        bounded_load: Option<NonZeroU32>,
    },
    /// The entry for the hash of the request in a table of prime size (Eisenbud et al.: Maglev, §3.4).
    Maglev,
}

/// What a strategy knows of an endpoint from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Hash of its address: the same in every process.
    pub identity: u64,
    /// Its share relative to the others. Zero gets nothing while another has more.
    pub weight: u16,
}

/// What a strategy sees of the endpoints of a backend now. Indices are those of the members.
pub trait Candidates {
    /// Whether the endpoint may be chosen.
    fn is_open(&self, index: usize) -> bool;
    /// Requests in flight to the endpoint, over all threads.
    fn in_flight(&self, index: usize) -> u32;
    /// Decayed peak latency of the endpoint in milliseconds; zero when nothing is known.
    fn latency(&self, index: usize) -> f32;
    /// The part of its weight that the endpoint gets now, more than 0 and up to 1: less than 1 while it starts slowly.
    fn ramp(&self, index: usize) -> f32;
}

/// What one choice is made by.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Counts the choices, of one thread or of several.
    pub turn: &'a AtomicUsize,
    /// Hash of the request, for the strategies that hash; None chooses at random there.
    pub key: Option<u64>,
    /// Requests in flight to all endpoints together.
    pub total_in_flight: u32,
}

/// A strategy with what it prepared for the endpoints of a backend.
#[derive(Debug)]
pub struct Balancer {
    strategy: Strategy,
    identities: Vec<u64>,
}

impl Balancer {
    /// Prepares a strategy for these endpoints.
    pub fn build(strategy: Strategy, members: Vec<Member>) -> Self {
        let identities = members.iter().map(|member| member.identity).collect();
        Self { strategy, identities }
    }

    /// Chooses an open candidate; None when all are closed.
    pub fn choose(&self, candidates: &impl Candidates, draw: Draw<'_>) -> Option<usize> {
        let len = self.identities.len();
        if len == 0 {
            return None;
        }
        let first_open_from =
            |start: usize| (0..len).map(|step| (start + step) % len).find(|&index| candidates.is_open(index));
        match (self.strategy, draw.key) {
            (Strategy::RoundRobin, _) => first_open_from(draw.turn.fetch_add(1, Ordering::Relaxed) % len),
            (Strategy::ConsistentHash { .. } | Strategy::Maglev, Some(key)) => self.rendezvous(candidates, key),
            (Strategy::Random | Strategy::ConsistentHash { .. } | Strategy::Maglev, _) => {
                first_open_from(fastrand::usize(..len))
            }
            (Strategy::LeastRequest { .. } | Strategy::PeakEwma { .. }, _) => {
                let one = first_open_from(fastrand::usize(..len))?;
                if len == 1 {
                    return Some(one);
                }
                let other = first_open_from((one + 1 + fastrand::usize(..len - 1)) % len)?;
                Some(if candidates.in_flight(other) < candidates.in_flight(one) { other } else { one })
            }
        }
    }

    /// The open candidate of highest random weight for a key (rendezvous hashing): when an endpoint goes, only its keys
    /// move.
    pub fn rendezvous(&self, candidates: &impl Candidates, key: u64) -> Option<usize> {
        rendezvous::choose(&self.identities, |index| candidates.is_open(index), key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<(bool, u32)>);

    impl Candidates for Fixed {
        fn is_open(&self, index: usize) -> bool {
            self.0[index].0
        }
        fn in_flight(&self, index: usize) -> u32 {
            self.0[index].1
        }
        fn latency(&self, _: usize) -> f32 {
            0.0
        }
        fn ramp(&self, _: usize) -> f32 {
            1.0
        }
    }

    fn balancer(strategy: Strategy, len: u64) -> Balancer {
        Balancer::build(strategy, (0..len).map(|identity| Member { identity, weight: 1 }).collect())
    }

    fn counts(strategy: Strategy, candidates: &Fixed, picks: usize) -> Vec<usize> {
        let turn = AtomicUsize::new(usize::MAX - 1); // the counter wraps on the way
        let balancer = balancer(strategy, candidates.0.len() as u64);
        let mut counts = vec![0; candidates.0.len()];
        for _ in 0..picks {
            let draw = Draw { turn: &turn, key: None, total_in_flight: 0 };
            counts[balancer.choose(candidates, draw).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_gives_each_the_same() {
        let four = Fixed(vec![(true, 0); 4]);
        assert_eq!(counts(Strategy::RoundRobin, &four, 400), [100; 4], "also where the counter wraps");
    }

    #[test]
    fn rendezvous_moves_only_the_keys_of_the_endpoint_that_went() {
        let (all, mut less) = (Fixed(vec![(true, 0); 5]), Fixed(vec![(true, 0); 5]));
        less.0[2].0 = false;
        let balancer = balancer(Strategy::Maglev, 5);
        let mut on_each = [0; 5];
        for key in 0..1000 {
            let before = balancer.rendezvous(&all, key).unwrap();
            let after = balancer.rendezvous(&less, key).unwrap();
            on_each[before] += 1;
            assert!(before == 2 || before == after, "key {key} moved from {before} to {after}");
        }
        assert!(on_each.iter().all(|&n| (140..=260).contains(&n)), "{on_each:?}");
    }
}
