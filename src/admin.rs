//! The operator's port: liveness, readiness, metrics and the configuration in force. Never on a traffic port.
//! What the kubelet and Prometheus ask for can have a port of its own, which shows nothing else.
//!
//! It answers GET only and changes nothing. Private keys cannot appear: the model does not serialise them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Query, State as Shared},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{Address, Backend, BackendId, Endpoint, Policy},
    routing::{EndpointState, Live, Pool, Unfit},
    telemetry::metrics::Metrics,
};

/// What `/metrics` is written in.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin port tells of.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration in force.
    pub live: Live,
    /// Everything counted.
    pub metrics: Arc<Metrics>,
    /// The data plane runs.
    pub serving: Arc<AtomicBool>,
    /// Shutdown has begun.
    pub stopping: CancellationToken,
}

/// A port for those who look after the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Everything there is to see.
    Admin,
    /// Liveness, readiness and metrics alone: others than operators may reach it.
    Monitoring,
}

impl Port {
    /// Its name, in logs and as a flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Monitoring => "monitoring",
        }
    }
}

/// A port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; choose another address with --{}", port.name())]
pub struct BindError {
    /// Which port.
    pub port: Port,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Listens on `address`; returns the address with the port that was given for port 0.
///
/// # Errors
/// When the address is in use or not ours.
pub fn bind(port: Port, address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|source| BindError { port, address, source })
}

/// Serves the port until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    port: Port,
    listener: tokio::net::TcpListener,
    state: State,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = match port {
        Port::Admin => monitoring().merge(operator()),
        Port::Monitoring => monitoring(),
    };
    axum::serve(listener, router.with_state(state)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// What may be seen by more than the operator.
fn monitoring() -> Router<State> {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// What shows the configuration.
fn operator() -> Router<State> {
    Router::new().route("/debug/snapshot", get(snapshot)).route("/debug/backends", get(backends))
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

/// 200 while traffic should come here: a configuration is in force and the process is not stopping.
async fn readyz(Shared(state): Shared<State>, Query(query): Query<Verbose>) -> Response {
    let checks = [
        ("configuration", state.live.is_published(), "no configuration is in force yet"),
        ("serving", state.serving.load(Ordering::Acquire), "the data plane has not started"),
        ("shutdown", !state.stopping.is_cancelled(), "the process is stopping"),
    ];
    let failed = checks.iter().find(|(_, good, _)| !good);
    let status = if failed.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = match failed {
        _ if query.verbose.is_some() => {
            let line = |(name, good, reason): &(&str, bool, &str)| {
                if *good { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: {reason}\n") }
            };
            checks.iter().map(line).collect()
        }
        Some((_, _, reason)) => format!("{reason}\n"),
        None => "ok\n".to_owned(),
    };
    (status, body).into_response()
}

async fn metrics(Shared(state): Shared<State>) -> Response {
    match state.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The model in force and the problems found on the way to it.
async fn snapshot(Shared(state): Shared<State>) -> Response {
    Json(&*state.live.load().compiled).into_response()
}

/// A backend and what is known of its endpoints now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendView<'a> {
    id: &'a BackendId,
    in_flight: u32,
    /// Requests that wait for their turn.
    pending: usize,
    /// Requests that may be in flight, by the policy or by what an adaptive limit has found; null for no limit.
    limit: Option<u32>,
    endpoints: Vec<EndpointView<'a>>,
    settings: &'a Backend,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView<'a> {
    address: &'a Address,
    weight: u16,
    near: bool,
    in_flight: u32,
    /// Decayed peak latency.
    latency_milliseconds: f32,
    fit: bool,
    /// Why it is not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit: Option<&'static str>,
    /// Until it comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_milliseconds: Option<u128>,
    /// The part of its weight that it gets: less than 1 in slow start.
    ramp: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_failure: Option<Arc<String>>,
}

impl<'a> BackendView<'a> {
    fn of(id: &'a BackendId, pool: &'a Pool, now: u64) -> Self {
        let Pool { backend, .. } = pool;
        let endpoints = pool.endpoints().iter().filter_map(|state| {
            // Both are sorted by address; a pool may use fewer.
            let at = backend.endpoints.binary_search_by(|endpoint| endpoint.address.cmp(&state.address)).ok()?;
            Some(EndpointView::of(&backend.endpoints[at], state, &backend.policy, now))
        });
        Self {
            id,
            in_flight: pool.in_flight(),
            pending: pool.pending(),
            limit: pool.limit(),
            endpoints: endpoints.collect(),
            settings: backend,
        }
    }
}

impl<'a> EndpointView<'a> {
    fn of(endpoint: &'a Endpoint, state: &EndpointState, policy: &Policy, now: u64) -> Self {
        let unfit = state.unfit(policy, now);
        Self {
            address: &endpoint.address,
            weight: endpoint.weight,
            near: endpoint.is_near,
            in_flight: state.in_flight(),
            latency_milliseconds: state.latency(now),
            fit: unfit.is_none(),
            unfit: unfit.map(|unfit| match unfit {
                Unfit::Probes => "its probes fail",
                Unfit::Ejected(_) => "its requests failed",
            }),
            ejected_milliseconds: match unfit {
                Some(Unfit::Ejected(time)) => Some(time.as_millis()),
                _ => None,
            },
            ramp: state.ramp(policy.load_balancing.slow_start, now),
            probe_failure: state.probe_failure().filter(|_| !state.passes_probes()),
        }
    }
}

async fn backends(Shared(state): Shared<State>) -> Response {
    let snapshot = state.live.load();
    let now = state.live.now();
    let views: Vec<_> = snapshot.pools().iter().map(|(id, pool)| BackendView::of(id, pool, now)).collect();
    Json(views).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_the_first_configuration_and_the_stop() {
        let metrics = Arc::new(Metrics::new(1));
        let live = Live::new(Arc::clone(&metrics), "one");
        let (serving, stopping) = (Arc::<AtomicBool>::default(), CancellationToken::new());
        let state = State { live: live.clone(), metrics, serving: serving.clone(), stopping: stopping.clone() };
        let (listener, address) = bind(Port::Admin, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(Port::Admin, listener, state, stop.clone()));

        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let unready = ask(address, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("no configuration"), "{unready}");
        live.publish(Arc::default());
        serving.store(true, Ordering::Release);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/debug/snapshot").await.contains("\"problems\":[]"));
        assert!(ask(address, "/debug/backends").await.ends_with("[]"));
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains(OPEN_METRICS) && metrics.ends_with("# EOF\n"), "{metrics}");
        stopping.cancel();
        let stopped = ask(address, "/readyz?verbose").await;
        assert!(stopped.starts_with("HTTP/1.1 503") && stopped.contains("[-]shutdown failed"), "{stopped}");
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    #[test]
    fn a_port_in_use_is_told_with_the_flag_to_change() {
        let (_held, address) = bind(Port::Admin, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for (port, flag) in [(Port::Admin, "--admin"), (Port::Monitoring, "--monitoring")] {
            let error = bind(port, address).unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
        }
    }
}
