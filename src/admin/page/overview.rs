//! The first page: a figure for each thing that is served, then what needs attention, then the process.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use maud::{Markup, html};

use super::{
    facts::{Facts, Fitness},
    layout::{Tone, VERSION, badge},
    list::{Align, escaped, table},
    problems, routes,
};
use crate::{
    admin::State,
    model::{Action, Problem, ProblemKind},
    telemetry::watches::{Kind, State as WatchState},
};

/// Lines of each sort that need attention; the rest is counted.
const LINES: usize = 5;

pub(super) fn render(state: &State, facts: &Facts<'_>) -> Markup {
    let watches = state.metrics.watches.snapshot();
    html! {
        (tiles(state, facts))
        h2 { "Needs attention" }
        (attention(facts, &watches))
        h2 { "Process" }
        (process(state))
        @if !watches.is_empty() { (watched(&watches)) }
    }
}

fn tiles(state: &State, facts: &Facts<'_>) -> Markup {
    let Fitness { all, fit, .. } = facts.endpoints();
    let expiring = facts.expiring().count();
    let counted = |count: usize, bad: &str, good: &'static str, tone| match count {
        0 => (Tone::Good, good.to_owned()),
        _ => (tone, format!("{count} {bad}")),
    };
    let connections = state.metrics.process.connections.load(Ordering::Relaxed);
    let served = counted(facts.unserved, "answer 503", "all served", Tone::Bad);
    let fitness = counted(all - fit, "not fit", "all fit", Tone::Bad);
    let problems = match facts.errors {
        0 => counted(facts.warnings, "without effect", "none", Tone::Warn),
        1 => (Tone::Bad, "1 error".to_owned()),
        errors => (Tone::Bad, format!("{errors} errors")),
    };
    let expiry = counted(expiring, "expired or due", "none due", Tone::Warn);
    let tiles = [
        ("Routes", "/routes", facts.routes.to_string(), served),
        (
            "Backends",
            "/backends",
            facts.snapshot.pools().len().to_string(),
            (Tone::Plain, "ports of Services".to_owned()),
        ),
        ("Endpoints", "/backends", all.to_string(), fitness),
        ("Problems", "/problems", (facts.errors + facts.warnings).to_string(), problems),
        ("Certificates", "/certificates", facts.certificates.len().to_string(), expiry),
        (
            "Requests in flight",
            "/backends",
            facts.in_flight().to_string(),
            (Tone::Plain, format!("{connections} connections")),
        ),
    ];
    html! {
        ul.tiles {
            @for (name, path, figure, (tone, note)) in tiles {
                li {
                    a.name href=(path) { (name) }
                    span.figure { (figure) }
                    span.note.(tone.class()) { (note) }
                }
            }
        }
    }
}

/// One line for each thing that is wrong.
struct Line {
    tone: Tone,
    word: &'static str,
    what: Markup,
}

fn attention(facts: &Facts<'_>, watches: &[Kind]) -> Markup {
    let watches = watches.iter().filter_map(|kind| match &kind.state {
        WatchState::Failing { reason, advice, .. } => Some(Line {
            tone: Tone::Bad,
            word: "Watch fails",
            what: html! { (kind.kind) ": " (reason) span.sub { (advice) } },
        }),
        WatchState::Synced | WatchState::Listing => None,
    });
    let sorts = [
        lines(watches, "/readyz?verbose"),
        lines(unserved(facts), "/routes?q=503"),
        lines(unfit(facts), "/backends"),
        lines(expiring(facts), "/certificates"),
        lines(told(facts), "/problems"),
    ];
    let lines: Vec<Line> = sorts.into_iter().flatten().collect();
    html! {
        @if lines.is_empty() {
            p.calm { "Nothing: every route is served, every endpoint is fit, no certificate is due." }
        } @else {
            ul.attention {
                @for Line { tone, word, what } in lines {
                    li { div { (badge(tone, word)) } div { (what) } }
                }
            }
        }
    }
}

/// The first few lines of a sort, and where the rest is.
fn lines(all: impl Iterator<Item = Line>, path: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut more = 0;
    for line in all {
        if lines.len() < LINES {
            lines.push(line);
        } else {
            more += 1;
        }
    }
    if let Some(last) = lines.last().filter(|_| more > 0) {
        let (tone, word) = (last.tone, last.word);
        lines.push(Line { tone, word, what: html! { a href=(path) { (more) " more" } } });
    }
    lines
}

fn unserved<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Line> + use<'a> {
    facts.routes().filter_map(|route| {
        let reason = facts.refusal(route)?;
        let address = format!("{}{}", route.host, routes::path(route).1);
        let target = match &route.action {
            Action::Forward(id) => format!(", {id}"),
            Action::Unavailable(_) => String::new(),
        };
        let what = html! {
            a href={ "/routes?q=" (escaped(&address)) } { (address) } ": " (reason)
            span.sub { (route.origin) (target) }
        };
        Some(Line { tone: Tone::Bad, word: "Answers 503", what })
    })
}

fn unfit<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Line> + use<'a> {
    facts.snapshot.pools().iter().flat_map(move |(id, pool)| {
        pool.endpoints().iter().filter_map(move |endpoint| {
            let unfit = endpoint.unfit(&pool.backend.policy, facts.now)?;
            let why = match unfit.rest() {
                Some(rest) => format!(", back in {} s", rest.as_millis().div_ceil(1000)),
                None => endpoint.probe_failure().map_or(String::new(), |why| format!(": {why}")),
            };
            let link = format!("/backends?q={}", escaped(&id.to_string()));
            let what = html! { a href=(link) { (id) } " at " code { (endpoint.address) } (why) };
            Some(Line { tone: Tone::Bad, word: unfit.name(), what })
        })
    })
}

fn expiring<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Line> + use<'a> {
    facts.expiring().map(|(certificate, tone, left)| {
        let names = certificate.names.first().map(|name| format!(" for {name}")).unwrap_or_default();
        let what = html! { a href="/certificates" { (certificate.origin) } (names) ": " (left) };
        Line { tone, word: "Certificate", what }
    })
}

fn told<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Line> + use<'a> {
    let (errors, warnings): (Vec<_>, Vec<_>) =
        facts.problems().iter().partition(|problem| problems::severity(problem).1 == Tone::Bad);
    // Certificates have lines of their own.
    let other = |problem: &&Problem| !matches!(problem.kind, ProblemKind::CertificateExpired { .. });
    errors.into_iter().chain(warnings).filter(other).map(|problem| {
        let (word, tone) = problems::severity(problem);
        let link = format!("/problems?q={}", escaped(&problem.origin.to_string()));
        let what =
            html! { a href=(link) { (problem.origin) } " " code { (problem.field) } span.sub { (problem.kind) } };
        Line { tone, word, what }
    })
}

fn process(state: &State) -> Markup {
    let features = [("kubernetes", cfg!(feature = "kubernetes")), ("otel", cfg!(feature = "otel"))];
    let features: Vec<_> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let uptime = Duration::from_secs(state.live.epoch().elapsed().as_secs());
    let started = SystemTime::now().checked_sub(uptime).unwrap_or(SystemTime::UNIX_EPOCH);
    let publishes = state.metrics.process.config_publishes.load(Ordering::Relaxed);
    html! {
        dl.facts {
            dt { "Version" }
            dd { (VERSION) ", " (profile) " build for " (std::env::consts::ARCH) ", features: " (features.join(", ")) }
            dt { "Replica" }
            dd {
                (state.identity)
                @match state.metrics.watches.leads() {
                    Some(true) => ", leader: it writes status",
                    Some(false) => ", not the leader: another replica writes status",
                    None => "",
                }
            }
            dt { "Up for" }
            dd { (humantime::format_duration(uptime)) ", since " (humantime::format_rfc3339_seconds(started)) }
            dt { "Traffic threads" }
            dd { (state.metrics.threads()) }
            dt { "Configurations put in force" }
            dd { (publishes) }
        }
    }
}

fn watched(watches: &[Kind]) -> Markup {
    const COLUMNS: [(&str, Align); 5] = [
        ("Kind", Align::Text),
        ("State", Align::Text),
        ("Objects", Align::Number),
        ("Lists begun again", Align::Number),
        ("Last event", Align::Text),
    ];
    let rows = html! {
        @for kind in watches {
            tr {
                th scope="row" { (kind.kind) }
                td {
                    @match &kind.state {
                        WatchState::Synced => (badge(Tone::Good, "Synced")),
                        WatchState::Listing => (badge(Tone::Warn, "Listing")),
                        WatchState::Failing { reason, .. } => { (badge(Tone::Bad, "Failing")) span.sub { (reason) } }
                    }
                }
                td.number { (kind.objects) }
                td.number { (kind.restarts) }
                td {
                    @match kind.last_event {
                        Some(at) => (humantime::format_rfc3339_seconds(at)),
                        None => "none yet",
                    }
                }
            }
        }
    };
    html! { h2 { "Watches of the cluster" } (table("Watches of the cluster", &COLUMNS, &rows)) }
}
