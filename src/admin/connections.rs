//! Connections of a port: as many at once as are of use, and each has so long to ask for something.
//!
//! Anybody in the cluster may reach a port for probes and metrics. What connects there and says nothing, or never stops,
//! must take neither the descriptors that traffic needs nor the place of a probe.

use std::{collections::VecDeque, pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Connections at once.
const MOST: usize = 64;

/// For the head of a request, also of the next one on a connection that is kept.
const HEAD: Duration = Duration::from_secs(10);

/// Serves connections until `stop`, then ends those that there are.
pub(super) async fn serve(mut listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut running = JoinSet::new();
    // The first is the oldest.
    let mut open = VecDeque::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = running.join_next() => {}
            (stream, _) = Listener::accept(&mut listener) => {
                open.retain(|connection: &tokio::task::AbortHandle| !connection.is_finished());
                // Not the new one: a probe asks at once, and is done before 64 others have come.
                if open.len() >= MOST && let Some(oldest) = open.pop_front() {
                    oldest.abort();
                }
                open.push_back(running.spawn(connection(stream, router.clone(), stop.clone())));
            }
        }
    }
    drop(listener);
    while running.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // How it ended concerns nobody: who asked has gone.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _gone = connection.await;
}
