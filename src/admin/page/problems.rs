//! What is wrong in objects, as their authors are told.

use maud::{Markup, html};

use super::{
    Page,
    facts::Facts,
    layout::{Tone, badge},
    list::{Align, Query, ROWS, Search, Shown, table},
};
use crate::model::{Problem, Severity};

const COLUMNS: [(&str, Align); 4] = [
    ("Severity", Align::Text),
    ("Object and field", Align::Text),
    ("Reason", Align::Text),
    ("What is wrong", Align::Text),
];

pub(super) fn render(facts: &Facts<'_>, query: &Query) -> Markup {
    if facts.problems().is_empty() {
        return html! { p.calm { "No problems: every object is served as it is written." } };
    }
    let search = Search::new(query);
    let of = |severity| facts.problems().iter().filter(move |problem| problem.kind.severity() == severity);
    let sorted = of(Severity::Error).chain(of(Severity::Warning));
    let shown = Shown::of(sorted, query, ROWS, |problem| search.takes(|| words(problem)));
    let rows = html! { @for problem in &shown.rows { (row(problem)) } };
    html! {
        (shown.told("problems"))
        @if !shown.rows.is_empty() { (table("Problems", &COLUMNS, &rows)) }
        (shown.pager(Page::Problems.path(), query, ROWS))
    }
}

fn words(problem: &Problem) -> String {
    format!("{} {} {problem}", severity(problem).0, problem.kind.reason())
}

fn row(problem: &Problem) -> Markup {
    let (name, tone) = severity(problem);
    html! {
        tr {
            td { (badge(tone, name)) }
            th scope="row" { (problem.origin) code.sub { (problem.field) } }
            td { (problem.kind.reason()) }
            td { (problem.kind) }
        }
    }
}

/// How a severity is shown.
pub(super) fn severity(problem: &Problem) -> (&'static str, Tone) {
    match problem.kind.severity() {
        Severity::Error => ("Error", Tone::Bad),
        Severity::Warning => ("Warning", Tone::Warn),
    }
}
