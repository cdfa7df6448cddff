//! One probe of one endpoint, on a connection of its own that ends with it.
//!
//! Judges one answer and nothing else: neither counts nor waits. Time is bounded by the caller.

use std::{ops::RangeInclusive, sync::Arc};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::{
    HeaderMap, Request, Response, StatusCode, Uri, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::grpc;
use crate::{
    model::{Address, Backend, Probe, Protocol},
    transport::{DialError, Dialer, Proxied, Transport},
};

/// How the probe names itself.
const USER_AGENT: &str = concat!("pierhead-health/", env!("CARGO_PKG_VERSION"));

/// Largest response head.
const MAX_HEAD: usize = 16 * 1024;

/// Most bytes that are read of an endpoint in all. Interim responses and frames that say nothing are no part of an answer
/// and might come without end; hyper takes all that the socket holds in one turn of the thread, and no deadline fires.
const MAX_READ: u64 = 64 * 1024;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No answer within the time allowed.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or no TLS.
    #[error("{}", chain(.0))]
    Connect(DialError),
    /// The connection broke, or what came was no answer.
    #[error("no valid answer: {0}")]
    Broken(String),
    /// A status that is not expected.
    #[error("status {0}")]
    Status(u16),
    /// The RPC failed with this status.
    #[error("gRPC status {0}")]
    GrpcStatus(u32),
    /// The RPC said something other than SERVING.
    #[error("not serving")]
    NotServing,
}

/// Probes endpoints that are connected to in one way.
#[derive(Debug)]
pub struct Prober(Dialer);

impl Prober {
    /// What probes the endpoints of a backend; never at `own_ports` of this process.
    pub fn new(backend: &Backend, own_ports: Arc<[u16]>) -> Self {
        Self(Dialer::build(&backend.policy, protocol(backend), own_ports))
    }

    /// Asks an endpoint what its backend's check asks. TCP alone means a connection, with TLS where the backend has TLS.
    ///
    /// # Errors
    /// When it does not answer as the check expects.
    pub async fn probe(self: Arc<Self>, backend: Arc<Backend>, address: Address) -> Result<(), Failure> {
        let Some(check) = &backend.policy.health.active else { return Ok(()) };
        let transport = self.0.dial(&address, Proxied::Local).await.map_err(Failure::Connect)?;
        let scheme = if matches!(transport, Transport::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
        let connection = bounded(transport);
        let uri = |host: &str, path: &str| {
            let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path);
            uri.build().map_err(broken)
        };
        match &check.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, host, expect } => {
                let uri = uri(host.as_deref().unwrap_or(&address.to_string()), path)?;
                let status = if protocol(&backend).is_http2() {
                    http2_status(connection, uri).await?
                } else {
                    http1_status(connection, &uri).await?
                };
                if expects(expect, status) { Ok(()) } else { Err(Failure::Status(status.as_u16())) }
            }
            Probe::Grpc { service } => check_health(connection, uri(&address.to_string(), grpc::PATH)?, service).await,
        }
    }
}

/// What probes of a backend speak: what its requests speak, but HTTP/2 for gRPC.
pub(super) fn protocol(backend: &Backend) -> Protocol {
    let is_grpc = backend.policy.health.active.as_ref().is_some_and(|check| matches!(check.probe, Probe::Grpc { .. }));
    match backend.protocol {
        Protocol::Http1 if is_grpc => Protocol::H2c,
        Protocol::Https if is_grpc => Protocol::H2,
        own => own,
    }
}

fn expects(expect: &[RangeInclusive<u16>], status: StatusCode) -> bool {
    expect.iter().any(|range| range.contains(&status.as_u16()))
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

/// Ends after [`MAX_READ`], as if the endpoint had closed it.
fn bounded(transport: Transport) -> impl Connection {
    let (read, write) = tokio::io::split(transport);
    tokio::io::join(read.take(MAX_READ), write)
}

/// What probes speak over.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

async fn http1_status(connection: impl Connection, uri: &Uri) -> Result<StatusCode, Failure> {
    let request = Request::get(uri.path_and_query().map_or("/", PathAndQuery::as_str))
        .header(header::HOST, uri.authority().map_or("", Authority::as_str))
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(String::new())
        .map_err(broken)?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let handshake = builder.max_header_size(MAX_HEAD).handshake(TokioIo::new(connection));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let answer = async { Ok(sender.send_request(request).await.map_err(broken)?.status()) };
    driven_by(connection, answer).await
}

async fn http2_status(connection: impl Connection, uri: Uri) -> Result<StatusCode, Failure> {
    let request = Request::get(uri).header(header::USER_AGENT, USER_AGENT).body(()).map_err(broken)?;
    let (sender, connection) = http2().handshake::<_, Bytes>(connection).await.map_err(broken)?;
    let answer = async {
        let (response, _) = sender.ready().await.map_err(broken)?.send_request(request, true).map_err(broken)?;
        Ok(response.await.map_err(broken)?.status())
    };
    driven_by(connection, answer).await
}

async fn check_health(connection: impl Connection, uri: Uri, service: &str) -> Result<(), Failure> {
    let request = Request::post(uri)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(())
        .map_err(broken)?;
    let (sender, connection) = http2().handshake(connection).await.map_err(broken)?;
    let answer = async {
        let mut sender = sender.ready().await.map_err(broken)?;
        let (response, mut upload) = sender.send_request(request, false).map_err(broken)?;
        upload.send_data(grpc::request(service), true).map_err(broken)?;
        judge_rpc(response.await.map_err(broken)?).await
    };
    driven_by(connection, answer).await
}

async fn judge_rpc(response: Response<RecvStream>) -> Result<(), Failure> {
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::Status(head.status.as_u16()));
    }
    let mut framed = BytesMut::new();
    while let Some(data) = body.data().await {
        framed.extend_from_slice(&data.map_err(broken)?);
        if framed.len() > grpc::MAX_RESPONSE {
            return Err(broken("the response is too long"));
        }
    }
    let trailers = body.trailers().await.map_err(broken)?;
    // gRPC over HTTP/2, Trailers-Only: an RPC that fails at once has its status in the head.
    match grpc_status(trailers.as_ref().unwrap_or(&head.headers)) {
        Some(0) => {}
        Some(status) => return Err(Failure::GrpcStatus(status)),
        None => return Err(broken("no gRPC status")),
    }
    match grpc::is_serving(framed.freeze()) {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::NotServing),
        None => Err(broken("not a HealthCheckResponse")),
    }
}

fn http2() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder.max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX)).enable_push(false);
    builder
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// What the answer is while the connection runs; how the connection ends shows in the answer.
async fn driven_by<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let never = async {
        connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = never => never,
    }
}
