//! Everything counted, for Prometheus.

use axum::{
    extract::State as Shared,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};

use super::{State, aside};
use crate::telemetry::metrics::Format;

/// Everything counted, in the format that is asked for.
pub(super) async fn metrics(Shared(state): Shared<State>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::of(accept);
    aside(move || match state.metrics.encode(format) {
        Ok(written) => ([(CONTENT_TYPE, format.content_type())], written).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    })
    .await
}
