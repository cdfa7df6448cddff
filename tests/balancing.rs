//! What the strategies promise when one endpoint is slow, in simulated time. `cargo bench --bench balancing` shows more.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]

#[path = "../benches/simulation/mod.rs"]
mod simulation;

use std::num::NonZeroU8;

use pierhead::balance::Strategy;

use self::simulation::{Fault, SLOWER, Scenario, WORKERS, run};

const ALWAYS: std::ops::Range<f64> = 0.0..f64::INFINITY;

fn two() -> NonZeroU8 {
    NonZeroU8::new(2).unwrap()
}

#[test]
fn choices_by_load_have_a_fifth_of_the_p99_of_round_robin_beside_a_slow_endpoint() {
    for workers in [Some(WORKERS), None] {
        let scenario = Scenario { endpoints: 16, workers, slow: ALWAYS, fault: SLOWER, seconds: 12, warm_up: 2 };
        let round_robin = run(&scenario, Strategy::RoundRobin);
        assert!((0.06..0.065).contains(&round_robin.slow_share()), "a sixteenth: {}", round_robin.slow_share());
        for strategy in [Strategy::PeakEwma { choices: two() }, Strategy::LeastRequest { choices: two() }] {
            let outcome = run(&scenario, strategy);
            let (p99, of) = (outcome.quantile(0.99), round_robin.quantile(0.99));
            assert!(p99 * 5.0 <= of, "{strategy:?} with {workers:?} workers: {p99} ms, RoundRobin {of} ms");
            assert!(outcome.slow_share() < 0.01, "{strategy:?} with {workers:?} workers: {}", outcome.slow_share());
        }
    }
}

#[test]
fn a_slow_endpoint_loses_its_share_within_a_second_and_gets_it_back() {
    let scenario = Scenario { endpoints: 16, workers: None, slow: 5.0..10.0, fault: SLOWER, seconds: 20, warm_up: 2 };
    let outcome = run(&scenario, Strategy::PeakEwma { choices: two() });
    let shares = |seconds: std::ops::Range<usize>| &outcome.slow_shares[seconds.start - 2..seconds.end - 2];
    let fair = 1.0 / 16.0;
    assert!(shares(3..5).iter().all(|share| *share > fair / 2.0), "before: {:?}", outcome.slow_shares);
    assert!(shares(6..10).iter().all(|share| *share < fair / 5.0), "while slow: {:?}", outcome.slow_shares);
    assert!(shares(14..20).iter().all(|share| *share > fair / 2.0), "after: {:?}", outcome.slow_shares);
}

#[test]
fn an_endpoint_that_hangs_or_refuses_is_not_the_cheapest() {
    let silent = Fault { takes: |_| 5.0, fails: true }; // the time after which it is given up
    let refusing = Fault { takes: |_| 0.0005, fails: true };
    for fault in [silent, refusing] {
        let scenario = Scenario { endpoints: 16, workers: None, slow: 5.0..15.0, fault, seconds: 15, warm_up: 2 };
        let outcome = run(&scenario, Strategy::PeakEwma { choices: two() });
        let shares = &outcome.slow_shares[6 - 2..];
        assert!(shares.iter().all(|share| *share < 0.001), "{fault:?}: {:?}", outcome.slow_shares);
    }
}
