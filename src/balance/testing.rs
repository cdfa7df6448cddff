//! Candidates of fixed state for the tests of the strategies.

use super::{Candidates, Member, rendezvous};

#[derive(Clone, Copy, Debug)]
struct State {
    open: bool,
    in_flight: u32,
    latency: f32,
    ramp: f32,
}

/// Candidates that are open, idle and unknown but for what is said.
#[derive(Clone, Debug)]
pub(super) struct Fixed(Vec<State>);

impl Fixed {
    pub(super) fn open(len: usize) -> Self {
        Self(vec![State { open: true, in_flight: 0, latency: 0.0, ramp: 1.0 }; len])
    }

    pub(super) fn closed(mut self, closed: &[usize]) -> Self {
        for &index in closed {
            self.0[index].open = false;
        }
        self
    }

    pub(super) fn in_flight(mut self, index: usize, in_flight: u32) -> Self {
        self.0[index].in_flight = in_flight;
        self
    }

    pub(super) fn latency(mut self, index: usize, latency: f32) -> Self {
        self.0[index].latency = latency;
        self
    }

    pub(super) fn ramp(mut self, index: usize, ramp: f32) -> Self {
        self.0[index].ramp = ramp;
        self
    }
}

impl Candidates for Fixed {
    fn is_open(&self, index: usize) -> bool {
        self.0[index].open
    }
    fn in_flight(&self, index: usize) -> u32 {
        self.0[index].in_flight
    }
    fn latency(&self, index: usize) -> f32 {
        self.0[index].latency
    }
    fn ramp(&self, index: usize) -> f32 {
        self.0[index].ramp
    }
}

/// Members of these weights whose identities are hashes, as those of the pool.
pub(super) fn members(weights: &[u16]) -> Vec<Member> {
    (0..).zip(weights).map(|(n, &weight)| Member { identity: rendezvous::mix(n, 0), weight }).collect()
}

/// How often each of `len` endpoints was chosen.
pub(super) fn tally(len: usize, chosen: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let mut counts = vec![0; len];
    for index in chosen {
        counts[index] += 1;
    }
    counts
}

/// Asserts that each count is its expected share within `tolerance` of that share.
#[track_caller]
pub(super) fn assert_shares(counts: &[u32], expected: &[f64], tolerance: f64) {
    let (total, of): (u32, f64) = (counts.iter().sum(), expected.iter().sum());
    for (count, share) in counts.iter().zip(expected) {
        let due = f64::from(total) * share / of;
        let off = (f64::from(*count) - due).abs();
        assert!(off <= due * tolerance, "{counts:?} is not {expected:?} within {tolerance}");
    }
}
