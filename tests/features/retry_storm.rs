//! A backend that fails as a whole: retries stay within the budget, and it recovers without a herd.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    backend::Backend,
    eventually,
    open_loop::{OpenLoop, Outcome, peak},
    spread::{Spread, is_likely},
};

/// Requests a second in the storm; an unoptimised build does not take 2,000 on a busy machine.
const RATE: usize = if cfg!(debug_assertions) { 500 } else { 2_000 };
/// Requests offered in the storm.
const STORM: usize = 4 * RATE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_stay_within_the_budget_while_every_endpoint_fails() {
    let spread = Spread::with_policy(3, "retries: {retryOn: [GatewayError]}").await;
    let pierhead = spread.setup().start().await;
    for backend in &spread.backends {
        backend.set_failure(Some(503));
    }
    let (load, start) = (OpenLoop::start(pierhead.http, RATE, "/x"), Instant::now());
    load.reaches(STORM).await;
    let outcomes = load.stop().await;
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    let odd: Vec<_> = outcomes.iter().filter(|outcome| outcome.status != 503).collect();
    assert!(odd.is_empty(), "{} are not what the backend answered: {:?}", odd.len(), odd.first());
    let (requests, peak) = (outcomes.len(), peak(&outcomes));
    let tries: usize = spread.backends.iter().map(Backend::requests).sum();
    // In each second a fifth of its requests or of those of the second before, whichever are more, and 10 at least.
    let budget = (requests + peak) / 5 + 10 * seconds;
    eprintln!("{tries} tries for {requests} requests, at most {peak} in a second");
    assert!(tries <= requests + budget, "{tries} tries for {requests} requests, at most {peak} in a second");
    assert!(tries >= requests + requests / 10, "{tries} tries for {requests} requests: the budget is hardly used");
}

/// How many of the requests that were sent in a stretch of time an endpoint answered, and how many there were.
fn answered(outcomes: &[Outcome], by: &str, from: Instant, to: Instant) -> (usize, usize) {
    let within: Vec<_> = outcomes.iter().filter(|outcome| (from..to).contains(&outcome.sent)).collect();
    (within.iter().filter(|outcome| outcome.backend == by).count(), within.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_recovers_after_a_storm_is_not_overrun() {
    const SLOW_START: Duration = Duration::from_secs(12);
    let spread = Spread::with_policy(
        3,
        "loadBalancing: {strategy: RoundRobin, slowStart: 12s}\n  retries: {retryOn: [GatewayError]}\n  health: {active: \
         {http: {path: /healthz}, interval: 1s, timeout: 1s, unhealthy: 4, healthy: 1}}",
    )
    .await;
    let fail = |number: usize, status: u16| {
        spread.backends[number].set_health(status);
        spread.backends[number].set_failure((status != 200).then_some(status));
    };
    let pierhead = spread.setup().flag("--threads=1").start().await;
    (0..3).for_each(|number| fail(number, 503));
    let load = OpenLoop::start(pierhead.http, 300, "/x");
    let last_is = |wanted: fn(&Outcome) -> bool| load.so_far(|outcomes| outcomes.iter().rev().take(50).all(wanted));
    eventually("the storm", async || last_is(|outcome| outcome.status == 503).then_some(())).await;
    (0..2).for_each(|number| fail(number, 200));
    eventually("two that serve", async || last_is(|outcome| outcome.status == 200).then_some(())).await;
    eventually("the third is left alone", async || {
        let before = spread.backends[2].requests();
        load.reaches(load.offered() + 60).await;
        (spread.backends[2].requests() == before).then_some(())
    })
    .await;
    // The third comes back once the two have their full share.
    let settled = Instant::now() + SLOW_START;
    eventually("full share of two", async || (Instant::now() > settled).then_some(())).await;
    fail(2, 200);
    let is_third = |outcome: &&Outcome| outcome.backend == "2";
    let first = async || load.so_far(|outcomes| outcomes.iter().filter(is_third).map(|outcome| outcome.sent).min());
    let start = eventually("the third answers", first).await;
    let end = start + SLOW_START + Duration::from_secs(2);
    eventually("the end of its slow start", async || (Instant::now() > end).then_some(())).await;
    let outcomes = load.stop().await;
    let second = Duration::from_secs(1);
    let shares: Vec<_> =
        (0..14).map(|at| answered(&outcomes, "2", start + second * at, start + second * (at + 1))).collect();
    // It weighs a tenth at first and grows evenly. In the first third of its slow start it is owed 0.25 of 2.25 parts, in
    // the second 0.55 of 2.55; requests may be chosen for a second or two after they are sent.
    let third = SLOW_START / 3;
    let (early, of_early) = answered(&outcomes, "2", start, start + third);
    assert!(early * 6 < of_early, "{early} of {of_early} at once: {shares:?}");
    let (middle, of_middle) = answered(&outcomes, "2", start + third, start + third * 2);
    assert!(middle > early && middle * 4 < of_middle, "{shares:?}");
    let (late, of_late) = answered(&outcomes, "2", end - second, end);
    assert!(is_likely(late, of_late, 1.0 / 3.0), "{shares:?}");
    let failed = outcomes.iter().filter(|outcome| outcome.sent >= start && outcome.status != 200).count();
    assert_eq!(failed, 0, "no request fails once the backend has recovered");
}
