//! How requests are spread over endpoints.

use std::collections::BTreeMap;

use crate::support::{
    backend::Backend,
    client::get,
    manifests::{backend_policy, ingress, service},
    pierhead::Pierhead,
};

async fn counts(policy: &str, requests: usize) -> Vec<usize> {
    let backends = [Backend::start("1").await, Backend::start("2").await, Backend::start("3").await];
    let endpoints: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let rules = ingress("main").host("a.example").prefix("/", "one").to_string();
    let pierhead = Pierhead::serving(rules + &service("one", &endpoints) + policy).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..requests {
        *counts.entry(get(pierhead.http, "a.example", "/").await.backend()).or_default() += 1;
    }
    counts.into_values().collect()
}

#[tokio::test]
async fn round_robin_is_the_default_and_even() {
    assert_eq!(counts("", 60).await, [20, 20, 20]);
    assert_eq!(counts(&backend_policy("one", "loadBalancing: {strategy: RoundRobin}"), 60).await, [20, 20, 20]);
}

#[tokio::test]
async fn random_and_least_request_use_every_endpoint() {
    for strategy in ["Random", "LeastRequest"] {
        let counts = counts(&backend_policy("one", &format!("loadBalancing: {{strategy: {strategy}}}")), 90).await;
        // Each of 90 requests misses a given endpoint with probability 2/3: all of them do once in 10^15 runs.
        assert_eq!(counts.len(), 3, "{strategy}: {counts:?}");
    }
}
