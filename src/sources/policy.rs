//! The policy block that users write, shared by the CRD and manifest files, and its conversion into typed values.
//!
//! A new field is added here, as a value in [`model::Policy`](crate::model::Policy), and in the code that acts on it.
#![expect(unreachable_pub, reason = "the derive macros repeat the structs inside of functions")]

use std::num::NonZeroU32;

use kube::{KubeSchema, core::Duration};
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
    /// RoundRobin gives each endpoint its turn; Random draws one; LeastRequest draws two and takes the one with fewer
    /// requests in flight.
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
    #[schemars(with = "Option<String>", regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("must be more than zero"))]
    pub connect: Option<Duration>,
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
    let mut policy = Policy { strategy: load_balancing.strategy.into(), ..Policy::default() };
    let mut refused = Vec::new();
    if let Some(connect) = timeouts.and_then(|timeouts| timeouts.connect) {
        match std::time::Duration::from(connect) {
            time if connect.is_negative() || time.is_zero() => {
                let expected = "a duration of more than zero, such as 500ms or 5s".to_owned();
                refused.push(("timeouts.connect", ProblemKind::InvalidValue { found: connect.to_string(), expected }));
            }
            time => policy.connect_timeout = time,
        }
    }
    policy.max_concurrent_requests = limits.and_then(|limits| limits.max_concurrent_requests);
    (policy, refused)
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::RoundRobin => Self::RoundRobin,
            StrategyName::Random => Self::Random,
            StrategyName::LeastRequest => Self::LeastRequest,
        }
    }
}
