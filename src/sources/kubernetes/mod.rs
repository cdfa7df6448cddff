//! The Kubernetes API as a source: watch, join, compile, and tell the authors what became of their objects.

pub mod api;
pub mod class;
pub mod cluster;
pub mod compile;
pub mod events;
pub mod leader;
pub mod run;
pub mod secrets;
pub mod status;
pub mod stores;

pub use cluster::{Cluster, ObjectKey, Objects};
