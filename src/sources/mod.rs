//! Where configuration comes from. Each source compiles what it sees into a [`Compiled`] and sends it on; nothing here
//! serves traffic.

#[cfg(feature = "kubernetes")]
pub mod file;
pub mod flags;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "kubernetes")]
pub mod policy;

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::Compiled;

/// What a source sends: None until it has seen everything once. Latest wins, nothing queues.
pub type Updates = watch::Receiver<Option<Arc<Compiled>>>;

/// Stub.
pub async fn merged(mut inputs: Vec<Updates>, output: watch::Sender<Option<Arc<Compiled>>>) {
    let Some(mut first) = inputs.pop() else { return };
    loop {
        let value = first.borrow_and_update().clone();
        output.send_replace(value);
        if first.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
