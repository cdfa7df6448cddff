//! Each in turn, by weight, without a lock: the static stride scheduler of gRPC A58.
//!
//! Turn t belongs to endpoint t mod n. In each round of n turns an endpoint that weighs as much as the heaviest takes
//! its turn; one that weighs a third of that takes every third.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Candidates, shares::Shares};

/// The weight of the heaviest, a power of two so that counters may wrap.
const MAX: u64 = 1 << 16;
/// Golden ratio of [`MAX`]: endpoints of the same weight take their turns in different rounds.
const SPREAD: u64 = 40_503;
/// Golden ratio of 2³².
const GOLDEN: u32 = 0x9e37_79b9;

/// Weights scaled so that the heaviest has [`MAX`].
#[derive(Debug)]
pub(super) struct RoundRobin(Vec<u32>);

impl RoundRobin {
    pub(super) fn new(shares: &Shares) -> Self {
        let heaviest = shares.weights().iter().copied().max().map_or(1, u64::from);
        let scaled = shares.weights().iter().map(|&weight| (u64::from(weight) * MAX).div_ceil(heaviest));
        Self(scaled.map(|weight| u32::try_from(weight).unwrap_or(u32::MAX)).collect())
    }

    /// The open candidate that takes the next turn; None when all are closed.
    pub(super) fn choose(&self, shares: &Shares, candidates: &impl Candidates, turn: &AtomicUsize) -> Option<usize> {
        let mut now = turn.load(Ordering::Relaxed);
        loop {
            let (index, taken) = match self.find(candidates, now) {
                Some(taken) => (taken % self.0.len(), taken),
                // Only light ones are open: any share of the turns is theirs, so each turn picks one by weight.
                None => (shares.scan(candidates, point(now))?, now),
            };
            let next = taken.wrapping_add(1);
            match turn.compare_exchange_weak(now, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(index),
                Err(other) => now = other,
            }
        }
    }

    /// The first of the turns of two rounds from `now` that is taken.
    fn find(&self, candidates: &impl Candidates, now: usize) -> Option<usize> {
        let len = self.0.len();
        let is_taken = |turn: &usize| {
            let (round, index) = (turn / len, turn % len);
            candidates.is_open(index) && self.is_due(index, round, candidates.ramp(index))
        };
        (0..2 * len).map(|step| now.wrapping_add(step)).find(is_taken)
    }

    fn is_due(&self, index: usize, round: usize, ramp: f32) -> bool {
        let mut weight = u64::from(self.0[index]);
        if ramp < 1.0 && weight > 0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "at most MAX and not negative"
            )]
            let ramped = (weight as f32 * ramp) as u64;
            weight = ramped.max(1);
        }
        (weight.wrapping_mul(round as u64).wrapping_add(index as u64 * SPREAD)) % MAX >= MAX - weight
    }
}

/// A point of the unit interval; those of consecutive turns are spread evenly.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "low bits are enough")]
fn point(turn: usize) -> f32 {
    f32::min((turn as u32).wrapping_mul(GOLDEN) as f32 / 2f32.powi(32), 1.0 - f32::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{Fixed, assert_shares, members, tally};

    /// Which ones are picked, in order.
    fn picked(weights: &[u16], candidates: &Fixed, turn: &AtomicUsize, picks: usize) -> Vec<usize> {
        let shares = Shares::new(&members(weights));
        let round_robin = RoundRobin::new(&shares);
        (0..picks).map(|_| round_robin.choose(&shares, candidates, turn).unwrap()).collect()
    }

    #[test]
    fn each_of_n_gets_k_of_nk_from_any_start() {
        for (len, start) in [(1, 0), (2, 7), (3, 1000), (16, 5), (1000, 3), (4, usize::MAX - 1)] {
            let turn = AtomicUsize::new(start);
            let picked = picked(&vec![7; len], &Fixed::open(len), &turn, 3 * len);
            assert_eq!(tally(len, picked), vec![3; len], "{len} from {start}");
        }
    }

    #[test]
    fn threads_with_one_counter_or_their_own_give_each_the_same_in_sum() {
        let shares = Shares::new(&members(&[1; 7]));
        let (round_robin, candidates) = (RoundRobin::new(&shares), Fixed::open(7));
        let common = AtomicUsize::new(0);
        let own: Vec<AtomicUsize> = (0..4).map(AtomicUsize::new).collect();
        let picked = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|n| {
                    let (round_robin, shares, candidates, common, own) =
                        (&round_robin, &shares, &candidates, &common, &own[n]);
                    scope.spawn(move || {
                        let pick = |turn| round_robin.choose(shares, candidates, turn).unwrap();
                        (0..700).flat_map(|_| [pick(common), pick(own)]).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(tally(7, picked), [800; 7]);
    }

    #[test]
    fn the_turn_of_a_closed_one_goes_to_all_others_evenly() {
        let picked = picked(&[1; 5], &Fixed::open(5).closed(&[1, 2]), &AtomicUsize::new(4), 300);
        assert_eq!(tally(5, picked), [100, 0, 0, 100, 100]);
    }

    #[test]
    fn weights_hold_within_one_pick_at_every_moment() {
        let (weights, total) = ([1, 2, 3, 0, 6], 12);
        let picked = picked(&weights, &Fixed::open(5), &AtomicUsize::new(0), 2400);
        for end in 1..=2400 {
            for (index, count) in tally(5, picked[..end as usize].iter().copied()).into_iter().enumerate() {
                let due = u32::from(weights[index]) * end / total;
                assert!(count.abs_diff(due) <= 1, "{index} has {count} and not {due} of {end}");
            }
        }
        assert_eq!(tally(5, picked)[3], 0);
    }

    #[test]
    fn the_light_do_not_come_all_at_once() {
        let picked = picked(&[1, 1, 1, 1, 4], &Fixed::open(5), &AtomicUsize::new(0), 800);
        assert!(picked.windows(3).all(|three| three.contains(&4)), "{:?}", &picked[..16]);
    }

    #[test]
    fn the_light_share_by_weight_when_the_heavy_are_closed() {
        let counted = |weights: &[u16], closed: &[usize]| {
            let candidates = Fixed::open(weights.len()).closed(closed);
            tally(weights.len(), picked(weights, &candidates, &AtomicUsize::new(0), 6000))
        };
        assert_shares(&counted(&[1, 2, u16::MAX], &[2]), &[1.0, 2.0, 0.0], 0.02);
        assert_shares(&counted(&[0, 0, 1], &[2]), &[1.0, 1.0, 0.0], 0.02);
        assert_shares(&counted(&[0, 0, 0], &[2]), &[1.0, 1.0, 0.0], 0.001);
        assert_eq!(counted(&[1, u16::MAX], &[1]), [6000, 0]);
    }

    #[test]
    fn a_ramp_lowers_the_share_and_never_starves() {
        let counted = |candidates: &Fixed| tally(3, picked(&[1; 3], candidates, &AtomicUsize::new(0), 6300));
        assert_shares(&counted(&Fixed::open(3).ramp(0, 0.1)), &[0.1, 1.0, 1.0], 0.02);
        assert_shares(&counted(&Fixed::open(3).ramp(0, 0.1).ramp(1, 0.1).ramp(2, 0.1)), &[1.0, 1.0, 1.0], 0.1);
    }
}
