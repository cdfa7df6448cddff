//! Why a request gets the answer it gets, by the live state of this process.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    Json,
    extract::{Query, State as Shared},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{State, aside};
use crate::explain::{self, By, Knowledge, Request};

/// Field of the response that says who would answer: `backend`, `pierhead` or `error`.
pub const ANSWERED_BY: &str = "pierhead-answered-by";

/// `GET /debug/explain?method=GET&url=…&header=Name:%20value&client=…&output=text`; all but `url` may be left out, and
/// `header` may come more than once.
pub(super) async fn explain(Shared(state): Shared<State>, Query(given): Query<Vec<(String, String)>>) -> Response {
    let get = |wanted: &str| given.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let bad = |why: String| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response();
    let Some(url) = get("url") else { return bad("give the URL that is asked about as url=".to_owned()) };
    let Ok(client) = get("client").map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), str::parse) else {
        return bad("client is not an IP address".to_owned());
    };
    let headers: Vec<String> =
        given.iter().filter(|(name, _)| name == "header").map(|(_, value)| value.clone()).collect();
    let request = match Request::parse(get("method").unwrap_or("GET"), url, &headers, client) {
        Ok(request) => request,
        Err(error) => return bad(error.to_string()),
    };
    let is_text = get("output") == Some("text");
    aside(move || answer(&state, &request, is_text)).await
}

fn answer(state: &State, request: &Request, is_text: bool) -> Response {
    let explanation = explain::explain(&state.live, request, Knowledge::Live);
    let by = match explanation.answer.by {
        By::Backend => "backend",
        By::Pierhead => "pierhead",
        By::Error => "error",
    };
    let by = [(ANSWERED_BY, by)];
    if is_text {
        return (by, explanation.to_string()).into_response();
    }
    match serde_json::to_string_pretty(&explanation) {
        Ok(text) => (by, [("content-type", "application/json")], text + "\n").into_response(),
        Err(_) => (by, Json(explanation)).into_response(),
    }
}
