//! The page of the admin port, in a real Chromium.

use std::path::Path;

use serde_json::json;

use crate::support::{
    backend::Backend,
    browser::Browser,
    client::{Raw, get},
    eventually,
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
    tls::Authority,
};

const PAGES: [&str; 5] = ["/", "/routes", "/backends", "/problems", "/certificates"];

/// Some of everything that the pages show, with names that a stranger has chosen.
fn everything(one: &Backend, two: &Backend) -> String {
    let authority = Authority::new();
    let hostile = ingress("hostile")
        .annotation("nginx.ingress.kubernetes.io/server-snippet", "</td><script>alert(1)</script>")
        .annotation("pierhead.dev/<img src=x onerror=alert(1)>", "x")
        .host("evil.example")
        .prefix("/<script>alert(2)</script>", "shop")
        .prefix("no-slash<script>alert(3)</script>", "shop");
    let front = ingress("front")
        .host("shop.example")
        .prefix("/", "shop")
        .exact("/cart/checkout", "cart")
        .prefix("/cart", "cart")
        .host("*.shop.example")
        .prefix("/", "shop")
        .tls("shop.example", "shop-tls")
        .tls("old.shop.example", "old-tls")
        .tls("new.shop.example", "");
    let lost = ingress("lost").host("lost.example").prefix("/", "nowhere").prefix("/empty", "empty");
    let policy = "loadBalancing: {strategy: PeakEwma}\n  health: {outlier: {consecutiveErrors: 1, baseEjection: 300s}}";
    [
        hostile.to_string(),
        front.to_string(),
        lost.to_string(),
        service("shop", &[one.address, two.address]),
        service("cart", &[one.address]),
        service("empty", &[]),
        backend_policy("shop", policy),
        authority.issue_until(&["shop.example", "www.shop.example"], 2031).secret("shop-tls"),
        authority.issue_until(&["old.shop.example"], 2024).secret("old-tls"),
    ]
    .concat()
}

async fn shop() -> (Backend, Backend, Pierhead) {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let pierhead = Pierhead::serving(everything(&one, &two)).await;
    (one, two, pierhead)
}

async fn browse(pierhead: &Pierhead, path: &str) -> Browser {
    let browser = Browser::start().await;
    browser.open(&format!("http://{}{path}", pierhead.admin)).await;
    browser
}

/// What a person with a screen reader or a keyboard would stumble over; nothing is as it should be.
const STUMBLES: &str = r"(() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const named = (node) => node.labels?.length || node.textContent.trim() || node.getAttribute('aria-label');
    const ids = all('[id]').map((node) => node.id);
    return [
        ...all('table').filter((table) => !table.caption?.textContent || !table.tHead).map(() => 'a table without caption'),
        ...all('thead th:not([scope=col]), tbody th:not([scope=row])').map((node) => 'no scope: ' + node.textContent),
        ...all('tbody tr').filter((row) => row.querySelectorAll('th').length !== 1).map(() => 'a row without header'),
        ...all('input, button, a, select').filter((node) => !named(node)).map((node) => 'unnamed: ' + node.outerHTML),
        ...all('img:not([alt])').map((node) => 'no alt: ' + node.outerHTML),
        ...['header', 'main', 'footer', 'nav[aria-label=Pages]', 'h1', 'html[lang=en]', 'nav [aria-current=page]']
            .filter((selector) => all(selector).length < 1).map((selector) => 'no ' + selector),
        ...(all('h1').length === 1 && all('main').length === 1 ? [] : ['more than one h1 or main']),
        ...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => 'twice: ' + id),
        ...all('[style], [onclick], style').map((node) => 'inline: ' + node.outerHTML),
    ];
})()";

/// Texts whose colour is too close to what they stand on (WCAG 2.2, 1.4.3).
const FAINT: &str = r"(() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const channels = (colors) => {
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (colors) => {
        const [r, g, b] = channels(colors).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const faint = [];
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!own || !node.checkVisibility() || node.matches('noscript, caption, .skip')) continue;
        const grounds = [];
        for (let at = node; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
        const [a, b] = [luminance(grounds), luminance([...grounds, getComputedStyle(node).color])];
        const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (contrast < 4.5) faint.push(contrast.toFixed(2) + ' ' + node.outerHTML.slice(0, 120));
    }
    return faint;
})()";

#[tokio::test]
async fn every_page_is_quiet_asks_nobody_else_and_can_be_used_by_all() {
    let (_one, _two, pierhead) = shop().await;
    let browser = browse(&pierhead, "/").await;
    for path in PAGES {
        browser.open(&format!("http://{}{path}", pierhead.admin)).await;
        assert_eq!(browser.evaluate(STUMBLES).await, json!([]), "{path}");
        for scheme in ["light", "dark"] {
            browser.screen(1280, 900, scheme).await;
            assert_eq!(browser.evaluate(FAINT).await, json!([]), "{path} {scheme}");
        }
        browser.screen(360, 740, "light").await;
        let wider = browser.evaluate("document.documentElement.scrollWidth > innerWidth").await;
        assert_eq!(wider, json!(false), "{path} is wider than a narrow screen");
    }
    let own = format!("http://{}/", pierhead.admin);
    let foreign: Vec<_> = browser.requested().into_iter().filter(|url| !url.starts_with(&own)).collect();
    assert!(foreign.is_empty() && browser.requested().len() > PAGES.len(), "{foreign:?}");
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
}

#[tokio::test]
async fn hostile_names_stay_text() {
    let (_one, _two, pierhead) = shop().await;
    let browser = browse(&pierhead, "/routes?q=%3Cscript%3E").await;
    browser.shows("/<script>alert(2)</script>").await;
    assert_eq!(browser.evaluate("document.getElementById('search').value").await, "<script>");
    for path in PAGES {
        browser.open(&format!("http://{}{path}", pierhead.admin)).await;
        let scripts = "[...document.scripts].map((script) => script.getAttribute('src')).join()";
        assert_eq!(browser.evaluate(scripts).await, "/assets/page.js", "{path}");
        assert_eq!(browser.evaluate("document.querySelectorAll('[onerror]').length").await, 0, "{path}");
    }
    browser.open(&format!("http://{}/problems", pierhead.admin)).await;
    browser.shows("no-slash<script>alert(3)</script>").await;
    browser.shows("pierhead.dev/<img src=x onerror=alert(1)>").await;
    assert!(browser.events(&["Page.javascriptDialogOpening"]).is_empty());
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
}

#[tokio::test]
async fn search_filters_while_typing_and_changes_appear_without_reload() {
    let (one, two, pierhead) = shop().await;
    let browser = browse(&pierhead, "/routes").await;
    browser.evaluate("window.same = true").await;
    browser.press("/").await;
    browser.until("document.activeElement.id === 'search'").await;
    browser.write("shop.example/cart").await;
    browser.until("document.querySelectorAll('tbody tr').length === 2").await;
    get(pierhead.http, "shop.example", "/cart").await;
    browser.until("document.querySelector('tbody td.number').innerText === '1'").await;
    browser.until("location.search === '?q=shop.example%2Fcart'").await;
    let more =
        ingress("more").host("more.example").prefix("/", "shop").host("shop.example").prefix("/cart/new", "cart");
    pierhead.write(everything(&one, &two) + &more.to_string());
    browser.shows("/cart/new").await;
    let same = "window.same && document.activeElement.id === 'search' && document.activeElement.value.length === 17";
    assert_eq!(browser.evaluate(same).await, json!(true), "neither reloaded nor out of focus");
    assert!(!browser.text().await.contains("more.example"), "the search stays in force");
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
}

#[tokio::test]
async fn an_endpoint_that_is_ejected_is_shown_to_be() {
    let (one, two, pierhead) = shop().await;
    let browser = browse(&pierhead, "/backends?q=default/shop").await;
    browser.shows("2 of 2 fit").await;
    two.set_failure(Some(500));
    eventually("an ejection", async || {
        get(pierhead.http, "www.shop.example", "/").await;
        browser.text().await.contains("1 of 2 fit").then_some(())
    })
    .await;
    browser.shows("Ejected").await;
    let row = format!(
        "[...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes('{}')).innerText",
        two.address
    );
    let row = browser.evaluate(&row).await;
    assert!(row.as_str().unwrap().contains("Ejected\nits requests failed; back in"), "{row}");
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET /slow HTTP/1.1\r\nhost: www.shop.example\r\n\r\n").await;
    one.waits_for(1).await;
    browser.shows("1 in flight").await;
}

#[tokio::test]
async fn a_pause_holds_and_a_page_without_answer_says_so() {
    let (one, two, mut pierhead) = shop().await;
    let browser = browse(&pierhead, "/routes").await;
    let press = "document.getElementById('pause').click()";
    browser.evaluate(press).await;
    browser.shows("Paused").await;
    let more = ingress("more").host("more.example").prefix("/", "shop");
    pierhead.write(everything(&one, &two) + &more.to_string());
    eventually("the route", async || {
        get(pierhead.admin, "localhost", "/routes").await.text().contains("more.example").then_some(())
    })
    .await;
    assert!(!browser.text().await.contains("more.example"));
    browser.evaluate(press).await;
    browser.shows("more.example").await;
    pierhead.signal("TERM").await;
    pierhead.ended().await;
    browser.shows("No answer: what you see is old.").await;
}

#[tokio::test]
async fn without_scripts_the_page_reloads_itself_and_search_is_a_form() {
    let (_one, _two, pierhead) = shop().await;
    let answer = get(pierhead.admin, "localhost", "/routes?q=lost.example").await;
    let page = answer.text();
    assert!(page.contains(r#"<noscript><meta http-equiv="refresh" content="10"></noscript>"#), "{page}");
    assert!(page.contains(r#"<form class="search" role="search" method="get" action="/routes">"#), "{page}");
    assert!(page.contains("2 of ") && !page.contains("shop.example"), "{page}");
    for (name, expected) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), expected);
    }
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn names_of_strangers_are_refused_where_the_configuration_shows() {
    let one = Backend::start("one").await;
    let rules = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    let pierhead = Setup::default().manifests(rules).flag("--admin-host=ops.example").start().await;
    for path in ["/", "/routes", "/debug/snapshot", "/debug/log-level"] {
        let refused = get(pierhead.admin, "rebound.example", path).await;
        assert_eq!(refused.status, 421, "{path}");
        assert!(refused.text().contains("--admin-host"), "{}", refused.text());
    }
    let address = pierhead.admin.to_string();
    for host in [&*address, "localhost:9090", "ops.example", "pierhead.edge.svc"] {
        assert_eq!(get(pierhead.admin, host, "/").await.status, 200, "{host}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(pierhead.admin, "rebound.example", path).await.status, 200, "probes and scrapes are not asked");
    }
    let unknown = get(pierhead.admin, "localhost", "/dashboard").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("/debug/backends") && unknown.text().contains("/readyz"), "{}", unknown.text());
}

/// The pictures of docs/admin.md: `PIERHEAD_UPDATE=1` takes them anew.
#[tokio::test]
async fn the_pictures_of_the_documentation_can_be_taken() {
    let (_one, two, pierhead) = shop().await;
    two.set_failure(Some(500));
    let browser = browse(&pierhead, "/").await;
    eventually("an ejection", async || {
        get(pierhead.http, "www.shop.example", "/").await;
        browser.text().await.contains("Ejected").then_some(())
    })
    .await;
    let aside = tempfile::tempdir().unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    let folder = if std::env::var_os("PIERHEAD_UPDATE").is_some() { &*committed } else { aside.path() };
    for (path, name, width, height, scheme) in [
        ("/", "admin-overview", 1200, 820, "light"),
        ("/routes", "admin-routes", 1200, 720, "light"),
        ("/backends", "admin-backends", 1200, 760, "dark"),
        ("/", "admin-narrow", 390, 844, "dark"),
    ] {
        browser.screen(width, height, scheme).await;
        browser.open(&format!("http://{}{path}", pierhead.admin)).await;
        let file = folder.join(format!("{name}.png"));
        browser.picture(&file).await;
        assert!(std::fs::metadata(file).unwrap().len() > 10_000, "{name} shows something");
    }
}
