//! Consistent hashing: a ring on which each endpoint has many points; a request goes to the next from its hash
//! (ketama), passing by those that have more than their share (Mirrokni, Thorup and Zadimoghaddam).

use std::num::NonZeroU32;

use super::{Candidates, Draw, Member, rendezvous, shares::Shares};

/// Points of the heaviest endpoint: shares deviate by one in sixteen.
const POINTS: u64 = 256;
/// Points of all endpoints together, reached with 1,024 of them; from there on each has fewer.
const MAX_POINTS: u64 = 1 << 18;

/// Points sorted by position. Each is its position in the upper half and the index of its endpoint in the lower.
#[derive(Debug)]
pub(super) struct Ring(Vec<u64>);

impl Ring {
    pub(super) fn new(members: &[Member], shares: &Shares) -> Self {
        let weights = shares.weights();
        let heaviest = weights.iter().copied().max().map_or(1, u64::from);
        // Neither depends on the lighter ones, so that the points of one stay when another comes or goes.
        let points = POINTS.min(MAX_POINTS * heaviest / shares.total().max(1)).max(1);
        let mut ring = Vec::new();
        for ((index, member), &weight) in (0u64..).zip(members).zip(weights) {
            let own = (points * u64::from(weight)).div_ceil(heaviest);
            ring.extend((0..own).map(|point| rendezvous::mix(member.identity, point) & !u64::from(u32::MAX) | index));
        }
        ring.sort_unstable();
        Self(ring)
    }

    /// The endpoints in the order in which a key asks them; one may come several times.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|point| point >> 32 < key >> 32);
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is an index")]
        self.0[start..].iter().chain(&self.0[..start]).map(|point| *point as u32 as usize)
    }
}

/// The most that an endpoint may have in flight: a percentage of the mean of the open ones, for its weight.
pub(super) struct Bound<'a> {
    percent: u64,
    total_in_flight: u64,
    shares: &'a Shares,
    /// Sum of the weights of the open ones; found when it is first needed, as that looks at all.
    open: Option<u64>,
}

impl<'a> Bound<'a> {
    pub(super) fn new(percent: NonZeroU32, draw: Draw<'_>, shares: &'a Shares) -> Self {
        let total_in_flight = u64::from(draw.total_in_flight) + 1; // with this one
        Self { percent: percent.get().max(100).into(), total_in_flight, shares, open: None }
    }

    /// Whether the endpoint may get one more.
    pub(super) fn has_room(&mut self, candidates: &impl Candidates, index: usize) -> bool {
        let in_flight = u64::from(candidates.in_flight(index));
        // The bound of all is lower than that of the open.
        if in_flight < self.capacity(index, self.shares.total()) {
            return true;
        }
        let weights = self.shares.weights();
        let open = *self.open.get_or_insert_with(|| {
            let open = (0..weights.len()).filter(|&index| candidates.is_open(index));
            open.map(|index| u64::from(weights[index])).sum()
        });
        in_flight < self.capacity(index, open)
    }

    fn capacity(&self, index: usize, of: u64) -> u64 {
        let part = self.percent * self.total_in_flight * u64::from(self.shares.weights()[index]);
        part.div_ceil(100 * of.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{assert_shares, members, tally};

    fn first(members: &[Member], key: u64) -> u64 {
        let ring = Ring::new(members, &Shares::new(members));
        members[ring.walk(rendezvous::mix(key, 1)).next().unwrap()].identity
    }

    #[test]
    fn the_number_of_points_is_bounded() {
        for (len, expected) in [(0, 0), (1, 256), (1000, 256_000), (5000, 260_000), (20_000, 260_000)] {
            let members = members(&vec![1; len]);
            assert_eq!(Ring::new(&members, &Shares::new(&members)).0.len(), expected);
        }
    }

    #[test]
    fn shares_follow_weights() {
        let counts = |weights: &[u16]| {
            let members = members(weights);
            let ring = Ring::new(&members, &Shares::new(&members));
            tally(weights.len(), (0..50_000).map(|key| ring.walk(rendezvous::mix(key, 1)).next().unwrap()))
        };
        assert_shares(&counts(&[5; 10]), &[1.0; 10], 0.2);
        // The lightest has 64 points, and so a standard deviation of an eighth.
        assert_shares(&counts(&[1, 2, 4, 0]), &[1.0, 2.0, 4.0, 0.0], 0.25);
    }

    #[test]
    fn removing_one_moves_its_keys_only() {
        let all = members(&[1; 10]);
        let less: Vec<Member> = all.iter().copied().filter(|member| member.identity != all[3].identity).collect();
        let moved = (0..200).filter(|key| first(&all, *key) != first(&less, *key));
        assert!(moved.clone().all(|key| first(&all, key) == all[3].identity));
        assert!((8..=36).contains(&moved.count()), "a tenth of 200 keys");
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let all = members(&[1, 2, 3, 4, 5]);
        let reversed: Vec<Member> = all.iter().rev().copied().collect();
        assert!((0..100).all(|key| first(&all, key) == first(&reversed, key)));
    }
}
