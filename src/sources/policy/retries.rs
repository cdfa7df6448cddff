//! When a request is tried again.

use std::{collections::BTreeSet, sync::Arc};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PositiveTime, Refusals, Size, Time};
use crate::{
    balance::RetryBudget,
    model::{self, RetryOn},
};

/// Most entries of `methods`, and the most characters of one.
const METHODS: usize = 16;
const METHOD: usize = 32;
/// Most entries of `retryOn`.
const RETRY_ON: usize = 6;
/// Most entries of `statusCodes`.
const STATUS_CODES: usize = 32;

/// When a request is tried again.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Retries::default")]
#[x_kube(validation = Rule::new("('StatusCodes' in self.retryOn) == (size(self.statusCodes) > 0)")
    .message("statusCodes is needed with StatusCodes in retryOn, and refused without").field_path(".statusCodes"))]
pub struct Retries {
    /// Tries besides the first; 0 for none.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: i32,
    /// What is tried again: `ConnectFailure` when no connection or TLS session could be opened; `Reset` when the
    /// connection broke before the head of the response, or that took longer than `timeouts.responseHead` or the try
    /// longer than `timeouts.perTry`; `RefusedStream` when an HTTP/2 endpoint says that it did not look at the request;
    /// `GatewayError` on 502, 503 and 504; `ServerError` on any 5xx; `StatusCodes` on those listed. A gRPC call that
    /// fails at once, without a message, has the status of HTTP that stands for its own: UNAVAILABLE is 503,
    /// `DEADLINE_EXCEEDED` 504; one that fails after messages is not tried again. Except for `ConnectFailure` and
    /// `RefusedStream`, which no endpoint has acted on, it is tried again for `methods` only.
    #[schemars(length(max = RETRY_ON), extend("x-kubernetes-list-type" = "set"))]
    pub retry_on: Vec<RetryOnName>,
    /// Statuses from 400 to 599 that `StatusCodes` in `retryOn` means.
    #[schemars(
        length(max = STATUS_CODES),
        inner(range(min = 400, max = 599)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub status_codes: Vec<i32>,
    /// Methods whose requests may reach endpoints twice, in capital letters. Add POST only where the application takes
    /// that well.
    #[schemars(
        length(max = METHODS),
        inner(length(min = 1, max = METHOD), regex(pattern = r"^[A-Z][A-Z0-9_-]*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub methods: Vec<String>,
    /// Largest body of a request that is kept to be sent again, in bytes or with a unit: k, Ki, M, Mi; at most 16Mi. A
    /// request with a larger body is not tried again once its body has begun to be sent.
    pub replay_body: Size,
    /// Pause before a retry.
    pub backoff: Backoff,
    /// How many retries the backend may be asked for, so that they never turn a brown-out into an outage.
    pub budget: Budget,
    /// Starts a second try while the first is slow. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Hedge")]
    pub hedge: Option<Hedge>,
}

/// Names of what is tried again.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum RetryOnName {
    ConnectFailure,
    Reset,
    RefusedStream,
    GatewayError,
    ServerError,
    StatusCodes,
}

/// Pause before a retry: drawn between zero and a bound that doubles with each.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Backoff::default")]
#[x_kube(validation = Rule::new("duration(self.base) <= duration(self.max)")
    .message("base must not be above max").field_path(".base"))]
pub struct Backoff {
    /// Bound of the pause before the first retry; 0s for no pause.
    pub base: Time,
    /// Bound of all bounds.
    pub max: Time,
}

/// How many retries the backend may be asked for, by each replica of the controller.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Budget::default")]
pub struct Budget {
    /// Retries allowed for a hundred requests.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
    /// Retries allowed in any second, however few requests there are.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_per_second: i32,
}

/// A second try while the first is slow.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hedge {
    /// Starts a second try, to another endpoint, when the first has no response head after this time; the first response
    /// wins and the other try is given up. Only where there is another endpoint, for idempotent methods that are among
    /// `methods`, and within the budget. A good value is the 95th percentile of the latency.
    pub after: PositiveTime,
}

/// Names of what becomes of server errors.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum ServerErrorsName {
    #[default]
    Relay,
    BadGateway,
}

impl From<ServerErrorsName> for model::ServerErrors {
    fn from(name: ServerErrorsName) -> Self {
        match name {
            ServerErrorsName::Relay => Self::Relay,
            ServerErrorsName::BadGateway => Self::BadGateway,
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        let model = model::Retries::default();
        Self {
            attempts: i32::try_from(model.attempts).unwrap_or(i32::MAX),
            retry_on: model.on.into_iter().map(Into::into).collect(),
            status_codes: model.status_codes.into_iter().map(i32::from).collect(),
            methods: model.methods.iter().map(ToString::to_string).collect(),
            replay_body: model.replay_body.into(),
            backoff: Backoff::default(),
            budget: Budget::default(),
            hedge: None,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        let model = model::Backoff::default();
        Self { base: model.base.into(), max: model.max.into() }
    }
}

impl Default for Budget {
    fn default() -> Self {
        let RetryBudget { percent, min_per_second } = RetryBudget::default();
        let number = |number| i32::try_from(number).unwrap_or(i32::MAX);
        Self { percent: number(percent), min_per_second: number(min_per_second) }
    }
}

impl Retries {
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::Retries {
        let default = model::Retries::default();
        let attempts = refusals.number("retries.attempts", self.attempts, 0..=10);
        let on = refusals.list("retries.retryOn", &self.retry_on, RETRY_ON);
        let mut on: BTreeSet<RetryOn> = on.map_or(default.on, |on| on.iter().map(|name| (*name).into()).collect());
        let status_codes = self.status_codes(refusals);
        if status_codes.is_empty() {
            on.remove(&RetryOn::StatusCodes);
        }
        let replay_body = self.replay_body.bytes();
        if replay_body.is_none() {
            refusals.refuse("retries.replayBody", &self.replay_body, "bytes up to 16Mi, such as 64Ki");
        }
        let hedge = self.hedge.as_ref();
        model::Retries {
            attempts: attempts.unwrap_or(default.attempts),
            on,
            status_codes,
            methods: self.methods(refusals).unwrap_or(default.methods),
            replay_body: replay_body.unwrap_or(default.replay_body),
            backoff: self.backoff.convert(refusals),
            budget: self.budget.convert(refusals),
            hedge_after: hedge.and_then(|hedge| refusals.positive("retries.hedge.after", &hedge.after)),
        }
    }

    /// The statuses to try again; empty unless `retry_on` has `StatusCodes`.
    fn status_codes(&self, refusals: &mut Refusals) -> BTreeSet<u16> {
        let field = "retries.statusCodes";
        let asked = self.retry_on.contains(&RetryOnName::StatusCodes);
        if asked == self.status_codes.is_empty() {
            let found = format!("{} statuses", self.status_codes.len());
            let expected =
                if asked { "some beside StatusCodes in retryOn" } else { "StatusCodes in retryOn beside it" };
            refusals.refuse(field, found, expected);
            return BTreeSet::new();
        }
        let mut codes = BTreeSet::new();
        let written = refusals.list(field, &self.status_codes, STATUS_CODES).unwrap_or_default();
        for (i, code) in written.iter().enumerate() {
            codes.extend(
                refusals.number(&format!("{field}[{i}]"), *code, 400..=599).and_then(|code| u16::try_from(code).ok()),
            );
        }
        codes
    }

    fn methods(&self, refusals: &mut Refusals) -> Option<BTreeSet<Arc<str>>> {
        let mut methods = BTreeSet::new();
        for (i, method) in refusals.list("retries.methods", &self.methods, METHODS)?.iter().enumerate() {
            let is_method = method.starts_with(|first: char| first.is_ascii_uppercase())
                && method.len() <= METHOD
                && method
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
            if is_method {
                methods.insert(Arc::from(method.as_str()));
            } else {
                refusals.refuse(format!("retries.methods[{i}]"), method, "a method in capital letters, such as GET");
            }
        }
        Some(methods)
    }
}

impl Backoff {
    fn convert(&self, refusals: &mut Refusals) -> model::Backoff {
        let default = model::Backoff::default();
        let max = refusals.time("retries.backoff.max", &self.max).unwrap_or(default.max);
        let base = refusals.time("retries.backoff.base", &self.base).filter(|base| {
            let fits = *base <= max;
            if !fits {
                refusals.refuse("retries.backoff.base", &self.base, format!("at most max, {}", self.max));
            }
            fits
        });
        model::Backoff { base: base.unwrap_or(default.base.min(max)), max }
    }
}

impl Budget {
    fn convert(&self, refusals: &mut Refusals) -> RetryBudget {
        let default = RetryBudget::default();
        let percent = refusals.number("retries.budget.percent", self.percent, 0..=100);
        let minimum = refusals.number("retries.budget.minPerSecond", self.min_per_second, 0..=1_000_000);
        RetryBudget {
            percent: percent.unwrap_or(default.percent),
            min_per_second: minimum.unwrap_or(default.min_per_second),
        }
    }
}

impl From<RetryOnName> for RetryOn {
    fn from(name: RetryOnName) -> Self {
        match name {
            RetryOnName::ConnectFailure => Self::ConnectFailure,
            RetryOnName::Reset => Self::Reset,
            RetryOnName::RefusedStream => Self::RefusedStream,
            RetryOnName::GatewayError => Self::GatewayError,
            RetryOnName::ServerError => Self::ServerError,
            RetryOnName::StatusCodes => Self::StatusCodes,
        }
    }
}

impl From<RetryOn> for RetryOnName {
    fn from(on: RetryOn) -> Self {
        match on {
            RetryOn::ConnectFailure => Self::ConnectFailure,
            RetryOn::Reset => Self::Reset,
            RetryOn::RefusedStream => Self::RefusedStream,
            RetryOn::GatewayError => Self::GatewayError,
            RetryOn::ServerError => Self::ServerError,
            RetryOn::StatusCodes => Self::StatusCodes,
        }
    }
}
