//! Requests at a fixed rate, whether or not those before have been answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{
    client::{self, Answer},
    eventually, soon,
};

/// Between two bursts of requests.
const TICK: Duration = Duration::from_millis(10);

/// Requests under way at a fixed rate.
pub struct OpenLoop {
    shared: Arc<Shared>,
    offering: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    offered: AtomicUsize,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    outcomes: Mutex<Vec<Outcome>>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When it was sent.
    pub sent: Instant,
    /// How long it took until the whole answer was there, or until it failed.
    pub took: Duration,
    /// Status of the answer; zero when there was none, or not a whole one.
    pub status: u16,
    /// The backend that answered; empty when none did.
    pub backend: String,
}

impl OpenLoop {
    /// Asks for `path` so many times a second; a tick that comes late is made up for.
    pub fn start(address: SocketAddr, per_second: usize, path: &'static str) -> Self {
        let shared = Arc::<Shared>::default();
        let offering = tokio::spawn(Arc::clone(&shared).offer(address, per_second / 100, path));
        Self { shared, offering }
    }

    /// Waits until so many requests have been offered since the start.
    pub async fn reaches(&self, requests: usize) {
        let there = async || (self.offered() >= requests).then_some(());
        eventually(&format!("{requests} requests"), there).await;
    }

    /// Requests offered so far.
    pub fn offered(&self) -> usize {
        self.shared.offered.load(Ordering::SeqCst)
    }

    /// What became of those that ended so far, in the order of their ends, as `look` sees it.
    pub fn so_far<T>(&self, look: impl FnOnce(&[Outcome]) -> T) -> T {
        look(&self.shared.outcomes.lock().unwrap())
    }

    /// Stops, waits for what is under way, and tells what became of each.
    pub async fn stop(self) -> Vec<Outcome> {
        self.shared.stop.store(true, Ordering::SeqCst);
        soon("end of the load", self.offering).await.unwrap();
        let outcomes = self.shared.outcomes.lock().unwrap().clone();
        assert_eq!(outcomes.len(), self.shared.offered.load(Ordering::SeqCst));
        outcomes
    }
}

impl Shared {
    async fn offer(self: Arc<Self>, address: SocketAddr, burst: usize, path: &'static str) {
        let mut under_way = JoinSet::new();
        let mut ticks = tokio::time::interval(TICK);
        while !self.stop.load(Ordering::SeqCst) {
            ticks.tick().await;
            for _ in 0..burst {
                self.offered.fetch_add(1, Ordering::SeqCst);
                under_way.spawn(Arc::clone(&self).ask(address, path));
            }
            while under_way.try_join_next().is_some() {}
        }
        under_way.join_all().await;
    }

    async fn ask(self: Arc<Self>, address: SocketAddr, path: &'static str) {
        let sent = Instant::now();
        let answer = self.answer(address, path).await;
        let (status, backend) = answer.map_or((0, String::new()), |answer| (answer.status, answer.backend()));
        self.outcomes.lock().unwrap().push(Outcome { sent, took: sent.elapsed(), status, backend });
    }

    async fn answer(&self, address: SocketAddr, path: &str) -> Option<Answer> {
        let idle = self.idle.lock().unwrap().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => client::http1(TcpStream::connect(address).await.ok()?).await,
        };
        connection.ready().await.ok()?;
        let request = client::request("a.example", path).body(Full::default()).unwrap();
        let answer = Answer::read(connection.send_request(request).await.ok()?).await.ok()?;
        self.idle.lock().unwrap().push(connection);
        Some(answer)
    }
}

/// The most requests that were sent within one second.
pub fn peak(outcomes: &[Outcome]) -> usize {
    let mut sent: Vec<Instant> = outcomes.iter().map(|outcome| outcome.sent).collect();
    sent.sort_unstable();
    let within = |at: usize| sent[at..].partition_point(|later| *later - sent[at] < Duration::from_secs(1));
    (0..sent.len()).map(within).max().unwrap_or(0)
}
