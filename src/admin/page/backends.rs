//! Every backend with its endpoints: who is fit, who is not and why, and what is in flight.

use maud::{Markup, html};

use super::{
    Page,
    facts::{Facts, Fitness},
    layout::{Tone, badge, empty},
    list::{Align, Query, Search, Shown, table},
    policy,
};
use crate::{
    model::{BackendId, Endpoint},
    routing::{EndpointState, Pool, Unfit},
};

/// Backends of one page.
const BACKENDS: usize = 25;

/// Endpoints that are shown of each of them.
const ENDPOINTS: usize = 20;

/// Endpoints that are shown of one that was searched for.
const ENDPOINTS_OF_ONE: usize = 500;

const COLUMNS: [(&str, Align); 6] = [
    ("Endpoint", Align::Text),
    ("State", Align::Text),
    ("In flight", Align::Number),
    ("Latency", Align::Number),
    ("Weight", Align::Number),
    ("Zone", Align::Text),
];

pub(super) fn render(facts: &Facts<'_>, query: &Query) -> Markup {
    let search = Search::new(query);
    let pools = facts.snapshot.pools();
    if pools.is_empty() {
        return empty("No backend is in force.");
    }
    let shown = Shown::of(pools.iter().map(|(id, pool)| (id, &**pool)), query, BACKENDS, |(id, pool)| {
        search.takes(|| words(id, pool, facts.now))
    });
    let limit = if shown.found == 1 { ENDPOINTS_OF_ONE } else { ENDPOINTS };
    html! {
        (shown.told("backends"))
        @for (id, pool) in &shown.rows { (backend(facts, id, pool, limit)) }
        (shown.pager(Page::Backends.path(), query, BACKENDS))
    }
}

/// What a backend is found by.
fn words(id: &BackendId, pool: &Pool, now: u64) -> String {
    let policy = &pool.backend.policy;
    let mut words = format!("{id} {}", policy::summary(&pool.backend).join(" "));
    for endpoint in pool.endpoints() {
        let state = endpoint.unfit(policy, now).map_or("fit", Unfit::name);
        words.extend([" ", &endpoint.address.to_string(), " ", state]);
    }
    words
}

fn backend(facts: &Facts<'_>, id: &BackendId, pool: &Pool, limit: usize) -> Markup {
    let fitness = facts.fitness(id);
    let mut states: Vec<_> = pool.endpoints().iter().map(|state| (&**state, pool.declared(state))).collect();
    // Those that need attention are never among the ones left out.
    states.sort_by_key(|(state, _)| state.unfit(&pool.backend.policy, facts.now).is_none());
    let rows = html! {
        @for (state, endpoint) in states.iter().take(limit) { (row(facts, pool, state, *endpoint)) }
    };
    let unused = pool.backend.endpoints.len() - states.len();
    html! {
        section.backend id={ "backend-" (id) } aria-label=(id) {
            header {
                h2 { (id) }
                (verdict(fitness))
                div.figures {
                    span { (pool.in_flight()) " in flight" @if let Some(limit) = pool.limit() { " of at most " (limit) } }
                    span { (pool.pending()) " waiting" }
                }
                p.policy { (policy::summary(&pool.backend).join(" · ")) }
            }
            @if !states.is_empty() { (table(&format!("Endpoints of {id}"), &COLUMNS, &rows)) }
            @if states.len() > limit {
                p.more { (states.len() - limit) " more endpoints: search for the Service or an address to see them" }
            }
            @if unused > 0 { p.more { (unused) " endpoints are left to other replicas (subset)" } }
        }
    }
}

fn verdict(fitness: Fitness) -> Markup {
    let Fitness { all, fit, panics } = fitness;
    let counted = format!("{fit} of {all} fit");
    html! {
        @match fitness.refusal() {
            Some(_) if all == 0 => (badge(Tone::Bad, "No endpoint: 503")),
            Some(_) => (badge(Tone::Bad, &format!("{counted}: 503"))),
            None if fit == all => (badge(Tone::Good, &counted)),
            None if panics => (badge(Tone::Bad, &format!("{counted}: too few, all are used"))),
            None => (badge(Tone::Warn, &counted)),
        }
    }
}

fn row(facts: &Facts<'_>, pool: &Pool, state: &EndpointState, endpoint: Option<&Endpoint>) -> Markup {
    let latency = state.latency(facts.now);
    html! {
        tr {
            th.mono scope="row" { (state.address) }
            td { (standing(facts, pool, state)) }
            td.number { (state.in_flight()) }
            td.number { @if latency > 0.0 { (format!("{latency:.1} ms")) } @else { span.soft { "not measured" } } }
            td.number { (endpoint.map_or(1, |endpoint| endpoint.weight)) }
            td { @if endpoint.is_none_or(|endpoint| endpoint.is_near) { "near" } @else { "far" } }
        }
    }
}

/// Whether an endpoint gets requests, and why not.
fn standing(facts: &Facts<'_>, pool: &Pool, state: &EndpointState) -> Markup {
    let policy = &pool.backend.policy;
    let failure = state.probe_failure();
    if let Some(unfit) = state.unfit(policy, facts.now) {
        return html! {
            (badge(Tone::Bad, unfit.name()))
            @if let Some(rest) = unfit.rest() {
                span.sub { (unfit.reason()) "; back in " (rest.as_millis().div_ceil(1000)) " s" }
            } @else if let Some(failure) = failure { span.sub { (failure) } }
        };
    }
    let ramp = state.ramp(policy.load_balancing.slow_start, facts.now);
    html! {
        @if ramp < 1.0 {
            (badge(Tone::Warn, "Slow start"))
            span.sub { "gets " (format!("{:.0}", ramp * 100.0)) "% of its share" }
        } @else { (badge(Tone::Good, "Fit")) }
    }
}
