//! Metrics, counted without locks on the request path and encoded on scrape.
//!
//! Handles are resolved when a snapshot is built. Each data-plane thread counts in a shard of its own, so that threads
//! never write to the same cache line. Every metric is in [`table`]. Labels come from configuration alone: nothing that a
//! client sends becomes one.

mod backend;
mod family;
mod format;
mod histogram;
mod process;
mod resolved;
mod route;
mod system;
pub mod table;
mod watched;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{prometheus_protobuf, text},
    registry::Registry,
};
use tokio::runtime::RuntimeMetrics;

use self::{backend::Backends, route::Routes, system::System};
pub use self::{
    backend::{BackendLabels, BackendMetrics, Outcome, count},
    family::{Distribution, Family},
    format::Format,
    process::{Handshake, Process},
    route::{Ended, RouteLabels, RouteMetrics},
};
use super::{Reason, watches::Watches};

/// Everything that is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    threads: usize,
    routes: Arc<Routes>,
    backends: Arc<Backends>,
    system: Arc<System>,
    /// Requests that no route took.
    pub unrouted: Arc<RouteMetrics>,
    /// The rest.
    pub process: Arc<Process>,
    /// What the watches of the Kubernetes source see; empty without it.
    pub watches: Arc<Watches>,
}

impl Metrics {
    /// Metrics for `threads` data-plane threads.
    pub fn new(threads: usize) -> Self {
        let (routes, backends, system) = (Arc::<Routes>::default(), Arc::<Backends>::default(), Arc::default());
        let unrouted = routes.resolve(RouteLabels::default(), || RouteMetrics::new(threads));
        let process = Arc::new(Process::new(threads));
        let metrics = Self {
            registry: Mutex::default(),
            threads,
            routes,
            backends,
            system,
            unrouted,
            process,
            watches: Arc::default(),
        };
        metrics.register(Arc::clone(&metrics.routes));
        metrics.register(Arc::clone(&metrics.backends));
        metrics.register(Arc::clone(&metrics.process));
        metrics.register(Arc::clone(&metrics.system));
        metrics.register(Arc::clone(&metrics.watches));
        metrics
    }

    /// Asks `collector` at each scrape from now on.
    pub fn register(&self, collector: impl Collector) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(Box::new(collector));
    }

    /// Tells of a tokio runtime from now on.
    pub fn watch_runtime(&self, name: &'static str, runtime: RuntimeMetrics) {
        self.system.watch(name, runtime);
    }

    /// Data-plane threads that count.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The counts of a route; the same labels share them for as long as anybody holds them.
    pub fn route(&self, labels: RouteLabels) -> Arc<RouteMetrics> {
        self.routes.resolve(labels, || RouteMetrics::new(self.threads))
    }

    /// The counts of a backend, likewise.
    pub fn backend(&self, labels: BackendLabels) -> Arc<BackendMetrics> {
        self.backends.resolve(labels, || BackendMetrics::new(self.threads))
    }

    /// The counts of a route, if anybody holds them.
    pub fn known_route(&self, labels: &RouteLabels) -> Option<Arc<RouteMetrics>> {
        self.routes.find(labels)
    }

    /// Everything, in this format.
    ///
    /// # Errors
    /// When a value does not fit the format.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, prometheus_protobuf::EncodeError> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if format == Format::Protobuf {
            return prometheus_protobuf::encode_to_vec(&registry);
        }
        let mut written = String::new();
        text::encode(&mut written, &registry)?;
        Ok(if format == Format::Text { format::to_text(&written) } else { written }.into_bytes())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("threads", &self.threads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.encode(Format::OpenMetrics).unwrap()).unwrap()
    }

    fn ended(status: u16, duration: Duration) -> Ended {
        Ended { status, duration, received: 0, sent: 70_000 }
    }

    #[test]
    fn counts_of_all_threads_are_added_up_and_forgotten_with_their_route() {
        let metrics = Metrics::new(2);
        let labels = RouteLabels { namespace: "shop".into(), ingress: "front".into(), service: "cart".into() };
        let route = metrics.route(labels.clone());
        for thread in [0, 1, 1] {
            route.begin(thread);
        }
        route.end(0, ended(200, Duration::from_micros(900)));
        metrics.route(labels).end(1, ended(503, Duration::from_secs(70)));
        let seen = text(&metrics);
        let prefix = r#"{namespace="shop",ingress="front",service="cart""#;
        for line in [
            format!(r#"pierhead_requests_total{prefix},status="2xx"}} 1"#),
            format!(r#"pierhead_requests_total{prefix},status="5xx"}} 1"#),
            format!("pierhead_requests_in_flight{prefix}}} 1"),
            format!(r#"pierhead_request_duration_seconds_bucket{{le="0.001",{}}} 1"#, &prefix[1..]),
            format!(r#"pierhead_request_duration_seconds_bucket{{le="+Inf",{}}} 2"#, &prefix[1..]),
            format!("pierhead_request_duration_seconds_count{prefix}}} 2"),
            format!("pierhead_response_body_bytes_sum{prefix}}} 140000.0"),
        ] {
            assert!(seen.contains(&line), "{line} in:\n{seen}");
        }
        drop(route);
        assert!(!text(&metrics).contains("shop"));
    }

    #[test]
    fn native_histograms_are_in_the_protobuf_format() {
        let metrics = Metrics::new(1);
        let route = metrics.route(RouteLabels::default());
        for micros in [10, 1000, 1000, 3000] {
            route.begin(0);
            route.end(0, ended(200, Duration::from_micros(micros)));
        }
        let families = prometheus_protobuf::encode(&metrics.registry.lock().unwrap()).unwrap();
        let family = families.iter().find(|family| family.name == "pierhead_request_duration_seconds").unwrap();
        let histogram = family.metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.schema, histogram.zero_count, histogram.sample_count), (3, 1, 4));
        assert_eq!(histogram.positive_delta, [2, -1], "two in the bucket of 1 ms, one in that of 3 ms");
        assert_eq!(histogram.bucket.len(), 16, "classic ones are there too");
        assert!(!metrics.encode(Format::Protobuf).unwrap().is_empty());
    }

    #[test]
    fn answers_are_counted_by_reason() {
        let metrics = Metrics::new(2);
        metrics.process.answered(0, Reason::NoRoute);
        metrics.process.answered(1, Reason::NoRoute);
        let seen = text(&metrics);
        assert!(seen.contains(r#"pierhead_answers_total{reason="no_route"} 2"#), "{seen}");
    }

    #[test]
    fn attempts_are_counted_by_outcome() {
        let metrics = Metrics::new(1);
        let backend = metrics.backend(BackendLabels { namespace: "shop".into(), service: "cart".into(), port: 80 });
        for outcome in [Outcome::Answered(204), Outcome::Failed(Reason::ClientGone), Outcome::Abandoned] {
            backend.attempted(0, outcome, Duration::from_millis(3));
        }
        backend.refused(Reason::PendingTimeout);
        backend.refused(Reason::NoRoute);
        let (seen, prefix) = (text(&metrics), r#"{namespace="shop",service="cart",port="80""#);
        for line in [
            format!(r#"pierhead_upstream_attempts_total{prefix},outcome="2xx"}} 1"#),
            format!(r#"pierhead_upstream_attempts_total{prefix},outcome="client_gone"}} 1"#),
            format!(r#"pierhead_upstream_attempts_total{prefix},outcome="abandoned"}} 1"#),
            format!("pierhead_upstream_attempt_duration_seconds_count{prefix}}} 2"),
            format!(r#"pierhead_upstream_refusals_total{prefix},reason="pending_timeout"}} 1"#),
            format!(r#"pierhead_upstream_refusals_total{prefix},reason="backend_limit"}} 0"#),
        ] {
            assert!(seen.contains(&line), "{line} in:\n{seen}");
        }
    }
}
