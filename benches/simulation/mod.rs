//! Requests that come at random times, are balanced by the real strategies, and are served in simulated time.
//!
//! Nothing here sleeps or reads a clock: the same scenario gives the same outcome on every machine. The model is told in
//! `docs/balancing.md`.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times and counts of a simulation are far below 2^52 and not negative"
)]

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::Range,
    sync::atomic::AtomicUsize,
    time::Duration,
};

use fastrand::Rng;
use pierhead::balance::{Balancer, Candidates, Draw, Member, PeakEwma, Strategy};

/// Requests that an endpoint works on at once by the model with a queue.
pub(crate) const WORKERS: u32 = 4;
/// Mean time to serve one, in seconds, exponentially distributed.
const SERVICE: f64 = 0.020;
/// How many times longer the slow endpoint takes.
const SLOWDOWN: f64 = 20.0;
/// Requests that come, as a part of what all endpoints together can serve.
const LOAD: f64 = 0.8;
/// The endpoint that is slow.
const SLOW: usize = 3;
/// Distinct keys that requests are hashed by, all as frequent.
const KEYS: u64 = 100_000;

/// What is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) endpoints: usize,
    /// Requests that an endpoint works on at once, the others wait in its queue; None works on all at once.
    pub(crate) workers: Option<u32>,
    /// When the slow endpoint is slow, in seconds.
    pub(crate) slow: Range<f64>,
    /// What is wrong with it then.
    pub(crate) fault: Fault,
    /// Seconds in which requests come. All of them are served.
    pub(crate) seconds: u32,
    /// The first seconds, whose requests do not count: averages and queues are not what they will be.
    pub(crate) warm_up: u32,
}

/// What is wrong with the slow endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Seconds that a request takes which would take so many.
    pub(crate) takes: fn(f64) -> f64,
    /// Whether it fails then.
    pub(crate) fails: bool,
}

/// It answers 20 times slower.
pub(crate) const SLOWER: Fault = Fault { takes: |served| served * SLOWDOWN, fails: false };

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Latencies in milliseconds, sorted.
    latencies: Vec<f32>,
    /// The part of the requests of each second that the slow endpoint got, from the end of the warm-up.
    pub(crate) slow_shares: Vec<f64>,
}

impl Outcome {
    /// The latency in milliseconds that this part of the requests does not exceed.
    pub(crate) fn quantile(&self, part: f64) -> f32 {
        let rank = (self.latencies.len() as f64 * part).ceil() as usize;
        self.latencies[rank.clamp(1, self.latencies.len()) - 1]
    }

    /// The part of all requests that the slow endpoint got.
    pub(crate) fn slow_share(&self) -> f64 {
        self.slow_shares.iter().sum::<f64>() / self.slow_shares.len() as f64
    }
}

struct Endpoint {
    average: PeakEwma,
    in_flight: u32,
    waiting: VecDeque<Request>,
}

#[derive(Clone, Copy)]
struct Request {
    came: f64,
    /// Time to serve it relative to the mean.
    work: f64,
}

/// End of the work on a request, ordered by nanoseconds.
type Completion = Reverse<(u64, usize, u64)>;

struct Simulation<'a> {
    scenario: &'a Scenario,
    endpoints: Vec<Endpoint>,
    completions: BinaryHeap<Completion>,
    now: f64,
    latencies: Vec<f32>,
}

/// Simulates a scenario with a strategy.
pub(crate) fn run(scenario: &Scenario, strategy: Strategy) -> Outcome {
    fastrand::seed(4); // of the strategies
    let mut random = Rng::with_seed(4); // of the requests: each strategy gets the same
    let member = |n: usize| Member { identity: xxhash_rust::xxh3::xxh3_64(&n.to_be_bytes()), weight: 1 };
    let balancer = Balancer::build(strategy, (0..scenario.endpoints).map(member).collect());
    let mut simulation = Simulation::new(scenario);
    let (turn, mut total) = (AtomicUsize::new(0), 0);
    let rate = LOAD * f64::from(WORKERS) / SERVICE * (scenario.endpoints as f64 - 1.0 + 1.0 / SLOWDOWN);
    let mut counts = vec![(0_u32, 0_u32); scenario.seconds as usize];
    let mut came = exponential(&mut random) / rate;
    while came < f64::from(scenario.seconds) {
        total -= simulation.complete_until(came);
        let key = xxhash_rust::xxh3::xxh3_64(&random.u64(..KEYS).to_be_bytes());
        let draw = Draw { turn: &turn, key: Some(key), total_in_flight: total };
        let chosen = balancer.choose(&simulation, draw).unwrap_or_default();
        let second = &mut counts[came as usize];
        *second = (second.0 + 1, second.1 + u32::from(chosen == SLOW));
        simulation.accept(chosen, Request { came, work: exponential(&mut random) });
        total += 1;
        came += exponential(&mut random) / rate;
    }
    simulation.complete_until(f64::INFINITY);
    let mut latencies = simulation.latencies;
    latencies.sort_unstable_by(f32::total_cmp);
    let counted = counts.into_iter().skip(scenario.warm_up as usize);
    let slow_shares = counted.map(|(all, slow)| f64::from(slow) / f64::from(all.max(1))).collect();
    Outcome { latencies, slow_shares }
}

/// A draw of the exponential distribution of mean 1.
fn exponential(random: &mut Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let endpoint = |_| Endpoint { average: PeakEwma::default(), in_flight: 0, waiting: VecDeque::new() };
        Self {
            scenario,
            endpoints: (0..scenario.endpoints).map(endpoint).collect(),
            completions: BinaryHeap::new(),
            now: 0.0,
            latencies: Vec::new(),
        }
    }

    fn millis(&self) -> u64 {
        (self.now * 1000.0) as u64
    }

    fn accept(&mut self, index: usize, request: Request) {
        let millis = self.millis();
        let endpoint = &mut self.endpoints[index];
        endpoint.in_flight += 1;
        endpoint.average.asked(millis);
        if self.scenario.workers.is_some_and(|workers| endpoint.in_flight > workers) {
            endpoint.waiting.push_back(request);
        } else {
            self.start(index, request);
        }
    }

    fn start(&mut self, index: usize, request: Request) {
        let now = self.now;
        let served = request.work * SERVICE;
        let end = now + self.fault(index).map_or(served, |fault| (fault.takes)(served));
        self.completions.push(Reverse(((end * 1e9) as u64, index, request.came.to_bits())));
    }

    /// What is wrong with an endpoint now.
    fn fault(&self, index: usize) -> Option<Fault> {
        (index == SLOW && self.scenario.slow.contains(&self.now)).then_some(self.scenario.fault)
    }

    /// Ends what ends before `time`, and goes there. Returns how many requests ended.
    fn complete_until(&mut self, time: f64) -> u32 {
        let mut ended = 0;
        while let Some(&Reverse((end, index, came))) =
            self.completions.peek().filter(|next| next.0.0 as f64 <= time * 1e9)
        {
            self.completions.pop();
            self.now = end as f64 / 1e9;
            let came = f64::from_bits(came);
            let latency = (self.now - came).max(0.0);
            let millis = self.millis();
            let fails = self.fault(index).is_some_and(|fault| fault.fails);
            let endpoint = &mut self.endpoints[index];
            endpoint.in_flight -= 1;
            let elapsed = Duration::from_secs_f64(latency);
            if fails {
                endpoint.average.failed(elapsed, millis);
            } else {
                endpoint.average.answered(elapsed, millis);
            }
            if !fails && came >= f64::from(self.scenario.warm_up) {
                self.latencies.push((latency * 1000.0) as f32);
            }
            if let Some(next) = endpoint.waiting.pop_front() {
                self.start(index, next);
            }
            ended += 1;
        }
        self.now = time;
        ended
    }
}

impl Candidates for Simulation<'_> {
    fn is_open(&self, _: usize) -> bool {
        true
    }
    fn in_flight(&self, index: usize) -> u32 {
        self.endpoints[index].in_flight
    }
    fn latency(&self, index: usize) -> f32 {
        self.endpoints[index].average.latency(self.millis())
    }
    fn ramp(&self, _: usize) -> f32 {
        1.0
    }
}
