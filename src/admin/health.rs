//! Liveness and readiness, as the kubelet asks for them.
//!
//! The process is live as long as it answers; it is ready while traffic should come here.

use std::sync::atomic::Ordering;

use axum::{
    extract::{Query, State as Shared},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{State, watches};

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Deserialize)]
pub(super) struct Verbose {
    verbose: Option<String>,
}

/// A condition of readiness: its name, whether it holds, and what is said when it does not.
type Check = (&'static str, bool, &'static str);

fn checks(state: &State) -> [Check; 3] {
    [
        ("configuration", state.live.is_published(), "no configuration is in force yet"),
        ("serving", state.serving.load(Ordering::Acquire), "the data plane has not started"),
        ("shutdown", !state.stopping.is_cancelled(), "the process is stopping"),
    ]
}

/// Why no traffic should come here; None while it should.
pub(super) fn failure(state: &State) -> Option<&'static str> {
    checks(state).into_iter().find(|(_, holds, _)| !holds).map(|(_, _, reason)| reason)
}

/// 200 while traffic should come here: a configuration is in force and the process is not stopping.
pub(super) async fn readyz(Shared(state): Shared<State>, Query(query): Query<Verbose>) -> Response {
    let failed = failure(&state);
    let status = if failed.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = match failed {
        _ if query.verbose.is_some() => {
            let line = |(name, holds, reason): Check| {
                if holds { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: {reason}\n") }
            };
            checks(&state).into_iter().map(line).collect::<String>() + &watches::lines(&state.metrics.watches)
        }
        Some(reason) => format!("{reason}\n"),
        None => "ok\n".to_owned(),
    };
    (status, body).into_response()
}
