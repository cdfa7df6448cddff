//! The operator's port: liveness, readiness, metrics and the configuration in force. Never on a traffic port.
//! What the kubelet and Prometheus ask for can have a port of its own, which shows nothing else.
//!
//! It changes nothing but the level of the process log.

mod connections;
mod debug;
mod explain;
mod health;
mod host;
mod log_level;
mod metrics;
mod page;
mod watches;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::AtomicBool},
};

use axum::{
    Router,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio_util::sync::CancellationToken;

pub use explain::ANSWERED_BY;
pub use page::escaped;

use crate::{
    routing::Live,
    telemetry::{logging::Level, metrics::Metrics},
};

/// What the admin port tells of.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration in force.
    pub live: Live,
    /// Name of this replica among its like.
    pub identity: Arc<str>,
    /// Names that the admin port answers to, besides addresses and local names.
    pub names: Arc<[String]>,
    /// Everything counted.
    pub metrics: Arc<Metrics>,
    /// What the process log lets through.
    pub log_level: Level,
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
pub async fn serve(port: Port, listener: tokio::net::TcpListener, state: State, stop: CancellationToken) {
    let router = match port {
        Port::Admin => {
            let checked = middleware::from_fn_with_state(Arc::clone(&state.names), host::check);
            monitoring().merge(operator().layer(checked)).fallback(async || (StatusCode::NOT_FOUND, ADMIN_PATHS))
        }
        Port::Monitoring => monitoring().fallback(async || (StatusCode::NOT_FOUND, MONITORING_PATHS)),
    };
    connections::serve(listener, router.with_state(state), stop).await;
}

/// What is told where there is nothing.
const ADMIN_PATHS: &str = "not found; there is:
/                    routes, backends, problems and certificates, for a browser
/livez               liveness
/readyz              readiness; with ?verbose each check
/metrics             everything counted, for Prometheus
/debug/backends      backends and the state of their endpoints, as JSON
/debug/snapshot      the configuration in force without keys, as JSON
/debug/explain       why a request gets the answer it gets: ?url=URL and method, header, client, output=text
/debug/log-level     the level of the process log; PUT changes it
";

/// The same on the port for probes and metrics.
const MONITORING_PATHS: &str = "not found; there is: /livez /readyz /metrics
";

/// What may be seen by more than the operator.
fn monitoring() -> Router<State> {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
}

/// What shows the configuration, and what changes the log.
fn operator() -> Router<State> {
    page::router()
        .route("/debug/snapshot", get(debug::snapshot))
        .route("/debug/backends", get(debug::backends))
        .route("/debug/explain", get(explain::explain))
        .merge(log_level::routes())
}

/// Answers from a thread that nobody waits for: what a large configuration takes must delay no probe and no lease.
async fn aside<R: IntoResponse>(answer: impl FnOnce() -> R + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(|| answer().into_response()).await {
        Ok(response) => response,
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::atomic::Ordering};

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
        let (log_level, _log) = Level::detached("info");
        let (starts, stops) = (serving.clone(), stopping.clone());
        let state = State {
            live: live.clone(),
            identity: "one".into(),
            names: Arc::default(),
            metrics,
            log_level,
            serving: starts,
            stopping: stops,
        };
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
        let scraped = ask(address, "/metrics").await;
        assert!(scraped.contains("text/plain; version=0.0.4"), "{scraped}");
        stopping.cancel();
        let stopped = ask(address, "/readyz?verbose").await;
        assert!(stopped.starts_with("HTTP/1.1 503") && stopped.contains("[-]shutdown failed"), "{stopped}");
        stop.cancel();
        server.await.unwrap();
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
