//! `/debug/log-level`: what the process log lets through, and the one thing that the admin port changes.
//!
//! A browser is never answered: a page on another site cannot send PUT without leave that is not given here, but one
//! whose name was made to point at this port (DNS rebinding) could. Every browser names itself by `Origin` or
//! `Sec-Fetch-Site`, which no page can leave out; curl and kubectl send neither.

use axum::{
    Router,
    extract::{DefaultBodyLimit, State as Shared},
    http::{HeaderMap, StatusCode, header::ORIGIN},
    response::{IntoResponse, Response},
    routing::get,
};

use super::State;

/// Longest level in bytes.
const LONGEST: usize = 4096;

/// The endpoint.
pub(super) fn routes() -> Router<State> {
    Router::new().route("/debug/log-level", get(level).put(set)).layer(DefaultBodyLimit::max(LONGEST))
}

async fn level(Shared(state): Shared<State>) -> String {
    state.log_level.get() + "\n"
}

/// 400 for what is no level; the old one stays.
async fn set(Shared(state): Shared<State>, headers: HeaderMap, body: String) -> Response {
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return (StatusCode::FORBIDDEN, "the log level is not changed from a browser\n").into_response();
    }
    match state.log_level.set(body.trim()) {
        Ok(()) => (state.log_level.get() + "\n").into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}
