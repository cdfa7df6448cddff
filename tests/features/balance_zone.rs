//! Which endpoints come first: those of our zone, or those that hints give to it.

use std::collections::BTreeSet;

use crate::support::{
    eventually,
    pierhead::Pierhead,
    spread::{Spread, counts},
};

const ZONES: [&str; 3] = ["zone: a", "zone: b", "zone: b"];
const HINTS: [&str; 3] = [
    "zone: b, hints: {forZones: [{name: a}]}",
    "zone: a, hints: {forZones: [{name: b}]}",
    "zone: a, hints: {forZones: [{name: b}]}",
];

/// A process in a zone, or in none, whose endpoints have these fields.
async fn serve(spread: &Spread, zone: &str, endpoints: &[&str]) -> Pierhead {
    // The first manifests have no zones: every later state is waited for.
    let setup = spread.setup();
    let pierhead =
        if zone.is_empty() { setup.start().await } else { setup.flag(format!("--zone={zone}")).start().await };
    pierhead.write(spread.with_fields(endpoints));
    pierhead
}

/// Waits until exactly these backends answer; each that may answer does at least once in 60 turns of at most 3.
async fn only(pierhead: &Pierhead, expected: &[usize]) {
    let expected: BTreeSet<usize> = expected.iter().copied().collect();
    let so = async || counts(pierhead.http, 60, 2).await.into_keys().eq(expected.iter().copied()).then_some(());
    eventually(&format!("traffic to {expected:?} only"), so).await;
}

#[tokio::test]
async fn endpoints_of_our_zone_come_first() {
    let spread = Spread::new(3, "zone: PreferClose").await;
    let pierhead = serve(&spread, "b", &ZONES).await;
    only(&pierhead, &[1, 2]).await;
    pierhead.write(spread.with_fields(&["zone: a", "zone: c", "zone: b"]));
    only(&pierhead, &[2]).await;
    pierhead.write(spread.with_fields(&["zone: a", "zone: c", "zone: c"]));
    only(&pierhead, &[0, 1, 2]).await;
}

#[tokio::test]
async fn without_a_zone_of_our_own_none_comes_first() {
    let spread = Spread::new(3, "zone: PreferClose").await;
    let pierhead = serve(&spread, "", &["zone: a", "zone: b"]).await;
    only(&pierhead, &[0, 1]).await;
}

#[tokio::test]
async fn hints_say_which_zone_an_endpoint_is_for() {
    let spread = Spread::new(3, "").await;
    let pierhead = serve(&spread, "a", &HINTS).await;
    only(&pierhead, &[0]).await;
    // Kubernetes sets hints on all endpoints or on none.
    pierhead.write(spread.with_fields(&[HINTS[0], HINTS[1], "zone: a"]));
    only(&pierhead, &[0, 1, 2]).await;
}

#[tokio::test]
async fn any_asks_neither_for_zones_nor_for_hints() {
    let spread = Spread::new(3, "zone: Any").await;
    let pierhead = serve(&spread, "a", &HINTS).await;
    pierhead.write(spread.with_fields(&HINTS[..2]));
    only(&pierhead, &[0, 1]).await;
}

#[tokio::test]
async fn others_are_used_when_none_of_our_zone_is_fit() {
    let health = "health: {active: {http: {path: /healthz}, interval: 1s, timeout: 1s, unhealthy: 1, healthy: 1}}";
    let spread = Spread::with_policy(3, &format!("loadBalancing: {{zone: PreferClose}}\n  {health}")).await;
    let pierhead = serve(&spread, "a", &ZONES).await;
    only(&pierhead, &[0]).await;
    spread.backends[0].set_health(500);
    only(&pierhead, &[1, 2]).await;
    spread.backends[0].set_health(200);
    only(&pierhead, &[0]).await;
}
