//! Finding the route of a request: host first, then path inside the host.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use super::Entry;
use crate::{
    matching::{HostPattern, NormalPath, PathPattern, RequestHost},
    model::Route,
};

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// Routes by host. A host is chosen before the path is looked at.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    exact: Map<HostRoutes>,
    wildcard: Map<HostRoutes>,
    any: Option<HostRoutes>,
    default: Option<Arc<Entry>>,
}

/// The routes of one host, found by path.
#[derive(Clone, Debug, Default)]
pub struct HostRoutes {
    exact: Map<Arc<Entry>>,
    prefix: Map<Arc<Entry>>,
    /// Length of the longest prefix: more of a path is not looked at, however long it is.
    longest: usize,
    default: Option<Arc<Entry>>,
}

impl Hosts {
    /// Adds a host; `entry` turns each of its routes into what requests need.
    pub(super) fn insert(&mut self, pattern: &HostPattern, routes: HostRoutes) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.insert(name.clone(), routes)),
            HostPattern::Wildcard(suffix) => drop(self.wildcard.insert(suffix.clone(), routes)),
            HostPattern::Any => self.any = Some(routes),
        }
    }

    pub(super) fn set_default(&mut self, entry: Arc<Entry>) {
        self.default = Some(entry);
    }

    /// The entry that takes a request: exact host, wildcard, any; inside it the strongest path; then the defaults.
    pub fn find(&self, host: &RequestHost<'_>, path: &NormalPath<'_>) -> Option<&Arc<Entry>> {
        let of_host =
            self.exact.get(host.as_str()).or_else(|| self.wildcard.get(host.wildcard_suffix()?)).or(self.any.as_ref());
        of_host.and_then(|routes| routes.find(&path.matching)).or(self.default.as_ref())
    }
}

impl Hosts {
    /// The pattern whose routes [`find`](Self::find) looks at.
    pub fn pattern(&self, host: &RequestHost<'_>) -> Option<HostPattern> {
        let exact = || self.exact.get_key_value(host.as_str()).map(|(name, _)| HostPattern::Exact(name.clone()));
        let wildcard = || {
            let (suffix, _) = self.wildcard.get_key_value(host.wildcard_suffix()?)?;
            Some(HostPattern::Wildcard(suffix.clone()))
        };
        exact().or_else(wildcard).or_else(|| self.any.as_ref().map(|_| HostPattern::Any))
    }
}

impl HostRoutes {
    /// Indexes routes that are sorted strongest first.
    pub(super) fn build<'a>(
        routes: impl IntoIterator<Item = &'a Arc<Route>>,
        default: Option<&Arc<Route>>,
        mut entry: impl FnMut(&Arc<Route>) -> Arc<Entry>,
    ) -> Self {
        let mut index = Self { default: default.map(&mut entry), ..Self::default() };
        for route in routes {
            let Some(pattern) = &route.path else { continue };
            if !matches!(pattern, PathPattern::Exact(_)) {
                index.longest = index.longest.max(pattern.text().len());
            }
            let map = if matches!(pattern, PathPattern::Exact(_)) { &mut index.exact } else { &mut index.prefix };
            map.entry(pattern.text().into()).or_insert_with(|| entry(route));
        }
        index
    }

    fn find(&self, path: &str) -> Option<&Arc<Entry>> {
        if let Some(entry) = self.exact.get(path) {
            return Some(entry);
        }
        // Prefixes are kept without a trailing slash, so dropping one element at a time tries each, longest first.
        let mut rest = path;
        if path.len() > self.longest {
            let slash = path.as_bytes()[..=self.longest].iter().rposition(|byte| *byte == b'/');
            rest = &path[..slash.unwrap_or_default()];
        }
        loop {
            if let Some(entry) = self.prefix.get(rest) {
                return Some(entry);
            }
            match rest.rfind('/') {
                Some(slash) => rest = &rest[..slash],
                None => return self.default.as_ref(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{Action, Origin, Unavailable},
        routing::Target,
        telemetry::metrics::RouteMetrics,
    };

    fn route(host: &HostPattern, path: Option<PathPattern>) -> Arc<Route> {
        Arc::new(Route {
            origin: Origin::new("Ingress", "shop", "shop"),
            field: String::new(),
            host: host.clone(),
            path,
            filters: Vec::new(),
            action: Action::Unavailable(Unavailable::BackendUnresolved),
        })
    }

    fn entry(route: &Arc<Route>) -> Arc<Entry> {
        Arc::new(Entry {
            route: Arc::clone(route),
            target: Target::Unavailable(Unavailable::BackendUnresolved),
            metrics: Arc::new(RouteMetrics::new(1)),
        })
    }

    fn host(pattern: &str, paths: &[PathPattern], default: bool) -> (HostPattern, HostRoutes) {
        let pattern: HostPattern = pattern.parse().unwrap();
        let mut paths = paths.to_vec();
        paths.sort();
        let routes: Vec<_> = paths.into_iter().map(|path| route(&pattern, Some(path))).collect();
        let default = default.then(|| route(&pattern, None));
        (pattern.clone(), HostRoutes::build(&routes, default.as_ref(), entry))
    }

    fn found(hosts: &Hosts, name: &str, path: &str) -> String {
        let path = NormalPath::parse(path).unwrap();
        match hosts.find(&RequestHost::parse(name).unwrap(), &path) {
            None => "none".into(),
            Some(entry) => match &entry.route.path {
                Some(path) => format!("{} {path}", entry.route.host),
                None => format!("{} default", entry.route.host),
            },
        }
    }

    #[test]
    fn the_host_is_chosen_before_the_path() {
        let mut hosts = Hosts::default();
        for (pattern, routes) in [
            host("a.foo.com", &[PathPattern::prefix("/only")], false),
            host("*.foo.com", &[PathPattern::prefix("/")], false),
            host("b.foo.com", &[PathPattern::prefix("/only")], true),
            host("", &[PathPattern::prefix("/any")], false),
        ] {
            hosts.insert(&pattern, routes);
        }
        let cases = [
            ("a.foo.com", "/only/x", "a.foo.com Prefix /only"),
            ("a.foo.com", "/else", "none"),
            ("a.foo.com", "/any", "none"),
            ("b.foo.com", "/else", "b.foo.com default"),
            ("c.foo.com", "/else", "*.foo.com Prefix /"),
            ("foo.com", "/any", "* Prefix /any"),
            ("x.y.foo.com", "/any", "* Prefix /any"),
            ("x.y.foo.com", "/else", "none"),
        ];
        for (name, path, expected) in cases {
            assert_eq!(found(&hosts, name, path), expected, "{name}{path}");
        }
        hosts.set_default(entry(&route(&HostPattern::Any, None)));
        assert_eq!(found(&hosts, "a.foo.com", "/else"), "* default");
    }

    fn pattern() -> impl Strategy<Value = PathPattern> {
        let path = "(/(a|b|aa)){0,3}/?";
        prop_oneof![
            path.prop_map(|p| PathPattern::exact(if p.is_empty() { "/" } else { &p })),
            path.prop_map(|p| PathPattern::prefix(if p.is_empty() { "/" } else { &p })),
            path.prop_map(|p| PathPattern::implementation_specific(if p.is_empty() { "/" } else { &p })),
        ]
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_by_precedence_finds(
            mut patterns in prop::collection::vec(pattern(), 0..12),
            path in "(/(a|b|aa|c)?){1,4}",
        ) {
            patterns.sort();
            let any = HostPattern::Any;
            let routes: Vec<_> = patterns.iter().map(|p| route(&any, Some(p.clone()))).collect();
            let index = HostRoutes::build(&routes, None, entry);
            let normal = NormalPath::parse(&path).unwrap();
            let scan = patterns.iter().find(|p| p.matches(&normal.matching));
            let hit = index.find(&normal.matching).map(|entry| entry.route.path.clone().unwrap());
            prop_assert_eq!(hit.as_ref(), scan);
        }
    }
}
