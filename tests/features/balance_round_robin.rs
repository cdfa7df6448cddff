//! `RoundRobin`: each in turn, by weight. Bounds are exact: nothing is drawn.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::support::{
    eventually,
    spread::{Client, Spread, counts},
};

#[tokio::test]
async fn every_endpoint_gets_the_same_on_one_thread() {
    for policy in ["", "strategy: RoundRobin"] {
        let spread = Spread::new(4, policy).await;
        let pierhead = spread.serve().await;
        assert_eq!(counts(pierhead.http, 4 * 25, 1).await, (0..4).map(|number| (number, 25)).collect());
    }
}

#[tokio::test]
async fn every_endpoint_gets_the_same_within_one_for_each_thread() {
    let spread = Spread::new(3, "strategy: RoundRobin").await;
    let pierhead = spread.setup().start().await;
    let counts = counts(pierhead.http, 300, 8).await;
    // On each of two threads the counts of two endpoints differ by one at most.
    let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    assert!(counts.len() == 3 && most - least <= 2, "{counts:?}");
}

#[tokio::test]
async fn endpoints_come_and_go_while_requests_run() {
    let spread = Spread::new(4, "strategy: RoundRobin").await;
    let pierhead = spread.serve().await;
    let done = Arc::new(AtomicBool::new(false));
    let (address, ended) = (pierhead.http, Arc::clone(&done));
    // Each of its answers must be 200.
    let load = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let mut count = 0;
        while !ended.load(Ordering::SeqCst) {
            client.ask("/", None).await;
            count += 1;
        }
        count
    });
    for numbers in [vec![0, 1], vec![1, 2, 3], vec![3], vec![0, 1, 2, 3]] {
        pierhead.write(spread.manifests(numbers.iter().copied()));
        let seen = || spread.backends.iter().map(|backend| backend.seen().len()).collect::<Vec<_>>();
        let used = async || {
            let before = seen();
            let grown = || seen().iter().zip(&before).map(|(now, before)| now - before).collect::<Vec<_>>();
            let all = async || numbers.iter().all(|number| grown()[*number] >= 5).then(grown);
            let grown = eventually("requests to each", all).await;
            (0..4).all(|number| numbers.contains(&number) || grown[number] == 0).then_some(())
        };
        eventually(&format!("traffic to {numbers:?} only"), used).await;
    }
    done.store(true, Ordering::SeqCst);
    assert!(load.await.unwrap() > 100);
    assert_eq!(counts(address, 40, 1).await, (0..4).map(|number| (number, 10)).collect());
}
