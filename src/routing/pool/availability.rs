//! Which endpoints of a pool are open to requests.
//!
//! Fitness is looked up endpoint by endpoint; whether enough of them are fit for it to count is remembered, so that a
//! request does not pay for the number of endpoints.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Pool;
use crate::balance::Candidates;

/// For how long a look at all endpoints is believed, in milliseconds. Ejections end without anybody saying so.
const BELIEVED: u64 = 100;

/// Which endpoints are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// Those that are near and fit.
    NearFit,
    /// Those that are fit.
    Fit,
    /// Those that are near: too few are fit for fitness to count.
    Near,
    /// All of them: too few are fit, and none is near.
    All,
    /// None: none is fit, and the policy has fitness count even then.
    None,
}

impl Open {
    /// What is open when nothing of this is left, such as after failed tries.
    pub(super) fn wider(self) -> Self {
        match self {
            Self::NearFit | Self::Fit => Self::Fit,
            Self::Near | Self::All => Self::All,
            Self::None => Self::None,
        }
    }

    fn decide(counts: &Counts, panic_threshold: u32) -> Self {
        let Counts { all, fit, near, near_fit } = *counts;
        if too_few(fit, all, panic_threshold) {
            return if near > 0 { Self::Near } else { Self::All };
        }
        match (near_fit, fit) {
            (_, 0) => Self::None,
            (0, _) => Self::Fit,
            _ => Self::NearFit,
        }
    }
}

/// Whether so few are fit that fitness does not count. `threshold` is in percent.
pub(super) fn too_few(fit: u64, all: u64, threshold: u32) -> bool {
    fit * 100 < all * u64::from(threshold)
}

#[derive(Default)]
struct Counts {
    all: u64,
    fit: u64,
    near: u64,
    near_fit: u64,
}

/// What the last look at all endpoints said, in one word: the moment in the upper 40 bits, then 21 bits of the number of
/// changes seen, then which are open. Zero before the first look.
#[derive(Debug, Default)]
pub(super) struct Availability(AtomicU64);

impl Availability {
    /// Which endpoints of the pool are open.
    pub(super) fn open(&self, pool: &Pool, now: u64) -> Open {
        let changes = u64::from(pool.changes.load(Ordering::Relaxed)) & 0x1f_ffff;
        let word = self.0.load(Ordering::Relaxed);
        let (looked, seen) = (word >> 24, word >> 3 & 0x1f_ffff);
        let known = match word & 7 {
            _ if seen != changes || now >= looked + BELIEVED => None,
            1 => Some(Open::NearFit),
            2 => Some(Open::Fit),
            3 => Some(Open::Near),
            4 => Some(Open::All),
            5 => Some(Open::None),
            _ => None,
        };
        known.unwrap_or_else(|| {
            let open = look(pool, now);
            self.0.store(now << 24 | changes << 3 | (open as u64 + 1), Ordering::Relaxed);
            open
        })
    }
}

/// Which endpoints are open, by a look at all of them.
pub(super) fn look(pool: &Pool, now: u64) -> Open {
    let policy = &pool.backend.policy;
    let mut counts = Counts::default();
    for (endpoint, is_near) in pool.endpoints.iter().zip(&pool.near) {
        let (near, fit) = (u64::from(*is_near), u64::from(endpoint.unfit(policy, now).is_none()));
        counts.all += 1;
        counts.fit += fit;
        counts.near += near;
        counts.near_fit += near & fit;
    }
    Open::decide(&counts, policy.health.panic_threshold)
}

/// The endpoints of a pool as a strategy sees them at one moment.
pub(super) struct View<'a> {
    pub(super) pool: &'a Pool,
    pub(super) open: Open,
    pub(super) tried: &'a [u64],
    /// Endpoints with so many connections and none idle are left out; None leaves none out.
    pub(super) connections: Option<NonZeroU32>,
    pub(super) now: u64,
}

impl Candidates for View<'_> {
    fn is_open(&self, index: usize) -> bool {
        let endpoint = &self.pool.endpoints[index];
        let is_fit = || endpoint.unfit(&self.pool.backend.policy, self.now).is_none();
        let open = match self.open {
            Open::NearFit => self.pool.near[index] && is_fit(),
            Open::Fit => is_fit(),
            Open::Near => self.pool.near[index],
            Open::All => true,
            Open::None => false,
        };
        open && !self.tried.contains(&endpoint.id) && endpoint.slots.has_room(self.connections)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.pool.endpoints[index].in_flight()
    }

    fn latency(&self, index: usize) -> f32 {
        self.pool.endpoints[index].latency(self.now)
    }

    fn ramp(&self, index: usize) -> f32 {
        self.pool.endpoints[index].ramp(self.pool.backend.policy.load_balancing.slow_start, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitness_counts_while_enough_are_fit_and_near_ones_come_first() {
        // (all, fit, near, near and fit), threshold in percent
        let cases = [
            ((4, 4, 4, 4), 50, Open::NearFit),
            ((4, 2, 1, 1), 50, Open::NearFit),
            ((4, 2, 1, 0), 50, Open::Fit),
            ((4, 1, 1, 1), 50, Open::Near),
            ((4, 1, 0, 0), 50, Open::All),
            ((4, 0, 2, 0), 1, Open::Near),
            ((4, 1, 1, 1), 0, Open::NearFit),
            ((4, 0, 1, 0), 0, Open::None),
            ((3, 2, 3, 2), 100, Open::Near),
        ];
        for ((all, fit, near, near_fit), threshold, open) in cases {
            let counts = Counts { all, fit, near, near_fit };
            assert_eq!(Open::decide(&counts, threshold), open, "{fit} of {all}, {near_fit} of {near}, {threshold} %");
        }
    }
}
