//! `PeakEwma`: a slow endpoint loses its share at once, and gets it back.

use std::time::{Duration, Instant};

use crate::support::{
    client::{Raw, get, status_of},
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
    spread.backends[0].set_delay(Duration::from_secs(5));
    let slow = counts(pierhead.http, 200, CLIENTS).await;
    // Until its first slow answer it may get one request of each client; that answer counts in full, and puts it off
    // for ln(5000/20) s, beside others of 20 ms, before it is tried again. A third of 200 would be 67.
    let share = slow.get(&0).copied().unwrap_or_default();
    assert!(share <= 2 * CLIENTS, "{slow:?}");
    spread.backends[0].set_delay(Duration::ZERO);
    // A third is its due; half of that is far beyond what an endpoint gets that is only tried from time to time.
    let recovered = async || (counts(pierhead.http, 300, CLIENTS).await.get(&0)? >= &50).then_some(());
    eventually("its share", recovered).await;
}

#[tokio::test]
async fn the_time_that_a_client_takes_for_its_body_is_not_latency() {
    let spread = Spread::new(1, "strategy: PeakEwma").await;
    let pierhead = spread.serve().await;
    let began = Instant::now();
    let mut client = Raw::connect(pierhead.http).await;
    client.write("POST /x HTTP/1.1\r\nhost: a.example\r\ncontent-length: 8\r\n\r\nslow").await;
    spread.backends[0].keeps(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.write("body").await;
    let sent = Instant::now();
    assert_eq!(status_of(&client.head().await), 200);
    let backends = get(pierhead.admin, "admin", "/debug/backends").await.json();
    let latency = backends[0]["endpoints"][0]["latencyMilliseconds"].as_f64().unwrap();
    // As long as the answer took to come, with 100 ms to spare, and not a second longer.
    let limit = sent.elapsed().as_secs_f64() * 1000.0 + 100.0;
    assert!(latency <= limit, "{latency} ms of {:?}", began.elapsed());
}
