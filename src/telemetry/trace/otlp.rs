//! Export of finished spans by OTLP over gRPC, in batches, on the control half.
//!
//! A collector that is gone or slow costs spans, which are counted, and nothing else.

use std::{
    env,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use opentelemetry::{
    InstrumentationScope, KeyValue, TraceFlags,
    trace::{Event, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

use super::{Kind, Message, Span, Value};
use crate::telemetry::metrics::Process;

/// Spans of one call, and how long the first waits for others.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);

/// The collector cannot be used as it is named.
#[derive(Debug, thiserror::Error)]
#[error("--otlp-endpoint {endpoint}: expected http://host:port, without TLS")]
pub struct Error {
    /// What was given.
    endpoint: String,
    /// What is wrong.
    source: opentelemetry_otlp::ExporterBuildError,
}

/// Starts the exporter on the runtime of the caller.
pub(super) fn start(
    endpoint: &str,
    identity: &str,
    messages: Receiver<Message>,
    process: Arc<Process>,
) -> Result<(), Error> {
    let built = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let mut exporter = built.map_err(|source| Error { endpoint: endpoint.to_owned(), source })?;
    exporter.set_resource(&resource(identity));
    tokio::spawn(run(exporter, messages, process));
    Ok(())
}

/// What all spans are of: as the environment says, and what it leaves unsaid.
fn resource(identity: &str) -> Resource {
    let said = |name: &str| env::var(name).unwrap_or_default();
    let mut resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", identity.to_owned()),
    ]);
    if said("OTEL_SERVICE_NAME").is_empty() && !said("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=") {
        resource = resource.with_service_name("pierhead");
    }
    resource.build()
}

async fn run(exporter: SpanExporter, mut messages: Receiver<Message>, process: Arc<Process>) {
    let mut works = true;
    while let Some(first) = messages.recv().await {
        let (mut batch, mut flush, mut next) = (Vec::new(), None, Some(first));
        let until = Instant::now() + DELAY;
        while let Some(message) = next.take() {
            match message {
                Message::Spans(spans) => batch.extend(spans.into_iter().map(span_data)),
                Message::Flush(done) => flush = Some(done),
            }
            if flush.is_none() && batch.len() < BATCH {
                next = timeout_at(until, messages.recv()).await.ok().flatten();
            }
        }
        let count = batch.len() as u64;
        if count > 0 {
            let outcome = exporter.export(batch).await;
            let worked = std::mem::replace(&mut works, outcome.is_ok());
            let counter = if works { &process.spans_exported } else { &process.spans_dropped };
            counter.fetch_add(count, Ordering::Relaxed);
            match outcome {
                Err(error) if worked => warn!(%error, "spans are not exported"),
                Ok(()) if !worked => info!("spans are exported again"),
                _ => {}
            }
        }
        if let Some(done) = flush {
            let _gone = done.send(());
        }
    }
}

fn span_data(span: Span) -> SpanData {
    let state = span.state.as_ref().and_then(|state| state.to_str().ok()?.parse::<TraceState>().ok());
    let mut events = SpanEvents::default();
    for (reason, at) in span.retries {
        events.events.push(Event::new("pierhead.retry", at, vec![KeyValue::new("pierhead.reason", reason)], 0));
    }
    let attribute = |(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    };
    SpanData {
        span_context: SpanContext::new(
            span.trace.0.into(),
            span.id.0.into(),
            TraceFlags::SAMPLED,
            false,
            state.unwrap_or_default(),
        ),
        parent_span_id: span.parent.map_or(0, |parent| parent.0).into(),
        parent_span_is_remote: span.kind == Kind::Server && span.parent.is_some(),
        span_kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        },
        name: span.name.into(),
        start_time: span.began,
        end_time: span.ended,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: if span.failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("pierhead")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}
