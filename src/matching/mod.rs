//! Which requests a route takes: hosts and paths, and which of two matches is the stronger.
//!
//! Pure and borrowed: matching works on strings of the request head, never on `http::Request`.

mod host;
mod path;

pub use host::{HostError, HostPattern, RequestHost};
pub use path::{NormalPath, PathError, PathPattern};
