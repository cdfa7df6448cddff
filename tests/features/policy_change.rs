//! A policy that changes while 500 requests a second flow.

use std::collections::BTreeSet;

use crate::support::{
    eventually,
    open_loop::{OpenLoop, Outcome},
    spread::Spread,
};

/// Requests a second.
const RATE: usize = 500;
/// Answers in a row that tell how requests are spread.
const LAST: usize = 100;

fn backends(outcomes: &[Outcome]) -> BTreeSet<&str> {
    outcomes.iter().rev().take(LAST).map(|outcome| &*outcome.backend).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_takes_effect_with_no_failed_request() {
    let mut spread = Spread::new(3, "strategy: RoundRobin").await;
    let pierhead = spread.setup().start().await;
    let load = OpenLoop::start(pierhead.http, RATE, "/x");
    load.reaches(RATE / 2).await;
    let one = "loadBalancing: {strategy: Maglev, hash: {type: Path}}";
    let all = "loadBalancing: {strategy: RoundRobin}";
    for (spec, used) in [
        (one.to_owned(), 1),
        (format!("{all}\n  connections: {{maxRequests: 10, tcpKeepalive: 10s}}"), 3),
        (
            format!(
                "{one}\n  timeouts: {{request: 20s, perTry: 10s}}\n  retries: {{attempts: 5, hedge: {{after: 5s}}}}"
            ),
            1,
        ),
        (format!("{all}\n  sessionAffinity: {{cookie: {{name: seat, ttl: 1h}}}}\n  serverErrors: BadGateway"), 3),
    ] {
        spread.set_policy(&spec);
        pierhead.write(spread.manifests(0..3));
        let before = load.so_far(<[_]>::len);
        eventually(&format!("effect of {spec}"), async || {
            load.so_far(|outcomes| outcomes.len() > before + LAST && backends(outcomes).len() == used).then_some(())
        })
        .await;
    }
    let outcomes = load.stop().await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.status != 200).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), outcomes.len(), failed.first());
}
