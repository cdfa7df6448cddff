//! What came near a request, and why it lost.

use std::sync::Arc;

use super::{
    rule_of,
    view::{Near, Rule},
};
use crate::{
    matching::{HostPattern, PathPattern, RequestHost},
    model::{Compiled, Loss, Origin, Route},
};

/// Rules from this distance on are shown only where no rule takes the request.
const FAR: u8 = 3;

/// What is searched for rules that came near a request.
pub(super) struct Search<'a> {
    pub(super) compiled: &'a Compiled,
    /// Host of the request.
    pub(super) host: &'a RequestHost<'a>,
    /// The pattern that took it.
    pub(super) pattern: Option<&'a HostPattern>,
    /// Path of the request, as rules are compared with it.
    pub(super) path: &'a str,
    /// The rule that took it.
    pub(super) winner: Option<&'a Arc<Route>>,
}

/// A rule that came near. Most are only counted, so it is put into words when it is shown.
pub(super) struct Candidate<'a> {
    /// Zero for nearest.
    far: u8,
    why: String,
    host: &'a HostPattern,
    of: Of<'a>,
    pub(super) origin: &'a Origin,
    field: &'a str,
}

/// What of a host came near.
enum Of<'a> {
    /// The rule of a path, or the default backend.
    Path(Option<&'a PathPattern>),
    /// The host as such.
    Host,
}

impl Candidate<'_> {
    pub(super) fn show(self, compiled: &Compiled) -> Near {
        let rule = match self.of {
            Of::Path(path) => rule_of(compiled, self.host, path, self.origin, self.field),
            Of::Host => {
                Rule { path: "(its rules)".to_owned(), ..rule_of(compiled, self.host, None, self.origin, self.field) }
            }
        };
        Near { rule, why: self.why }
    }
}

impl<'a> Search<'a> {
    /// The rules that came near, nearest first.
    pub(super) fn run(&self) -> Vec<Candidate<'a>> {
        let mut near: Vec<_> = self.of_host().chain(self.lost()).chain(self.of_other_hosts()).collect();
        if self.winner.is_some() {
            near.retain(|candidate| candidate.far < FAR);
        }
        near.sort_by_key(|candidate| candidate.far);
        near
    }

    /// Other rules of the host.
    fn of_host(&self) -> impl Iterator<Item = Candidate<'a>> {
        let host = self.pattern.and_then(|pattern| self.compiled.model.hosts.get(pattern)).into_iter();
        let routes = host.flat_map(|host| host.routes.iter().chain(&host.default));
        let others = routes.filter(|route| self.winner.is_none_or(|winner| !Arc::ptr_eq(winner, route)));
        others.map(|route| {
            let winner = self.winner.and_then(|winner| winner.path.as_ref());
            let (far, why) = match &route.path {
                Some(pattern) => path(pattern, self.path, winner),
                None => (FAR, "a default backend takes only what no path takes".to_owned()),
            };
            let of = Of::Path(route.path.as_ref());
            Candidate { far, why, host: &route.host, of, origin: &route.origin, field: &route.field }
        })
    }

    /// Rules that would take the request, and became no routes.
    fn lost(&self) -> impl Iterator<Item = Candidate<'a>> {
        let lost = self.compiled.provenance.lost.iter().filter(|lost| {
            takes(&lost.host, self.host) && lost.path.as_ref().is_none_or(|pattern| pattern.matches(self.path))
        });
        lost.map(|lost| {
            let why = match &lost.why {
                Loss::Conflict(winner) => {
                    format!("{winner} claimed this host and path first: it is older or first by name")
                }
                Loss::OtherClass(class) => format!("its Ingress is of class {class}, which is not ours"),
                Loss::NoClass => "its Ingress names no class, and no default class is ours".to_owned(),
                Loss::Canary => "its Ingress is a canary, which is not supported".to_owned(),
            };
            let of = Of::Path(lost.path.as_ref());
            Candidate { far: 0, why, host: &lost.host, of, origin: &lost.origin, field: &lost.field }
        })
    }

    /// Hosts that take the request too, or nearly.
    fn of_other_hosts(&self) -> impl Iterator<Item = Candidate<'a>> {
        self.compiled.model.hosts.iter().filter_map(|(other, routes)| {
            let why = host(other, self.host, self.pattern)?;
            let route = routes.routes.first().or(routes.default.as_ref())?;
            Some(Candidate { far: 2, why, host: other, of: Of::Host, origin: &route.origin, field: &route.field })
        })
    }
}

/// Whether a pattern takes the host.
pub(super) fn takes(pattern: &HostPattern, host: &RequestHost<'_>) -> bool {
    match pattern {
        HostPattern::Exact(name) => **name == *host.as_str(),
        HostPattern::Wildcard(suffix) => host.wildcard_suffix() == Some(suffix),
        HostPattern::Any => true,
    }
}

/// Why a pattern that is near a host does not have its requests; None when it is not near.
pub(super) fn host(pattern: &HostPattern, host: &RequestHost<'_>, taken_by: Option<&HostPattern>) -> Option<String> {
    let name = host.as_str();
    if takes(pattern, host) {
        let winner = taken_by.filter(|winner| *winner != pattern)?;
        return Some(format!("it takes this host too, but {winner} is stronger and a request never falls through"));
    }
    match pattern {
        HostPattern::Wildcard(suffix) if **suffix == *name => {
            Some(format!("a wildcard wants one label before .{suffix}, and the request has none"))
        }
        HostPattern::Wildcard(suffix) if name.ends_with(&format!(".{suffix}")) => {
            let labels = name[..name.len() - suffix.len() - 1].split('.').count();
            Some(format!("a wildcard takes exactly one label before .{suffix}, and the request has {labels}"))
        }
        HostPattern::Exact(exact) if exact.len().abs_diff(name.len()) <= 4 => {
            let is_near = strsim::osa_distance(exact, name) <= 2
                || exact.strip_prefix("www.") == Some(name)
                || name.strip_prefix("www.") == Some(exact);
            is_near.then(|| "the host is similar, but another one".to_owned())
        }
        _ => None,
    }
}

/// Why the path of a rule did not get a request that another one of its host got, or none.
///
/// The number says how near it came, zero for nearest.
pub(super) fn path(pattern: &PathPattern, path: &str, winner: Option<&PathPattern>) -> (u8, String) {
    let text = pattern.text();
    if pattern.matches(path) {
        let why = match (winner, pattern) {
            (Some(PathPattern::Exact(_)), _) => "it is a prefix, and Exact comes first",
            (Some(winner), PathPattern::ImplementationSpecific(_)) if winner.text() == text => {
                "Prefix comes before ImplementationSpecific of the same length"
            }
            _ => "its prefix is shorter",
        };
        return (0, why.to_owned());
    }
    let is_exact = matches!(pattern, PathPattern::Exact(_));
    let lower = |text: &str| text.to_ascii_lowercase();
    if same_kind(pattern, &lower(text)).matches(&lower(path)) {
        return (1, "the path differs in case, and matching is case-sensitive".to_owned());
    }
    if is_exact && path.strip_suffix('/') == Some(text) {
        return (1, "Exact: the request ends in a slash and the rule does not".to_owned());
    }
    if is_exact && text.strip_suffix('/') == Some(path) {
        return (1, "Exact: the rule ends in a slash and the request does not".to_owned());
    }
    if path.contains("%2F") && pattern.matches(&path.replace("%2F", "/")) {
        return (1, "%2F is a character of its segment, not a slash".to_owned());
    }
    if is_exact && path.strip_prefix(text).is_some_and(|rest| rest.starts_with('/')) {
        return (2, "Exact takes this path alone and nothing below it".to_owned());
    }
    if !is_exact && path.starts_with(text) {
        return (1, "a prefix ends at a slash: the last element of the rule is only the beginning of one".to_owned());
    }
    if text.starts_with(path.trim_end_matches('/')) {
        return (2, "the rule wants more of the path than the request has".to_owned());
    }
    let same = text.split('/').zip(path.split('/')).take_while(|(a, b)| a == b).count();
    let far = if same > 1 { 3 } else { 4 };
    (far, format!("the path differs in element {}", same.max(1)))
}

fn same_kind(pattern: &PathPattern, text: &str) -> PathPattern {
    match pattern {
        PathPattern::Exact(_) => PathPattern::Exact(text.into()),
        PathPattern::Prefix(_) | PathPattern::ImplementationSpecific(_) => PathPattern::Prefix(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_that_lost_says_why() {
        let (exact, prefix) = (PathPattern::exact, PathPattern::prefix);
        let cases = [
            (prefix("/a"), "/a/b", Some(prefix("/a/b")), "shorter"),
            (prefix("/a"), "/a", Some(exact("/a")), "Exact comes first"),
            (PathPattern::implementation_specific("/a"), "/a", Some(prefix("/a")), "ImplementationSpecific"),
            (prefix("/foo"), "/FOO/x", None, "case"),
            (exact("/foo"), "/foo/", None, "the request ends in a slash"),
            (exact("/foo/"), "/foo", None, "the rule ends in a slash"),
            (exact("/foo"), "/foo/x", None, "nothing below"),
            (prefix("/foo"), "/foobar", None, "ends at a slash"),
            (prefix("/a/b"), "/a%2Fb", None, "%2F"),
            (prefix("/a/b"), "/a", None, "more of the path"),
            (prefix("/a/b"), "/a/c", None, "element 2"),
            (prefix("/b"), "/c", None, "element 1"),
        ];
        for (pattern, asked, winner, expected) in cases {
            let (_, why) = path(&pattern, asked, winner.as_ref());
            assert!(why.contains(expected), "{pattern} {asked}: {why}");
        }
    }

    #[test]
    fn each_host_that_came_near_says_why() {
        let cases = [
            ("*.foo.com", "a.foo.com", Some("a.foo.com"), Some("never falls through")),
            ("*.foo.com", "foo.com", None, Some("the request has none")),
            ("*.foo.com", "a.b.foo.com", None, Some("the request has 2")),
            ("shop.example", "shpo.example", None, Some("similar")),
            ("shop.example", "www.shop.example", None, Some("similar")),
            ("shop.example", "other.test", None, None),
            ("shop.example", "shop.example", Some("shop.example"), None),
        ];
        for (pattern, asked, winner, expected) in cases {
            let asked = RequestHost::parse(asked).unwrap();
            let winner: Option<HostPattern> = winner.map(|winner| winner.parse().unwrap());
            let why = host(&pattern.parse().unwrap(), &asked, winner.as_ref());
            match expected {
                None => assert_eq!(why, None, "{pattern}"),
                Some(expected) => assert!(why.as_ref().is_some_and(|why| why.contains(expected)), "{pattern}: {why:?}"),
            }
        }
    }
}
