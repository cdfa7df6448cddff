//! `PeakEwma`: a slow endpoint loses its share at once, and gets it back.

use std::time::Duration;

use crate::support::{
    eventually,
    spread::{Spread, counts},
};

#[tokio::test]
async fn endpoints_of_the_same_speed_are_all_used() {
    let spread = Spread::new(4, "strategy: PeakEwma").await;
    let pierhead = spread.serve().await;
    let all = async || {
        // No bound on the shares: which of four is the quickest by a few microseconds is chance.
        let counts = counts(pierhead.http, 400, 8).await;
        (counts.len() == 4 && counts.values().all(|count| *count >= 20)).then_some(())
    };
    eventually("all four", all).await;
}

#[tokio::test]
async fn a_slow_endpoint_loses_its_share_and_gets_it_back() {
    const CLIENTS: usize = 8;
    let spread = Spread::new(3, "strategy: PeakEwma").await;
    let pierhead = spread.serve().await;
    counts(pierhead.http, 300, CLIENTS).await;
    spread.backends[0].set_delay(Duration::from_millis(500));
    let slow = counts(pierhead.http, 400, CLIENTS).await;
    // Until its first slow answer it may get one request of each client; that answer counts in full, and puts it off for
    // longer than the others need for the rest. A third of 400 would be 133.
    let share = slow.get(&0).copied().unwrap_or_default();
    assert!(share <= 2 * CLIENTS, "{slow:?}");
    spread.backends[0].set_delay(Duration::ZERO);
    // A third is its due; half of that is far beyond what an endpoint gets that is only tried from time to time.
    let recovered = async || (counts(pierhead.http, 300, CLIENTS).await.get(&0)? >= &50).then_some(());
    eventually("its share", recovered).await;
}
