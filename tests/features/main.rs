//! Behaviour from outside: manifests in, HTTP out. The real binary, real sockets, no API server.
//!
//! One module a feature; `docs/behaviour-tests.md` maps each promise to its test.

#![allow(clippy::unwrap_used, reason = "a test that fails is a panic")]
#![allow(unreachable_pub, reason = "what the support modules share is public inside this target only")]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod admin;
mod admin_page;
mod answers;
mod backends;
mod balance_hash;
mod balance_least_request;
mod balance_peak_ewma;
mod balance_random;
mod balance_round_robin;
mod balance_slow_start;
mod balance_subset;
mod balance_weights;
mod balance_zone;
mod cli;
mod connections;
mod endpoint_tls;
mod explain;
mod headers;
mod health;
mod hedging;
mod http2;
mod lifecycle;
mod limits;
mod messages;
mod metrics;
mod outliers;
mod overload;
mod pending;
mod policy_change;
mod policy_targets;
mod promises;
mod proxy_protocol;
mod reload;
mod retries;
mod retry;
mod retry_storm;
mod routing;
mod server_errors;
mod session_affinity;
mod streaming;
mod timeouts;
mod tls;
mod tracing;
mod upgrade;
