//! A table of prime size in which each endpoint has its share of the entries (Eisenbud et al.: Maglev, §3.4).
//!
//! A key is looked up in one step. When an endpoint comes or goes few keys of the others move, and processes with the
//! same endpoints have the same table.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Member, rendezvous, shares::Shares};

/// Sizes of the table, of the paper: with a hundred entries for each endpoint shares are equal within 1 %.
const SIZE: u32 = 65_537;
const LARGE_SIZE: u32 = 655_373;
const EMPTY: u32 = u32::MAX;

/// The index of an endpoint for each entry; empty without endpoints.
#[derive(Debug)]
pub(super) struct Maglev(Vec<u32>);

impl Maglev {
    pub(super) fn new(members: &[Member], shares: &Shares) -> Self {
        let size = if members.len() <= SIZE as usize / 100 { SIZE } else { LARGE_SIZE };
        // A fixed order for the turns, whatever that of the members is.
        let mut order: Vec<u32> =
            (0u32..).zip(shares.weights()).filter(|(_, weight)| **weight > 0).map(|(index, _)| index).collect();
        order.sort_unstable_by_key(|&index| members[index as usize].identity);
        if order.is_empty() {
            return Self(Vec::new());
        }
        let mut preferences: Vec<Preference> =
            order.iter().map(|&index| Preference::new(members[index as usize].identity, size)).collect();
        let mut table = vec![EMPTY; size as usize];
        let mut fill = |turn: usize| {
            let entry = preferences[turn].by_ref().find(|&entry| table[entry as usize] == EMPTY);
            if let Some(entry) = entry {
                table[entry as usize] = order[turn];
            }
        };
        if shares.are_equal() {
            (0..order.len()).cycle().take(size as usize).for_each(&mut fill);
        } else {
            let weights: Vec<u16> = order.iter().map(|&index| shares.weights()[index as usize]).collect();
            turns_by_weight(&weights).take(size as usize).for_each(&mut fill);
        }
        Self(table)
    }

    /// The endpoints in the order in which a key asks them; one may come several times.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        #[expect(clippy::cast_possible_truncation, reason = "less than the length of the table")]
        let start = key.checked_rem(self.0.len() as u64).unwrap_or(0) as usize;
        self.0[start..].iter().chain(&self.0[..start]).map(|&index| index as usize)
    }
}

/// The entries of the table in the order in which an endpoint wants them: a permutation, as the size is prime.
struct Preference {
    next: u32,
    skip: u32,
    size: u32,
}

impl Preference {
    #[expect(clippy::cast_possible_truncation, reason = "less than the size")]
    fn new(identity: u64, size: u32) -> Self {
        let next = (rendezvous::mix(identity, 0) % u64::from(size)) as u32;
        let skip = (rendezvous::mix(identity, 1) % u64::from(size - 1)) as u32 + 1;
        Self { next, skip, size }
    }
}

impl Iterator for Preference {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let entry = self.next;
        self.next = (entry + self.skip) % self.size;
        Some(entry)
    }
}

/// Endless turns, the k-th of an endpoint at the time k / weight.
fn turns_by_weight(weights: &[u16]) -> impl Iterator<Item = usize> {
    let pace: Vec<u64> = weights.iter().map(|&weight| (1 << 40) / u64::from(weight)).collect();
    let mut due: BinaryHeap<_> = pace.iter().copied().enumerate().map(|(turn, time)| Reverse((time, turn))).collect();
    std::iter::from_fn(move || {
        let mut first = due.peek_mut()?;
        let Reverse((time, turn)) = *first;
        *first = Reverse((time + pace[turn], turn));
        Some(turn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{assert_shares, members, tally};

    fn table(members: &[Member]) -> Vec<u64> {
        let Maglev(table) = Maglev::new(members, &Shares::new(members));
        table.into_iter().map(|index| members[index as usize].identity).collect()
    }

    fn counts(weights: &[u16]) -> Vec<u32> {
        let members = members(weights);
        let Maglev(table) = Maglev::new(&members, &Shares::new(&members));
        tally(weights.len(), table.into_iter().map(|index| index as usize))
    }

    #[test]
    fn shares_are_equal_within_a_hundredth() {
        for len in [1, 3, 655, 656, 2000] {
            let counts = counts(&vec![1; len]);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(f64::from(*most) <= f64::from(*least) * 1.01, "{len}: {least} to {most}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        assert_shares(&counts(&[1, 2, 3, 0]), &[1.0, 2.0, 3.0, 0.0], 0.001);
        assert_shares(&counts(&[0, 0]), &[1.0, 1.0], 0.001);
        let extreme = counts(&[1, u16::MAX]);
        assert!((1..=2).contains(&extreme[0]), "{extreme:?}");
    }

    #[test]
    fn removing_one_moves_few_keys_of_the_others() {
        let all = members(&[1; 20]);
        let less: Vec<Member> = all.iter().copied().filter(|member| member.identity != all[3].identity).collect();
        let (before, after) = (table(&all), table(&less));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        let others = moved.filter(|(before, _)| **before != all[3].identity).count();
        assert!(others * 100 < before.len() * 3, "{others} of {} beside the twentieth that must", before.len());
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let all = members(&[1, 2, 3, 4, 5]);
        let reversed: Vec<Member> = all.iter().rev().copied().collect();
        assert_eq!(table(&all), table(&reversed));
    }

    #[test]
    fn the_table_does_not_change_between_releases() {
        // A change would move the keys of every user during an update: say so in the changelog.
        let table = table(&members(&[1; 10]));
        let all: Vec<u8> = table.iter().flat_map(|identity| identity.to_be_bytes()).collect();
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&all), 4_298_915_504_687_684_640);
    }
}
