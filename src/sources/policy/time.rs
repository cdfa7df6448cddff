//! Durations as Gateway API writes them (GEP-2257).

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration: one to four numbers of up to five digits, each with a unit, such as `1m30s`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = "^([0-9]{1,5}(h|m|s|ms)){1,4}$", "maxLength" = 32))]
pub struct Time(String);

/// A duration that is not zero.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[schemars(
    inline,
    extend(
        "pattern" = "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "maxLength" = 32,
        "x-kubernetes-validations" = [{ "rule": "duration(self) > duration('0s')", "message": "must be more than zero" }],
    )
)]
pub struct PositiveTime(String);

impl Time {
    pub(super) fn parse(&self) -> Option<Duration> {
        duration(&self.0)
    }
}

impl PositiveTime {
    pub(super) fn parse(&self) -> Option<Duration> {
        duration(&self.0).filter(|time| !time.is_zero())
    }
}

impl From<Duration> for Time {
    fn from(time: Duration) -> Self {
        Self(text(time))
    }
}

impl From<Duration> for PositiveTime {
    fn from(time: Duration) -> Self {
        Self(text(time))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PositiveTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn text(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// The schema's pattern says the same; manifest files have no API server to apply it. `kube::core::Duration` reads more
/// and panics on some of it, such as `1s-1s`.
fn duration(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !text.is_empty() {
        let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let (unit, rest) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let number: u64 = number.parse().ok().filter(|_| number.len() <= 5)?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        parts += 1;
        text = rest;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gateway_api() {
        let cases = [
            ("5s", Some(5000)),
            ("500ms", Some(500)),
            ("1m500ms", Some(60_500)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("0s", Some(0)),
            ("99999h", Some(359_996_400_000)),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1s-1s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1us", None),
            ("s", None),
            ("5", None),
            ("", None),
            ("5é", None),
        ];
        for (text, millis) in cases {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for time in [0, 25, 5_000, 300_000, 3_661_001].map(Duration::from_millis) {
            assert_eq!(Time::from(time).parse(), Some(time));
        }
    }
}
