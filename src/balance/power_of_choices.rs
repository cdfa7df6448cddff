//! Of a few drawn at random the least loaded (Mitzenmacher: the power of two choices).
//!
//! Weights decide who is drawn, and how much a request in flight counts; so idle endpoints get shares by weight.

use std::num::NonZeroU8;

use super::{Candidates, shares::Shares};

/// More are not drawn: from here on the best of the drawn hardly gets better.
const MAX_CHOICES: usize = 16;

/// Cost in milliseconds of an endpoint of unknown latency that has a request in flight: it gets no second one before it
/// has answered, unless the others are as unknown (Finagle).
const UNKNOWN: f32 = 1e9;

/// What a request to an endpoint costs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cost {
    /// Each the same.
    Equal,
    /// Its latency.
    Latency,
}

#[derive(Debug)]
pub(super) struct PowerOfChoices {
    choices: usize,
    cost: Cost,
    heaviest: f32,
}

impl PowerOfChoices {
    pub(super) fn new(choices: NonZeroU8, cost: Cost, shares: &Shares) -> Self {
        let heaviest = shares.weights().iter().copied().max().map_or(1.0, f32::from);
        Self { choices: usize::from(choices.get()).min(MAX_CHOICES), cost, heaviest }
    }

    /// The least loaded of the drawn; of equals the first drawn. None when all are closed.
    pub(super) fn choose(&self, shares: &Shares, candidates: &impl Candidates) -> Option<usize> {
        let mut drawn = [0; MAX_CHOICES];
        let mut best: Option<(usize, (bool, f32))> = None;
        for count in 0..self.choices.min(shares.len()) {
            let Some(index) = shares.draw(&Others { candidates, drawn: &drawn[..count] }) else { break };
            drawn[count] = index;
            let load = self.load(shares, candidates, index);
            if best.is_none_or(|(_, least)| load < least) {
                best = Some((index, load));
            }
        }
        best.map(|(index, _)| index)
    }

    /// What is compared: first whether it is without weight, as then it gets nothing while another has some.
    fn load(&self, shares: &Shares, candidates: &impl Candidates, index: usize) -> (bool, f32) {
        let weight = shares.weight_now(candidates, index);
        #[expect(clippy::cast_precision_loss, reason = "so many requests are not told apart")]
        let in_flight = candidates.in_flight(index) as f32;
        let load = 1.0 + in_flight * if weight > 0.0 { self.heaviest / weight } else { 1.0 };
        let cost = match (self.cost, candidates.latency(index)) {
            (Cost::Equal, _) => 1.0,
            (Cost::Latency, latency) if latency > 0.0 || in_flight == 0.0 => latency,
            (Cost::Latency, _) => UNKNOWN,
        };
        (weight <= 0.0, cost * load)
    }
}

/// The candidates that are not drawn yet.
struct Others<'a, C> {
    candidates: &'a C,
    drawn: &'a [usize],
}

impl<C: Candidates> Candidates for Others<'_, C> {
    fn is_open(&self, index: usize) -> bool {
        !self.drawn.contains(&index) && self.candidates.is_open(index)
    }
    fn in_flight(&self, index: usize) -> u32 {
        self.candidates.in_flight(index)
    }
    fn latency(&self, index: usize) -> f32 {
        self.candidates.latency(index)
    }
    fn ramp(&self, index: usize) -> f32 {
        self.candidates.ramp(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{Fixed, assert_shares, members, tally};

    fn counts(choices: u8, cost: Cost, weights: &[u16], candidates: &Fixed) -> Vec<u32> {
        fastrand::seed(7);
        let shares = Shares::new(&members(weights));
        let strategy = PowerOfChoices::new(NonZeroU8::new(choices).unwrap(), cost, &shares);
        tally(weights.len(), (0..60_000).map(|_| strategy.choose(&shares, candidates).unwrap()))
    }

    #[test]
    fn idle_endpoints_get_shares_by_weight() {
        assert_shares(&counts(2, Cost::Equal, &[1; 4], &Fixed::open(4)), &[1.0; 4], 0.05);
        assert_shares(&counts(2, Cost::Equal, &[1, 3], &Fixed::open(2)), &[1.0, 3.0], 0.05);
        assert_shares(&counts(2, Cost::Latency, &[0; 4], &Fixed::open(4)), &[1.0; 4], 0.05);
    }

    #[test]
    fn the_busiest_of_distinct_draws_is_never_chosen() {
        let three = Fixed::open(3).in_flight(0, 9).in_flight(1, 4);
        // Pairs 01, 02, 12 with a third each: 0 loses both of its own.
        assert_shares(&counts(2, Cost::Equal, &[1; 3], &three), &[0.0, 1.0, 2.0], 0.05);
        assert_eq!(counts(3, Cost::Equal, &[1; 3], &three), [0, 0, 60_000], "all of them are looked at");
        assert_eq!(counts(2, Cost::Equal, &[1; 3], &three.closed(&[2])), [0, 60_000, 0], "all of the open are");
    }

    #[test]
    fn a_request_in_flight_counts_by_weight() {
        let busy = Fixed::open(2).in_flight(0, 2).in_flight(1, 5);
        assert_eq!(counts(2, Cost::Equal, &[1, 3], &busy), [0, 60_000]);
        assert_eq!(counts(2, Cost::Equal, &[1, 2], &busy), [60_000, 0]);
        let ramping = Fixed::open(2).in_flight(0, 1).in_flight(1, 5).ramp(0, 0.1);
        assert_eq!(counts(2, Cost::Equal, &[1, 1], &ramping), [0, 60_000]);
    }

    #[test]
    fn no_weight_gets_nothing_while_another_has_some() {
        let busy = Fixed::open(3).in_flight(0, 1000);
        assert_eq!(counts(3, Cost::Equal, &[1, 0, 0], &busy), [60_000, 0, 0]);
        assert_shares(&counts(2, Cost::Equal, &[1, 0, 0], &busy.closed(&[0])), &[0.0, 1.0, 1.0], 0.05);
    }

    #[test]
    fn a_ramp_lowers_the_share_and_never_starves() {
        let shares = counts(2, Cost::Equal, &[1; 10], &Fixed::open(10).ramp(0, 0.1));
        let part = f64::from(shares[0]) / f64::from(shares[1]);
        assert!((0.08..0.12).contains(&part), "{shares:?}");
        let all = (0..4).fold(Fixed::open(4), |candidates, index| candidates.ramp(index, 0.1));
        assert_shares(&counts(2, Cost::Equal, &[1; 4], &all), &[1.0; 4], 0.05);
    }

    #[test]
    fn latency_times_load_decides() {
        let slow = Fixed::open(2).latency(0, 200.0).latency(1, 10.0);
        assert_eq!(counts(2, Cost::Latency, &[1; 2], &slow.clone().in_flight(1, 18)), [0, 60_000]);
        assert_eq!(counts(2, Cost::Latency, &[1; 2], &slow.in_flight(1, 20)), [60_000, 0]);
    }

    #[test]
    fn an_unknown_latency_is_tried_by_one_request() {
        let known = Fixed::open(2).latency(1, 10.0).in_flight(1, 50);
        assert_eq!(counts(2, Cost::Latency, &[1; 2], &known.clone()), [60_000, 0]);
        assert_eq!(counts(2, Cost::Latency, &[1; 2], &known.in_flight(0, 1)), [0, 60_000]);
        let unknown = Fixed::open(2).in_flight(0, 2).in_flight(1, 1);
        assert_eq!(counts(2, Cost::Latency, &[1; 2], &unknown), [0, 60_000]);
    }
}
