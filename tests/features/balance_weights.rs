//! Weights: the annotation `pierhead.dev/weight` of an `EndpointSlice`, under each strategy.

use std::{collections::BTreeMap, time::Duration};

use crate::support::{
    eventually,
    pierhead::{Pierhead, Setup},
    spread::{Client, Spread, counts, deviation, is_likely, real},
};

/// A process that gives endpoint 0 nothing, and the others 1 and 4 of 5 parts.
async fn serve(load_balancing: &str) -> (Spread, Pierhead) {
    let spread = Spread::new(3, load_balancing).await;
    let pierhead = Setup::default().manifests(spread.weighted(&[0, 1, 4])).flag("--threads=1").start().await;
    (spread, pierhead)
}

#[tokio::test]
async fn weights_are_shares_of_the_turns() {
    let (spread, pierhead) = serve("strategy: RoundRobin").await;
    assert_eq!(counts(pierhead.http, 50, 1).await, BTreeMap::from([(1, 10), (2, 40)]));
    pierhead.write(spread.weighted(&[1, 2, 5]));
    let mut client = Client::connect(pierhead.http).await;
    let so = async || {
        let mut counts = [0_usize; 3];
        for _ in 0..24 {
            counts[client.number("/", None).await] += 1;
        }
        // The turns begin anywhere in a round.
        counts.iter().zip([3, 6, 15]).all(|(count, share)| count.abs_diff(share) <= 1).then_some(())
    };
    eventually("shares of 1, 2 and 5 of 8", so).await;
}

#[tokio::test]
async fn weights_are_shares_of_the_chances() {
    for strategy in ["Random", "LeastRequest"] {
        let (_spread, pierhead) = serve(&format!("strategy: {strategy}")).await;
        let counts = counts(pierhead.http, 1000, 1).await;
        assert!(!counts.contains_key(&0), "{strategy}: {counts:?}");
        if strategy == "Random" {
            assert!(is_likely(counts[&2], 1000, 0.8), "{counts:?}");
        }
        // A request that is still counted although its client has the answer lets the other go first: at least twice as
        // many for four times the weight.
        assert!(counts[&2] >= 667, "{strategy}: {counts:?}");
    }
}

#[tokio::test]
async fn weights_are_shares_of_the_requests_in_flight() {
    const CLIENTS: usize = 20;
    let (spread, pierhead) = serve("strategy: PeakEwma").await;
    for backend in &spread.backends {
        backend.set_delay(Duration::from_millis(100));
    }
    let counts = counts(pierhead.http, 400, CLIENTS).await;
    assert!(!counts.contains_key(&0), "{counts:?}");
    // Of the same speed they hold 16 and 4 of 20; with half the latency the light one would hold 7.
    assert!(counts[&2] * 3 >= 400 * 2, "{counts:?}");
}

#[tokio::test]
async fn weights_are_shares_of_the_keys() {
    const KEYS: usize = 2000;
    // The share of so many of the 256 + 64 points of a ring has a standard deviation of √(0.2 · 0.8 / 321) = 0.022; 6.5 of
    // them come once in 10¹⁰ rings. Maglev's table is within a hundredth.
    for (strategy, margin) in [("ConsistentHash", 6.5 * 0.0224), ("Maglev", 0.01)] {
        let (_spread, pierhead) = serve(&format!("strategy: {strategy}, hash: {{type: Header, name: x-user}}")).await;
        let mut client = Client::connect(pierhead.http).await;
        let mut counts = [0_usize; 3];
        for key in 0..KEYS {
            counts[client.number("/", Some(("x-user", &format!("user-{key}")))).await] += 1;
        }
        assert_eq!(counts[0], 0, "{strategy}: {counts:?}");
        let bound = real(KEYS) * margin + deviation(KEYS, 0.8);
        assert!((real(counts[2]) - real(KEYS) * 0.8).abs() <= bound, "{strategy}: {counts:?}, bound {bound}");
    }
}

#[tokio::test]
async fn weights_of_zero_for_all_are_equal_weights() {
    for strategy in ["RoundRobin", "Random", "LeastRequest", "PeakEwma"] {
        let spread = Spread::new(3, &format!("strategy: {strategy}")).await;
        let pierhead = spread.serve().await;
        pierhead.write(spread.weighted(&[0, 0, 1]));
        let only = async || counts(pierhead.http, 50, 1).await.keys().eq([&2]).then_some(());
        eventually("the only one of weight", only).await;
        pierhead.write(spread.weighted(&[0, 0, 0]));
        let all = async || (counts(pierhead.http, 50, 1).await.len() == 3).then_some(());
        eventually("all three", all).await;
    }
}
