//! The Kubernetes API as a source: watch, join, compile, and tell the authors what became of their objects.

pub mod api;
pub mod cluster;
pub mod compile;
pub mod run;

pub use cluster::{Cluster, ObjectKey, Objects};
