//! Metrics, counted without locks on the request path and encoded on scrape.
//!
//! Handles are resolved when a snapshot is built. Each data-plane thread counts in a shard of its own, so that threads
//! never write to the same cache line.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::watches::Watches;

/// Upper bounds of the request duration buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The labels of a route: which object declared it and where its requests go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct RouteLabels {
    /// Namespace of the declaring object.
    pub namespace: Arc<str>,
    /// Name of the Ingress, or of the flag.
    pub ingress: Arc<str>,
    /// Service the requests go to; empty for none.
    pub service: Arc<str>,
}

impl RouteLabels {
    fn pairs(&self) -> [(&'static str, &str); 3] {
        [("namespace", &self.namespace), ("ingress", &self.ingress), ("service", &self.service)]
    }
}

/// Counts the requests of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    shards: Box<[Shard]>,
}

/// One thread's counts, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Responses by status class, 1xx to 5xx.
    classes: [AtomicU64; 5],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
}

impl RouteMetrics {
    /// Counts for `threads` data-plane threads.
    pub fn new(threads: usize) -> Self {
        Self { shards: (0..threads.max(1)).map(|_| Shard::default()).collect() }
    }

    /// Counts one request that ended on `thread` with `status` after `duration`.
    pub fn record(&self, thread: usize, status: u16, duration: Duration) {
        let shard = &self.shards[thread % self.shards.len()];
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        shard.classes[class].fetch_add(1, Ordering::Relaxed);
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        shard.microseconds.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
    }
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    threads: usize,
    routes: Arc<Routes>,
    /// Requests that no route took.
    pub unrouted: Arc<RouteMetrics>,
    /// The rest.
    pub process: Arc<Process>,
    /// What the watches of the Kubernetes source see; empty without it.
    pub watches: Arc<Watches>,
}

/// Counts that belong to no route.
#[derive(Debug, Default)]
pub struct Process {
    /// Connections of clients open now.
    pub connections: AtomicI64,
    /// Client connections accepted.
    pub accepted: AtomicU64,
    /// TLS handshakes that failed.
    pub handshake_failures: AtomicU64,
    /// Requests answered by ourselves, by one-word reason.
    answers: Mutex<HashMap<&'static str, u64>>,
    /// Health probes that passed.
    pub probes_passed: AtomicU64,
    /// Health probes that failed.
    pub probes_failed: AtomicU64,
    /// Configurations published.
    pub config_publishes: AtomicU64,
    /// Problems in the configuration in force.
    pub config_problems: AtomicI64,
    /// Access log lines dropped because the output did not keep up.
    pub access_log_dropped: AtomicU64,
}

impl Process {
    /// Counts an answer of our own.
    pub fn answered(&self, reason: &'static str) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }
}

/// Routes that were resolved and are still in a snapshot.
#[derive(Debug, Default)]
struct Routes(Mutex<HashMap<RouteLabels, Weak<RouteMetrics>>>);

impl Metrics {
    /// Metrics for `threads` data-plane threads.
    pub fn new(threads: usize) -> Self {
        let mut registry = Registry::with_prefix("pierhead");
        let routes = Arc::new(Routes::default());
        let unrouted = Arc::new(RouteMetrics::new(threads));
        let process = Arc::new(Process::default());
        routes.lock().insert(RouteLabels::default(), Arc::downgrade(&unrouted));
        registry.register_collector(Box::new(Arc::clone(&routes)));
        registry.register_collector(Box::new(Arc::clone(&process)));
        Self { registry, threads, routes, unrouted, process, watches: Arc::default() }
    }

    /// Data-plane threads that count.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The counts of a route; the same labels share them for as long as anybody holds them.
    pub fn route(&self, labels: RouteLabels) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock();
        if let Some(known) = routes.get(&labels).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(RouteMetrics::new(self.threads));
        routes.insert(labels, Arc::downgrade(&new));
        new
    }

    /// Everything in the Prometheus text format.
    ///
    /// # Errors
    /// When a collector fails to write, which a `String` never makes it do.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Routes {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RouteLabels, Weak<RouteMetrics>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routes of today, sorted; forgets those that nobody holds.
    fn current(&self) -> Vec<(RouteLabels, Arc<RouteMetrics>)> {
        let mut routes = self.lock();
        routes.retain(|_, metrics| metrics.strong_count() > 0);
        let mut current: Vec<_> = routes.iter().filter_map(|(l, m)| Some((l.clone(), m.upgrade()?))).collect();
        current.sort_by(|(a, _), (b, _)| a.pairs().cmp(&b.pairs()));
        current
    }
}

impl Collector for Routes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let routes = self.current();
        let mut family = encoder.encode_descriptor(
            "requests",
            "Requests by declaring object, Service and status class",
            None,
            MetricType::Counter,
        )?;
        for (labels, metrics) in &routes {
            for (class, name) in CLASSES.iter().enumerate() {
                let count = metrics.sum(|shard| &shard.classes[class]);
                if count > 0 {
                    let [a, b, c] = labels.pairs();
                    ConstCounter::new(count).encode(family.encode_family(&[a, b, c, ("status", *name)])?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "request_duration",
            "Time from request head to the end of the response",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (labels, metrics) in &routes {
            let counts = (0..=BUCKETS.len()).map(|at| metrics.sum(|shard| &shard.buckets[at]));
            let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let total = buckets.iter().map(|(_, count)| count).sum();
            if total > 0 {
                let sum = Duration::from_micros(metrics.sum(|shard| &shard.microseconds)).as_secs_f64();
                let pairs = labels.pairs();
                let mut encoder = family.encode_family(&pairs)?;
                encoder.encode_histogram::<prometheus_client::encoding::NoLabelSet>(sum, total, &buckets, None)?;
            }
        }
        Ok(())
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let counters = [
            ("connections_accepted", "Client connections accepted", &self.accepted),
            ("tls_handshake_failures", "TLS handshakes that failed", &self.handshake_failures),
            ("config_publishes", "Configurations put in force", &self.config_publishes),
            ("access_log_dropped", "Access log lines dropped: the output did not keep up", &self.access_log_dropped),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let gauges = [
            ("connections", "Client connections open now", &self.connections),
            ("config_problems", "Problems in the configuration in force", &self.config_problems),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value.load(Ordering::Relaxed));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut family =
            encoder.encode_descriptor("health_probes", "Health probes by result", None, MetricType::Counter)?;
        for (result, value) in [("pass", &self.probes_passed), ("failure", &self.probes_failed)] {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(family.encode_family(&[("result", result)])?)?;
        }
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers: Vec<_> = answers.iter().collect();
        answers.sort();
        let mut family = encoder.encode_descriptor(
            "answers",
            "Requests we answered ourselves, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in answers {
            ConstCounter::new(*count).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_counted_over_all_threads_until_nobody_holds_them() {
        let metrics = Metrics::new(2);
        let labels = RouteLabels { namespace: "shop".into(), ingress: "front".into(), service: "cart".into() };
        let route = metrics.route(labels.clone());
        route.record(0, 200, Duration::from_micros(700));
        metrics.route(labels).record(1, 503, Duration::from_secs(20));
        let text = metrics.encode().unwrap();
        let prefix = r#"{namespace="shop",ingress="front",service="cart""#;
        for line in [
            format!(r#"pierhead_requests_total{prefix},status="2xx"}} 1"#),
            format!(r#"pierhead_requests_total{prefix},status="5xx"}} 1"#),
            format!(r#"pierhead_request_duration_seconds_bucket{{le="0.001",{}}} 1"#, &prefix[1..]),
            format!(r#"pierhead_request_duration_seconds_bucket{{le="+Inf",{}}} 2"#, &prefix[1..]),
            format!("pierhead_request_duration_seconds_count{prefix}}} 2"),
        ] {
            assert!(text.contains(&line), "{line} in:\n{text}");
        }
        drop(route);
        assert!(!metrics.encode().unwrap().contains("shop"));
    }

    #[test]
    fn answers_are_counted_by_reason() {
        let metrics = Metrics::new(1);
        metrics.process.answered("no_route");
        metrics.process.answered("no_route");
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"pierhead_answers_total{reason="no_route"} 2"#), "{text}");
    }
}
