//! Lists that are searched and cut to pages.

use maud::{Markup, html};
use serde::Deserialize;

/// Rows of one page.
pub(super) const ROWS: usize = 100;

/// What is asked of a list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Query {
    /// Words that a row must have, all of them, in any order and case.
    #[serde(default)]
    pub(super) q: String,
    /// Number of the first row.
    #[serde(default)]
    pub(super) from: usize,
}

/// The words of a query, ready to be looked for.
pub(super) struct Search(Vec<String>);

impl Search {
    pub(super) fn new(query: &Query) -> Self {
        Self(query.q.split_whitespace().map(word).collect())
    }

    /// Whether a row has every word; `row` is only written out when there are any.
    pub(super) fn takes(&self, row: impl FnOnce() -> String) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let row = row().to_lowercase();
        self.0.iter().all(|word| row.contains(word))
    }
}

/// A word as it stands in rows: of a URL, host and path.
fn word(word: &str) -> String {
    let word = word.to_lowercase();
    let rest = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"));
    rest.map_or_else(|| word.clone(), ToOwned::to_owned)
}

/// The rows of a list that are shown.
pub(super) struct Shown<T> {
    pub(super) rows: Vec<T>,
    /// Rows that match.
    pub(super) found: usize,
    /// Rows that there are.
    total: usize,
    from: usize,
}

impl<T> Shown<T> {
    /// At most `limit` of `rows`, those that `takes` takes, from the row on that is asked for.
    pub(super) fn of(
        rows: impl Iterator<Item = T>,
        query: &Query,
        limit: usize,
        mut takes: impl FnMut(&T) -> bool,
    ) -> Self {
        let mut shown = Self { rows: Vec::new(), found: 0, total: 0, from: query.from };
        for row in rows {
            shown.total += 1;
            if takes(&row) {
                if shown.found >= query.from && shown.rows.len() < limit {
                    shown.rows.push(row);
                }
                shown.found += 1;
            }
        }
        shown
    }

    /// How many there are and which of them are shown. `what` is their name in the plural.
    pub(super) fn told(&self, what: &str) -> Markup {
        let Self { rows, found, total, from } = self;
        html! {
            p.found id="found" role="status" {
                @if *found == 0 { "None of " (total) " " (what) " match." }
                @else if rows.is_empty() { "There are no more than " (found) " " (what) "." }
                @else if rows.len() == *found {
                    @if found == total { (total) " " (what) } @else { (found) " of " (total) " " (what) " match" }
                } @else {
                    (from + 1) "–" (from + rows.len()) " of " (found) " " (what)
                    @if found < total { " that match" }
                    @if from + rows.len() < *found { "; " (found - from - rows.len()) " more: search to see fewer" }
                }
            }
        }
    }

    /// Links to the pages before and after.
    pub(super) fn pager(&self, path: &str, query: &Query, limit: usize) -> Markup {
        let address = |from: usize| format!("{path}?q={}&from={from}", escaped(&query.q));
        let next = self.from + self.rows.len();
        html! {
            @if self.from > 0 || next < self.found {
                nav.pager aria-label="More rows" {
                    @if self.from > 0 { a href=(address(self.from.saturating_sub(limit))) { "← Previous" } }
                    @if next < self.found && !self.rows.is_empty() { a href=(address(next)) { "Next →" } }
                }
            }
        }
    }
}

/// Text as a value in a query (RFC 3986 §2.3: all but unreserved characters are escaped).
pub fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => drop(write!(escaped, "%{byte:02X}")), // a String takes everything
        }
        escaped
    })
}

/// A table that scrolls by itself where the screen is narrow.
pub(super) fn table(caption: &str, columns: &[(&str, Align)], rows: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr {
                    @for (name, align) in columns { th scope="col" class=(align.class()) { (name) } }
                } }
                tbody { (rows) }
            }
        }
    }
}

/// Which side the cells of a column stand at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    Text,
    Number,
}

impl Align {
    fn class(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
        }
    }
}
