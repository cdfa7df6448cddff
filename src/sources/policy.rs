//! The policy block that users write, shared by the CRD and manifest files, and its conversion into typed values.
//!
//! A new field is added here, as a value in [`model::Policy`](crate::model::Policy), and in the code that acts on it.
#![expect(unreachable_pub, reason = "the derive macros repeat the structs inside of functions")]

use std::{
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    balance::Strategy,
    model::{Policy, ProblemKind},
};

/// How an endpoint is chosen for a request.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// `RoundRobin` gives each endpoint its turn; `Random` draws one; `LeastRequest` draws two and takes the one with
    /// fewer requests in flight.
    #[serde(default)]
    pub strategy: StrategyName,
}

/// Names of the strategies.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum StrategyName {
    #[default]
    RoundRobin,
    Random,
    LeastRequest,
}

/// Times allowed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Time allowed to open a connection to an endpoint, such as 500ms or 5s; more than zero. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("must be more than zero"))]
    pub connect: Option<String>,
}

/// Limits on what the backend gets.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests in flight to the backend over all its endpoints, counted by each replica of the controller for itself;
    /// more are answered 503. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1))]
    pub max_concurrent_requests: Option<NonZeroU32>,
}

/// A value that is refused: its field, relative to the block, and why.
pub(super) type Refused = (&'static str, ProblemKind);

/// Fills in defaults. What is refused counts as not written.
pub(super) fn compile(
    load_balancing: &LoadBalancing,
    timeouts: Option<&Timeouts>,
    limits: Option<&Limits>,
) -> (Policy, Vec<Refused>) {
    let mut policy = Policy::default();
    policy.load_balancing.strategy = load_balancing.strategy.into();
    let mut refused = Vec::new();
    if let Some(text) = timeouts.and_then(|timeouts| timeouts.connect.as_deref()) {
        if let Some(time) = duration(text).filter(|time| !time.is_zero()) {
            policy.timeouts.connect = time;
        } else {
            let expected = "a duration of more than zero, such as 500ms or 5s".to_owned();
            refused.push(("timeouts.connect", ProblemKind::InvalidValue { found: text.to_owned(), expected }));
        }
    }
    policy.limits.max_concurrent_requests = limits.and_then(|limits| limits.max_concurrent_requests);
    (policy, refused)
}

/// A duration of Gateway API (GEP-2257): one to four numbers of up to five digits, each with a unit.
///
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

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::RoundRobin => Self::RoundRobin,
            StrategyName::Random => Self::Random,
            StrategyName::LeastRequest => Self::LeastRequest { choices: const { NonZeroU8::new(2).unwrap() } },
        }
    }
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
}
