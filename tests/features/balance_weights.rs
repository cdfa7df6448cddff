//! Weights: the annotation `pierhead.dev/weight` of an `EndpointSlice`, under each strategy.

use std::collections::BTreeMap;

use crate::support::{
    eventually,
    pierhead::Pierhead,
    spread::{Client, Spread, counts, is_likely},
};

/// A process that gives endpoint 0 nothing, and the others 1 and 4 of 5 parts.
async fn serve(strategy: &str) -> (Spread, Pierhead) {
    let spread = Spread::new(3, strategy).await;
    let pierhead = spread.serve().await;
    pierhead.write(spread.weighted(&[0, 1, 4]));
    // With a third of the chances it is missed 50 times in a row with probability 2·10⁻⁹: what comes after would tell.
    eventually("weights", async || (!counts(pierhead.http, 50, 1).await.contains_key(&0)).then_some(())).await;
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
    for strategy in ["Random", "LeastRequest", "ConsistentHash", "Maglev"] {
        let (_spread, pierhead) = serve(&format!("strategy: {strategy}")).await;
        let counts = counts(pierhead.http, 1000, 1).await;
        assert!(!counts.contains_key(&0), "{strategy}: {counts:?}");
        let heavy = counts[&2];
        if strategy == "Random" {
            assert!(is_likely(heavy, 1000, 0.8), "{counts:?}");
        }
        // Others draw by weight and then prefer by weight again, or hash: at least twice as many for four times the weight.
        assert!(heavy >= 667, "{strategy}: {counts:?}");
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
