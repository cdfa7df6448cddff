//! The page of the admin port: what is served, what is wrong, and what is known of endpoints, for a person who is on call.
//!
//! It is rendered here, refers to nothing outside, and changes nothing. Text from objects is escaped by `maud`; lists are
//! cut to pages, so that the size of an answer does not follow the size of the cluster.

mod backends;
mod certificates;
mod facts;
mod layout;
mod list;
mod overview;
mod policy;
mod problems;
mod routes;

pub use list::escaped;

use axum::{
    Router,
    extract::{Query as Parameters, State as Shared},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use maud::Markup;

use self::{facts::Facts, list::Query};
use super::{State, aside};

/// Nothing is loaded but our own files, nothing is sent elsewhere, and nobody may frame the page.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// One of the pages, each with a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Overview,
    Routes,
    Backends,
    Problems,
    Certificates,
}

impl Page {
    const ALL: [Self; 5] = [Self::Overview, Self::Routes, Self::Backends, Self::Problems, Self::Certificates];

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Routes => "/routes",
            Self::Backends => "/backends",
            Self::Problems => "/problems",
            Self::Certificates => "/certificates",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Routes => "Routes",
            Self::Backends => "Backends",
            Self::Problems => "Problems",
            Self::Certificates => "Certificates",
        }
    }

    fn render(self, state: &State, query: &Query) -> Markup {
        let snapshot = state.live.load();
        let facts = Facts::gather(&snapshot, state.live.now());
        let content = match self {
            Self::Overview => overview::render(state, &facts),
            Self::Routes => routes::render(&facts, &state.metrics, query),
            Self::Backends => backends::render(&facts, query),
            Self::Problems => problems::render(&facts, query),
            Self::Certificates => certificates::render(&facts, query),
        };
        layout::render(self, state, &facts, query, &content)
    }
}

/// The pages and the files they are made of.
pub(super) fn router() -> Router<State> {
    let file = |kind: &'static str, text: &'static str| get(move || async move { answer(kind, text) });
    let assets = Router::new()
        .route("/assets/page.css", file("text/css; charset=utf-8", include_str!("page.css")))
        .route("/assets/page.js", file("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/assets/icon.svg", file("image/svg+xml", include_str!("icon.svg")));
    Page::ALL.into_iter().fold(assets, |router, page| {
        let show = move |Shared(state): Shared<State>, Parameters(query): Parameters<Query>| show(page, state, query);
        router.route(page.path(), get(show))
    })
}

async fn show(page: Page, state: State, query: Query) -> Response {
    aside(move || answer("text/html; charset=utf-8", page.render(&state, &query).into_string())).await
}

fn answer(kind: &'static str, body: impl IntoResponse) -> Response {
    (HEADERS, [(header::CONTENT_TYPE, kind)], body).into_response()
}

#[cfg(test)]
mod tests;
