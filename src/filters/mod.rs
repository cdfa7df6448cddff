//! What a route does to a request before it is forwarded: synchronous, without I/O.
//!
//! A filter is data plus `apply` on a borrowed head; it yields nothing or an answer, never touches `http::Request`.

mod https_redirect;

use serde::Serialize;

pub use https_redirect::HttpsRedirect;

/// The parts of a request that filters look at.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Whether the request came over TLS, here or at a trusted proxy in front of us.
    pub secure: bool,
    /// Normal form of the host.
    pub host: &'a str,
    /// Normal form of the path, without query.
    pub path: &'a str,
    /// Query without its question mark.
    pub query: Option<&'a str>,
}

/// An answer that a filter gives instead of the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Status code, 3xx.
    pub status: u16,
    /// Value of `Location`.
    pub location: String,
}

/// One step on the way of a request. Dispatch is by variant, so the compiler finds every missing arm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Filter {
    /// Sends plain HTTP to HTTPS.
    HttpsRedirect(HttpsRedirect),
}

impl Filter {
    /// Applies the filter; `Some` ends the exchange with that answer.
    pub fn apply(&self, head: &Head<'_>) -> Option<Redirect> {
        match self {
            Self::HttpsRedirect(redirect) => redirect.apply(head),
        }
    }
}
