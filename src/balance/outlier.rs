//! Which endpoint is unfit, judged by the outcome of its requests.

use std::{num::NonZeroU32, time::Duration};

use serde::Serialize;

/// When an endpoint is ejected, and for how long (Envoy's outlier detection).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// Failures in a row that eject. None means that they do not.
    pub consecutive_errors: Option<NonZeroU32>,
    /// Percentage of failures in an interval that ejects. None means that it does not.
    pub error_ratio: Option<NonZeroU32>,
    /// Requests in an interval below which its ratio says nothing.
    pub min_requests: u32,
    /// Length of an interval. Not zero.
    pub interval: Duration,
    /// Time of a first ejection; the n-th lasts n times as long.
    pub base_ejection: Duration,
    /// Longest time of an ejection.
    pub max_ejection: Duration,
    /// Percentage of the endpoints of a backend that may be ejected together; one always may.
    pub max_ejected_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: NonZeroU32::new(5),
            error_ratio: None,
            min_requests: 20,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejected_percent: 50,
        }
    }
}
