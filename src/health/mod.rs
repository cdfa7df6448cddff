//! Probes the endpoints whose policy asks for it, and tells `routing` which of them are fit.
//!
//! One task owns every verdict and follows the snapshot in force; probes are tasks of its own set that end with it.
//! What an unfit endpoint still gets is the business of `routing`. Invariant: an endpoint has at most one probe under
//! way, and one without a check is fit.

mod grpc;
mod probe;
mod verdict;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

pub use self::probe::{Failure, Prober};
use self::verdict::{Outcome, Turn, Verdict};
use crate::{
    model::{ActiveCheck, Address, Backend, Protocol},
    routing::{EndpointState, Live, Pool},
    telemetry::metrics::Process,
    transport::DialTimes,
};

/// Probes under way at once, over all endpoints; others wait for their turn.
const MAX_PROBES: usize = 512;

/// First probes are spread over this time for each new endpoint, and over the interval of its check at most: one is
/// probed at once, thousands at an even rate.
const SPREAD: Duration = Duration::from_millis(10);

/// Follows `live`, which `published` tells of, until `stop`. `prepare` makes what probes the addresses of a backend.
pub async fn run<A, F>(
    live: Live,
    process: Arc<Process>,
    published: Arc<Notify>,
    prepare: impl Fn(&Backend) -> A,
    stop: CancellationToken,
) where
    A: Fn(Arc<Backend>, Address) -> F,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut checks = Checks {
        live,
        process,
        watched: HashMap::new(),
        due: BTreeSet::new(),
        probers: HashMap::new(),
        probes: JoinSet::new(),
    };
    loop {
        checks.start_due();
        let next = checks.next_start();
        tokio::select! {
            () = stop.cancelled() => break,
            () = published.notified() => checks.follow(&prepare),
            Some(ended) = checks.probes.join_next_with_id() => checks.judge(ended),
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
    checks.probes.shutdown().await;
}

/// Every endpoint that is probed.
struct Checks<A> {
    live: Live,
    process: Arc<Process>,
    /// By [`EndpointState::id`].
    watched: HashMap<u64, Watched>,
    /// When the next probe of an endpoint starts; none while one is under way.
    due: BTreeSet<(Instant, u64)>,
    /// What probes, by how it connects.
    probers: HashMap<Way, A>,
    probes: JoinSet<Answer>,
}

/// What came of the probe of an endpoint.
type Answer = (u64, Result<(), Failure>);

/// How probes connect: [`Pool::transport_id`], the protocol, and what else dialling depends on.
type Way = (u64, Protocol, DialTimes);

/// One endpoint that is probed.
struct Watched {
    endpoint: Arc<EndpointState>,
    /// The newest that has the endpoint.
    pool: Arc<Pool>,
    verdict: Verdict,
    /// Start of the probe under way, or of the next one.
    start: Instant,
    probe: Option<AbortHandle>,
}

impl<A> Checks<A> {
    /// Begins with endpoints that are new, ends with those that went, restarts those whose check changed.
    fn follow(&mut self, prepare: &impl Fn(&Backend) -> A) {
        let snapshot = self.live.load();
        let (mut ways, mut known, mut fresh) = (HashSet::new(), HashSet::new(), Vec::new());
        for pool in snapshot.pools().values().filter(|pool| active(pool).is_some()) {
            ways.insert(way(pool));
            self.probers.entry(way(pool)).or_insert_with(|| prepare(&pool.backend));
            for endpoint in pool.endpoints() {
                if !known.insert(endpoint.id) {
                    continue; // another backend of the same Service port probes it
                }
                match self.watched.get_mut(&endpoint.id) {
                    Some(watched) if is_same_check(&watched.pool, pool) => watched.pool = Arc::clone(pool),
                    _ => fresh.push((endpoint, pool)),
                }
            }
        }
        self.probers.retain(|way, _| ways.contains(way));
        let gone: Vec<u64> = self.watched.keys().copied().filter(|id| !known.contains(id)).collect();
        for id in gone {
            if let Some(watched) = self.forget(id) {
                watched.endpoint.probed(true, self.live.now());
                watched.endpoint.set_probe_failure(None);
            }
        }
        let spread = SPREAD * u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        for (endpoint, pool) in fresh {
            self.forget(endpoint.id);
            self.watch(endpoint, pool, spread);
        }
    }

    fn watch(&mut self, endpoint: &Arc<EndpointState>, pool: &Arc<Pool>, spread: Duration) {
        let Some(check) = active(pool) else { return };
        let start = Instant::now() + spread.min(check.interval).mul_f64(fastrand::f64());
        self.due.insert((start, endpoint.id));
        // A check that changed goes on from what its predecessor found; an endpoint begins fit.
        let verdict = Verdict::new(endpoint.passes_probes());
        let watched = Watched { endpoint: Arc::clone(endpoint), pool: Arc::clone(pool), verdict, start, probe: None };
        self.watched.insert(endpoint.id, watched);
    }

    fn forget(&mut self, id: u64) -> Option<Watched> {
        let watched = self.watched.remove(&id)?;
        match &watched.probe {
            Some(probe) => probe.abort(),
            None => {
                self.due.remove(&(watched.start, id));
            }
        }
        Some(watched)
    }

    /// When the next probe starts; None when that waits for one to end.
    fn next_start(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        (self.probes.len() < MAX_PROBES).then_some(*due)
    }

    fn start_due<F>(&mut self)
    where
        A: Fn(Arc<Backend>, Address) -> F,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let now = Instant::now();
        while self.next_start().is_some_and(|due| due <= now) {
            let Some((_, id)) = self.due.pop_first() else { return };
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            let Some(check) = active(&watched.pool) else { continue };
            let Some(ask) = self.probers.get(&way(&watched.pool)) else { continue };
            let answer = ask(Arc::clone(&watched.pool.backend), probed_address(&watched.endpoint.address, check));
            let timeout = check.timeout;
            let probe = async move {
                let answer = tokio::time::timeout(timeout, answer).await;
                (id, answer.unwrap_or(Err(Failure::Timeout)))
            };
            watched.start = now;
            watched.probe = Some(self.probes.spawn(probe));
        }
    }

    /// Counts the outcome of a probe, unless its check ended meanwhile.
    fn judge(&mut self, ended: Result<(Id, Answer), JoinError>) {
        // One that did not end was given up; a panic ends the process.
        let Ok((task, (id, answer))) = ended else { return };
        let now = self.live.now();
        let Some(watched) = self.watched.get_mut(&id) else { return };
        if watched.probe.as_ref().map(AbortHandle::id) != Some(task) {
            return;
        }
        watched.probe = None;
        let Some(check) = active(&watched.pool) else { return };
        // Starts are an interval apart, but a probe that takes longer is never joined by another.
        watched.start += check.interval;
        self.due.insert((watched.start, id));
        let (outcome, counter) = match &answer {
            Ok(()) => (Outcome::Pass, &self.process.probes_passed),
            Err(_) => (Outcome::Failure, &self.process.probes_failed),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let (backend, endpoint) = (&watched.pool.backend.id, &watched.endpoint.address);
        if let Err(failure) = &answer {
            debug!(%backend, %endpoint, %failure, "probe failed");
            watched.endpoint.set_probe_failure(Some(failure.to_string()));
        }
        match (watched.verdict.count(outcome, check), answer) {
            (Some(Turn::Unfit), Err(reason)) => {
                watched.endpoint.probed(false, now);
                info!(%backend, %endpoint, %reason, "endpoint unfit");
            }
            (Some(Turn::Fit), _) => {
                watched.endpoint.probed(true, now);
                info!(%backend, %endpoint, "endpoint fit");
            }
            _ => {}
        }
    }
}

fn active(pool: &Pool) -> Option<&ActiveCheck> {
    pool.backend.policy.health.active.as_ref()
}

fn way(pool: &Pool) -> Way {
    (pool.transport_id, probe::protocol(&pool.backend), DialTimes::of(&pool.backend.policy))
}

/// Whether probes of one say the same as probes of the other.
fn is_same_check(a: &Pool, b: &Pool) -> bool {
    a.transport_id == b.transport_id && active(a) == active(b)
}

/// Where an endpoint is probed: on its own port unless the check names another.
fn probed_address(address: &Address, check: &ActiveCheck) -> Address {
    let mut address = address.clone();
    if let Some(port) = check.port {
        match &mut address {
            Address::Socket(address) => address.set_port(port.get()),
            Address::Name { port: own, .. } => *own = port.get(),
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        num::NonZeroU32,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
    };

    use super::*;
    use crate::{
        model::{BackendId, Compiled, Endpoint, Health, Model, Policy, Probe},
        telemetry::metrics::Metrics,
    };

    const INTERVAL: Duration = Duration::from_secs(5);

    /// Health checks of one backend whose endpoints answer as the test says.
    struct Bench {
        live: Live,
        published: Arc<Notify>,
        process: Arc<Process>,
        world: Arc<World>,
    }

    #[derive(Default)]
    struct World {
        /// Ports that fail.
        failing: Mutex<BTreeSet<u16>>,
        /// Ports that never answer.
        silent: Mutex<BTreeSet<u16>>,
        /// Starts of probes by port.
        probes: Mutex<BTreeMap<u16, Vec<Instant>>>,
        /// Ways to connect that probes were prepared for.
        prepared: AtomicUsize,
        under_way: AtomicUsize,
        most_under_way: AtomicUsize,
    }

    impl World {
        async fn answer(self: Arc<Self>, port: u16) -> Result<(), Failure> {
            struct UnderWay(Arc<World>);
            impl Drop for UnderWay {
                fn drop(&mut self) {
                    self.0.under_way.fetch_sub(1, SeqCst);
                }
            }
            self.probes.lock().unwrap().entry(port).or_default().push(Instant::now());
            self.most_under_way.fetch_max(self.under_way.fetch_add(1, SeqCst) + 1, SeqCst);
            let _under_way = UnderWay(Arc::clone(&self));
            tokio::task::yield_now().await;
            if self.silent.lock().unwrap().contains(&port) {
                std::future::pending::<()>().await;
            }
            if self.failing.lock().unwrap().contains(&port) { Err(Failure::Status(500)) } else { Ok(()) }
        }
    }

    fn check(interval: Duration, unhealthy: u32) -> ActiveCheck {
        ActiveCheck {
            probe: Probe::Tcp,
            interval,
            timeout: Duration::from_secs(1),
            healthy: NonZeroU32::new(2).unwrap(),
            unhealthy: NonZeroU32::new(unhealthy).unwrap(),
            port: None,
        }
    }

    impl Bench {
        fn start() -> Self {
            let metrics = Arc::new(Metrics::new(1));
            let (live, published, process) = (Live::new(Arc::clone(&metrics), "one"), Arc::default(), &metrics.process);
            let bench = Self { live, published, process: Arc::clone(process), world: Arc::default() };
            let world = Arc::clone(&bench.world);
            let prepare = move |_: &Backend| {
                let world = Arc::clone(&world);
                world.prepared.fetch_add(1, SeqCst);
                move |_, address| {
                    let Address::Socket(address) = address else { unreachable!("endpoints have addresses") };
                    Arc::clone(&world).answer(address.port())
                }
            };
            let (process, published) = (Arc::clone(&bench.process), Arc::clone(&bench.published));
            tokio::spawn(run(bench.live.clone(), process, published, prepare, CancellationToken::new()));
            bench
        }

        fn publish(&self, ports: impl IntoIterator<Item = u16>, active: Option<ActiveCheck>) {
            self.publish_policy(ports, Policy { health: Health { active, ..Health::default() }, ..Policy::default() });
        }

        fn publish_policy(&self, ports: impl IntoIterator<Item = u16>, policy: Policy) {
            let id = BackendId::new("shop", "cart", 80);
            let address = |port| Address::Socket(([127, 0, 0, 1], port).into());
            let backend = Backend {
                id: id.clone(),
                protocol: Protocol::Http1,
                endpoints: ports.into_iter().map(|port| Endpoint::new(address(port))).collect(),
                client_ip_affinity: false,
                policy: Arc::new(policy),
            };
            let model = Model { backends: BTreeMap::from([(id, Arc::new(backend))]), ..Model::default() };
            self.live.publish(Arc::new(Compiled { model, ..Compiled::default() }));
            self.published.notify_one();
        }

        fn endpoint(&self, port: u16) -> Arc<EndpointState> {
            let snapshot = self.live.load();
            let pool = snapshot.pools().values().next().unwrap();
            let is_wanted =
                |state: &&Arc<EndpointState>| matches!(&state.address, Address::Socket(a) if a.port() == port);
            Arc::clone(pool.endpoints().iter().find(is_wanted).unwrap())
        }

        fn is_fit(&self, port: u16) -> bool {
            self.endpoint(port).passes_probes()
        }

        fn probes(&self, port: u16) -> Vec<Instant> {
            self.world.probes.lock().unwrap().get(&port).cloned().unwrap_or_default()
        }

        fn set_failing(&self, ports: &[u16]) {
            *self.world.failing.lock().unwrap() = ports.iter().copied().collect();
        }

        /// Lets so much time pass, and everything happen that is due in it.
        async fn wait(&self, time: Duration) {
            tokio::time::sleep(time + Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_probes_in_a_row_turn_an_endpoint_and_turn_it_back() {
        let bench = Bench::start();
        bench.set_failing(&[1]);
        bench.publish([1, 2], Some(check(INTERVAL, 3)));
        bench.wait(SPREAD * 2 + INTERVAL).await;
        assert_eq!((bench.probes(1).len(), bench.is_fit(1)), (2, true), "two failures are not enough");
        bench.wait(INTERVAL).await;
        assert_eq!((bench.probes(1).len(), bench.is_fit(1), bench.is_fit(2)), (3, false, true));
        assert_eq!(*bench.endpoint(1).probe_failure().unwrap(), "status 500");
        bench.set_failing(&[]);
        bench.wait(INTERVAL).await;
        assert!(!bench.is_fit(1), "one pass is not enough");
        bench.wait(INTERVAL).await;
        assert_eq!((bench.probes(1).len(), bench.is_fit(1)), (5, true));
        let counted = (bench.process.probes_passed.load(SeqCst), bench.process.probes_failed.load(SeqCst));
        assert_eq!(counted, (7, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_without_answer_fails_at_its_timeout() {
        let bench = Bench::start();
        bench.world.silent.lock().unwrap().insert(1);
        bench.publish([1], Some(check(INTERVAL, 1)));
        bench.wait(SPREAD).await;
        assert!(bench.is_fit(1));
        bench.wait(Duration::from_secs(1)).await;
        assert_eq!((bench.is_fit(1), bench.world.under_way.load(SeqCst)), (false, 0));
        assert_eq!(*bench.endpoint(1).probe_failure().unwrap(), "no answer in time");
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_come_are_probed_and_those_that_go_are_not() {
        let bench = Bench::start();
        bench.publish([1, 2], Some(check(INTERVAL, 3)));
        bench.wait(INTERVAL * 2).await;
        bench.publish([2, 3], Some(check(INTERVAL, 3)));
        bench.wait(INTERVAL * 10).await;
        assert_eq!(bench.probes(1).len(), 2);
        assert!((10..=11).contains(&bench.probes(3).len()), "{}", bench.probes(3).len());
        let undisturbed = bench.probes(2);
        assert_eq!(undisturbed.len(), 12);
        let steps = undisturbed.windows(2).map(|two| two[1] - two[0]);
        // The clock of tokio has a resolution of a millisecond.
        assert!(steps.clone().all(|step| step.abs_diff(INTERVAL) <= Duration::from_millis(2)), "{steps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_check_takes_effect_and_keeps_the_verdict() {
        let bench = Bench::start();
        bench.set_failing(&[1]);
        bench.publish([1], Some(check(INTERVAL, 1)));
        bench.wait(SPREAD).await;
        assert!(!bench.is_fit(1));
        bench.set_failing(&[]);
        bench.publish([1], Some(check(INTERVAL / 5, 1)));
        bench.wait(SPREAD).await;
        assert!(!bench.is_fit(1), "one pass is not enough");
        bench.wait(INTERVAL / 5).await;
        assert_eq!((bench.is_fit(1), bench.probes(1).len()), (true, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_way_to_connect_is_that_of_the_next_probe() {
        let bench = Bench::start();
        let health = Health { active: Some(check(INTERVAL, 1)), ..Health::default() };
        let mut policy = Policy { health, ..Policy::default() };
        bench.publish_policy([1], policy.clone());
        bench.wait(SPREAD).await;
        policy.timeouts.connect = Duration::from_secs(1);
        bench.publish_policy([1], policy.clone());
        bench.wait(SPREAD).await;
        assert_eq!(bench.world.prepared.load(SeqCst), 2);
        policy.connections.tcp_keepalive = None;
        bench.publish_policy([1], policy.clone());
        bench.wait(SPREAD).await;
        policy.timeouts.request = Duration::from_secs(9);
        bench.publish_policy([1], policy);
        bench.wait(INTERVAL).await;
        assert_eq!(
            (bench.world.prepared.load(SeqCst), bench.probes(1).len()),
            (3, 2),
            "the probes keep their interval"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_check_every_endpoint_is_fit() {
        let bench = Bench::start();
        bench.set_failing(&[1]);
        bench.world.silent.lock().unwrap().insert(2);
        bench.publish([1, 2], Some(check(INTERVAL, 1)));
        bench.wait(SPREAD * 2).await;
        assert_eq!((bench.is_fit(1), bench.world.under_way.load(SeqCst)), (false, 1));
        bench.publish([1, 2], None);
        bench.wait(INTERVAL * 3).await;
        assert!(bench.is_fit(1) && bench.is_fit(2), "the probe under way counts no more");
        assert_eq!(bench.endpoint(1).probe_failure(), None);
        assert_eq!((bench.probes(1).len(), bench.world.under_way.load(SeqCst)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_of_endpoints_are_probed_at_an_even_rate_and_never_all_at_once() {
        let bench = Bench::start();
        bench.world.silent.lock().unwrap().extend(1..=5000);
        bench.publish(1..=5000, Some(check(INTERVAL, 1)));
        bench.wait(INTERVAL).await;
        assert_eq!(bench.world.most_under_way.load(SeqCst), MAX_PROBES);
        bench.wait(INTERVAL * 4).await;
        let all: Vec<Instant> = (1..=5000).flat_map(|port| bench.probes(port)).collect();
        assert!((1..=5000).all(|port| !bench.is_fit(port)));
        let first = *all.iter().min().unwrap();
        // 5,000 starts spread over 5 s: the mean of a tenth of a second is 100, its standard deviation 10. More than
        // 200 is rarer than 10⁻²⁰ for one of them (Chernoff).
        let early = all.iter().filter(|start| **start < first + Duration::from_millis(100)).count();
        assert!(early <= 200, "{early} of 5000 in the first 100 ms");
    }
}
