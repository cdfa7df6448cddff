//! One data-plane thread: its runtime, its listeners and what its connections share.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::LocalOptions,
};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    clock::{Clock, TICK},
    connection::{self, Security},
    drain::Drain,
    upstream::Upstreams,
};
use crate::{
    routing::{Live, Reader},
    telemetry::{
        access_log::{self, AccessLog},
        metrics::Metrics,
        trace::Tracer,
    },
};

/// Pause after a failed accept: the process is out of descriptors, and spinning would not give it any.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Ticks between looks at idle endpoint connections.
const PURGE_TICKS: u32 = 20;

/// What all threads share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    pub(super) live: Live,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access_log: AccessLog,
    pub(super) tracer: Tracer,
    pub(super) tls: Arc<ServerConfig>,
    /// Ports of this process, never connected to on an address of this host.
    pub(super) own_ports: Arc<[u16]>,
    /// The moment that all clocks count from.
    pub(super) start: Instant,
    /// Requests in flight over all threads.
    pub(super) in_flight: Arc<AtomicUsize>,
    /// Stop accepting, finish what is under way.
    pub(super) drain: CancellationToken,
    /// Stop at once.
    pub(super) kill: CancellationToken,
    /// A thread ended although nobody told it to.
    pub(super) failed: CancellationToken,
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    /// Number of the thread, from zero.
    pub(super) thread: usize,
    pub(super) settings: Arc<Settings>,
    pub(super) routes: Reader,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access_log: AccessLog,
    pub(super) tracer: Tracer,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) clock: Clock,
    pub(super) drain: Drain,
    pub(super) upstreams: Rc<Upstreams>,
    /// The field of that name, as the settings want it.
    pub(super) strict_transport_security: Option<HeaderValue>,
    in_flight: Arc<AtomicUsize>,
}

/// One request in flight; it ends when dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Admits a request, or None when the process has as many as its settings allow.
    pub(super) fn admit(&self) -> Option<InFlight> {
        let admitted = InFlight(Arc::clone(&self.in_flight)); // counted before the check, so its drop takes it back
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.settings.max_concurrent_requests.map(NonZeroUsize::get) {
            Some(limit) if before >= limit => None,
            _ => Some(admitted),
        }
    }
}

/// Serves on the sockets until drained or killed.
pub(super) fn run(thread: usize, shared: &Shared, sockets: Vec<(std::net::TcpListener, Security)>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        shared.metrics.watch_runtime("proxy", tokio::runtime::Handle::current().metrics());
        let clock = Clock::new(shared.start);
        clock.tick();
        let worker = Rc::new(Worker {
            thread,
            settings: Arc::clone(&shared.settings),
            routes: shared.live.reader(),
            metrics: Arc::clone(&shared.metrics),
            access_log: shared.access_log.clone(),
            tracer: shared.tracer.clone(),
            tls: Arc::clone(&shared.tls),
            upstreams: Upstreams::new(
                clock.clone(),
                shared.settings.timeouts.upstream_keep_alive,
                Arc::clone(&shared.own_ports),
            ),
            clock,
            drain: Drain::default(),
            strict_transport_security: shared
                .settings
                .hsts
                .and_then(|max_age| HeaderValue::try_from(format!("max-age={}", max_age.as_secs())).ok()),
            in_flight: Arc::clone(&shared.in_flight),
        });
        tokio::task::spawn_local(tick(Rc::clone(&worker)));
        for (socket, security) in sockets {
            let listener = TcpListener::from_std(socket)?;
            tokio::task::spawn_local(accept(Rc::clone(&worker), listener, security));
        }
        shared.drain.cancelled().await;
        worker.drain.start();
        tokio::select! {
            () = worker.drain.all_left() => {}
            () = shared.kill.cancelled() => {}
        }
        Ok(())
    })
    // Dropping the runtime ends what is left; the log buffer of the thread flushes with it.
}

/// Moves the clock and does what is due now and then.
async fn tick(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for count in (0..PURGE_TICKS).cycle() {
        interval.tick().await;
        worker.clock.tick();
        worker.upstreams.make_room();
        if count == 0 {
            worker.upstreams.purge();
            worker.routes.with(|_| ()); // without requests it would hold a snapshot that is out of force
            access_log::flush_current_thread();
        }
    }
}

/// Accepts until the drain, then takes what the kernel has queued already: closing the listener would reset it.
async fn accept(worker: Rc<Worker>, listener: TcpListener, security: Security) {
    let participant = worker.drain.join();
    loop {
        tokio::select! {
            biased;
            () = participant.started() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => spawn(&worker, stream, peer, security),
                // The client gave up in the queue: the next one is waiting.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Asked of the kernel itself: the runtime knows only what it saw at its last turn.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            spawn(&worker, stream, peer, security);
        }
    }
}

fn spawn(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, security: Security) {
    let (worker, participant) = (Rc::clone(worker), worker.drain.join());
    tokio::task::spawn_local(async move {
        connection::serve(worker, stream, peer, security).await;
        drop(participant); // a drain waits for it from here on, not from its first request on
    });
}
