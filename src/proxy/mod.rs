//! The data plane: accepts connections, finds the route of each request and forwards it.
//!
//! Each thread runs a single-threaded runtime, serves the connections it accepted and keeps its own connections to
//! endpoints: no lock and no wake-up of another thread on the way of a request. It knows nothing of Kubernetes.

mod affinity;
mod answer;
mod attempt;
mod body;
mod bounded;
mod clock;
mod connection;
mod drain;
mod error;
mod exchange;
mod headers;
mod io;
mod listener;
mod record;
mod request;
mod response;
mod settings;
mod tls;
mod upgrade;
mod upstream;
mod worker;

pub use affinity::Affinity;
pub use error::Error;
pub use listener::{BindError, Proxy, Running};
pub use request::{authority, check, host, path};
pub use settings::{Settings, Timeouts};
