//! Clients that ask all the time, on kept connections and on new ones, and count what becomes of every request.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::support::{
    client::{self, Answer},
    eventually,
};

/// Clients of each kind.
const CLIENTS: usize = 10;
/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(20);
/// A request that takes longer counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a client treats its connection.
#[derive(Clone, Copy, Debug)]
enum Connection {
    /// Kept until the server says that it closes it.
    Kept,
    /// One for each request.
    New,
}

/// A load that is under way.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests that got the answer of a pod.
    pub(crate) answered: usize,
    /// What went wrong, and how often.
    pub(crate) failed: BTreeMap<String, usize>,
    /// Pods that answered.
    pub(crate) pods: BTreeSet<String>,
    /// The longest that an answered request took.
    pub(crate) slowest: Duration,
}

impl Load {
    /// Starts to ask for `host`.
    pub(crate) fn start(address: SocketAddr, host: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let mut clients = JoinSet::new();
        for client in 0..2 * CLIENTS {
            let kind = if client < CLIENTS { Connection::Kept } else { Connection::New };
            clients.spawn(Arc::clone(&shared).ask(address, host.to_owned(), kind));
        }
        Self { shared, clients }
    }

    /// Starts, and waits until so many requests have been answered.
    pub(crate) async fn asks(requests: usize, address: SocketAddr, host: &str) -> Self {
        let this = Self::start(address, host);
        this.answers(requests).await;
        this
    }

    /// Waits until so many more requests have been answered.
    pub(crate) async fn answers(&self, more: usize) {
        let answered = || self.shared.tally.lock().unwrap().answered;
        let goal = answered() + more;
        eventually("answers under load", async || (answered() >= goal).then_some(())).await;
    }

    /// Ends the load; fails the test if a single request failed.
    pub(crate) async fn no_request_failed(mut self, what: &str) -> Tally {
        self.shared.stop.store(true, Ordering::SeqCst);
        while self.clients.join_next().await.is_some() {}
        let tally = std::mem::take(&mut *self.shared.tally.lock().unwrap());
        let (answered, failed) = (tally.answered, tally.failed.values().sum::<usize>());
        #[expect(clippy::print_stdout, reason = "how much was asked is part of the result")]
        {
            println!(
                "{what}: {answered} answered, {failed} failed, {} pods, slowest {:?}",
                tally.pods.len(),
                tally.slowest
            );
        }
        assert!(tally.failed.is_empty(), "{what}: {tally:#?}");
        tally
    }
}

impl Shared {
    async fn ask(self: Arc<Self>, address: SocketAddr, host: String, kind: Connection) {
        let mut kept = None;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::SeqCst) {
            pace.tick().await;
            let sent = Instant::now();
            let outcome = timeout(PATIENCE, one(address, &host, &mut kept)).await;
            let outcome = outcome.unwrap_or_else(|_| Err("timeout".to_owned()));
            let mut tally = self.tally.lock().unwrap();
            match outcome {
                Ok(pod) => {
                    tally.answered += 1;
                    tally.pods.insert(pod);
                    tally.slowest = tally.slowest.max(sent.elapsed());
                }
                Err(error) => {
                    kept = None;
                    *tally.failed.entry(format!("{kind:?} connection: {error}")).or_default() += 1;
                }
            }
            if matches!(kind, Connection::New) {
                kept = None;
            }
        }
    }
}

/// Asks once, on the connection that was kept if it is still open; the pod that answered.
async fn one(address: SocketAddr, host: &str, kept: &mut Option<SendRequest<Full<Bytes>>>) -> Result<String, String> {
    let mut connection = match kept.take().filter(|connection| !connection.is_closed()) {
        Some(connection) => connection,
        None => client::http1(TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?).await,
    };
    let fails = |error: hyper::Error| format!("{error:?}");
    connection.ready().await.map_err(fails)?;
    let request = client::request(host, "/").body(Full::default()).unwrap();
    let answer = Answer::read(connection.send_request(request).await.map_err(fails)?).await.map_err(fails)?;
    *kept = Some(connection);
    match (answer.status, answer.text().split_once(" answers ")) {
        (client::OK, Some((pod, _))) => Ok(pod.to_owned()),
        (status, _) => Err(format!("{status}: {}", answer.text().lines().take(2).collect::<Vec<_>>().join("; "))),
    }
}
