//! What the process tells of itself: logs, metrics and the access log.

pub mod access_log;
pub mod logging;
pub mod metrics;
mod reason;
pub mod trace;
pub mod watches;

pub use reason::Reason;
