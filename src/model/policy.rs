//! How requests to a backend are balanced and limited, as typed values.

use std::{num::NonZeroU32, time::Duration};

use serde::Serialize;

use crate::balance::Strategy;

/// What a `BackendPolicy` says about a backend, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// How an endpoint is chosen.
    pub strategy: Strategy,
    /// Time allowed to open a connection to an endpoint.
    pub connect_timeout: Duration,
    /// Requests in flight to the backend over all its endpoints; more are answered 503. None means no limit.
    pub max_concurrent_requests: Option<NonZeroU32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { strategy: Strategy::RoundRobin, connect_timeout: Duration::from_secs(5), max_concurrent_requests: None }
    }
}
