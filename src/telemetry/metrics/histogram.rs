//! Counters and histograms that one thread writes and scrapes read: no lock, no locked instruction.
//!
//! Each data-plane thread has a shard of its own, made at its first request: what gets no traffic costs next to nothing.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::family::Distribution;

/// A counter that only one thread writes.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds without a locked instruction: nobody else writes.
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One `T` for each thread, in memory of its own.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[OnceLock<Box<T>>]>);

impl<T: Default> Shards<T> {
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads.max(1)).map(|_| OnceLock::new()).collect())
    }

    /// The shard of a thread, which alone may write it.
    pub(super) fn of(&self, thread: usize) -> &T {
        self.0[thread.min(self.0.len() - 1)].get_or_init(Box::default)
    }

    /// The shards of threads that have counted.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|shard| shard.get().map(|shard| &**shard))
    }

    pub(super) fn sum(&self, count: impl Fn(&T) -> &Count) -> u64 {
        self.iter().map(|shard| count(shard).get()).sum()
    }
}

/// What a histogram measures, and how finely.
#[derive(Debug)]
pub(super) struct Scale {
    /// Upper bounds of the classic buckets.
    bounds: &'static [f64],
    /// Native buckets: 2 to the power of it for each power of two.
    schema: i32,
    /// Where those begin, as mantissas.
    fractions: &'static [u64],
    /// Native buckets begin at this power of two, and what is less counts as zero.
    lowest: i32,
    /// One of what is recorded, in the unit of the metric.
    unit: f64,
}

/// The bits of a number that say where it is between two powers of two.
const MANTISSA: u64 = (1 << 52) - 1;

/// Mantissas of 2 to the power of no eighth, of one eighth, and so on.
const EIGHTHS: [u64; 8] = [
    0,
    1.090_507_732_665_257_7_f64.to_bits() & MANTISSA,
    1.189_207_115_002_721_f64.to_bits() & MANTISSA,
    1.296_839_554_651_009_7_f64.to_bits() & MANTISSA,
    std::f64::consts::SQRT_2.to_bits() & MANTISSA,
    1.542_210_825_407_940_7_f64.to_bits() & MANTISSA,
    1.681_792_830_507_429_f64.to_bits() & MANTISSA,
    1.834_008_086_409_342_4_f64.to_bits() & MANTISSA,
];

/// Durations, recorded in microseconds: classic buckets from 1 ms to 60 s, native ones from 61 µs to 256 s, each 9 % above
/// the one before. The last holds what is longer too.
pub(super) static DURATION: Scale = Scale {
    bounds: &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
    schema: 3,
    fractions: &EIGHTHS,
    lowest: -14,
    unit: 1e-6,
};

/// Sizes, recorded in bytes: classic buckets from 100 bytes to 100 MB, native ones from 16 bytes to 4 GiB, two for each
/// power of two. The last holds what is larger too.
pub(super) static SIZE: Scale = Scale {
    bounds: &[100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8],
    schema: 1,
    fractions: &[EIGHTHS[0], EIGHTHS[4]],
    lowest: 4,
    unit: 1.0,
};

/// Most classic buckets, the infinite one with them.
const CLASSIC: usize = 16;
/// Native buckets of durations: 22 powers of two.
const FINE: usize = 22 * 8;
/// Native buckets of sizes: 28 powers of two.
const COARSE: usize = 28 * 2;

/// Durations of one thread.
pub(super) type Durations = Histogram<FINE>;
/// Sizes of one thread.
pub(super) type Sizes = Histogram<COARSE>;

/// A histogram that one thread writes.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    sum: Count,
    classic: [Count; CLASSIC],
    /// What is nearly nothing.
    zero: Count,
    native: [Count; N],
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        let count = |_| Count::default();
        Self {
            sum: Count::default(),
            classic: std::array::from_fn(count),
            zero: Count::default(),
            native: std::array::from_fn(count),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Takes down a value in the small unit of the scale.
    #[expect(clippy::cast_precision_loss, reason = "a bucket is chosen: the last bits do not matter")]
    pub(super) fn record(&self, scale: &Scale, value: u64) {
        self.sum.add(value);
        let value = value as f64 * scale.unit;
        self.classic[scale.bounds.iter().position(|bound| value <= *bound).unwrap_or(scale.bounds.len())].add(1);
        match scale.native(value) {
            None => self.zero.add(1),
            Some(index) => self.native[index.min(N - 1)].add(1),
        }
    }

    /// What the shards of all threads hold together.
    #[expect(clippy::cast_precision_loss, reason = "sums are exact up to 2^53 microseconds or bytes")]
    pub(super) fn distribution<'a>(scale: &Scale, shards: impl Iterator<Item = &'a Self>) -> Distribution {
        let (mut sum, mut zero_count) = (0_u64, 0);
        let (mut classic, mut native) = ([0; CLASSIC], [0; N]);
        for shard in shards {
            sum = sum.wrapping_add(shard.sum.get());
            zero_count += shard.zero.get();
            for (total, count) in classic.iter_mut().zip(&shard.classic).chain(native.iter_mut().zip(&shard.native)) {
                *total += count.get();
            }
        }
        // Bucket 1 of a schema is the first above 1, and its power of two is 0.
        let first = scale.lowest * (1 << scale.schema) + 1;
        Distribution {
            sum: sum as f64 * scale.unit,
            buckets: scale.bounds.iter().copied().chain([f64::INFINITY]).zip(classic).collect(),
            schema: scale.schema,
            zero_threshold: f64::from(scale.lowest).exp2(),
            zero_count,
            native: (first..).zip(native).filter(|(_, count)| *count > 0).collect(),
        }
    }
}

impl Scale {
    /// The place of a value, which is not below zero, among the native buckets; None for what is nearly nothing.
    ///
    /// It reads exponent and mantissa: a logarithm costs more than all else that is counted of a request.
    fn native(&self, value: f64) -> Option<usize> {
        let bits = value.to_bits();
        let power = i64::try_from(bits >> 52).unwrap_or(i64::MAX) - 1023 - i64::from(self.lowest);
        let begun = self.fractions.iter().filter(|begin| bits & MANTISSA > **begin).count();
        let above = usize::try_from(power << self.schema).ok()? + begun;
        above.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bounds_enclose_it() {
        for (scale, values) in [
            (&DURATION, &[62_u32, 100, 999, 1000, 1001, 15_000, 1_000_000, 255_000_000][..]),
            (&SIZE, &[17, 512, 70_000]),
        ] {
            for value in values {
                let histogram = Durations::default();
                histogram.record(scale, u64::from(*value));
                let seen = Durations::distribution(scale, [&histogram].into_iter());
                let value = f64::from(*value) * scale.unit;
                let (index, _) = seen.native[0];
                let bound = |index: i32| (f64::from(index) / f64::from(1 << scale.schema)).exp2();
                assert!(bound(index - 1) < value && value <= bound(index), "{value} in bucket {index}");
                let classic = seen.buckets.iter().find(|(_, count)| *count > 0).unwrap().0;
                assert!(value <= classic && scale.bounds.iter().all(|bound| *bound >= classic || *bound < value));
                assert!((seen.sum - value).abs() < 1e-9 && seen.count() == 1 && seen.zero_count == 0);
            }
        }
    }

    #[test]
    fn what_is_too_small_or_too_large_is_in_the_outermost_buckets() {
        let histogram = Durations::default();
        for value in [0, 61, 257_000_000, u64::MAX / 4] {
            histogram.record(&DURATION, value);
        }
        let seen = Durations::distribution(&DURATION, [&histogram].into_iter());
        assert_eq!((seen.zero_count, seen.native.as_slice()), (2, &[(64, 2)][..]), "2^8 s is the bound of bucket 64");
        assert!(scale_fits(&DURATION) && scale_fits(&SIZE));
    }

    fn scale_fits(scale: &Scale) -> bool {
        scale.bounds.len() < CLASSIC && scale.bounds.is_sorted()
    }

    #[test]
    fn shards_are_added_up() {
        let shards = Shards::<Sizes>::new(2);
        shards.of(0).record(&SIZE, 50);
        shards.of(1).record(&SIZE, 5000);
        shards.of(1).record(&SIZE, 5000);
        let seen = Sizes::distribution(&SIZE, shards.iter());
        assert_eq!(seen.buckets[..3], [(100.0, 1), (1e3, 0), (1e4, 2)]);
        assert_eq!((seen.count(), seen.sum), (3, 10_050.0));
        assert_eq!(shards.sum(|sizes| &sizes.sum), 10_050);
    }
}
