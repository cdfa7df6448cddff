//! Slow start: an endpoint that joins, or recovers, gets its full share after a while.

use crate::support::{
    eventually,
    spread::{Spread, counts},
};

#[tokio::test]
async fn an_endpoint_that_joins_gets_its_share_after_a_while() {
    let spread = Spread::new(3, "strategy: RoundRobin, slowStart: 20s").await;
    let pierhead = spread.setup().flag("--threads=1").start().await;
    // Those that were there from the start have their share at once.
    assert_eq!(counts(pierhead.http, 60, 1).await, (0..3).map(|number| (number, 20)).collect());
    pierhead.write(spread.manifests([0, 1]));
    eventually("one goes", async || (!counts(pierhead.http, 20, 1).await.contains_key(&2)).then_some(())).await;
    pierhead.write(spread.manifests(0..3));
    let joins = async || counts(pierhead.http, 40, 1).await.get(&2).copied();
    let first = eventually("it joins", joins).await;
    // A share of a tenth of theirs is 2 of 40 at the start; a third would be 13; after seven of the 20 s it is 7.
    assert!(first <= 7, "{first} of 40 soon after it joined");
    let full = async || (counts(pierhead.http, 30, 1).await.values().all(|count| *count == 10)).then_some(());
    eventually("its full share", full).await;
}

#[tokio::test]
async fn an_endpoint_that_recovers_starts_slowly() {
    let health = "health: {active: {http: {path: /healthz}, interval: 1s, timeout: 1s, unhealthy: 1, healthy: 1}}";
    let policy = format!("loadBalancing: {{strategy: RoundRobin, slowStart: 20s}}\n  {health}");
    let spread = Spread::with_policy(3, &policy).await;
    let pierhead = spread.serve().await;
    spread.backends[2].set_health(500);
    eventually("it is unfit", async || (!counts(pierhead.http, 20, 1).await.contains_key(&2)).then_some(())).await;
    spread.backends[2].set_health(200);
    let recovers = async || counts(pierhead.http, 40, 1).await.get(&2).copied();
    let first = eventually("it recovers", recovers).await;
    assert!(first <= 7, "{first} of 40 soon after it recovered");
    let full = async || (counts(pierhead.http, 30, 1).await.values().all(|count| *count == 10)).then_some(());
    eventually("its full share", full).await;
}
