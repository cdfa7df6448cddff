//! The samples of one metric on their way into a scrape. A family without samples is left out.

use std::{borrow::Cow, fmt};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NativeHistogram, NativeHistogramBuckets,
    NoLabelSet,
};

use super::table::{Kind, Metric};

/// A metric and its samples.
#[derive(Debug)]
pub struct Family<'a> {
    metric: &'static Metric,
    samples: Vec<(Vec<Cow<'a, str>>, Value)>,
}

#[derive(Debug)]
enum Value {
    Integer(u64),
    Number(f64),
    Distribution(Box<Distribution>),
}

/// What a histogram holds at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Sum of all values.
    pub sum: f64,
    /// Upper bounds, the last infinite, with how many values each bucket has of its own.
    pub buckets: Vec<(f64, u64)>,
    /// Resolution of the native buckets: 2 to the power of it for each power of two.
    pub schema: i32,
    /// Values up to this are zero to the native buckets.
    pub zero_threshold: f64,
    /// How many those are.
    pub zero_count: u64,
    /// Native buckets with how many values each has, ascending.
    pub native: Vec<(i32, u64)>,
}

impl Distribution {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

impl<'a> Family<'a> {
    pub(super) fn new(metric: &'static Metric) -> Self {
        Self { metric, samples: Vec::new() }
    }

    /// Adds a whole number. Labels come in the order of the table.
    pub fn integer(&mut self, labels: &[&'a str], value: u64) {
        self.push(labels.iter().map(|label| Cow::Borrowed(*label)).collect(), Value::Integer(value));
    }

    /// As [`integer`](Self::integer), with labels that were made for it.
    pub fn owned(&mut self, labels: Vec<Cow<'a, str>>, value: u64) {
        self.push(labels, Value::Integer(value));
    }

    /// Adds a number.
    pub fn number(&mut self, labels: &[&'a str], value: f64) {
        self.push(labels.iter().map(|label| Cow::Borrowed(*label)).collect(), Value::Number(value));
    }

    /// Adds what a histogram holds, unless that is nothing.
    pub fn distribution(&mut self, labels: &[&'a str], value: Distribution) {
        if value.count() > 0 {
            let labels = labels.iter().map(|label| Cow::Borrowed(*label)).collect();
            self.push(labels, Value::Distribution(Box::new(value)));
        }
    }

    fn push(&mut self, labels: Vec<Cow<'a, str>>, value: Value) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "labels of {}", self.metric.base);
        self.samples.push((labels, value));
    }

    /// Writes the family.
    ///
    /// # Errors
    /// When a value does not fit the format.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        let Metric { base, help, .. } = self.metric;
        let mut family = encoder.encode_descriptor(base, help, self.metric.unit(), self.metric.metric_type())?;
        for (values, value) in &self.samples {
            let names = self.metric.labels.iter().copied();
            let labels: Vec<(&str, &str)> = names.zip(values.iter().map(|value| &**value)).collect();
            let labels = labels.as_slice();
            match (self.metric.kind, value) {
                (Kind::Info, _) => family.encode_info(&labels)?,
                _ if labels.is_empty() => self.encode_value(&mut family, value)?,
                _ => self.encode_value(&mut family.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }

    fn encode_value(&self, encoder: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
        match value {
            Value::Integer(value) => self.encode_number(encoder, value),
            Value::Number(value) => self.encode_number(encoder, value),
            Value::Distribution(distribution) => encode_distribution(encoder, distribution),
        }
    }

    fn encode_number(
        &self,
        encoder: &mut MetricEncoder<'_>,
        value: &(impl EncodeCounterValue + EncodeGaugeValue),
    ) -> fmt::Result {
        match self.metric.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
            _ => encoder.encode_gauge(value),
        }
    }
}

fn encode_distribution(encoder: &mut MetricEncoder<'_>, distribution: &Distribution) -> fmt::Result {
    let Distribution { sum, buckets, schema, zero_threshold, zero_count, native } = distribution;
    let (spans, deltas) = spans(native);
    let none = NativeHistogramBuckets { spans: &[], deltas: &[] };
    let native = NativeHistogram {
        schema: *schema,
        zero_threshold: *zero_threshold,
        zero_count: *zero_count,
        negative: none,
        positive: NativeHistogramBuckets { spans: &spans, deltas: &deltas },
        created: None,
    };
    encoder.encode_histogram_with_native::<NoLabelSet>(*sum, distribution.count(), buckets, None, native)
}

/// Runs of buckets without a gap, each as its distance from the one before and its length; and of each bucket's count the
/// difference to that of the bucket before it.
fn spans(buckets: &[(i32, u64)]) -> (Vec<(i32, u32)>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
    let (mut next, mut before) = (0, 0);
    for (index, count) in buckets {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        match spans.last_mut() {
            Some((_, length)) if *index == next => *length += 1,
            _ => spans.push((index - next, 1)),
        }
        deltas.push(count - before);
        (next, before) = (index + 1, count);
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_native_buckets_are_told_by_distance_and_length() {
        let (spans, deltas) = spans(&[(-3, 5), (-2, 7), (4, 1)]);
        assert_eq!(spans, [(-3, 2), (5, 1)]);
        assert_eq!(deltas, [5, 2, -6]);
        assert_eq!(super::spans(&[]), (vec![], vec![]));
    }
}
