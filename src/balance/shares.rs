//! Draws endpoints at random, each with a probability by its weight.

use super::{Candidates, Member};

/// Draws before all endpoints are looked at: with half of them closed, one draw in 65,536 needs to.
const DRAWS: usize = 16;

/// The shares of the endpoints of a backend.
#[derive(Debug)]
pub(super) struct Shares {
    /// Weights as they count: all one when all that were given are equal, also when that is zero.
    weights: Vec<u16>,
    /// Sums of the weights up to each endpoint; empty when they are equal.
    sums: Vec<u64>,
}

impl Shares {
    pub(super) fn new(members: &[Member]) -> Self {
        let first = members.first().map_or(0, |member| member.weight);
        if members.iter().all(|member| member.weight == first) {
            return Self { weights: vec![1; members.len()], sums: Vec::new() };
        }
        let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self { sums: sums.collect(), weights }
    }

    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    pub(super) fn weights(&self) -> &[u16] {
        &self.weights
    }

    pub(super) fn are_equal(&self) -> bool {
        self.sums.is_empty()
    }

    /// Sum of all weights.
    pub(super) fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(self.weights.len() as u64)
    }

    /// The weight that an endpoint has now, as it may start slowly.
    pub(super) fn weight_now(&self, candidates: &impl Candidates, index: usize) -> f32 {
        f32::from(self.weights[index]) * candidates.ramp(index)
    }

    /// Draws an open candidate by weight; None when all are closed.
    pub(super) fn draw(&self, candidates: &impl Candidates) -> Option<usize> {
        if self.weights.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let index = if self.are_equal() {
                fastrand::usize(..self.weights.len())
            } else {
                let point = fastrand::u64(..self.total());
                self.sums.partition_point(|&sum| sum <= point)
            };
            if candidates.is_open(index) {
                let ramp = candidates.ramp(index);
                if ramp >= 1.0 || fastrand::f32() < ramp {
                    return Some(index);
                }
            }
        }
        self.scan(candidates, fastrand::f32())
    }

    /// The open candidate at a point, from 0 up to 1, of the open weight; None when all are closed.
    ///
    /// Looks at all endpoints. Those without weight share evenly when none open has more.
    pub(super) fn scan(&self, candidates: &impl Candidates, point: f32) -> Option<usize> {
        let open = || (0..self.weights.len()).filter(|&index| candidates.is_open(index));
        let total: f32 = open().map(|index| self.weight_now(candidates, index)).sum();
        let weight = |index| if total > 0.0 { self.weight_now(candidates, index) } else { 1.0 };
        let total: f32 = open().map(weight).sum();
        let mut left = point * total;
        let mut last = None;
        for index in open().filter(|&index| weight(index) > 0.0) {
            left -= weight(index);
            last = Some(index); // also when rounding leaves a little
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{Fixed, assert_shares, members, tally};

    fn drawn(weights: &[u16], candidates: &Fixed) -> Vec<u32> {
        fastrand::seed(7);
        let shares = Shares::new(&members(weights));
        tally(weights.len(), (0..60_000).map(|_| shares.draw(candidates).unwrap()))
    }

    #[test]
    fn draws_follow_the_weights_of_the_open() {
        assert_shares(&drawn(&[1, 1, 1], &Fixed::open(3)), &[1.0, 1.0, 1.0], 0.05);
        assert_shares(&drawn(&[0, 0, 0], &Fixed::open(3)), &[1.0, 1.0, 1.0], 0.05);
        assert_shares(&drawn(&[1, 2, 3], &Fixed::open(3)), &[1.0, 2.0, 3.0], 0.05);
        assert_shares(&drawn(&[1, 2, 3, 0], &Fixed::open(4).closed(&[2])), &[1.0, 2.0, 0.0, 0.0], 0.05);
        assert_shares(&drawn(&[0, 0, 9], &Fixed::open(3).closed(&[2])), &[1.0, 1.0, 0.0], 0.05);
        let light = [1, 2, u16::MAX];
        assert_shares(&drawn(&light, &Fixed::open(3).closed(&[2])), &[1.0, 2.0, 0.0], 0.05);
    }

    #[test]
    fn a_ramp_lowers_the_share_and_never_starves() {
        assert_shares(&drawn(&[1, 1], &Fixed::open(2).ramp(0, 0.25)), &[0.25, 1.0], 0.05);
        let all = Fixed::open(2).ramp(0, 0.1).ramp(1, 0.1);
        assert_shares(&drawn(&[1, 3], &all), &[1.0, 3.0], 0.05);
    }

    #[test]
    fn none_is_drawn_only_when_all_are_closed() {
        assert_eq!(Shares::new(&[]).draw(&Fixed::open(0)), None);
        assert_eq!(Shares::new(&members(&[1, 0])).draw(&Fixed::open(2).closed(&[0, 1])), None);
    }
}
