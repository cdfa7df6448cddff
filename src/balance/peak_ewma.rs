//! How slow an endpoint has been lately, in one atomic word.
//!
//! It does not count requests in flight: [`Candidates`](super::Candidates) tells those.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Time constant of the decay in milliseconds.
///
/// One slow answer counts in full at once. An endpoint that was 20 times slower than the others and gets no request is
/// as cheap as they are after τ·ln 20, three seconds; it is then tried, and one quick answer keeps it. Finagle's ten
/// seconds would keep a recovered endpoint away for half a minute.
const TAU: f32 = 1000.0;

/// Bits of a time in milliseconds, enough for 34 years; the others hold the latency.
const TIME_BITS: u32 = 40;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// The sign, always 0, and the low bits of a latency that are not kept: 16 bits of fraction are.
const LATENCY_SHIFT: u32 = 7;

/// Peak-sensitive moving average of latencies (Finagle's Peak EWMA): it rises to a higher latency at once and falls to
/// lower ones, and to zero without any, with a time constant of one second.
#[derive(Debug, Default)]
pub struct PeakEwma(AtomicU64);

impl PeakEwma {
    /// Counts a latency that was seen at `now`, in milliseconds of any clock that starts with the process.
    pub fn record(&self, latency: Duration, now: u64) {
        let sample = (latency.as_secs_f32() * 1000.0).max(0.001); // zero would mean that nothing is known
        let update = |word| {
            let (average, kept) = (unpack(word), decay(word, now));
            let next = if sample > average { sample } else { average * kept + sample * (1.0 - kept) };
            Some(pack(next, now.max(time(word))))
        };
        let _always_some = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// The average in milliseconds, decayed until `now`; zero when nothing was recorded, or long ago.
    pub fn latency(&self, now: u64) -> f32 {
        let word = self.0.load(Ordering::Relaxed);
        unpack(word) * decay(word, now)
    }
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
            average.record(Duration::from_millis(*millis), *now);
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
                scope.spawn(move || (0..1000).for_each(|n| average.record(Duration::from_micros(thread * n), 7)));
            }
        });
        close(average.latency(7), 3.996);
    }
}
