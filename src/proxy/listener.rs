//! The sockets of the data plane and the threads behind them.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    connection::Security,
    tls,
    worker::{self, Shared},
};
use crate::{
    routing::Live,
    telemetry::{access_log::AccessLog, metrics::Metrics, trace::Tracer},
};

/// Connections the kernel queues for one thread before it is accepted.
const BACKLOG: i32 = 4096;
/// How long threads are waited for once told to stop at once.
const LAST_CALL: Duration = Duration::from_secs(2);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}; {} with --{listener}", remedy(error))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The flag that gave it.
    listener: &'static str,
    error: io::Error,
}

/// What to do when the port cannot be had, up to the flag.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "end what holds the port, or choose another",
        io::ErrorKind::PermissionDenied => "grant CAP_NET_BIND_SERVICE, or choose a port above 1023",
        io::ErrorKind::AddrNotAvailable => "no interface of this host has the address: choose another",
        _ => "choose another address",
    }
}

/// The data plane before it serves: its ports are taken, but connections are still refused.
#[derive(Debug)]
pub struct Proxy {
    settings: Arc<Settings>,
    addresses: Vec<(SocketAddr, Security)>,
    /// One set a thread.
    sockets: Vec<Vec<(Socket, Security)>>,
}

/// The data plane at work.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    shared: Shared,
}

impl Proxy {
    /// Takes every port for every thread. Nobody is accepted yet.
    ///
    /// # Errors
    /// [`BindError`] when a port is in use or may not be taken.
    pub fn bind(settings: &Settings) -> Result<Self, BindError> {
        let plain = settings.http.iter().map(|address| (*address, Security::Plain));
        let tls = settings.https.iter().map(|address| (*address, Security::Tls));
        let mut addresses = Vec::new();
        let mut sockets: Vec<Vec<_>> = (0..settings.threads.get()).map(|_| Vec::new()).collect();
        for (address, security) in plain.chain(tls) {
            let listener = security.scheme();
            let failed = |error| BindError { address, listener, error };
            if address.port() != 0 && addresses.iter().any(|(taken, _)| *taken == address) {
                // SO_REUSEPORT would let our own listeners share it, and clients meet either at random.
                return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "it is given twice")));
            }
            // Sharing a port is for our own threads: without SO_REUSEPORT another process's port is told.
            let actual = probe(address).map_err(failed)?;
            addresses.push((actual, security));
            for of_thread in &mut sockets {
                of_thread.push((socket(actual).map_err(failed)?, security));
            }
        }
        Ok(Self { settings: Arc::new(settings.clone()), addresses, sockets })
    }

    /// What is listened on, `http` or `https`; with port 0 in the settings, the port that was given.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.addresses.iter().map(|(address, security)| (security.scheme(), *address)).collect()
    }

    /// Ports of this process, which nothing is ever sent to.
    pub fn own_ports(&self) -> Arc<[u16]> {
        let listening = self.addresses.iter().map(|(address, _)| address.port());
        listening.chain(self.settings.reserved_ports.iter().copied()).collect()
    }

    /// Starts the threads; from here on connections are accepted.
    ///
    /// # Errors
    /// When a socket does not listen or a thread does not start.
    pub fn start(
        self,
        live: Live,
        metrics: Arc<Metrics>,
        access_log: AccessLog,
        tracer: Tracer,
    ) -> io::Result<Running> {
        let shared = Shared {
            own_ports: self.own_ports(),
            settings: self.settings,
            tls: tls::server_config(live.clone())?,
            start: live.epoch(),
            live,
            metrics,
            access_log,
            tracer,
            in_flight: Arc::new(AtomicUsize::new(0)),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            failed: CancellationToken::new(),
        };
        let mut threads = Vec::new();
        for (thread, sockets) in self.sockets.into_iter().enumerate() {
            let mut listening = Vec::new();
            for (socket, security) in sockets {
                socket.listen(BACKLOG)?;
                listening.push((socket.into(), security));
            }
            let shared = shared.clone();
            let serve = move || {
                if let Err(error) = worker::run(thread, &shared, listening) {
                    tracing::error!(%error, thread, "data-plane thread ended");
                    shared.failed.cancel();
                }
            };
            threads.push(std::thread::Builder::new().name(format!("proxy-{thread}")).spawn(serve)?);
        }
        Ok(Running { threads, shared })
    }
}

impl Running {
    /// Ends when a thread has ended although nobody told it to: the rest serves what it accepts, but not all there is.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Stops accepting, lets what is under way finish within `timeout`, and ends. Says how many requests were cut.
    pub async fn drain(self, timeout: Duration) -> usize {
        let Self { threads, shared } = self;
        shared.drain.cancel();
        let mut ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _panicked = thread.join();
            }
        });
        if tokio::time::timeout(timeout, &mut ended).await.is_ok() {
            return 0;
        }
        let cut = shared.in_flight.load(Ordering::Relaxed);
        shared.kill.cancel();
        let _late = tokio::time::timeout(LAST_CALL, ended).await;
        cut
    }
}

/// Finds out whether the address is free, and which port 0 stands for.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // connections in TIME_WAIT are no reason
    socket.bind(&address.into())?;
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_is_told_with_what_to_do() {
        for (kind, remedy) in [
            (io::ErrorKind::AddrInUse, "end what holds the port, or choose another with --http"),
            (io::ErrorKind::PermissionDenied, "grant CAP_NET_BIND_SERVICE, or choose a port above 1023 with --http"),
            (io::ErrorKind::AddrNotAvailable, "choose another with --http"),
        ] {
            let address = ([192, 0, 2, 1], 80).into();
            let told = BindError { address, listener: "http", error: kind.into() }.to_string();
            assert!(told.starts_with("cannot listen on 192.0.2.1:80: ") && told.ends_with(remedy), "{told}");
        }
    }
}
