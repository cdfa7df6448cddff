//! The Kubernetes API as a source: watch, join, compile, and tell the authors what became of their objects.

pub mod annotations;
pub mod api;
mod authorities;
pub mod class;
pub mod client;
pub mod cluster;
pub mod compile;
pub mod events;
mod ingress;
pub mod leader;
mod locality;
mod policies;
pub mod rights;
pub mod run;
pub mod secrets;
mod services;
pub mod status;
pub mod stores;

pub use class::is_ours;
pub use cluster::{Cluster, ObjectKey, Objects};
pub use compile::{Settings, compile, compile_once};
pub use secrets::Certificates;
