//! Which endpoint is unfit, judged by the outcome of its requests (Envoy's outlier detection).
//!
//! It counts and judges; whether a verdict is carried out depends on the other endpoints, which `routing` knows.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use serde::Serialize;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// Failures in a row that eject. None means that they do not.
    pub consecutive_errors: Option<NonZeroU32>,
    /// Percentage of failures in an interval that ejects. None means that it does not.
    pub error_ratio: Option<NonZeroU32>,
    /// Requests in an interval below which its ratio says nothing.
    pub min_requests: u32,
    /// Length of an interval. Not zero.
    pub interval: Duration,
    /// Time of a first ejection; the n-th lasts n times as long.
    pub base_ejection: Duration,
    /// Longest time of an ejection.
    pub max_ejection: Duration,
    /// Percentage of the endpoints of a backend that may be ejected together; one always may.
    pub max_ejected_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: NonZeroU32::new(5),
            error_ratio: None,
            min_requests: 20,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejected_percent: 50,
        }
    }
}

/// How requests to one endpoint went, and how often and until when it was ejected. Shared by threads: counts may be off
/// by the few requests that end while an interval does.
#[derive(Debug, Default)]
pub struct Outcomes {
    consecutive: AtomicU32,
    /// Number of the interval that `requests` and `errors` count.
    interval: AtomicU64,
    requests: AtomicU32,
    errors: AtomicU32,
    ejected_until: AtomicU64,
    ejections: AtomicU32,
}

/// How a request to an endpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with less than 500.
    Success,
    /// It was answered with 500 or more, or not at all.
    Error,
}

/// What the outcomes say of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay.
    Fit,
    /// It is to be ejected.
    Unfit,
}

impl Outcomes {
    /// Counts an outcome. What comes in while the endpoint is ejected says nothing new.
    ///
    /// `now` counts milliseconds on a monotonic clock, here and below.
    pub fn record(&self, settings: &OutlierDetection, outcome: Outcome, now: u64) -> Verdict {
        if self.is_ejected(now) {
            return Verdict::Fit;
        }
        let error = outcome == Outcome::Error;
        let in_a_row = if error {
            self.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1)
        } else {
            if self.consecutive.load(Ordering::Relaxed) != 0 {
                self.consecutive.store(0, Ordering::Relaxed);
            }
            0
        };
        let unfit = settings.consecutive_errors.is_some_and(|most| in_a_row >= most.get())
            || settings.error_ratio.is_some_and(|ratio| self.count(settings, error, now) >= ratio.get());
        if unfit { Verdict::Unfit } else { Verdict::Fit }
    }

    /// Counts in the interval under way; the percentage of errors in it, or zero when it says nothing yet.
    fn count(&self, settings: &OutlierDetection, error: bool, now: u64) -> u32 {
        let interval = now / millis(settings.interval).max(1);
        let before = self.interval.load(Ordering::Relaxed);
        if interval > before
            && self.interval.compare_exchange(before, interval, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.requests.store(0, Ordering::Relaxed);
            self.errors.store(0, Ordering::Relaxed);
        }
        let requests = u64::from(self.requests.fetch_add(1, Ordering::Relaxed)) + 1;
        let errors = u64::from(self.errors.fetch_add(u32::from(error), Ordering::Relaxed)) + u64::from(error);
        if requests < u64::from(settings.min_requests) {
            return 0;
        }
        u32::try_from(errors * 100 / requests).unwrap_or(u32::MAX)
    }

    /// Ejects the endpoint. Callers take turns; one that comes when it is ejected already changes nothing.
    ///
    /// The n-th ejection lasts n times the base; each interval in health since the last one takes one off n.
    pub fn eject(&self, settings: &OutlierDetection, now: u64) {
        if self.is_ejected(now) {
            return;
        }
        let ended = self.ejected_until.load(Ordering::Relaxed);
        let intervals = now.saturating_sub(ended) / millis(settings.interval).max(1);
        let forgiven = u32::try_from(intervals).unwrap_or(u32::MAX);
        let ejections = self.ejections.load(Ordering::Relaxed).saturating_sub(forgiven).saturating_add(1);
        let time = settings.base_ejection.saturating_mul(ejections);
        let time = time.min(settings.max_ejection.max(settings.base_ejection));
        self.ejections.store(ejections, Ordering::Relaxed);
        self.forget();
        self.ejected_until.store(now.saturating_add(millis(time)), Ordering::Relaxed);
    }

    /// Forgets the outcomes so far, but not the ejections.
    pub fn forget(&self) {
        for count in [&self.consecutive, &self.requests, &self.errors] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the endpoint is ejected.
    pub fn is_ejected(&self, now: u64) -> bool {
        now < self.ejected_until()
    }

    /// The end of the last ejection; zero when there was none.
    pub fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Ordering::Relaxed)
    }
}

impl OutlierDetection {
    /// Whether another of `endpoints` may be ejected when `ejected` of them are.
    pub fn may_eject(&self, ejected: usize, endpoints: usize) -> bool {
        let allowed = endpoints.saturating_mul(self.max_ejected_percent as usize) / 100;
        ejected < allowed.max(1)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consecutive(most: u32) -> OutlierDetection {
        OutlierDetection { consecutive_errors: NonZeroU32::new(most), ..OutlierDetection::default() }
    }

    fn verdicts(outcomes: &Outcomes, settings: &OutlierDetection, of: &str, now: u64) -> String {
        let outcome = |c| if c == 'e' { Outcome::Error } else { Outcome::Success };
        let record = |c| match outcomes.record(settings, outcome(c), now) {
            Verdict::Fit => '-',
            Verdict::Unfit => 'X',
        };
        of.chars().map(record).collect()
    }

    #[test]
    fn errors_in_a_row_make_unfit() {
        let settings = consecutive(3);
        assert_eq!(verdicts(&Outcomes::default(), &settings, "eeseesee", 0), "--------");
        assert_eq!(verdicts(&Outcomes::default(), &settings, "seeee", 0), "---XX");
        let off = OutlierDetection { consecutive_errors: None, ..settings };
        assert_eq!(verdicts(&Outcomes::default(), &off, "eeeeeeee", 0), "--------");
    }

    #[test]
    fn a_ratio_of_errors_in_an_interval_makes_unfit() {
        let settings = OutlierDetection {
            consecutive_errors: None,
            error_ratio: NonZeroU32::new(50),
            min_requests: 6,
            ..OutlierDetection::default()
        };
        let outcomes = Outcomes::default();
        assert_eq!(verdicts(&outcomes, &settings, "eeees", 9_999), "-----", "too few");
        assert_eq!(verdicts(&outcomes, &settings, "s", 10_000), "-", "another interval");
        assert_eq!(verdicts(&outcomes, &settings, "seseseee", 10_001), "------XX", "3 of 7, then 4 of 8");
    }

    #[test]
    fn ejections_grow_and_are_forgiven_one_each_interval() {
        let settings = consecutive(1);
        let outcomes = Outcomes::default();
        let ejected_for = |now| {
            outcomes.eject(&settings, now);
            outcomes.ejected_until() - now
        };
        assert_eq!(ejected_for(1_000), 30_000);
        assert!(outcomes.is_ejected(30_999) && !outcomes.is_ejected(31_000));
        assert_eq!(ejected_for(32_000), 60_000, "the second lasts twice as long");
        assert_eq!(ejected_for(92_000), 90_000);
        assert_eq!(ejected_for(182_000 + 25_000), 60_000, "two intervals in health: 3 - 2 + 1");
        assert_eq!(ejected_for(10_000_000), 30_000, "long forgotten");
        let mut now = 20_000_000;
        for _ in 0..20 {
            now += ejected_for(now);
        }
        assert_eq!(ejected_for(now), 300_000, "never longer than the longest");
    }

    #[test]
    fn outcomes_of_an_ejected_endpoint_say_nothing() {
        let settings = consecutive(2);
        let outcomes = Outcomes::default();
        assert_eq!(verdicts(&outcomes, &settings, "ee", 0), "-X");
        outcomes.eject(&settings, 0);
        let until = outcomes.ejected_until();
        assert_eq!(verdicts(&outcomes, &settings, "eeee", 10), "----");
        outcomes.eject(&settings, 10);
        assert_eq!(outcomes.ejected_until(), until, "it is ejected once");
        assert_eq!(verdicts(&outcomes, &settings, "ee", until), "-X", "it begins anew");
    }

    #[test]
    fn one_may_always_be_ejected_and_no_more_than_the_share() {
        let settings = OutlierDetection { max_ejected_percent: 50, ..OutlierDetection::default() };
        for (ejected, endpoints, may) in [(0, 1, true), (1, 1, false), (1, 3, false), (1, 4, true), (2, 4, false)] {
            assert_eq!(settings.may_eject(ejected, endpoints), may, "{ejected} of {endpoints}");
        }
        let none = OutlierDetection { max_ejected_percent: 0, ..settings };
        assert!(none.may_eject(0, 100) && !none.may_eject(1, 100));
    }

    #[test]
    fn threads_that_race_lose_no_error_of_an_interval() {
        let settings = OutlierDetection {
            consecutive_errors: None,
            error_ratio: NonZeroU32::new(100),
            min_requests: 4_000,
            ..OutlierDetection::default()
        };
        let outcomes = Outcomes::default();
        let unfit: usize = std::thread::scope(|scope| {
            let work =
                || (0..1_000).filter(|_| outcomes.record(&settings, Outcome::Error, 5) == Verdict::Unfit).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(unfit >= 1, "the last of 4,000 errors is seen as such by whoever counts it");
        assert_eq!(outcomes.requests.load(Ordering::Relaxed), 4_000);
    }
}
