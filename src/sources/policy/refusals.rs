//! What is refused of a policy.

use std::{fmt::Display, num::NonZeroU32, ops::RangeInclusive, time::Duration};

use super::{PositiveTime, Time};
use crate::model::ProblemKind;

/// Values that are refused: each with its field below `spec`, and why.
#[derive(Debug, Default)]
pub(in crate::sources) struct Refusals(pub(in crate::sources) Vec<(String, ProblemKind)>);

impl Refusals {
    /// Refuses a value.
    pub(super) fn refuse(&mut self, field: impl Into<String>, found: impl Display, expected: impl Into<String>) {
        self.tell(field, ProblemKind::InvalidValue { found: found.to_string(), expected: expected.into() });
    }

    /// Tells what else is wrong with a field.
    pub(super) fn tell(&mut self, field: impl Into<String>, kind: ProblemKind) {
        self.0.push((field.into(), kind));
    }

    /// A list of at most so many entries; a longer one is refused as a whole.
    pub(super) fn list<'a, T>(&mut self, field: &str, list: &'a [T], most: usize) -> Option<&'a [T]> {
        if list.len() > most {
            self.refuse(field, format!("{} entries", list.len()), format!("at most {most}"));
            return None;
        }
        Some(list)
    }

    /// The time that is written, zero allowed.
    pub(super) fn time(&mut self, field: &str, text: &Time) -> Option<Duration> {
        let time = text.parse();
        if time.is_none() {
            self.refuse(field, text, "a duration such as 500ms or 5s");
        }
        time
    }

    /// The time that is written, which is not zero.
    pub(super) fn positive(&mut self, field: &str, text: &PositiveTime) -> Option<Duration> {
        let time = text.parse();
        if time.is_none() {
            self.refuse(field, text, "a duration of more than zero, such as 500ms or 5s");
        }
        time
    }

    /// The number that is written, within bounds.
    pub(super) fn number(&mut self, field: &str, number: i32, bounds: RangeInclusive<i32>) -> Option<u32> {
        if bounds.contains(&number) {
            return u32::try_from(number).ok();
        }
        let (low, high) = bounds.into_inner();
        let expected = if high == i32::MAX {
            format!("a number of at least {low}")
        } else {
            format!("a number from {low} to {high}")
        };
        self.refuse(field, number, expected);
        None
    }

    /// The number that is written, within bounds that leave out zero.
    pub(super) fn nonzero(&mut self, field: &str, number: i32, bounds: RangeInclusive<i32>) -> Option<NonZeroU32> {
        self.number(field, number, bounds).and_then(NonZeroU32::new)
    }
}
