//! Stub.
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ObjectKey, compile};
use crate::model::Compiled;

/// Stub.
#[derive(Clone, Debug)]
pub enum Publish {
    /// Stub.
    None,
    /// Stub.
    Service(ObjectKey),
    /// Stub.
    Addresses(Vec<String>),
}
/// Stub.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stub.
    pub compile: compile::Settings,
    /// Stub.
    pub namespaces: Vec<String>,
    /// Stub.
    pub namespace_selector: Option<String>,
    /// Stub.
    pub publish: Publish,
    /// Stub.
    pub identity: String,
    /// Stub.
    pub lease_namespace: String,
    /// Stub.
    pub lease_name: String,
}
/// Stub.
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;
/// Stub.
pub async fn run(
    _client: kube::Client,
    _settings: Settings,
    _updates: watch::Sender<Option<Arc<Compiled>>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    stop.cancelled().await;
    Ok(())
}
