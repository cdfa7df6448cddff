//! Connections to endpoints, for whoever needs one: TCP, then the PROXY protocol, then TLS.
//!
//! It neither keeps connections nor speaks HTTP, and sets no time limit: callers do. Nothing leaves by a connection
//! before the endpoint is verified, where a policy asks for verification.

mod address;
mod dialer;
mod proxy_protocol;
mod stream;
mod tls;

pub use address::resolve;
pub use dialer::{DialError, DialTimes, Dialer};
pub use proxy_protocol::Proxied;
pub use stream::{TCP_KEEP_ALIVE, Transport, tune};
