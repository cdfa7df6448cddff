//! The explanation as a value: what `-o json` and the admin port give.

use serde::Serialize;

use crate::telemetry::Reason;

/// Why a request gets the answer it gets.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The request, and how it was read.
    pub request: Asked,
    /// What it would be answered.
    pub answer: Answer,
    /// Pattern that took the host; None when none did.
    pub host: Option<String>,
    /// The rule that took it; None when none did.
    pub route: Option<Rule>,
    /// What the filters of the rule do with it, in order.
    pub filters: Vec<String>,
    /// Rules and hosts that came near, nearest first, and why they lost.
    pub near: Vec<Near>,
    /// How many more did.
    pub near_left_out: usize,
    /// Where the rule leads to; None when to no backend.
    pub backend: Option<BackendView>,
    /// Problems of the objects named above.
    pub problems: Vec<Told>,
    /// What to do about it, and what to know.
    pub hints: Vec<String>,
}

/// A request, and how it was read.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its URL as it was given.
    pub url: String,
    /// Normal form of the host.
    pub host: String,
    /// The path that the backend gets; empty when the path is refused.
    pub path: String,
    /// The path that rules are compared with.
    pub compared_as: String,
    /// Address of the client.
    pub client: String,
    /// How the path was brought into normal form.
    pub notes: Vec<String>,
}

/// What a request would be answered.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// By whom.
    pub by: By,
    /// The status; None for what the backend chooses.
    pub status: Option<u16>,
    /// The reason, by its word in the access log and in metrics.
    pub reason: Option<Reason>,
    /// What it means.
    pub message: String,
    /// `Location` of a redirect.
    pub location: Option<String>,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// The backend.
    Backend,
    /// We do, as asked for: a redirect, or `OPTIONS *`.
    Pierhead,
    /// We do, with an error.
    Error,
}

/// A rule of an object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Hosts it applies to.
    pub host: String,
    /// Paths it applies to; `default backend` for what no path took.
    pub path: String,
    /// The object that has it.
    #[serde(flatten)]
    pub source: Source,
}

/// Where something is written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The object.
    pub origin: String,
    /// Field of the object.
    pub field: String,
    /// `file:line` of the field, for objects from files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// When the object was created (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// A rule that came near.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Near {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Why it lost.
    pub why: String,
}

/// A problem of an object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// `warning` or `error`.
    pub severity: &'static str,
    /// The object.
    #[serde(flatten)]
    pub source: Source,
    /// What is wrong and what was expected.
    pub message: String,
}

/// A backend and what would be picked of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// `namespace/service:port`.
    pub id: String,
    /// The policy in force; None where there is none.
    pub policy: Option<Source>,
    /// Requests in flight to it now; None without a running process.
    pub in_flight: Option<u32>,
    /// How many may be; None for no limit.
    pub limit: Option<u32>,
    /// How many wait for their turn.
    pub pending: usize,
    /// What is picked, and by which algorithm.
    pub pick: String,
    /// The endpoint that is picked for sure.
    pub picked: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
    /// The settings in force.
    pub settings: Vec<Setting>,
}

/// An endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Where it listens.
    pub address: String,
    /// Whether it may be picked, or why not.
    pub state: String,
    /// It may be picked.
    pub is_candidate: bool,
    /// Its part of all requests by weight, in percent.
    pub share_percent: f32,
    /// Its weight.
    pub weight: u16,
    /// It is in our zone, or meant for it.
    pub near: bool,
    /// Requests in flight to it now.
    pub in_flight: u32,
    /// Decayed peak latency; zero when nothing is known.
    pub latency_milliseconds: f32,
    /// Percent of its weight that it gets: less than 100 in slow start.
    pub ramp_percent: f32,
}

/// A setting in force.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Field, named as in a `BackendPolicy` below `spec`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// Where the value comes from.
    pub from: String,
}
