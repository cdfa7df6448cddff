use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    matching::{HostPattern, PathPattern},
    model::{
        Action, Address, Backend, BackendId, Compiled, Endpoint, Host, Origin, Policy, Problem, ProblemKind, Protocol,
        Route, Unavailable,
    },
    routing::Live,
    telemetry::{logging::Level, metrics::Metrics},
};

const HOSTILE: &str = "/<script>alert(1)</script>\"'&";

fn serving(compiled: Compiled) -> State {
    let metrics = Arc::new(Metrics::new(1));
    let live = Live::new(Arc::clone(&metrics), "one");
    live.publish(Arc::new(compiled));
    State {
        live,
        identity: "one".into(),
        names: Arc::default(),
        metrics,
        log_level: Level::detached("info").0,
        serving: Arc::default(),
        stopping: CancellationToken::new(),
    }
}

fn route(host: &str, path: PathPattern, action: Action) -> Arc<Route> {
    Arc::new(Route {
        origin: Origin::new("Ingress", "shop", "front"),
        field: "spec.rules[0].http.paths[0]".to_owned(),
        host: host.parse().unwrap(),
        path: Some(path),
        filters: Vec::new(),
        action,
    })
}

fn with_routes(routes: impl IntoIterator<Item = Arc<Route>>) -> Compiled {
    let mut compiled = Compiled::default();
    for route in routes {
        compiled.model.hosts.entry(route.host.clone()).or_insert_with(Host::default).routes.push(route);
    }
    compiled
}

fn backend(id: &BackendId, endpoints: usize) -> Arc<Backend> {
    let address =
        |at| Address::Socket(([10, 0, u8::try_from(at / 250).unwrap(), u8::try_from(at % 250).unwrap()], 80).into());
    Arc::new(Backend {
        id: id.clone(),
        protocol: Protocol::Http1,
        endpoints: (0..endpoints).map(|at| Endpoint::new(address(at))).collect(),
        client_ip_affinity: false,
        policy: Arc::new(Policy::default()),
    })
}

fn render(page: Page, compiled: Compiled, q: &str) -> String {
    page.render(&serving(compiled), &Query { q: q.to_owned(), from: 0 }).into_string()
}

/// Rows of the first table.
fn rows(page: &str) -> usize {
    page.split_once("<tbody>").map_or(0, |(_, rest)| rest.split_once("</tbody>").unwrap().0.matches("<tr>").count())
}

const UNRESOLVED: Action = Action::Unavailable(Unavailable::BackendUnresolved);

#[test]
fn names_from_outside_stay_text_on_every_page() {
    let mut compiled = with_routes([route("a.example", PathPattern::prefix(HOSTILE), UNRESOLVED)]);
    compiled.problems.push(Problem {
        origin: Origin::new("Ingress", "shop", HOSTILE),
        field: HOSTILE.to_owned(),
        kind: ProblemKind::Malformed(HOSTILE.to_owned()),
    });
    for page in Page::ALL {
        let text = render(page, compiled.clone(), HOSTILE);
        assert!(!text.contains("<script>"), "{page:?}: {text}");
        let at_home = text.replace("<script src=\"/assets/page.js\" defer></script>", "");
        assert!(!at_home.contains("<script"), "{page:?}: {text}");
    }
    let routes = render(Page::Routes, compiled, "");
    assert!(routes.contains("/&lt;script&gt;alert(1)&lt;/script&gt;"), "{routes}");
}

#[test]
fn routes_are_found_by_what_people_know_of_them() {
    let cart = BackendId::new("shop", "cart", 80);
    let lost = route("b.example", PathPattern::exact("/lost"), UNRESOLVED);
    let mut compiled =
        with_routes([route("a.example", PathPattern::prefix("/cart"), Action::Forward(cart.clone())), lost]);
    compiled.model.backends.insert(cart.clone(), backend(&cart, 1));
    for (q, found) in [
        ("", 2),
        ("a.example", 1),
        ("A.Example/CART", 1),
        ("https://a.example/cart", 1),
        ("exact", 1),
        ("shop/front", 2),
        ("cart:80 prefix", 1),
        ("503", 1),
        ("served", 1),
        ("paths[0]", 2),
        ("served lost", 0),
    ] {
        assert_eq!(rows(&render(Page::Routes, compiled.clone(), q)), found, "{q:?}");
    }
}

#[test]
fn ten_thousand_routes_make_a_small_page_that_says_how_many_there_are() {
    let host = |at: usize| format!("host-{at:05}.example");
    let compiled = with_routes((0..10_000).map(|at| route(&host(at), PathPattern::prefix("/"), UNRESOLVED)));
    let state = serving(compiled);
    let of = |q: &str, from| Page::Routes.render(&state, &Query { q: q.to_owned(), from }).into_string();
    let first = of("", 0);
    assert_eq!(rows(&first), 100);
    assert!(first.len() < 100_000, "{} bytes", first.len());
    assert!(first.contains("1–100 of 10000 routes; 9900 more: search to see fewer"), "{first}");
    assert!(first.contains("/routes?q=&amp;from=100"), "{first}");
    let second = of("host-001", 100);
    assert!(second.contains("There are no more than 100 routes"), "{second}");
    assert_eq!(rows(&of("host-09999", 0)), 1);
}

#[test]
fn endpoints_of_a_large_backend_are_shown_when_it_is_searched_for() {
    let (large, small) = (BackendId::new("shop", "large", 80), BackendId::new("shop", "small", 80));
    let mut compiled = Compiled::default();
    compiled.model.backends.insert(large.clone(), backend(&large, 300));
    compiled.model.backends.insert(small.clone(), backend(&small, 0));
    let all = render(Page::Backends, compiled.clone(), "");
    assert_eq!(rows(&all), 20);
    assert!(all.contains("280 more endpoints") && all.contains("No endpoint: 503"), "{all}");
    assert_eq!(rows(&render(Page::Backends, compiled.clone(), "shop/large")), 300);
    assert_eq!(rows(&render(Page::Backends, compiled, "10.0.1.49")), 300, "found by an address");
}

#[test]
fn a_route_whose_service_has_no_endpoint_needs_attention() {
    let cart = BackendId::new("shop", "cart", 80);
    let mut compiled = with_routes([route("a.example", PathPattern::prefix("/cart"), Action::Forward(cart.clone()))]);
    compiled.model.backends.insert(cart.clone(), backend(&cart, 0));
    let overview = render(Page::Overview, compiled.clone(), "");
    assert!(overview.contains("Answers 503") && overview.contains("its Service has no endpoint"), "{overview}");
    compiled.model.backends.insert(cart.clone(), backend(&cart, 1));
    let overview = render(Page::Overview, compiled, "");
    assert!(overview.contains("Nothing: every route is served"), "{overview}");
}

#[test]
fn a_watch_that_fails_needs_attention_with_what_to_do() {
    let state = serving(Compiled::default());
    let _synced = state.metrics.watches.watch("services", "");
    state.metrics.watches.watch("secrets", "").failed("secrets is <forbidden>".to_owned(), "grant list".to_owned());
    state.metrics.watches.elects(|| true);
    let overview = Page::Overview.render(&state, &Query::default()).into_string();
    for text in ["Watch fails", "secrets: secrets is &lt;forbidden&gt;", "grant list", "one, leader: it writes status"]
    {
        assert!(overview.contains(text), "{text} in {overview}");
    }
    assert_eq!(rows(&overview), 2);
}

#[test]
fn routes_stand_as_they_are_matched() {
    let of = |host: &str, path| route(host, path, UNRESOLVED);
    let page = render(
        Page::Routes,
        with_routes([
            of("", PathPattern::prefix("/any")),
            of("*.example", PathPattern::prefix("/wild")),
            of("a.example", PathPattern::exact("/exact")),
            of("a.example", PathPattern::prefix("/")),
        ]),
        "",
    );
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} in {page}"));
    let order = ["<code>/exact</code>", "<code>/</code>", "<code>/wild</code>", "<code>/any</code>"].map(at);
    assert!(order.is_sorted(), "{order:?}");
    assert!(page.contains(&HostPattern::Any.to_string()));
}
