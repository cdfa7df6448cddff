//! What all pages have around their content.

use std::time::SystemTime;

use maud::{DOCTYPE, Markup, html};

use super::{Page, facts::Facts, list::Query};
use crate::admin::{State, health};

/// The version of this build.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How a value is to be taken: by colour, shape and word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// A word with a colour and a shape of its own.
pub(super) fn badge(tone: Tone, text: &str) -> Markup {
    html! { span.badge.(tone.class()) { (text) } }
}

/// What stands in place of rows where there are none.
pub(super) fn empty(text: &str) -> Markup {
    html! { p.empty { (text) } }
}

/// A whole document around the content of a page.
pub(super) fn render(page: Page, state: &State, facts: &Facts<'_>, query: &Query, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (page.name()) " · Pierhead" }
                link rel="icon" type="image/svg+xml" href="/assets/icon.svg";
                link rel="stylesheet" href="/assets/page.css";
                script src="/assets/page.js" defer {}
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body {
                a.skip href="#content" { "Skip to content" }
                div.top {
                    (header(state))
                    (pages(page, facts))
                }
                main id="content" tabindex="-1" {
                    div.head {
                        div {
                            h1 { (page.name()) }
                            p.lead { (lead(page)) }
                        }
                        @if page != Page::Overview { (search(page, query)) }
                    }
                    div id="live" data-live { (content) }
                }
                footer {
                    a href="/debug/backends" { "Backends as JSON" }
                    a href="/debug/snapshot" { "Configuration as JSON" }
                    a href="/metrics" { "Metrics" }
                    a href="/readyz?verbose" { "Readiness" }
                }
            }
        }
    }
}

fn header(state: &State) -> Markup {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    html! {
        header.bar {
            a.brand href="/" { img src="/assets/icon.svg" alt="" width="26" height="26"; "Pierhead" }
            span.who id="who" data-live {
                @match health::failure(state) {
                    None => (badge(Tone::Good, "Ready")),
                    Some(reason) => (badge(Tone::Bad, &format!("Not ready: {reason}"))),
                }
                span { (state.identity) }
                span { "version " (VERSION) }
            }
            div.controls {
                span id="told" role="status" {}
                span id="updated" data-live { "Updated " time datetime=(now) { (now[11..19]) " UTC" } }
                button id="pause" type="button" hidden { "Pause" }
            }
        }
    }
}

fn pages(current: Page, facts: &Facts<'_>) -> Markup {
    let part = |some: usize, all: usize, tone| match some {
        0 => (all.to_string(), Tone::Plain),
        _ => (format!("{some} of {all}"), tone),
    };
    let count = |page| match page {
        Page::Overview => None,
        Page::Routes => Some(part(facts.unserved, facts.routes, Tone::Bad)),
        Page::Backends => Some(part(facts.impaired(), facts.snapshot.pools().len(), Tone::Warn)),
        Page::Problems if facts.errors > 0 => Some(((facts.errors + facts.warnings).to_string(), Tone::Bad)),
        Page::Problems if facts.warnings > 0 => Some((facts.warnings.to_string(), Tone::Warn)),
        Page::Problems => Some(("0".to_owned(), Tone::Plain)),
        Page::Certificates => Some(part(facts.expiring().count(), facts.certificates.len(), Tone::Warn)),
    };
    html! {
        nav.bar id="pages" aria-label="Pages" data-live {
            @for page in Page::ALL {
                a href=(page.path()) aria-current=[(page == current).then_some("page")] {
                    (page.name())
                    @if let Some((count, tone)) = count(page) { " " span.count.(tone.class()) { (count) } }
                }
            }
        }
    }
}

fn lead(page: Page) -> &'static str {
    match page {
        Page::Overview => "What this replica serves now, and what needs attention.",
        Page::Routes => "As requests are matched: by host, and in each host the strongest path first.",
        Page::Backends => "One port of one Service each, with what this replica knows of its endpoints.",
        Page::Problems => "What is wrong in objects, and what it takes away. Everything else of them is served.",
        Page::Certificates => "What hosts are shown over TLS, the first to expire first.",
    }
}

fn search(page: Page, query: &Query) -> Markup {
    let label = match page {
        Page::Overview | Page::Routes => "Host, path, URL, object, Service or state",
        Page::Backends => "Service, address, state or policy",
        Page::Problems => "Object, field, reason or text",
        Page::Certificates => "Host, Secret, name or issuer",
    };
    html! {
        form.search role="search" method="get" action=(page.path()) {
            div {
                label for="search" { (label) }
                input id="search" name="q" type="search" value=(query.q) autocomplete="off" spellcheck="false"
                    aria-keyshortcuts="/";
            }
            button type="submit" { "Search" }
        }
    }
}
