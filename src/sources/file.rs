//! Manifest files: the YAML of `kubectl apply`, served without a cluster.
use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::kubernetes::compile::Settings;
use crate::model::Compiled;

/// Stub.
pub async fn run(
    _paths: Vec<PathBuf>,
    _settings: Settings,
    updates: watch::Sender<Option<Arc<Compiled>>>,
    stop: CancellationToken,
) {
    updates.send_replace(Some(Arc::default()));
    stop.cancelled().await;
}
