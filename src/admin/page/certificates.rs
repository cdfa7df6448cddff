//! Certificates: which hosts are shown them, what they are valid for, and for how long.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use maud::{Markup, html};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Page,
    facts::Facts,
    layout::{Tone, badge},
    list::{Align, Query, ROWS, Search, Shown, table},
};
use crate::{
    matching::HostPattern,
    model::{Certificate, Model},
};

/// From how few days on a certificate should have been renewed: cert-manager renews at a third of the time, 30 of 90.
const SOON: i64 = 21;

/// Names and hosts that are shown of one certificate.
const NAMES: usize = 10;

const COLUMNS: [(&str, Align); 5] = [
    ("Secret", Align::Text),
    ("Shown to hosts", Align::Text),
    ("Valid for", Align::Text),
    ("Issuer", Align::Text),
    ("Expires", Align::Text),
];

/// A certificate with the hosts that are shown it.
pub(super) struct Use<'a> {
    certificate: &'a Arc<Certificate>,
    hosts: Vec<&'a HostPattern>,
    is_default: bool,
}

/// Every certificate once, the first to expire first.
pub(super) fn uses(model: &Model) -> Vec<Use<'_>> {
    let mut uses = BTreeMap::new();
    let new = |certificate| Use { certificate, hosts: Vec::new(), is_default: false };
    if let Some(default) = &model.default_certificate {
        uses.entry(Arc::as_ptr(default)).or_insert_with(|| new(default)).is_default = true;
    }
    for (host, certificate) in &model.certificates {
        if let Some(certificate) = certificate {
            uses.entry(Arc::as_ptr(certificate)).or_insert_with(|| new(certificate)).hosts.push(host);
        }
    }
    let mut uses: Vec<_> = uses.into_values().collect();
    uses.sort_by_key(|a| (a.certificate.not_after, &a.certificate.origin));
    uses
}

impl<'a> Facts<'a> {
    /// Certificates that have expired or soon will.
    pub(super) fn expiring(&self) -> impl Iterator<Item = (&'a Certificate, Tone, String)> + use<'_, 'a> {
        let now = now();
        self.certificates.iter().filter_map(move |used| {
            let days = days(used.certificate, now);
            (tone(days) != Tone::Good).then(|| (&**used.certificate, tone(days), left(days)))
        })
    }
}

pub(super) fn render(facts: &Facts<'_>, query: &Query) -> Markup {
    let search = Search::new(query);
    let takes = |used: &&Use<'_>| search.takes(|| words(used));
    let shown = Shown::of(facts.certificates.iter(), query, ROWS, takes);
    let now = now();
    let rows = html! { @for used in &shown.rows { (row(used, now)) } };
    html! {
        (shown.told("certificates"))
        @if !shown.rows.is_empty() { (table("Certificates", &COLUMNS, &rows)) }
        (shown.pager(Page::Certificates.path(), query, ROWS))
        h2 { "Default certificate" }
        p.hint {
            @match &facts.model().default_certificate {
                Some(default) => { "Hosts without a certificate of their own are shown that of " (default.origin) "." }
                None => {
                    "Hosts without a certificate of their own are shown one that this process signed at start, which \
                     browsers do not trust. Give one with " code { "--default-certificate" } "."
                }
            }
        }
        @let bare: Vec<_> = bare(facts).collect();
        @if !bare.is_empty() {
            p.hint { "Hosts with TLS that are shown it:" }
            p { (names(bare.into_iter())) }
        }
    }
}

/// Hosts with TLS that have no certificate of their own.
fn bare<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a HostPattern> + use<'a> {
    facts.model().certificates.iter().filter(|(_, own)| own.is_none()).map(|(host, _)| host)
}

fn words(used: &Use<'_>) -> String {
    let mut words = format!("{} {}", used.certificate.origin, issuer(used.certificate));
    words.extend(used.hosts.iter().map(|host| format!(" {host}")));
    words.extend(used.certificate.names.iter().map(|name| format!(" {name}")));
    words
}

fn row(used: &Use<'_>, now: i64) -> Markup {
    let Use { certificate, hosts, is_default } = used;
    let days = days(certificate, now);
    html! {
        tr {
            th scope="row" {
                (certificate.origin)
                @if *is_default { span.sub { "default certificate" } }
            }
            td { (names(hosts.iter())) }
            td { (names(certificate.names.iter())) }
            td { (issuer(certificate)) }
            td {
                (badge(tone(days), &left(days)))
                @let date = date(certificate.not_after);
                span.sub { time datetime=(date) { (date) } }
            }
        }
    }
}

fn names(names: impl ExactSizeIterator<Item: std::fmt::Display>) -> Markup {
    let more = names.len().saturating_sub(NAMES);
    html! {
        ul.names {
            @for name in names.take(NAMES) { li { (name.to_string()) } }
            @if more > 0 { li.sub { "and " (more) " more" } }
        }
    }
}

/// Common name or organisation of who signed the leaf; empty when it does not say.
fn issuer(certificate: &Certificate) -> String {
    let leaf = certificate.key.cert.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some((_, leaf)) = leaf else { return String::new() };
    let issuer = leaf.issuer();
    let first = issuer.iter_common_name().chain(issuer.iter_organization()).next();
    first.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned()
}

/// Whole days until it expires; negative once it has.
fn days(certificate: &Certificate, now: i64) -> i64 {
    (certificate.not_after.saturating_sub(now)).div_euclid(24 * 60 * 60)
}

fn tone(days: i64) -> Tone {
    match days {
        ..0 => Tone::Bad,
        0..SOON => Tone::Warn,
        _ => Tone::Good,
    }
}

fn left(days: i64) -> String {
    match days {
        ..0 => "Expired".to_owned(),
        0 => "Less than a day".to_owned(),
        1 => "1 day left".to_owned(),
        _ => format!("{days} days left"),
    }
}

/// A date in UTC, without the time of day.
fn date(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let at = SystemTime::UNIX_EPOCH.checked_add(since);
    // Years beyond 9999 cannot be written: nobody will mind the last one.
    let last = Duration::from_secs(253_402_300_799);
    let at = at.unwrap_or(SystemTime::UNIX_EPOCH).min(SystemTime::UNIX_EPOCH + last);
    humantime::format_rfc3339_seconds(at).to_string()[..10].to_owned()
}

/// Seconds since 1970-01-01T00:00:00Z.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_told_in_words_and_taken_by_its_distance() {
        let cases = [
            (-400, "Expired", Tone::Bad),
            (-1, "Expired", Tone::Bad),
            (0, "Less than a day", Tone::Warn),
            (1, "1 day left", Tone::Warn),
            (20, "20 days left", Tone::Warn),
            (21, "21 days left", Tone::Good),
        ];
        for (days, words, expected) in cases {
            assert_eq!((left(days).as_str(), tone(days)), (words, expected), "{days}");
        }
    }

    #[test]
    fn dates_of_certificates_that_never_expire_are_written() {
        for (seconds, expected) in [(0, "1970-01-01"), (1_795_564_800, "2026-11-25"), (i64::MAX, "9999-12-31")] {
            assert_eq!(date(seconds), expected);
        }
    }
}
