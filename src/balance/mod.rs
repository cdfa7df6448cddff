//! Which endpoint takes the next request: pure choice over a view of the candidates.
//!
//! A strategy neither owns endpoints nor counts requests; `routing` does. It returns an index and never one that is
//! closed.

mod adaptive_limit;
mod maglev;
mod outlier;
mod peak_ewma;
mod power_of_choices;
mod rendezvous;
mod retry_budget;
mod ring;
mod round_robin;
mod shares;
mod slow_start;
#[cfg(test)]
mod testing;

use std::{
    num::{NonZeroU8, NonZeroU32},
    sync::atomic::AtomicUsize,
};

use serde::Serialize;

use self::{
    maglev::Maglev,
    power_of_choices::{Cost, PowerOfChoices},
    ring::{Bound, Ring},
    round_robin::RoundRobin,
    shares::Shares,
};
pub use adaptive_limit::{AdaptiveLimit, Bounds};
pub use outlier::{Outcome, Outcomes, OutlierDetection, Verdict};
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
        /// How many are drawn; more than 16 count as 16.
        choices: NonZeroU8,
    },
    /// Of `choices` drawn at random the one with the lowest product of decaying peak latency and requests in flight, for
    /// its weight (Finagle).
    PeakEwma {
        /// How many are drawn; more than 16 count as 16.
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
    identities: Vec<u64>,
    shares: Shares,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    RoundRobin(RoundRobin),
    Random,
    PowerOfChoices(PowerOfChoices),
    ConsistentHash { ring: Ring, bounded_load: Option<NonZeroU32> },
    Maglev(Maglev),
}

impl Balancer {
    /// Prepares a strategy for these endpoints.
    ///
    /// For 5,000 of them `ConsistentHash` takes about 5 ms and Maglev 40 ms, the others far less than one.
    pub fn build(strategy: Strategy, members: Vec<Member>) -> Self {
        let shares = Shares::new(&members);
        let algorithm = match strategy {
            Strategy::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(&shares)),
            Strategy::Random => Algorithm::Random,
            Strategy::LeastRequest { choices } => {
                Algorithm::PowerOfChoices(PowerOfChoices::new(choices, Cost::Equal, &shares))
            }
            Strategy::PeakEwma { choices } => {
                Algorithm::PowerOfChoices(PowerOfChoices::new(choices, Cost::Latency, &shares))
            }
            Strategy::ConsistentHash { bounded_load } => {
                Algorithm::ConsistentHash { ring: Ring::new(&members, &shares), bounded_load }
            }
            Strategy::Maglev => Algorithm::Maglev(Maglev::new(&members, &shares)),
        };
        Self { identities: members.into_iter().map(|member| member.identity).collect(), shares, algorithm }
    }

    /// Chooses an open candidate; None when all are closed.
    pub fn choose(&self, candidates: &impl Candidates, draw: Draw<'_>) -> Option<usize> {
        match (&self.algorithm, draw.key) {
            (Algorithm::RoundRobin(round_robin), _) => round_robin.choose(&self.shares, candidates, draw.turn),
            (Algorithm::PowerOfChoices(power), _) => power.choose(&self.shares, candidates),
            (Algorithm::ConsistentHash { ring, bounded_load: None }, Some(key)) => {
                self.first_open(candidates, ring.walk(key), key)
            }
            (Algorithm::ConsistentHash { ring, bounded_load: Some(percent) }, Some(key)) => {
                let mut bound = Bound::new(*percent, draw, &self.shares);
                let open = self.steps(ring.walk(key)).filter(|&index| candidates.is_open(index));
                let with_room = open.into_iter().find(|&index| bound.has_room(candidates, index));
                with_room.or_else(|| self.first_open(candidates, ring.walk(key), key))
            }
            (Algorithm::Maglev(table), Some(key)) => self.first_open(candidates, table.walk(key), key),
            (Algorithm::Random | Algorithm::ConsistentHash { .. } | Algorithm::Maglev(_), _) => {
                self.shares.draw(candidates)
            }
        }
    }

    /// The open candidate of highest random weight for a key (rendezvous hashing): when an endpoint goes, only its keys
    /// move. Those without weight get none while another has some; else weights do not count, nor does load.
    ///
    /// Looks at all endpoints.
    pub fn rendezvous(&self, candidates: &impl Candidates, key: u64) -> Option<usize> {
        let is_open = |index| candidates.is_open(index);
        let is_weighty = |index| is_open(index) && self.shares.weights()[index] > 0;
        rendezvous::choose(&self.identities, is_weighty, key)
            .or_else(|| rendezvous::choose(&self.identities, is_open, key))
    }

    /// The weight that a candidate has now, as it may start slowly.
    pub fn weight_now(&self, candidates: &impl Candidates, index: usize) -> f32 {
        self.shares.weight_now(candidates, index)
    }

    /// The first open one of a walk; where nearly all of it is closed, the open one of highest random weight.
    fn first_open(&self, candidates: &impl Candidates, walk: impl Iterator<Item = usize>, key: u64) -> Option<usize> {
        self.steps(walk).find(|&index| candidates.is_open(index)).or_else(|| self.rendezvous(candidates, key))
    }

    /// As much of a walk as there are endpoints, eight times: the only open one of many is met with 99.97 %.
    fn steps(&self, walk: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
        walk.take(8 * self.identities.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{
        testing::{Fixed, assert_shares, members, tally},
        *,
    };

    const HASHED: [Strategy; 3] = [
        Strategy::ConsistentHash { bounded_load: None },
        Strategy::ConsistentHash { bounded_load: NonZeroU32::new(125) },
        Strategy::Maglev,
    ];

    fn all_strategies() -> Vec<Strategy> {
        let choices = [1, 2, 5, 255].map(|choices| NonZeroU8::new(choices).unwrap());
        let drawn = choices.map(|choices| [Strategy::LeastRequest { choices }, Strategy::PeakEwma { choices }]);
        [Strategy::RoundRobin, Strategy::Random].into_iter().chain(HASHED).chain(drawn.into_iter().flatten()).collect()
    }

    fn draw(turn: &AtomicUsize, key: Option<u64>, total_in_flight: u32) -> Draw<'_> {
        Draw { turn, key: key.map(|key| rendezvous::mix(key, 7)), total_in_flight }
    }

    /// The choice for each of the keys.
    fn choices(balancer: &Balancer, candidates: &Fixed, keys: u64) -> Vec<usize> {
        let turn = AtomicUsize::new(0);
        (0..keys).map(|key| balancer.choose(candidates, draw(&turn, Some(key), 0)).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn no_strategy_chooses_a_closed_one_or_none_while_one_is_open(
            endpoints in prop::collection::vec((any::<bool>(), 0u16..4, 0u32..9, 0f32..9.0, 0.01f32..=1.0), 0..12),
            key in any::<Option<u64>>(),
            start in any::<usize>(),
            total_in_flight in 0u32..20,
        ) {
            let mut candidates = Fixed::open(endpoints.len());
            for (index, (open, _, in_flight, latency, ramp)) in endpoints.iter().copied().enumerate() {
                candidates = candidates.in_flight(index, in_flight).latency(index, latency).ramp(index, ramp);
                candidates = if open { candidates } else { candidates.closed(&[index]) };
            }
            let weights: Vec<u16> = endpoints.iter().map(|endpoint| endpoint.1).collect();
            let heavier = endpoints.iter().any(|endpoint| endpoint.0 && endpoint.1 > 0);
            for strategy in all_strategies() {
                let balancer = Balancer::build(strategy, members(&weights));
                let turn = AtomicUsize::new(start);
                let chosen = balancer.choose(&candidates, Draw { turn: &turn, key, total_in_flight });
                prop_assert_eq!(chosen.is_some(), endpoints.iter().any(|endpoint| endpoint.0), "{:?}", strategy);
                if let Some(index) = chosen {
                    prop_assert!(endpoints[index].0, "{:?} chose a closed one", strategy);
                    prop_assert!(!heavier || weights[index] > 0, "{:?} chose one without weight", strategy);
                }
            }
        }
    }

    #[test]
    fn thousands_of_endpoints_are_ordinary() {
        let weights: Vec<u16> = (0..5000).map(|n| n % 7).collect();
        let open_ones = [4999, 17];
        let closed: Vec<usize> = (0..5000).filter(|index| !open_ones.contains(index)).collect();
        let (all, two) = (Fixed::open(5000), Fixed::open(5000).closed(&closed));
        for strategy in all_strategies() {
            let balancer = Balancer::build(strategy, members(&weights));
            assert!(choices(&balancer, &all, 1000).iter().all(|&index| weights[index] > 0), "{strategy:?}");
            assert!(choices(&balancer, &two, 10).iter().all(|index| open_ones.contains(index)), "{strategy:?}");
        }
    }

    #[test]
    fn a_hash_moves_only_the_keys_of_one_that_closes() {
        for strategy in HASHED {
            let balancer = Balancer::build(strategy, members(&[1; 10]));
            let before = choices(&balancer, &Fixed::open(10), 5000);
            let after = choices(&balancer, &Fixed::open(10).closed(&[2]), 5000);
            assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 2), "{strategy:?}");
            let mut expected = [1.0; 10];
            assert_shares(&tally(10, before), &expected, 0.2);
            expected[2] = 0.0;
            assert_shares(&tally(10, after), &expected, 0.25);
        }
    }

    #[test]
    fn a_hash_finds_the_only_light_one_and_none_without_weight() {
        let weights = [u16::MAX, u16::MAX, 0, 1, 0];
        for strategy in HASHED {
            let balancer = Balancer::build(strategy, members(&weights));
            assert_eq!(choices(&balancer, &Fixed::open(5).closed(&[0, 1]), 50), [3; 50], "{strategy:?}");
        }
    }

    #[test]
    fn a_hash_without_a_key_draws_at_random() {
        for strategy in HASHED {
            fastrand::seed(7);
            let (balancer, turn) = (Balancer::build(strategy, members(&[1, 3])), AtomicUsize::new(0));
            let chosen = (0..40_000).map(|_| balancer.choose(&Fixed::open(2), draw(&turn, None, 0)).unwrap());
            assert_shares(&tally(2, chosen), &[1.0, 3.0], 0.05);
        }
    }

    #[test]
    fn a_hot_key_spreads_to_the_bound_and_no_further() {
        let strategy = Strategy::ConsistentHash { bounded_load: NonZeroU32::new(125) };
        let balancer = Balancer::build(strategy, members(&[1, 1, 1, 1, 2]));
        let turn = AtomicUsize::new(0);
        let mut in_flight = [0; 5];
        for total in 0..600 {
            let candidates = (0..5).fold(Fixed::open(5), |some, index| some.in_flight(index, in_flight[index]));
            let candidates = if total < 300 { candidates } else { candidates.closed(&[0]) };
            in_flight[balancer.choose(&candidates, draw(&turn, Some(1), total)).unwrap()] += 1;
        }
        // 600 by weight are 120 each and 240 for the last, while 0 is closed at half of them: 5/4 of that.
        let most = [75, 150, 150, 150, 300];
        assert!(in_flight.iter().zip(most).all(|(&n, most)| n <= most), "{in_flight:?}");
        assert!(in_flight.contains(&150) || in_flight.contains(&300), "the first is used to its bound: {in_flight:?}");
    }

    #[test]
    fn all_over_the_bound_falls_to_the_first_open() {
        let strategy = Strategy::ConsistentHash { bounded_load: NonZeroU32::new(100) };
        let balancer = Balancer::build(strategy, members(&[1; 3]));
        let free = choices(&balancer, &Fixed::open(3), 50);
        let full = (0..3).fold(Fixed::open(3), |some, index| some.in_flight(index, 9)); // the total is behind
        assert_eq!(choices(&balancer, &full, 50), free);
    }

    #[test]
    fn rendezvous_gives_nothing_to_those_without_weight_while_another_has_some() {
        let balancer = Balancer::build(Strategy::RoundRobin, members(&[0, 1, 0, 5]));
        let chosen = |closed: &[usize]| {
            let candidates = Fixed::open(4).closed(closed);
            tally(4, (0..100).map(|key| balancer.rendezvous(&candidates, key).unwrap()))
        };
        let all = chosen(&[]);
        assert!(all[0] == 0 && all[2] == 0 && all[1] > 0 && all[3] > 0, "{all:?}");
        let light = chosen(&[1, 3]);
        assert!(light[0] > 0 && light[2] > 0, "{light:?}");
    }

    #[test]
    fn rendezvous_moves_only_the_keys_of_the_endpoint_that_went() {
        let balancer = Balancer::build(Strategy::RoundRobin, members(&[1; 5]));
        let mut on_each = [0; 5];
        for key in 0..1000 {
            let before = balancer.rendezvous(&Fixed::open(5), key).unwrap();
            let after = balancer.rendezvous(&Fixed::open(5).closed(&[2]), key).unwrap();
            on_each[before] += 1;
            assert!(before == 2 || before == after, "key {key} moved from {before} to {after}");
        }
        assert!(on_each.iter().all(|&n| (140..=260).contains(&n)), "{on_each:?}");
    }
}
