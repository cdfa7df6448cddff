//! How endpoints are found to be unfit.

use std::{
    num::{NonZeroU16, NonZeroU32},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{PositiveTime, Refusals};
use crate::{balance::OutlierDetection, model};

/// Most entries of `expect`.
const EXPECT: usize = 16;
/// Most probes in a row that a verdict takes.
const THRESHOLD: i32 = 100;

/// How endpoints are found to be unfit. Those get no requests while enough others are fit.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Health::default")]
pub struct Health {
    /// Probes each endpoint. Default: no probes; Kubernetes' readiness is known in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ActiveCheck")]
    pub active: Option<ActiveCheck>,
    /// Judges each endpoint by the outcome of its requests, and ejects it for a time. Write `outlier: {}` for its
    /// defaults. Default: none is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Outlier")]
    pub outlier: Option<Outlier>,
    /// Percentage of fit endpoints below which fitness is ignored, because the few that are left would only be
    /// overwhelmed; 0 for never.
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: i32,
}

/// Probes of each endpoint, by each replica of the controller. An endpoint is fit until its probes fail.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "ActiveCheck::default")]
#[x_kube(validation = Rule::new("(has(self.http) ? 1 : 0) + (has(self.tcp) ? 1 : 0) + (has(self.grpc) ? 1 : 0) == 1")
    .message("exactly one of http, tcp and grpc must be given"))]
#[x_kube(validation = Rule::new("duration(self.timeout) <= duration(self.interval)")
    .message("timeout must not be above interval").field_path(".timeout"))]
pub struct ActiveCheck {
    /// Asks for a path and looks at the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpProbe")]
    pub http: Option<HttpProbe>,
    /// Opens a connection. Write `tcp: {}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TcpProbe")]
    pub tcp: Option<TcpProbe>,
    /// Asks the gRPC health service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GrpcProbe")]
    pub grpc: Option<GrpcProbe>,
    /// Between the starts of two probes of one endpoint; more than zero.
    pub interval: PositiveTime,
    /// Time allowed for one probe, at most `interval`; more than zero.
    pub timeout: PositiveTime,
    /// Passes in a row that make an unfit endpoint fit again.
    #[schemars(range(min = 1, max = THRESHOLD))]
    pub healthy: i32,
    /// Failures in a row that make a fit endpoint unfit.
    #[schemars(range(min = 1, max = THRESHOLD))]
    pub unhealthy: i32,
    /// Port that is probed. Default: that of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// A GET whose status is expected.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "HttpProbe::default")]
pub struct HttpProbe {
    /// Path, with a query where one is needed.
    #[schemars(length(min = 1, max = 1024), extend("pattern" = "^/[!-\"$-~]*$"))]
    pub path: String,
    /// `Host` of the request; empty for the address of the endpoint.
    #[schemars(length(max = 253), extend("pattern" = r"^([A-Za-z0-9.-]+(:[0-9]{1,5})?)?$"))]
    pub host: String,
    /// Statuses that pass, each a number or a range such as `200-399`.
    #[schemars(
        length(min = 1, max = EXPECT),
        inner(length(max = 7), regex(pattern = r"^[1-5][0-9]{2}(-[1-5][0-9]{2})?$")),
        extend("x-kubernetes-validations" = [{
            "rule": "self.all(range, !range.contains('-') || int(range.split('-')[0]) <= int(range.split('-')[1]))",
            "message": "a range must not end below its begin",
        }])
    )]
    pub expect: Vec<String>,
}

/// A connection that opens. Nothing is sent.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpProbe {}

/// `grpc.health.v1.Health/Check`; the status SERVING passes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "GrpcProbe::default")]
pub struct GrpcProbe {
    /// The service that is asked for; empty for the server as a whole.
    #[schemars(length(max = 253), extend("pattern" = "^[!-~]*$"))]
    pub service: String,
}

/// When an endpoint is ejected, and for how long (outlier detection).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Outlier::default")]
#[x_kube(validation = Rule::new("self.consecutiveErrors > 0 || self.errorRatio > 0")
    .message("consecutiveErrors or errorRatio must be above zero").field_path(".consecutiveErrors"))]
#[x_kube(validation = Rule::new("duration(self.baseEjection) <= duration(self.maxEjection)")
    .message("baseEjection must not be above maxEjection").field_path(".baseEjection"))]
pub struct Outlier {
    /// Failures in a row that eject an endpoint; 0 for never. A failure is a 5xx, a connection that cannot be opened or
    /// breaks, or a time limit that passes, but `timeouts.request` only where the try had half of it; and a gRPC call
    /// that fails at once, without a message, by a fault of the server (UNAVAILABLE, INTERNAL, UNKNOWN,
    /// `DEADLINE_EXCEEDED`, UNIMPLEMENTED, `DATA_LOSS`). One that fails after messages is none: its status is not
    /// looked at.
    #[schemars(range(min = 0, max = 10_000))]
    pub consecutive_errors: i32,
    /// Percentage of failures among the requests of an interval that ejects an endpoint; 0 for never. 50 is a good
    /// value: it finds endpoints that fail now and then.
    #[schemars(range(min = 0, max = 100))]
    pub error_ratio: i32,
    /// Requests in an interval below which its `errorRatio` says nothing.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: i32,
    /// Length of the interval of `errorRatio`; more than zero.
    pub interval: PositiveTime,
    /// Time of a first ejection; the n-th in a row lasts n times as long. More than zero.
    pub base_ejection: PositiveTime,
    /// Longest time of an ejection; more than zero.
    pub max_ejection: PositiveTime,
    /// Percentage of the endpoints that may be ejected together; one always may.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: i32,
}

impl Default for Health {
    fn default() -> Self {
        let model = model::Health::default();
        Self { active: None, outlier: None, panic_threshold: written(model.panic_threshold) }
    }
}

impl Default for ActiveCheck {
    fn default() -> Self {
        Self {
            http: None,
            tcp: None,
            grpc: None,
            interval: Duration::from_secs(5).into(),
            timeout: Duration::from_secs(1).into(),
            healthy: 2,
            unhealthy: 3,
            port: None,
        }
    }
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self { path: "/".to_owned(), host: String::new(), expect: vec!["200-399".to_owned()] }
    }
}

impl Default for Outlier {
    fn default() -> Self {
        let model = OutlierDetection::default();
        Self {
            consecutive_errors: model.consecutive_errors.map_or(0, |count| written(count.get())),
            error_ratio: model.error_ratio.map_or(0, |ratio| written(ratio.get())),
            min_requests: written(model.min_requests),
            interval: model.interval.into(),
            base_ejection: model.base_ejection.into(),
            max_ejection: model.max_ejection.into(),
            max_ejected_percent: written(model.max_ejected_percent),
        }
    }
}

fn written(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Health {
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::Health {
        let default = model::Health::default();
        let threshold = refusals.number("health.panicThreshold", self.panic_threshold, 0..=100);
        model::Health {
            active: self.active.as_ref().and_then(|active| active.convert(refusals)),
            outlier: self.outlier.as_ref().and_then(|outlier| outlier.convert(refusals)),
            panic_threshold: threshold.unwrap_or(default.panic_threshold),
        }
    }
}

impl ActiveCheck {
    /// None without a probe that is valid.
    fn convert(&self, refusals: &mut Refusals) -> Option<model::ActiveCheck> {
        let probe = match (&self.http, &self.tcp, &self.grpc) {
            (Some(http), None, None) => http.convert(refusals)?,
            (None, Some(TcpProbe {}), None) => model::Probe::Tcp,
            (None, None, Some(grpc)) => grpc.convert(refusals)?,
            (http, tcp, grpc) => {
                let given = usize::from(http.is_some()) + usize::from(tcp.is_some()) + usize::from(grpc.is_some());
                refusals.refuse("health.active", format!("{given} probes"), "exactly one of http, tcp and grpc");
                return None;
            }
        };
        let default = Self::default();
        let or = |time: Option<Duration>, default: &PositiveTime| time.or(default.parse()).unwrap_or_default();
        let interval = or(refusals.positive("health.active.interval", &self.interval), &default.interval);
        let timeout = or(refusals.positive("health.active.timeout", &self.timeout), &default.timeout);
        if timeout > interval {
            refusals.refuse("health.active.timeout", &self.timeout, format!("at most interval, {}", self.interval));
        }
        let mut threshold = |field, number, default| {
            let number = refusals.nonzero(field, number, 1..=THRESHOLD);
            number.or(u32::try_from(default).ok().and_then(NonZeroU32::new)).unwrap_or(NonZeroU32::MIN)
        };
        let healthy = threshold("health.active.healthy", self.healthy, default.healthy);
        let unhealthy = threshold("health.active.unhealthy", self.unhealthy, default.unhealthy);
        let port = self.port.and_then(|port| refusals.number("health.active.port", port, 1..=65535));
        let port = port.and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new);
        Some(model::ActiveCheck { probe, interval, timeout: timeout.min(interval), healthy, unhealthy, port })
    }
}

impl HttpProbe {
    fn convert(&self, refusals: &mut Refusals) -> Option<model::Probe> {
        let mut is_valid = true;
        let is_path = self.path.starts_with('/')
            && self.path.len() <= 1024
            && self.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_path {
            let expected = "a path of visible ASCII that begins with / and has no fragment";
            refusals.refuse("health.active.http.path", &self.path, expected);
            is_valid = false;
        }
        let is_host = |host: &str| {
            host.len() <= 253 && host.parse::<http::uri::Authority>().is_ok_and(|host| !host.as_str().contains('@'))
        };
        if !self.host.is_empty() && !is_host(&self.host) {
            refusals.refuse("health.active.http.host", &self.host, "a host, with an optional port");
            is_valid = false;
        }
        let expect = self.expect(refusals);
        // A probe of another path, or one that expects nothing, would judge by what nobody meant.
        if !is_valid || expect.is_empty() {
            return None;
        }
        let host = Some(self.host.as_str()).filter(|host| !host.is_empty()).map(Arc::from);
        Some(model::Probe::Http { path: Arc::from(self.path.as_str()), host, expect })
    }

    fn expect(&self, refusals: &mut Refusals) -> Vec<RangeInclusive<u16>> {
        let mut expect = Vec::new();
        if self.expect.is_empty() {
            refusals.refuse("health.active.http.expect", "", "at least one status or range");
        }
        let written = refusals.list("health.active.http.expect", &self.expect, EXPECT).unwrap_or_default();
        for (i, text) in written.iter().enumerate() {
            match statuses(text) {
                Some(range) => expect.push(range),
                None => refusals.refuse(
                    format!("health.active.http.expect[{i}]"),
                    text,
                    "a status from 100 to 599, or a range such as 200-399",
                ),
            }
        }
        expect
    }
}

fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| {
        let is_number = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| is_number && (100..=599).contains(status))
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = status(low)?..=status(high)?;
    (!range.is_empty()).then_some(range)
}

impl GrpcProbe {
    fn convert(&self, refusals: &mut Refusals) -> Option<model::Probe> {
        if self.service.len() > 253 || !self.service.bytes().all(|byte| byte.is_ascii_graphic()) {
            refusals.refuse("health.active.grpc.service", &self.service, "the name of a service");
            return None;
        }
        Some(model::Probe::Grpc { service: Arc::from(self.service.as_str()) })
    }
}

impl Outlier {
    /// None when nothing valid would eject.
    fn convert(&self, refusals: &mut Refusals) -> Option<OutlierDetection> {
        let default = OutlierDetection::default();
        let consecutive = refusals.number("health.outlier.consecutiveErrors", self.consecutive_errors, 0..=10_000);
        let ratio = refusals.number("health.outlier.errorRatio", self.error_ratio, 0..=100);
        let consecutive_errors = consecutive.map_or(default.consecutive_errors, NonZeroU32::new);
        let error_ratio = ratio.map_or(default.error_ratio, NonZeroU32::new);
        if consecutive_errors.is_none() && error_ratio.is_none() {
            let expected = "consecutiveErrors or errorRatio above zero";
            refusals.refuse("health.outlier.consecutiveErrors", self.consecutive_errors, expected);
            return None;
        }
        let min_requests = refusals.number("health.outlier.minRequests", self.min_requests, 1..=1_000_000);
        let interval = refusals.positive("health.outlier.interval", &self.interval);
        let max = refusals.positive("health.outlier.maxEjection", &self.max_ejection).unwrap_or(default.max_ejection);
        let base = refusals.positive("health.outlier.baseEjection", &self.base_ejection).filter(|base| {
            let fits = *base <= max;
            if !fits {
                let expected = format!("at most maxEjection, {}", self.max_ejection);
                refusals.refuse("health.outlier.baseEjection", &self.base_ejection, expected);
            }
            fits
        });
        let percent = refusals.number("health.outlier.maxEjectedPercent", self.max_ejected_percent, 0..=100);
        Some(OutlierDetection {
            consecutive_errors,
            error_ratio,
            min_requests: min_requests.unwrap_or(default.min_requests),
            interval: interval.unwrap_or(default.interval),
            base_ejection: base.unwrap_or(default.base_ejection.min(max)),
            max_ejection: max,
            max_ejected_percent: percent.unwrap_or(default.max_ejected_percent),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_or_a_range() {
        let cases = [
            ("200-399", Some(200..=399)),
            ("204", Some(204..=204)),
            ("100-599", Some(100..=599)),
            ("399-200", None),
            ("99", None),
            ("600", None),
            ("200-", None),
            ("-200", None),
            ("200-300-400", None),
            ("+20", None),
            ("2xx", None),
            ("", None),
        ];
        for (text, range) in cases {
            assert_eq!(statuses(text), range, "{text}");
        }
    }
}
