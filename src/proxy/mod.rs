//! The data plane: accepts connections, finds the route of each request and forwards it.
//!
//! Each thread runs a single-threaded runtime, serves the connections it accepted and keeps its own connections to
//! endpoints: no lock and no wake-up of another thread on the way of a request. It knows nothing of Kubernetes.

mod settings;

pub use settings::{Settings, Timeouts};

/// Stub.
#[derive(Debug)]
pub struct Proxy;
/// Stub.
#[derive(Debug)]
pub struct Running;
/// Stub.
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct BindError;
impl Proxy {
    /// Stub.
    pub fn bind(_settings: &Settings) -> Result<Self, BindError> {
        Ok(Self)
    }
    /// Stub.
    pub fn addresses(&self) -> Vec<(&'static str, std::net::SocketAddr)> {
        Vec::new()
    }
    /// Stub.
    pub fn start(
        self,
        _live: crate::routing::Live,
        _metrics: std::sync::Arc<crate::telemetry::metrics::Metrics>,
        _access_log: crate::telemetry::access_log::AccessLog,
    ) -> std::io::Result<Running> {
        Ok(Running)
    }
}
impl Running {
    /// Stub.
    pub async fn drain(self, _timeout: std::time::Duration) -> usize {
        0
    }
}
