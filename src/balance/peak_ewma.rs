//! How slow an endpoint has been lately, and how long it has been silent, in two atomic words.
//!
//! Requests that wait for a response head count here only as to whether there are any: an endpoint that owes an answer
//! does not become cheaper by owing it. How many are in flight [`Candidates`](super::Candidates) tells.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Time constant of the decay in milliseconds.
///
/// One slow answer counts in full at once. An endpoint that was 20 times slower than the others and gets no request is
/// as cheap as they are after τ·ln 20, three seconds; it is then tried, and one quick answer keeps it. Finagle's ten
/// seconds would keep a recovered endpoint away for half a minute.
const TAU: f32 = 1000.0;

/// The latency of a failure, at least: a quick refusal must cost more than any answer.
///
/// Beside endpoints that answer in 10 ms one that fails is tried again after τ·ln 1000, seven seconds.
const FAILED: Duration = Duration::from_secs(10);

/// Silence up to so many milliseconds is none: the clocks of two threads are as far apart.
const GRACE: u64 = 100;

/// Bits of a time in milliseconds, enough for 34 years; the others hold the latency.
const TIME_BITS: u32 = 40;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// The sign, always 0, and the low bits of a latency that are not kept: 16 bits of fraction are.
const LATENCY_SHIFT: u32 = 7;

/// Peak-sensitive moving average of latencies (Finagle's Peak EWMA): it rises to a higher latency at once and falls to
/// lower ones, and to zero without requests, with a time constant of one second.
///
/// While requests wait it does not fall, and rises with the time since the last answer. Each request is [`asked`] and
/// then one of the others, once. `now` is in milliseconds of any clock that starts with the process.
///
/// [`asked`]: Self::asked
#[derive(Debug, Default)]
pub struct PeakEwma {
    /// The average, and when it was last told anything or began to wait.
    average: AtomicU64,
    waiting: AtomicU32,
}

impl PeakEwma {
    /// One more request waits.
    pub fn asked(&self, now: u64) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            self.update(now, |average, kept| average * kept); // from here on it does not decay
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered after this time.
    pub fn answered(&self, latency: Duration, now: u64) {
        let sample = millis(latency);
        self.update(
            now,
            |average, kept| {
                if sample > average { sample } else { average * kept + sample * (1.0 - kept) }
            },
        );
        self.left();
    }

    /// A request failed after this time.
    pub fn failed(&self, elapsed: Duration, now: u64) {
        self.abandoned(elapsed.max(FAILED), now);
    }

    /// Nobody waits any more for a request that had no answer after this time: it would have taken at least as long.
    pub fn abandoned(&self, elapsed: Duration, now: u64) {
        let least = millis(elapsed).max(self.latency(now));
        self.update(now, |average, _| average.max(least));
        self.left();
    }

    /// A request ended in a way that says nothing of the endpoint.
    pub fn left(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The average in milliseconds at `now`; zero when nothing was recorded, or long ago.
    pub fn latency(&self, now: u64) -> f32 {
        let word = self.average.load(Ordering::Relaxed);
        let average = unpack(word);
        if self.waiting.load(Ordering::Relaxed) == 0 || average == 0.0 {
            return average * decay(word, now);
        }
        let silent = now.saturating_sub(time(word)).saturating_sub(GRACE);
        #[expect(clippy::cast_precision_loss, reason = "a long time is long in any precision")]
        average.max(silent as f32)
    }

    /// Replaces the average by what `next` makes of it and of the part, of 1, that the time since is to leave of it.
    fn update(&self, now: u64, next: impl Fn(f32, f32) -> f32) {
        let update = |word| Some(pack(next(unpack(word), decay(word, now)), now.max(time(word))));
        let _always_some = self.average.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

/// Zero would mean that nothing is known.
fn millis(latency: Duration) -> f32 {
    (latency.as_secs_f32() * 1000.0).max(0.001)
}

/// What is left of the average at `now`, of 1. Another thread may have recorded a later time than ours.
#[expect(clippy::cast_precision_loss, reason = "a long time decays to zero in any precision")]
fn decay(word: u64, now: u64) -> f32 {
    (-(now.saturating_sub(time(word)) as f32) / TAU).exp()
}

fn time(word: u64) -> u64 {
    word & TIME
}

fn unpack(word: u64) -> f32 {
    let bits = (word >> TIME_BITS) as u32;
    f32::from_bits(bits << LATENCY_SHIFT)
}

fn pack(latency: f32, time: u64) -> u64 {
    (u64::from(latency.to_bits() >> LATENCY_SHIFT) << TIME_BITS) | (time & TIME)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn recorded(samples: &[(u64, u64)]) -> PeakEwma {
        let average = PeakEwma::default();
        for (millis, now) in samples {
            average.waiting.fetch_add(1, Ordering::Relaxed); // without what asking does to the average
            average.answered(Duration::from_millis(*millis), *now);
        }
        average
    }

    #[track_caller]
    fn close(value: f32, expected: f32) {
        assert!((value - expected).abs() <= expected * 0.001, "{value} is not {expected} within 0.1 %");
    }

    #[test]
    fn nothing_recorded_is_zero_and_any_latency_is_not() {
        assert!(PeakEwma::default().latency(5000) == 0.0);
        assert!(recorded(&[(0, 5000)]).latency(5000) > 0.0);
    }

    #[test]
    fn a_peak_counts_at_once_and_quick_answers_wear_it_off() {
        close(recorded(&[(10, 0), (200, 1)]).latency(1), 200.0);
        close(recorded(&[(200, 0), (10, 0)]).latency(0), 200.0);
        let e = std::f32::consts::E;
        close(recorded(&[(200, 0), (10, 1000)]).latency(1000), 200.0 / e + 10.0 * (1.0 - 1.0 / e));
        let answers: Vec<(u64, u64)> = std::iter::once((200, 0)).chain((1..=500).map(|n| (10, n * 10))).collect();
        let after_5_seconds = recorded(&answers).latency(5000);
        assert!((10.0..12.0).contains(&after_5_seconds), "{after_5_seconds}");
    }

    #[test]
    fn silence_decays_until_the_slow_is_as_cheap_as_the_quick() {
        let slow = recorded(&[(200, 1000)]);
        close(slow.latency(2000), 200.0 / std::f32::consts::E);
        assert!(slow.latency(3900) > 10.0 && slow.latency(4100) < 10.0);
        assert!(slow.latency(u64::MAX) == 0.0);
    }

    #[test]
    fn silence_makes_nobody_cheaper_who_owes_an_answer() {
        let silent = recorded(&[(10, 1000)]);
        silent.asked(1000);
        close(silent.latency(1090), 10.0);
        close(silent.latency(5100), 4000.0);
        silent.asked(5100);
        silent.abandoned(Duration::from_millis(50), 6100);
        close(silent.latency(6100), 5000.0);
        silent.answered(Duration::from_millis(20), 6100);
        close(silent.latency(6100), 5000.0);
        close(silent.latency(7100), 5000.0 / std::f32::consts::E);
    }

    #[test]
    fn one_that_begins_to_wait_after_a_rest_is_as_cheap_as_before() {
        let rested = recorded(&[(200, 1000)]);
        rested.asked(4000);
        close(rested.latency(4050), 200.0 / std::f32::consts::E.powi(3));
    }

    #[test]
    fn a_quick_failure_costs_more_than_a_slow_answer() {
        let refusing = recorded(&[(10, 1000)]);
        refusing.asked(1001);
        refusing.failed(Duration::from_micros(80), 1001);
        close(refusing.latency(1001), 10_000.0);
        refusing.asked(1001);
        refusing.failed(Duration::from_mins(1), 1001);
        close(refusing.latency(1001), 60_000.0);
    }

    #[test]
    fn a_clock_behind_that_of_another_thread_does_no_harm() {
        let average = recorded(&[(100, 5000), (50, 4000)]);
        close(average.latency(4500), 100.0);
        close(average.latency(6000), 100.0 / std::f32::consts::E);
    }

    #[test]
    fn threads_lose_no_peak() {
        let average = PeakEwma::default();
        thread::scope(|scope| {
            for thread in 1..=4 {
                let average = &average;
                scope.spawn(move || {
                    (0..1000).for_each(|n| {
                        average.asked(7);
                        average.answered(Duration::from_micros(thread * n), 7);
                    });
                });
            }
        });
        close(average.latency(7), 3.996);
        assert_eq!(average.waiting.into_inner(), 0);
    }
}
