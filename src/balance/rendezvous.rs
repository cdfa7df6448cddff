//! Highest random weight: the choices that move only with the endpoint that they fell on (Thaler and Ravishankar).

use std::cmp::Reverse;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The random weight of an endpoint for a key, the same in every process.
pub(super) fn mix(identity: u64, key: u64) -> u64 {
    xxh3_64_with_seed(&identity.to_be_bytes(), key)
}

/// The one of highest random weight for the key among those that may be chosen.
pub(super) fn choose(identities: &[u64], may: impl Fn(usize) -> bool, key: u64) -> Option<usize> {
    (0..identities.len()).filter(|&index| may(index)).max_by_key(|&index| mix(identities[index], key))
}

/// The endpoints that this replica uses, `size` of them or all if there are fewer, as sorted indices (gRPC A68, random
/// subsetting).
///
/// Each replica has its own, evenly spread; when an endpoint comes or goes, at most one of a subset changes.
pub fn subset(identities: &[u64], replica: u64, size: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..identities.len()).collect();
    if size < indices.len() {
        indices.select_nth_unstable_by_key(size, |&index| (Reverse(mix(identities[index], replica)), index));
        indices.truncate(size);
        indices.sort_unstable();
    }
    indices
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn identities(len: u64) -> Vec<u64> {
        (0..len).map(|n| mix(n, 0)).collect()
    }

    fn subset_of(identities: &[u64], replica: u64, size: usize) -> BTreeSet<u64> {
        subset(identities, replica, size).into_iter().map(|index| identities[index]).collect()
    }

    #[test]
    fn a_subset_has_the_size_asked_for_or_all() {
        for (len, size, expected) in [(0, 20, 0), (5, 20, 5), (20, 20, 20), (100, 20, 20), (100, 0, 0)] {
            assert_eq!(subset(&identities(len), 7, size).len(), expected, "{size} of {len}");
        }
    }

    #[test]
    fn a_subset_changes_by_one_at_most_when_an_endpoint_comes_or_goes() {
        let all = identities(200);
        for replica in 0..50 {
            let before = subset_of(&all, replica, 20);
            let after = subset_of(&all[1..], replica, 20);
            assert!(after.difference(&before).count() <= 1 && before.difference(&after).count() <= 1);
            assert_eq!(before.contains(&all[0]), before != after);
        }
    }

    #[test]
    fn replicas_spread_over_the_endpoints() {
        let all = identities(100);
        let mut used = vec![0; all.len()];
        (0..1000).flat_map(|replica| subset(&all, replica, 20)).for_each(|index| used[index] += 1);
        // Each is in a fifth of the subsets: 200 with a standard deviation of 12.6.
        assert!(used.iter().all(|n| (140..=260).contains(n)), "{used:?}");
    }
}
