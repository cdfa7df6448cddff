//! Every route: what it takes, who declared it, and where its requests go.

use maud::{Markup, html};

use super::{
    Page,
    facts::Facts,
    layout::{Tone, badge, empty},
    list::{Align, Query, ROWS, Search, Shown, escaped, table},
};
use crate::{
    filters::Filter,
    matching::PathPattern,
    model::{Action, Route},
    routing::route_labels,
    telemetry::metrics::Metrics,
};

const COLUMNS: [(&str, Align); 6] = [
    ("Host and path", Align::Text),
    ("Declared by", Align::Text),
    ("Filters", Align::Text),
    ("Backend", Align::Text),
    ("State", Align::Text),
    ("Requests", Align::Number),
];

pub(super) fn render(facts: &Facts<'_>, metrics: &Metrics, query: &Query) -> Markup {
    let search = Search::new(query);
    let shown = Shown::of(facts.routes(), query, ROWS, |route| search.takes(|| words(facts, route)));
    if facts.routes == 0 {
        return empty("No route is in force: every request is answered 404.");
    }
    let rows = html! { @for route in &shown.rows { (row(facts, metrics, route)) } };
    html! {
        (shown.told("routes"))
        @if !shown.rows.is_empty() { (table("Routes", &COLUMNS, &rows)) }
        p.hint { "Requests are counted by object and Service, since start: routes of one to the other share them." }
        (shown.pager(Page::Routes.path(), query, ROWS))
    }
}

/// What a route is found by.
fn words(facts: &Facts<'_>, route: &Route) -> String {
    let (kind, path) = path(route);
    let target = match &route.action {
        Action::Forward(id) => id.to_string(),
        Action::Unavailable(_) => String::new(),
    };
    let state = facts.refusal(route).map_or("served".to_owned(), |reason| format!("503 {reason}"));
    let Route { host, origin, field, .. } = route;
    format!("{host}{path} {host} {path} {kind} {origin} {field} {target} {state}")
}

/// Type and text of the path.
pub(super) fn path(route: &Route) -> (&'static str, &str) {
    match &route.path {
        None => ("Default", ""),
        Some(PathPattern::Exact(text)) => ("Exact", text),
        Some(PathPattern::Prefix(text)) => ("Prefix", root(text)),
        Some(PathPattern::ImplementationSpecific(text)) => ("ImplementationSpecific", root(text)),
    }
}

/// Prefixes are kept without a trailing slash.
fn root(prefix: &str) -> &str {
    if prefix.is_empty() { "/" } else { prefix }
}

fn row(facts: &Facts<'_>, metrics: &Metrics, route: &Route) -> Markup {
    let (kind, path) = path(route);
    let (requests, failed) = metrics.known_route(&route_labels(route)).map_or((0, 0), |counts| counts.ended());
    html! {
        tr {
            th scope="row" {
                span.host { (route.host) } code { (path) }
                span.sub {
                    @if route.path.is_none() { "whatever no path takes" } @else { (kind) }
                }
            }
            td { (route.origin) code.sub { (route.field) } }
            td {
                @for filter in &route.filters { span.nowrap { (name(filter)) } " " }
                @if route.filters.is_empty() { span.soft { "none" } }
            }
            td {
                @match &route.action {
                    Action::Forward(id) => {
                        @let id = id.to_string();
                        a href={ "/backends?q=" (escaped(&id)) } { (id) }
                    }
                    Action::Unavailable(_) => { span.soft { "none" } }
                }
            }
            td {
                @match facts.refusal(route) {
                    None => (badge(Tone::Good, "Served")),
                    Some(reason) => { (badge(Tone::Bad, "503")) span.sub { (reason) } }
                }
            }
            td.number {
                (requests)
                @if failed > 0 { span.sub { (failed) " failed (5xx)" } }
            }
        }
    }
}

fn name(filter: &Filter) -> &'static str {
    match filter {
        Filter::HttpsRedirect(_) => "redirect to HTTPS",
    }
}
