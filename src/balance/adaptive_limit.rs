//! How many requests a backend can have in flight before they queue there, found by the latency of its answers.
//!
//! The limit follows the ratio of the latency without a queue, the baseline, to the latency of now, with room for the
//! square root of itself (Envoy's adaptive concurrency, Netflix's gradient). Now and then it is halved for a moment, so
//! that queues run empty and the baseline is measured anew (BBR's `ProbeRTT`): else a backend that became slower for good
//! would be held down, and a queue that was there from the start would pass for latency.
//!
//! Only answers are heard: how a request fails says nothing of a queue, and one that hangs holds its place. Where too few
//! answers come for a window, it ends by time.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Limit before anything is known.
const START: u32 = 8;
/// Answers that a window takes at least.
const MIN_SAMPLES: u32 = 30;
/// A window lasts so many mean latencies, within these milliseconds.
const WINDOW_LATENCIES: u64 = 3;
const MIN_WINDOW: u64 = 100;
const MAX_WINDOW: u64 = 5_000;
/// So many times its length after it began, a window ends with fewer answers too: ten latencies bring 30 of them where
/// three are in flight.
const OVERDUE: u64 = 4;
/// Milliseconds between measurements of the baseline, and while it is still found lower by a fifth.
const PROBE_EVERY: u64 = 10_000;
const PROBE_SOON: u64 = 1_000;

/// Where a limit may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Never less.
    pub least: u32,
    /// Never more; it wins where the two cross.
    pub most: u32,
}

/// A limit of requests in flight that follows latency. Threads share it; one at a time moves it.
#[derive(Debug, Default)]
pub struct AdaptiveLimit {
    /// Zero before the first window has closed.
    limit: AtomicU32,
    phase: AtomicU32,
    /// Mean latency without a queue in microseconds; zero before it is known.
    baseline: AtomicU32,
    /// The limit when the baseline was last measured.
    resume: AtomicU32,
    probe_at: AtomicU64,
    window: Window,
    closing: AtomicBool,
}

/// Answers since the limit last moved.
#[derive(Debug, Default)]
struct Window {
    /// Answers before this are to requests that the limit before let in.
    opens: AtomicU64,
    closes: AtomicU64,
    samples: AtomicU32,
    microseconds: AtomicU64,
    /// Most requests in flight.
    peak: AtomicU32,
}

/// What the limit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It doubles until there is a queue.
    Growing,
    /// It follows the latency.
    Steady,
    /// It is halved while the baseline is measured.
    Probing,
}

impl AdaptiveLimit {
    /// The limit now.
    pub fn limit(&self, bounds: Bounds) -> u32 {
        match self.limit.load(Ordering::Relaxed) {
            0 => bounds.clamp(START),
            limit => bounds.clamp(limit),
        }
    }

    /// Counts an answer that took `microseconds`, with `in_flight` requests at the backend, it among them. Returns the new
    /// limit when it moved.
    ///
    /// `now` counts milliseconds on a monotonic clock.
    pub fn answered(&self, microseconds: u32, in_flight: u32, bounds: Bounds, now: u64) -> Option<u32> {
        let window = &self.window;
        if now < window.opens.load(Ordering::Relaxed) {
            return None;
        }
        if window.closes.load(Ordering::Relaxed) == 0 {
            window.begin(now, MIN_WINDOW);
        }
        window.samples.fetch_add(1, Ordering::Relaxed);
        window.microseconds.fetch_add(microseconds.into(), Ordering::Relaxed);
        if in_flight > window.peak.load(Ordering::Relaxed) {
            window.peak.fetch_max(in_flight, Ordering::Relaxed);
        }
        self.close_if(bounds, now, || window.is_over(now))
    }

    /// Ends a measurement of the baseline for which too few answers come: those that hang hold more than half of the
    /// limit, and keep all others out. Returns the new limit when it moved.
    pub fn end_overdue(&self, bounds: Bounds, now: u64) -> Option<u32> {
        let window = &self.window;
        self.close_if(bounds, now, || self.phase() == Phase::Probing && window.is_overdue(now))
    }

    fn close_if(&self, bounds: Bounds, now: u64, is_due: impl Fn() -> bool) -> Option<u32> {
        if !is_due() || self.closing.swap(true, Ordering::Acquire) {
            return None;
        }
        // Another thread may have closed it while we came here.
        let moved = is_due().then(|| self.close(bounds, now)).flatten();
        self.closing.store(false, Ordering::Release);
        moved
    }

    /// Ends the window and moves the limit by it.
    fn close(&self, bounds: Bounds, now: u64) -> Option<u32> {
        let window = &self.window;
        let samples = window.samples.swap(0, Ordering::Relaxed);
        let total = window.microseconds.swap(0, Ordering::Relaxed);
        let peak = window.peak.swap(0, Ordering::Relaxed);
        // Without answers the baseline is the best guess.
        let mean = total.checked_div(samples.into()).unwrap_or_else(|| self.baseline.load(Ordering::Relaxed).into());
        let mean = u32::try_from(mean).unwrap_or(u32::MAX).max(1);
        let before = self.limit(bounds);
        let after = bounds.clamp(self.next(before, mean, peak, bounds, now));
        self.limit.store(after, Ordering::Relaxed);
        let latency = u64::from(mean) / 1000 + 1;
        // What the limit before let in is answered after the latency of now.
        let opens = if after == before { now } else { now + latency.min(MAX_WINDOW) };
        window.begin(opens, (latency * WINDOW_LATENCIES).clamp(MIN_WINDOW, MAX_WINDOW));
        (after != before).then_some(after)
    }

    /// The limit after a window with this mean latency.
    fn next(&self, limit: u32, mean: u32, peak: u32, bounds: Bounds, now: u64) -> u32 {
        let baseline = self.baseline.load(Ordering::Relaxed);
        let phase = self.phase();
        if phase == Phase::Probing {
            self.learn(mean, now);
            self.enter(Phase::Steady);
            return self.resume.load(Ordering::Relaxed);
        }
        if baseline == 0 {
            self.learn(mean, now);
            return limit;
        }
        // Where the limit does not bind, the latency is not of its making.
        if u64::from(peak) * 5 < u64::from(limit) * 4 {
            return limit;
        }
        if phase == Phase::Growing && u64::from(mean) * 4 < u64::from(baseline) * 5 {
            return limit.saturating_mul(2);
        }
        self.enter(Phase::Steady);
        if phase == Phase::Steady && now >= self.probe_at.load(Ordering::Relaxed) {
            self.enter(Phase::Probing);
            self.resume.store(limit, Ordering::Relaxed);
            return limit / 2;
        }
        let after = follow(limit, baseline, mean);
        // So much lower, either the queue is long or the baseline is out of date: the next window tells.
        let low = bounds.least.max(self.resume.load(Ordering::Relaxed) / 2);
        if after <= low && limit > low {
            self.probe_at.store(now, Ordering::Relaxed);
        }
        after
    }

    /// Takes a mean latency for the one without a queue.
    fn learn(&self, mean: u32, now: u64) {
        let before = self.baseline.swap(mean, Ordering::Relaxed);
        let settled = before != 0 && u64::from(mean) * 5 >= u64::from(before) * 4;
        self.probe_at.store(now + if settled { PROBE_EVERY } else { PROBE_SOON }, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Growing,
            1 => Phase::Steady,
            _ => Phase::Probing,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Relaxed);
    }
}

impl Window {
    fn begin(&self, opens: u64, length: u64) {
        self.opens.store(opens, Ordering::Relaxed);
        self.closes.store(opens + length, Ordering::Relaxed);
    }

    /// Whether it has run its time and has the answers that it takes, or is overdue.
    fn is_over(&self, now: u64) -> bool {
        let is_full = self.samples.load(Ordering::Relaxed) >= MIN_SAMPLES;
        (is_full && now >= self.closes.load(Ordering::Relaxed)) || self.is_overdue(now)
    }

    fn is_overdue(&self, now: u64) -> bool {
        let (opens, closes) = (self.opens.load(Ordering::Relaxed), self.closes.load(Ordering::Relaxed));
        now >= opens + closes.saturating_sub(opens) * OVERDUE
    }
}

impl Bounds {
    fn clamp(self, limit: u32) -> u32 {
        limit.max(self.least).min(self.most).max(1)
    }
}

/// Half way to where the latency would be the baseline, and its square root above that.
fn follow(limit: u32, baseline: u32, mean: u32) -> u32 {
    let wide = u64::from(limit);
    let without_queue = (wide * u64::from(baseline) / u64::from(mean)).clamp(wide / 2, wide * 5 / 4);
    let next = (wide + without_queue + wide.isqrt()).div_ceil(2);
    u32::try_from(next).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a simulation counts microseconds of a minute"
)]
mod tests {
    use std::{
        cmp::Reverse,
        collections::{BinaryHeap, VecDeque},
    };

    use super::*;

    const OPEN: Bounds = Bounds { least: 3, most: u32::MAX };

    /// A backend that serves so many requests at a time and queues the rest.
    struct Simulated {
        workers: usize,
        /// Mean time of service in microseconds.
        service: f64,
        /// Whether times of service are exponential; else they are all the same.
        exponential: bool,
    }

    /// What was answered in a second half of a run.
    struct Measured {
        /// Answers in percent of what the backend can do.
        goodput: f64,
        /// Latencies in multiples of the time of service.
        p50: f64,
        p99: f64,
    }

    impl Simulated {
        fn fixed(workers: usize, service: f64) -> Self {
            Self { workers, service, exponential: false }
        }

        fn random(workers: usize, service: f64) -> Self {
            Self { exponential: true, ..Self::fixed(workers, service) }
        }

        /// Offers a multiple of the capacity for so many seconds, with random arrivals; more than the limit is refused.
        fn run(
            &self,
            limit: &AdaptiveLimit,
            bounds: Option<Bounds>,
            offered: f64,
            from: u64,
            seconds: u64,
        ) -> Measured {
            let mut random = fastrand::Rng::with_seed(7);
            let mut exponential = |mean: f64| -mean * (1.0 - random.f64()).ln();
            let capacity = self.workers as f64 / self.service;
            let (start, end) = (from as f64 * 1e6, (from + seconds) as f64 * 1e6);
            let half = f64::midpoint(start, end);
            let mut arrival = start;
            let mut busy = BinaryHeap::new(); // ends of service with the arrival, in microseconds
            let mut queue = VecDeque::new();
            let mut latencies = Vec::new();
            loop {
                let done = busy.peek().map_or(f64::MAX, |Reverse((done, _)): &Reverse<(u64, u64)>| *done as f64);
                let now = arrival.min(done);
                if now >= end {
                    break;
                }
                let in_flight = u32::try_from(busy.len() + queue.len()).unwrap();
                if arrival <= done {
                    if bounds.is_none_or(|bounds| in_flight < limit.limit(bounds)) {
                        queue.push_back(now as u64);
                    }
                    arrival += exponential(1.0 / (capacity * offered));
                } else if let Some(Reverse((_, came))) = busy.pop() {
                    let latency = now as u64 - came;
                    if now >= half {
                        latencies.push(latency);
                    }
                    let tick = now as u64 / 50_000 * 50; // the coarse clock of a thread
                    limit.answered(u32::try_from(latency).unwrap(), in_flight, bounds.unwrap_or(OPEN), tick);
                }
                while busy.len() < self.workers
                    && let Some(came) = queue.pop_front()
                {
                    let service = if self.exponential { exponential(self.service) } else { self.service };
                    busy.push(Reverse(((now + service) as u64, came)));
                }
            }
            latencies.sort_unstable();
            let percentile = |percent: usize| latencies[latencies.len() * percent / 100] as f64 / self.service;
            let goodput = latencies.len() as f64 / (capacity * (end - half)) * 100.0;
            Measured { goodput, p50: percentile(50), p99: percentile(99) }
        }
    }

    #[test]
    fn three_times_the_capacity_leaves_it_in_use_and_latency_bounded() {
        let cases = [
            (Simulated::fixed(2, 10_000.0), 3.5),
            (Simulated::fixed(4, 10_000.0), 3.5),
            (Simulated::fixed(10, 50_000.0), 2.5),
            (Simulated::fixed(64, 20_000.0), 2.5),
            (Simulated::fixed(500, 100_000.0), 2.5),
            // One in a hundred takes 4.6 times the mean by itself.
            (Simulated::random(4, 10_000.0), 6.0),
            (Simulated::random(10, 50_000.0), 6.0),
            (Simulated::random(64, 20_000.0), 6.0),
        ];
        for (case, bound) in cases {
            let Measured { goodput, p99, .. } = case.run(&AdaptiveLimit::default(), Some(OPEN), 3.0, 0, 60);
            let Simulated { workers, service, exponential } = case;
            let what = format!("{workers} workers of {service} µs, exponential {exponential}");
            assert!(goodput >= 95.0 && p99 <= bound, "{what}: goodput {goodput:.1} %, p99 {p99:.1}");
        }
    }

    #[test]
    fn without_a_limit_everybody_waits_for_the_queue() {
        let case = Simulated::fixed(64, 20_000.0);
        let Measured { p50, .. } = case.run(&AdaptiveLimit::default(), None, 3.0, 0, 60);
        assert!(p50 > 1_000.0, "after 45 s the queue is 30 s long, not {p50} times of service");
    }

    #[test]
    fn the_limit_follows_a_backend_that_becomes_slower_and_quick_again() {
        let limit = AdaptiveLimit::default();
        let mut from = 0;
        for service in [20_000.0, 60_000.0, 20_000.0, 5_000.0] {
            let case = Simulated::fixed(20, service);
            let Measured { goodput, p99, .. } = case.run(&limit, Some(OPEN), 3.0, from, 60);
            assert!(goodput >= 95.0 && p99 <= 3.0, "{service} µs: goodput {goodput:.1} %, p99 {p99:.1}");
            from += 60;
        }
    }

    #[test]
    fn a_backend_that_is_not_busy_never_meets_the_limit() {
        let case = Simulated::random(50, 20_000.0);
        let Measured { goodput, p99, .. } = case.run(&AdaptiveLimit::default(), Some(OPEN), 0.5, 0, 60);
        assert!(goodput >= 49.0 && p99 < 6.0, "goodput {goodput:.1} %, p99 {p99:.1}");
    }

    #[test]
    fn the_limit_stays_within_its_bounds() {
        let bounds = Bounds { least: 6, most: 12 };
        for (service, offered) in [(1.0, 1.0), (50_000.0, 9.0)] {
            let limit = AdaptiveLimit::default();
            Simulated::fixed(1, service).run(&limit, Some(bounds), offered, 0, 20);
            assert!((6..=12).contains(&limit.limit(bounds)));
        }
        assert_eq!(AdaptiveLimit::default().limit(Bounds { least: 9, most: 4 }), 4);
    }

    #[test]
    fn a_measurement_without_answers_ends_by_time() {
        let limit = AdaptiveLimit::default();
        let mut now = 0;
        while limit.phase() != Phase::Probing {
            now += 10;
            assert!(now < 60_000, "the baseline is measured now and then");
            for _ in 0..10 {
                let in_flight = limit.limit(OPEN);
                limit.answered(1_000.max(in_flight * 50), in_flight, OPEN, now); // 20 at a time, then a queue
            }
        }
        let halved = limit.limit(OPEN);
        assert_eq!(limit.end_overdue(OPEN, now), None, "it has its time first");
        let resumed = limit.end_overdue(OPEN, now + 1_000).expect("nobody answered");
        assert!(resumed >= 2 * halved - 1, "{halved} became {resumed}");
        assert_eq!(limit.phase(), Phase::Steady);
        assert_eq!(limit.end_overdue(OPEN, now + 9_000), None, "there is none under way");
    }

    #[test]
    fn a_few_slow_answers_move_the_limit_too() {
        let limit = AdaptiveLimit::default();
        for second in 1..=60 {
            limit.answered(2_000_000, START, OPEN, second * 1_000);
        }
        assert!(limit.limit(OPEN) > START, "one a second, and it binds");
    }

    #[test]
    fn threads_that_race_move_the_limit_by_whole_windows() {
        let limit = AdaptiveLimit::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let limit = &limit;
                scope.spawn(move || {
                    (0..50_000).filter(|n| limit.answered(1000 + thread, 1, OPEN, *n).is_some()).count()
                });
            }
        });
        assert_eq!(limit.limit(OPEN), START, "one in flight is no reason to move");
    }
}
