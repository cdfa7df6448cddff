//! Every metric there is, in one table: what is not in it cannot be exposed, and `docs/metrics.md` is written from it.

use std::fmt::Write as _;

use prometheus_client::{metrics::MetricType, registry::Unit};

use super::family::Family;

/// One metric: its name, what it counts, and by which labels.
#[derive(Debug)]
pub struct Metric {
    /// Without unit and suffix.
    pub base: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What its values are measured in.
    pub measure: Measure,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence without a full stop.
    pub help: &'static str,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; `rate` is what one looks at.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Classic buckets, and in the protobuf format native ones too.
    Histogram,
    /// Always 1: its labels say what there is to say.
    Info,
}

/// What the values of a metric are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// They are numbers of things.
    Number,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Metric {
    /// The metric without samples.
    pub fn family(&'static self) -> Family<'static> {
        Family::new(self)
    }

    /// Its name as Prometheus stores it; that of a histogram ends in `_bucket`, `_sum` or `_count` besides.
    pub fn name(&self) -> String {
        let unit = self.unit().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{suffix}", self.base)
    }

    pub(super) fn unit(&self) -> Option<&'static Unit> {
        static SECONDS: Unit = Unit::Seconds;
        static BYTES: Unit = Unit::Bytes;
        match self.measure {
            Measure::Number => None,
            Measure::Seconds => Some(&SECONDS),
            Measure::Bytes => Some(&BYTES),
        }
    }

    pub(super) fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        }
    }
}

macro_rules! table {
    ($($section:literal { $($constant:ident: $kind:ident $base:literal $measure:ident [$($label:literal)*] $help:literal)* })*) => {
        $($(
            #[doc = concat!($help, ".")]
            pub static $constant: Metric = Metric {
                base: $base,
                kind: Kind::$kind,
                measure: Measure::$measure,
                labels: &[$($label),*],
                help: $help,
            };
        )*)*

        /// Every metric, by the section of the reference that tells of it.
        pub static ALL: &[(&str, &[&Metric])] = &[$(($section, &[$(&$constant),*])),*];
    };
}

table! {
    "Requests" {
        REQUESTS: Counter "pierhead_requests" Number ["namespace" "ingress" "service" "status"]
            "Requests by declaring object, Service and status class"
        REQUEST_DURATION: Histogram "pierhead_request_duration" Seconds ["namespace" "ingress" "service"]
            "Time from request head to the end of the response"
        REQUEST_BODY: Histogram "pierhead_request_body" Bytes ["namespace" "ingress" "service"]
            "Size of request bodies, as far as they were read"
        RESPONSE_BODY: Histogram "pierhead_response_body" Bytes ["namespace" "ingress" "service"]
            "Size of response bodies, as far as they were sent"
        REQUESTS_IN_FLIGHT: Gauge "pierhead_requests_in_flight" Number ["namespace" "ingress" "service"]
            "Requests that have a route and have not ended"
        ANSWERS: Counter "pierhead_answers" Number ["reason"]
            "Requests that did not end with the whole response of an endpoint, by the reason in the access log"
    }
    "Upstreams" {
        ATTEMPTS: Counter "pierhead_upstream_attempts" Number ["namespace" "service" "port" "outcome"]
            "Attempts at endpoints by outcome: the status class of the response, the reason for none, or abandoned"
        ATTEMPT_DURATION: Histogram "pierhead_upstream_attempt_duration" Seconds ["namespace" "service" "port"]
            "Time from the request given to the connection to the response head, or to the failure of the attempt"
        RETRIES: Counter "pierhead_upstream_retries" Number ["namespace" "service" "port"]
            "Attempts made because another one failed"
        HEDGES: Counter "pierhead_upstream_hedges" Number ["namespace" "service" "port"]
            "Attempts made beside another one that was slow"
        BUDGET_REFUSALS: Counter "pierhead_upstream_retry_budget_refusals" Number ["namespace" "service" "port"]
            "Retries and hedges not made because the retry budget was spent"
        REFUSALS: Counter "pierhead_upstream_refusals" Number ["namespace" "service" "port" "reason"]
            "Requests refused by a limit of the backend: of requests, of waiting, or of connections"
        EJECTIONS: Counter "pierhead_upstream_ejections" Number ["namespace" "service" "port"]
            "Endpoints taken out because their requests failed"
        CONNECTIONS_OPENED: Counter "pierhead_upstream_connections_opened" Number ["namespace" "service" "port"]
            "Connections opened to endpoints"
        UPSTREAM_CONNECTIONS: Gauge "pierhead_upstream_connections" Number ["namespace" "service" "port"]
            "Connections to endpoints open now"
        CONNECTIONS_KEPT: Gauge "pierhead_upstream_connections_idle" Number ["namespace" "service" "port"]
            "HTTP/1.1 connections to endpoints that are kept and serve no request now"
        ENDPOINTS: Gauge "pierhead_upstream_endpoints" Number ["namespace" "service" "port" "state"]
            "Endpoints by state: `fit`, `ejected`, or `failing_probes`"
        UPSTREAM_IN_FLIGHT: Gauge "pierhead_upstream_requests_in_flight" Number ["namespace" "service" "port"]
            "Requests that were admitted to the backend and have not ended"
        PENDING: Gauge "pierhead_upstream_requests_pending" Number ["namespace" "service" "port"]
            "Requests that wait until they are admitted to the backend, or for a connection"
        LIMIT: Gauge "pierhead_upstream_concurrency_limit" Number ["namespace" "service" "port"]
            "Requests that may be in flight, by the policy or by what its adaptive limit has found; absent without a limit"
        PROBES: Counter "pierhead_health_probes" Number ["result"]
            "Health probes by result: pass or failure"
    }
    "Connections and TLS" {
        CONNECTIONS: Gauge "pierhead_connections" Number []
            "Client connections open now"
        ACCEPTED: Counter "pierhead_connections_accepted" Number []
            "Client connections accepted"
        HANDSHAKES: Counter "pierhead_tls_handshakes" Number ["version" "result"]
            "TLS handshakes of clients by version and result: success, failure or timeout"
        CERTIFICATE_NOT_AFTER: Gauge "pierhead_certificate_not_after_timestamp" Seconds ["namespace" "secret"]
            "End of the validity of each certificate in use, in seconds since 1970"
    }
    "Configuration" {
        PUBLISHES: Counter "pierhead_config_publishes" Number []
            "Configurations put in force"
        PUBLISH_FAILURES: Counter "pierhead_config_publish_failures" Number []
            "Configurations that could not be put in force: the one before serves on"
        LAST_PUBLISH: Gauge "pierhead_config_last_publish_timestamp" Seconds []
            "When a configuration was last put in force, in seconds since 1970"
        BUILD_DURATION: Histogram "pierhead_config_build_duration" Seconds []
            "Time to index a configuration and put it in force"
        PROPAGATION: Histogram "pierhead_config_propagation_duration" Seconds []
            "Time from an event of the Kubernetes API to the configuration with it in force"
        PENDING_AGE: Gauge "pierhead_config_pending_event_age" Seconds []
            "Age of the oldest event of the Kubernetes API that is not in force; 0 when all are"
        CONFIG_ENTRIES: Gauge "pierhead_config_entries" Number ["kind"]
            "Entries of the configuration in force: hosts, routes, backends, endpoints and certificates"
        PROBLEMS: Gauge "pierhead_config_problems" Number ["severity" "reason"]
            "Problems in the configuration in force, by severity and reason"
        WATCHED_OBJECTS: Gauge "pierhead_watch_objects" Number ["kind"]
            "Objects of the Kubernetes API held, by kind"
        WATCH_SYNCED: Gauge "pierhead_watch_synced" Number ["kind"]
            "Whether the watch of a kind has listed everything and works: 1, or 0 while it lists or fails"
        WATCH_RESTARTS: Counter "pierhead_watch_restarts" Number ["kind"]
            "Watches of the Kubernetes API that ended and were begun anew"
        WATCH_LAST_EVENT: Gauge "pierhead_watch_last_event_timestamp" Seconds ["kind"]
            "When the last event of a kind came, in seconds since 1970"
        LEADER: Gauge "pierhead_leader" Number []
            "Whether this replica writes status: 1 or 0; absent without an election"
    }
    "Process" {
        BUILD: Info "pierhead_build" Number ["version"]
            "What runs"
        ACCESS_LOG_DROPPED: Counter "pierhead_access_log_dropped" Number []
            "Access log lines dropped because the output did not keep up"
        SPANS_EXPORTED: Counter "pierhead_trace_spans_exported" Number []
            "Spans that the collector took"
        SPANS_DROPPED: Counter "pierhead_trace_spans_dropped" Number []
            "Spans dropped because the collector did not keep up or refused them"
        RUNTIME_WORKERS: Gauge "pierhead_runtime_workers" Number ["runtime"]
            "Threads of a tokio runtime: control, or proxy for those of the data plane"
        RUNTIME_TASKS: Gauge "pierhead_runtime_tasks" Number ["runtime"]
            "Tasks alive in a tokio runtime"
        RUNTIME_QUEUE: Gauge "pierhead_runtime_queue_depth" Number ["runtime"]
            "Tasks in the common queue of a tokio runtime"
        RUNTIME_BUSY: Counter "pierhead_runtime_busy" Seconds ["runtime"]
            "Time that the threads of a tokio runtime were not idle"
        PROCESS_CPU: Counter "process_cpu" Seconds []
            "CPU time of the process"
        PROCESS_RESIDENT: Gauge "process_resident_memory" Bytes []
            "Memory of the process that is in RAM"
        PROCESS_VIRTUAL: Gauge "process_virtual_memory" Bytes []
            "Address space of the process"
        PROCESS_FDS: Gauge "process_open_fds" Number []
            "File descriptors open"
        PROCESS_MAX_FDS: Gauge "process_max_fds" Number []
            "File descriptors that may be open"
        PROCESS_THREADS: Gauge "process_threads" Number []
            "Threads of the process"
        PROCESS_START: Gauge "process_start_time" Seconds []
            "When the process started, in seconds since 1970"
    }
}

/// The tables of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::new();
    for (section, metrics) in ALL {
        // A `String` takes whatever is written.
        let _ = write!(text, "\n## {section}\n\n| Metric | Type | Labels | |\n|---|---|---|---|\n");
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
                Kind::Info => "info",
            };
            let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name(), labels.join(", "), metric.help);
        }
    }
    text
}
