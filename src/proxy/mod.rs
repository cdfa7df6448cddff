//! The data plane: accepts connections, finds the route of each request and forwards it.
//!
//! Each thread runs a single-threaded runtime, serves the connections it accepted and keeps its own connections to
//! endpoints: no lock and no wake-up of another thread on the way of a request. It knows nothing of Kubernetes.

mod settings;

pub use settings::{Settings, Timeouts};
