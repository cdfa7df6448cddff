//! Several backends behind one Service, and how requests are spread over them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::{net::TcpSocket, task::JoinSet};

use super::{
    backend::Backend,
    client::{self, Answer},
    manifests::{backend_policy, ingress, service, slice_with},
    pierhead::{Pierhead, Setup},
    soon,
};

/// Names of backends are their numbers.
const NAMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// Backends behind one Service.
pub struct Spread {
    /// The backends, by number.
    pub backends: Vec<Backend>,
    policy: String,
}

impl Spread {
    /// So many backends under a policy: the fields of its spec below `loadBalancing`, in flow style.
    pub async fn new(count: usize, load_balancing: &str) -> Self {
        Self::with_policy(count, &format!("loadBalancing: {{{load_balancing}}}")).await
    }

    /// So many backends under a policy: its spec.
    pub async fn with_policy(count: usize, spec: &str) -> Self {
        let mut backends = Vec::new();
        for name in &NAMES[..count] {
            backends.push(Backend::start(name).await);
        }
        Self { backends, policy: backend_policy("one", spec) }
    }

    /// Replaces the policy by one of this spec.
    pub fn set_policy(&mut self, spec: &str) {
        self.policy = backend_policy("one", spec);
    }

    /// Manifests with those of the backends that are named by number.
    pub fn manifests(&self, numbers: impl IntoIterator<Item = usize>) -> String {
        self.manifests_with(numbers.into_iter().map(|number| (number, String::new(), String::new())))
    }

    /// Manifests with weighted backends.
    pub fn weighted(&self, weights: &[u32]) -> String {
        let annotations = weights.iter().map(|weight| format!("pierhead.dev/weight: \"{weight}\""));
        self.manifests_with(annotations.enumerate().map(|(number, weight)| (number, weight, String::new())))
    }

    /// Manifests with more fields of each endpoint, such as `zone: a`.
    pub fn with_fields(&self, endpoints: &[&str]) -> String {
        let fields = endpoints.iter().map(|fields| (*fields).to_owned());
        self.manifests_with(fields.enumerate().map(|(number, fields)| (number, String::new(), fields)))
    }

    /// Manifests with those of the backends that are named by number, with annotations and fields of the endpoint.
    fn manifests_with(&self, slices: impl IntoIterator<Item = (usize, String, String)>) -> String {
        let mut text = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[]);
        for (number, annotations, fields) in slices {
            let address = self.backends[number].address;
            text += &slice_with("one", &format!("one-{number}"), address, &annotations, &fields);
        }
        text + &self.policy
    }

    /// A process with one thread of traffic that serves all backends.
    pub async fn serve(&self) -> Pierhead {
        self.setup().flag("--threads=1").start().await
    }

    /// A process that serves all backends, with two threads unless it is told otherwise before it starts.
    pub fn setup(&self) -> Setup {
        Setup::default().manifests(self.manifests(0..self.backends.len()))
    }
}

/// A connection that is kept for many requests.
pub struct Client(SendRequest<Full<Bytes>>);

impl Client {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::from([127, 0, 0, 1].into(), to).await
    }

    /// Connects from an address of this host.
    pub async fn from(ip: IpAddr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        Self(client::http1(soon("connection", socket.connect(to)).await.unwrap()).await)
    }

    /// Asks; every answer must be 200.
    pub async fn ask(&mut self, path: &str, field: Option<(&str, &str)>) -> Answer {
        let mut request = client::request("a.example", path);
        if let Some((name, value)) = field {
            request = request.header(name, value);
        }
        let request = request.body(Full::default()).unwrap();
        soon("connection", self.0.ready()).await.unwrap();
        let answer = soon("answer", async { Answer::read(self.0.send_request(request).await?).await }).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    /// The number of the backend that answers.
    pub async fn number(&mut self, path: &str, field: Option<(&str, &str)>) -> usize {
        self.ask(path, field).await.backend().parse().unwrap()
    }
}

/// How many of `requests` each backend answered, when `clients` ask one after the other each.
pub async fn counts(to: SocketAddr, requests: usize, clients: usize) -> BTreeMap<usize, usize> {
    let left = Arc::new(AtomicUsize::new(requests));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (mut client, left) = (Client::connect(to).await, Arc::clone(&left));
        tasks.spawn(async move {
            let mut counts = BTreeMap::<usize, usize>::new();
            while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                *counts.entry(client.number("/", None).await).or_default() += 1;
            }
            counts
        });
    }
    let mut sum = BTreeMap::new();
    for (number, count) in tasks.join_all().await.into_iter().flatten() {
        *sum.entry(number).or_default() += count;
    }
    sum
}

/// The largest deviation of a binomial count of `requests` with probability `p` that comes more than once in 10⁹ times,
/// by Bernstein's inequality: P(|X − np| ≥ t) ≤ 2·exp(−t² / (2np(1−p) + 2t/3)).
pub fn deviation(requests: usize, p: f64) -> f64 {
    const LOG: f64 = 23.0; // ln(2 · 10⁹) is 21.4; the rest is for tests that look at four counts
    let variance = real(requests) * p * (1.0 - p);
    // t² = LOG · (2·variance + 2t/3), solved for t.
    LOG / 3.0 + (LOG * LOG / 9.0 + 2.0 * LOG * variance).sqrt()
}

/// Whether a count is what its share of the requests makes likely: a deviation beyond is rarer than 10⁻⁹.
pub fn is_likely(count: usize, requests: usize, share: f64) -> bool {
    (real(count) - real(requests) * share).abs() <= deviation(requests, share)
}

/// A count as a number to calculate with.
pub fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
