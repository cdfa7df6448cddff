//! When probes change what is thought of an endpoint: a count, without clock or I/O.

use crate::model::ActiveCheck;

/// Whether an endpoint is fit, and how many probes in a row said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    is_fit: bool,
    against: u32,
}

/// The outcome of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pass,
    Failure,
}

/// What an endpoint turns into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Fit,
    Unfit,
}

impl Verdict {
    /// A verdict that no probe has spoken against yet.
    pub(super) fn new(is_fit: bool) -> Self {
        Self { is_fit, against: 0 }
    }

    /// Counts a probe; tells when it turns the verdict.
    pub(super) fn count(&mut self, outcome: Outcome, check: &ActiveCheck) -> Option<Turn> {
        if self.is_fit == (outcome == Outcome::Pass) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.is_fit { check.unhealthy } else { check.healthy };
        if self.against < needed.get() {
            return None;
        }
        *self = Self::new(!self.is_fit);
        Some(if self.is_fit { Turn::Fit } else { Turn::Unfit })
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;
    use crate::model::Probe;

    #[test]
    fn only_so_many_in_a_row_turn_the_verdict() {
        let check = ActiveCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy: NonZeroU32::new(2).unwrap(),
            unhealthy: NonZeroU32::new(3).unwrap(),
            port: None,
        };
        // One letter a probe: p passes, f fails; capitals turn the verdict.
        for probes in ["ppffpffF", "ffFfpfpPffpffF", "ffFfffffpPp"] {
            let mut verdict = Verdict::new(true);
            for (at, letter) in probes.char_indices() {
                let outcome = if letter.eq_ignore_ascii_case(&'p') { Outcome::Pass } else { Outcome::Failure };
                let turn = match letter {
                    'P' => Some(Turn::Fit),
                    'F' => Some(Turn::Unfit),
                    _ => None,
                };
                assert_eq!(verdict.count(outcome, &check), turn, "probe {at} of {probes}");
            }
        }
    }
}
