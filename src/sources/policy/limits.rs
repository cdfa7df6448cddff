//! Limits on what the backend gets.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{PositiveTime, Refusals};
use crate::model;

/// Limits on what the backend gets, counted by each replica of the controller for itself.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Limits::default")]
#[x_kube(validation = Rule::new("!has(self.maxPending) || self.maxPending == 0 || \
    has(self.maxConcurrentRequests) || self.adaptive")
    .message("maxPending needs a limit: maxConcurrentRequests or adaptive").field_path(".maxPending"))]
#[x_kube(validation = Rule::new("!has(self.pendingTimeout) || (has(self.maxPending) && self.maxPending > 0)")
    .message("pendingTimeout needs maxPending above zero").field_path(".pendingTimeout"))]
pub struct Limits {
    /// Requests in flight to the backend over all its endpoints, counted by each replica of the controller for itself;
    /// more wait, as `maxPending` says, or are answered 503. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1))]
    pub max_concurrent_requests: Option<i32>,
    /// Requests that wait while the limit is reached; more are answered 503 at once. Needs a limit. Default: 0. A short
    /// queue smooths bursts; a long one only adds latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 100_000))]
    pub max_pending: Option<i32>,
    /// How long a request waits before it is answered 503. Needs `maxPending`. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PositiveTime")]
    pub pending_timeout: Option<PositiveTime>,
    /// Finds the limit by itself: it follows the latency of the backend, and falls when requests begin to queue there.
    /// For backends whose capacity is not known or changes. It counts requests until their response head and hears only
    /// answers below 500: server errors and requests without an answer say nothing to it. `maxConcurrentRequests` bounds
    /// it from above, and counts requests until the end of their response.
    pub adaptive: bool,
}

impl Limits {
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::Limits {
        let default = model::Limits::default();
        let limit = self.max_concurrent_requests;
        let limit = limit.and_then(|limit| refusals.nonzero("limits.maxConcurrentRequests", limit, 1..=i32::MAX));
        let pending = self.max_pending.and_then(|pending| {
            let number = refusals.number("limits.maxPending", pending, 0..=100_000)?;
            if number > 0 && self.max_concurrent_requests.is_none() && !self.adaptive {
                let expected = "a limit beside it: maxConcurrentRequests or adaptive";
                refusals.refuse("limits.maxPending", pending, expected);
                return None;
            }
            Some(number)
        });
        let timeout = self.pending_timeout.as_ref().and_then(|text| {
            let field = "limits.pendingTimeout";
            if self.max_pending.is_none_or(|pending| pending == 0) {
                refusals.refuse(field, text, "maxPending above zero beside it");
                return None;
            }
            refusals.positive(field, text)
        });
        model::Limits {
            max_concurrent_requests: limit,
            max_pending: pending.unwrap_or(default.max_pending),
            pending_timeout: timeout.unwrap_or(default.pending_timeout),
            adaptive: self.adaptive,
        }
    }
}
