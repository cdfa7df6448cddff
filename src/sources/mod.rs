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
