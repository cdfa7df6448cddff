//! Times allowed.

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{PositiveTime, Refusals, Time};
use crate::model;

/// Times allowed, such as 500ms or 1m30s.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Timeouts::default")]
#[x_kube(validation = Rule::new("duration(self.request) == duration('0s') || \
    duration(self.perTry) <= duration(self.request)")
    .message("perTry must not be above request").field_path(".perTry"))]
pub struct Timeouts {
    /// To open a connection to an endpoint, with TLS where there is TLS; more than zero.
    pub connect: PositiveTime,
    /// From the end of the request sent to the head of its response, in each try; 0s for no limit. When it passes, that
    /// is a `Reset` in the sense of `retryOn`: by default up to two more tries follow, each with the same limit, before
    /// 504 is answered. `request` bounds them together. Default: as `--response-head-timeout` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub response_head: Option<Time>,
    /// Longest pause between reads or writes of a body; 0s for no limit. Default: as `--idle-timeout` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub idle: Option<Time>,
    /// For one attempt, from its connection to its response head, after which another may follow as `retries` say; 0s
    /// for no limit.
    pub per_try: Time,
    /// For the whole exchange, from the head of the request to the end of the response, retries and pauses included; 0s
    /// for no limit.
    pub request: Time,
}

impl Default for Timeouts {
    fn default() -> Self {
        let model = model::Timeouts::default();
        Self {
            connect: model.connect.into(),
            response_head: None,
            idle: None,
            per_try: model.per_try.into(),
            request: model.request.into(),
        }
    }
}

impl Timeouts {
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::Timeouts {
        let default = model::Timeouts::default();
        let connect = refusals.positive("timeouts.connect", &self.connect);
        let response_head = self.response_head.as_ref();
        let response_head = response_head.and_then(|time| refusals.time("timeouts.responseHead", time));
        let idle = self.idle.as_ref().and_then(|time| refusals.time("timeouts.idle", time));
        let request = refusals.time("timeouts.request", &self.request).unwrap_or(default.request);
        let per_try = refusals.time("timeouts.perTry", &self.per_try).filter(|time| {
            let fits = request == Duration::ZERO || *time <= request;
            if !fits {
                refusals.refuse("timeouts.perTry", &self.per_try, format!("at most request, {}", self.request));
            }
            fits
        });
        model::Timeouts {
            connect: connect.unwrap_or(default.connect),
            response_head,
            idle,
            per_try: per_try.unwrap_or(default.per_try),
            request,
        }
    }
}
