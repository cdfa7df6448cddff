//! The endpoints of a backend with what is known of them: shared by all threads, carried from snapshot to snapshot.
//!
//! A pool chooses; it neither connects nor probes. What outlives it are [`EndpointState`] and the state of the backend,
//! which all pools of one Service port share.

mod admission;
mod availability;
mod endpoint;
mod preview;
mod slots;

use std::{
    net::IpAddr,
    num::NonZeroU32,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use xxhash_rust::xxh3::xxh3_64;

use self::{
    admission::BackendState,
    availability::{Availability, Open, View},
};
pub use self::{
    admission::{Admission, Pending, Permit},
    endpoint::{EndpointState, Lease, Unfit},
    preview::{Certainty, Preview, Prospect},
    slots::{Slot, Slots},
};
use super::Site;
use crate::{
    balance::{self, Balancer, Candidates as _, Draw, Member, Outcome, Strategy, Verdict},
    model::{AffinityMode, Backend, BackendId, Endpoint},
    telemetry::metrics::{self, BackendLabels, BackendMetrics},
};

/// Live endpoints of one backend.
///
/// Aligned, as the other states that all threads read, so that its count of references has a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Pool {
    /// What is wanted.
    pub backend: Arc<Backend>,
    /// Names the way in which endpoints are spoken to: protocol, TLS and PROXY protocol. Connections of another way
    /// serve nobody.
    pub transport_id: u64,
    /// Those of the backend that this replica uses, sorted by address.
    endpoints: Vec<Arc<EndpointState>>,
    /// Whether each of them is near.
    near: Vec<bool>,
    /// Their identities in order, each with its index; empty where no cookie names them.
    by_identity: Vec<(u64, usize)>,
    balancer: Balancer,
    /// One for each thread, so that what a strategy promises of turns holds on each.
    turns: Arc<[Line<AtomicUsize>]>,
    changes: Arc<AtomicU32>,
    availability: Availability,
    state: Arc<BackendState>,
    /// Counts what becomes of its requests; shared with the pools of the same Service port.
    pub metrics: Arc<BackendMetrics>,
}

/// What threads write often, on a cache line of its own (two, as processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

impl<T> Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What one choice of an endpoint depends on.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Number of the thread, from zero.
    pub thread: usize,
    /// Milliseconds since [`Live::epoch`](super::Live::epoch).
    pub now: u64,
    /// Address of the client.
    pub client: IpAddr,
    /// Hash of what the policy hashes requests by; None when the request does not have it.
    pub key: Option<u64>,
    /// What the client's cookie of affinity says.
    pub session: Option<u64>,
    /// Identifiers of endpoints that were tried: they are picked again only when there is no other.
    pub tried: &'a [u64],
}

/// Why no endpoint could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpickable {
    /// The backend has none.
    NoEndpoint,
    /// None of them is fit.
    NoneFit,
}

impl Pool {
    /// A pool for the backend that keeps what `previous` knows, and else what `sibling`, a pool of the same Service port,
    /// knows: the same address is the same endpoint, whatever is spoken to it.
    pub fn build(backend: Arc<Backend>, previous: Option<&Pool>, sibling: Option<&Pool>, site: &Site<'_>) -> Self {
        static NEXT_TRANSPORT: AtomicU64 = AtomicU64::new(1);
        let known = [previous, sibling];
        let known = || known.into_iter().flatten();
        let changes = known().next().map(|pool| Arc::clone(&pool.changes)).unwrap_or_default();
        let used = used(&backend, site.replica);
        let joins = previous.is_some_and(|pool| !pool.endpoints.is_empty());
        let in_use_since = if joins { site.now.max(1) } else { 0 };
        let endpoints: Vec<_> = used
            .iter()
            .map(|endpoint| {
                let known = known().find_map(|pool| {
                    let at = pool.endpoints.binary_search_by(|state| state.address.cmp(&endpoint.address)).ok()?;
                    Some(Arc::clone(&pool.endpoints[at]))
                });
                let new = || EndpointState::new(endpoint.address.clone(), in_use_since, Arc::clone(&changes));
                known.unwrap_or_else(|| Arc::new(new()))
            })
            .collect();
        let members = endpoints.iter().zip(&used);
        let members = members.map(|(state, endpoint)| Member { identity: state.identity, weight: endpoint.weight });
        let balancer = Balancer::build(backend.policy.load_balancing.strategy, members.collect());
        let transport_id = match previous.filter(|pool| same_transport(&pool.backend, &backend)) {
            Some(pool) => pool.transport_id,
            None => NEXT_TRANSPORT.fetch_add(1, Ordering::Relaxed),
        };
        let state = known().next().map(|pool| Arc::clone(&pool.state)).unwrap_or_default();
        state.apply(&backend.policy.limits, endpoints.len());
        Self {
            transport_id,
            near: used.iter().map(|endpoint| endpoint.is_near).collect(),
            by_identity: by_identity(&backend, &endpoints),
            turns: match previous {
                Some(pool) if pool.endpoints.len() == endpoints.len() => Arc::clone(&pool.turns),
                // Who was next is next, and threads are evenly apart again.
                _ => {
                    let next = previous.map_or(0, |pool| pool.turns[0].load(Ordering::Relaxed));
                    turns(site.threads, endpoints.len(), next)
                }
            },
            endpoints,
            balancer,
            changes,
            availability: Availability::default(),
            state,
            metrics: site.metrics.backend(labels(&backend.id)),
            backend,
        }
    }

    /// The endpoints that this replica uses, sorted by address.
    pub fn endpoints(&self) -> &[Arc<EndpointState>] {
        &self.endpoints
    }

    /// What the model says of one of these endpoints.
    pub fn declared(&self, state: &EndpointState) -> Option<&Endpoint> {
        // The model has its endpoints sorted by address.
        let endpoints = &self.backend.endpoints;
        let at = endpoints.binary_search_by(|endpoint| endpoint.address.cmp(&state.address)).ok()?;
        Some(&endpoints[at])
    }

    /// Whether fitness does not count, as only so many of its endpoints are fit.
    pub fn panics(&self, fit: usize) -> bool {
        availability::too_few(fit as u64, self.endpoints.len() as u64, self.backend.policy.health.panic_threshold)
    }

    /// Requests in flight to the backend now, over all threads.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight()
    }

    /// Requests that wait until they may go to the backend.
    pub fn pending(&self) -> usize {
        self.state.pending()
    }

    /// How many requests may be in flight to the backend now; None when there is no limit.
    pub fn limit(&self) -> Option<u32> {
        self.state.limit()
    }

    /// Puts the limits of its policy in force for a Service port whose pools have at most so many endpoints.
    pub(super) fn apply_limits(&self, endpoints: usize) {
        self.state.apply(&self.backend.policy.limits, endpoints);
    }

    /// Admits one more request, or None when the backend has as many as its policy allows and as many wait as may.
    ///
    /// `now` is milliseconds since [`Live::epoch`](super::Live::epoch).
    pub fn admit(&self, now: u64) -> Option<Admission> {
        let admission = self.state.admit(&self.backend.policy.limits, now)?;
        self.state.retries.request(now / 1000);
        Some(admission)
    }

    /// Takes a retry out of the backend's budget; false when it is spent.
    pub fn may_retry(&self, now: u64) -> bool {
        self.state.retries.retry(self.backend.policy.retries.budget, now / 1000)
    }

    /// Picks an endpoint. The request counts as in flight until the lease is dropped.
    ///
    /// # Errors
    /// When the backend has no endpoint, or none that is fit.
    pub fn pick(self: &Arc<Self>, selection: &Selection<'_>) -> Result<Lease, Unpickable> {
        if self.endpoints.is_empty() {
            return Err(Unpickable::NoEndpoint);
        }
        let open = self.availability.open(self, selection.now);
        if open == Open::None {
            return Err(Unpickable::NoneFit);
        }
        let resumed = self.resume(selection, open).map(|index| (index, None));
        let (index, session) = resumed.or_else(|| self.choose_widening(selection, open)).ok_or(Unpickable::NoneFit)?;
        Ok(Lease::new(Arc::clone(self), index, session, selection.now))
    }

    /// Whether its strategy goes by latency.
    fn weighs_latency(&self) -> bool {
        matches!(self.backend.policy.load_balancing.strategy, Strategy::PeakEwma { .. })
    }

    /// The endpoint that the client's cookie names, while it is fit and was not tried.
    fn resume(&self, selection: &Selection<'_>, open: Open) -> Option<usize> {
        let at = self.by_identity.binary_search_by_key(&selection.session?, |(identity, _)| *identity).ok()?;
        let index = self.by_identity[at].1;
        let open = open.wider();
        let view = View { pool: self, open, tried: selection.tried, connections: None, now: selection.now };
        view.is_open(index).then_some(index)
    }

    /// Chooses an endpoint that was not tried before one that was, one with room for a connection before one without, and
    /// one that is near before one that is not. Views that are the same as one before are left out.
    fn choose_widening(&self, selection: &Selection<'_>, open: Open) -> Option<(usize, Option<u64>)> {
        let (wider, all) = (open.wider(), selection.tried.is_empty());
        let limit = self.connections_decide();
        for tried in [Some(selection.tried), (!all).then_some(&[][..])].into_iter().flatten() {
            for connections in [limit.map(Some), Some(None)].into_iter().flatten() {
                for open in [Some(open), (wider != open).then_some(wider)].into_iter().flatten() {
                    let view = View { pool: self, open, tried, connections, now: selection.now };
                    if let Some(chosen) = self.choose(&view, selection) {
                        return Some(chosen);
                    }
                }
            }
        }
        None
    }

    /// The most connections of an endpoint, where a request goes to another one rather than wait for one.
    ///
    /// Streams of HTTP/2 share connections, and who belongs to an endpoint waits for it.
    fn connections_decide(&self) -> Option<NonZeroU32> {
        let policy = &self.backend.policy;
        let belongs = self.backend.client_ip_affinity || policy.cookie_affinity.is_some();
        policy.connections.max_per_endpoint.filter(|_| !belongs && !self.backend.protocol.is_http2())
    }

    /// Chooses an endpoint of the view, with what the client's cookie must say from then on if that is news.
    fn choose(&self, view: &View<'_>, selection: &Selection<'_>) -> Option<(usize, Option<u64>)> {
        let mode = self.backend.policy.cookie_affinity.as_ref().map(|affinity| affinity.mode);
        if mode == Some(AffinityMode::Balanced) {
            let client = selection.session.unwrap_or_else(|| fastrand::u64(..));
            let index = self.balancer.rendezvous(view, client)?;
            return Some((index, selection.session.is_none().then_some(client)));
        }
        let index = if self.backend.client_ip_affinity && mode.is_none() {
            self.balancer.rendezvous(view, client_hash(selection.client))?
        } else {
            let turn = &*self.turns[selection.thread % self.turns.len()];
            let others = self.in_flight().saturating_sub(1); // this request counts since it was admitted
            let draw = Draw { turn, key: selection.key, total_in_flight: others };
            self.balancer.choose(view, draw)?
        };
        Some((index, mode.map(|_| self.endpoints[index].identity)))
    }

    /// Takes down how a request to an endpoint went, and ejects it when that is one too many.
    fn judge(&self, index: usize, outcome: Outcome, now: u64) {
        let Some(settings) = &self.backend.policy.health.outlier else { return };
        let endpoint = &self.endpoints[index];
        if endpoint.outcomes.record(settings, outcome, now) == Verdict::Fit
            || self.state.ejecting.swap(true, Ordering::Acquire)
        {
            return; // when another thread is ejecting, the next error says the same again
        }
        let ejected = self.endpoints.iter().filter(|other| other.outcomes.is_ejected(now)).count();
        if settings.may_eject(ejected, self.endpoints.len()) {
            endpoint.outcomes.eject(settings, now);
            metrics::count(&self.metrics.ejections);
            endpoint.changed();
            let milliseconds = endpoint.outcomes.ejected_until().saturating_sub(now);
            tracing::info!(backend = %self.backend.id, endpoint = %endpoint.address, milliseconds, "endpoint ejected");
        } else {
            endpoint.outcomes.forget();
        }
        self.state.ejecting.store(false, Ordering::Release);
    }
}

/// Hash of a client's address, the same in every process.
pub fn client_hash(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => xxh3_64(&ip.octets()),
        IpAddr::V6(ip) => xxh3_64(&ip.octets()),
    }
}

/// The endpoints that a replica uses, sorted by address: all, or a subset of its own, near ones first.
fn used(backend: &Backend, replica: u64) -> Vec<&Endpoint> {
    let Some(size) = backend.policy.load_balancing.subset else { return backend.endpoints.iter().collect() };
    let (near, far): (Vec<_>, Vec<_>) = backend.endpoints.iter().partition(|endpoint| endpoint.is_near);
    let size = size.get() as usize;
    let rest = size.saturating_sub(near.len());
    let mut used = [subset(&near, replica, size), subset(&far, replica, rest)].concat();
    used.sort_by(|a, b| a.address.cmp(&b.address));
    used
}

fn subset<'a>(endpoints: &[&'a Endpoint], replica: u64, size: usize) -> Vec<&'a Endpoint> {
    let identities: Vec<u64> = endpoints.iter().map(|endpoint| endpoint::identity(&endpoint.address)).collect();
    balance::subset(&identities, replica, size).into_iter().map(|index| endpoints[index]).collect()
}

fn by_identity(backend: &Backend, endpoints: &[Arc<EndpointState>]) -> Vec<(u64, usize)> {
    let named = backend.policy.cookie_affinity.as_ref().is_some_and(|cookie| cookie.mode == AffinityMode::Persistent);
    let endpoints = endpoints.iter().take(if named { usize::MAX } else { 0 });
    let mut by_identity: Vec<_> = endpoints.enumerate().map(|(index, endpoint)| (endpoint.identity, index)).collect();
    by_identity.sort_unstable();
    by_identity
}

/// Turns that start evenly apart from `next` on, so that threads do not all begin with the same endpoint.
fn turns(threads: usize, endpoints: usize, next: usize) -> Arc<[Line<AtomicUsize>]> {
    let threads = threads.max(1);
    (0..threads).map(|thread| Line(AtomicUsize::new(next.wrapping_add(thread * endpoints / threads)))).collect()
}

fn labels(id: &BackendId) -> BackendLabels {
    BackendLabels { namespace: Arc::clone(&id.namespace), service: Arc::clone(&id.service), port: id.port }
}

/// Whether connections of one are of use to the other.
fn same_transport(a: &Backend, b: &Backend) -> bool {
    a.protocol == b.protocol && a.policy.tls == b.policy.tls && a.policy.proxy_protocol == b.policy.proxy_protocol
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr, num::NonZeroU8, time::Duration};

    use super::*;
    use crate::{
        balance::OutlierDetection,
        model::{ActiveCheck, Address, BackendId, CookieAffinity, Health, Limits, Policy, Probe, Protocol, SameSite},
        telemetry::metrics::Metrics,
    };

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn selection(client: IpAddr, tried: &[u64]) -> Selection<'_> {
        Selection { thread: 0, now: 0, client, key: None, session: None, tried }
    }

    fn at(now: u64) -> Selection<'static> {
        Selection { now, ..selection(CLIENT, &[]) }
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(Address::Socket((Ipv4Addr::LOCALHOST, port).into()))
    }

    fn backend(ports: impl IntoIterator<Item = u16>, policy: Policy) -> Backend {
        Backend {
            id: BackendId::new("shop", "cart", 80),
            protocol: Protocol::Http1,
            endpoints: ports.into_iter().map(endpoint).collect(),
            client_ip_affinity: false,
            policy: Arc::new(policy),
        }
    }

    fn limited(limit: u32) -> Policy {
        let limits = Limits { max_concurrent_requests: NonZeroU32::new(limit), ..Limits::default() };
        Policy { limits, ..Policy::default() }
    }

    fn ejecting(errors: u32, panic_threshold: u32) -> Policy {
        let outlier = OutlierDetection { consecutive_errors: NonZeroU32::new(errors), ..OutlierDetection::default() };
        let health = Health { outlier: Some(outlier), panic_threshold, ..Health::default() };
        Policy { health, ..Policy::default() }
    }

    fn affinity(mode: AffinityMode) -> Policy {
        let cookie = CookieAffinity {
            name: "pierhead".into(),
            ttl: None,
            path: "/".into(),
            same_site: SameSite::Lax,
            secure: false,
            mode,
        };
        Policy { cookie_affinity: Some(cookie), ..Policy::default() }
    }

    fn build_at(now: u64, backend: Backend, previous: Option<&Arc<Pool>>) -> Arc<Pool> {
        let metrics = Metrics::new(1);
        let site = Site { metrics: &metrics, threads: 2, replica: 7, now };
        Arc::new(Pool::build(Arc::new(backend), previous.map(|pool| &**pool), None, &site))
    }

    fn pool(backend: Backend) -> Arc<Pool> {
        build_at(0, backend, None)
    }

    /// Picks so often; how many times each port was it.
    fn shares(pool: &Arc<Pool>, selection: &Selection<'_>, picks: usize) -> BTreeMap<u16, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..picks {
            let lease = pool.pick(selection).unwrap();
            let Address::Socket(address) = lease.endpoint().address else { panic!("not a socket") };
            *shares.entry(address.port()).or_default() += 1;
        }
        shares
    }

    #[test]
    fn leases_and_permits_count_until_dropped() {
        let pool = pool(backend([1], limited(2)));
        let (one, two) = (pool.admit(0), pool.admit(0));
        assert!(one.is_some() && two.is_some() && pool.admit(0).is_none());
        assert_eq!((pool.in_flight(), pool.limit()), (2, Some(2)), "a refused request does not count");
        drop(one);
        assert!(pool.admit(0).is_some());
        let lease = pool.pick(&at(0)).unwrap();
        assert_eq!(lease.endpoint().in_flight(), 1);
        drop(lease);
        assert_eq!(pool.endpoints()[0].in_flight(), 0);
    }

    #[test]
    fn a_new_pool_keeps_the_state_of_the_same_addresses() {
        let old = pool(backend([1, 2], limited(5)));
        let lease = old.pick(&selection(CLIENT, &[old.endpoints()[0].id])).unwrap();
        let permit = old.admit(0);
        let new = build_at(0, backend([2, 3], limited(9)), Some(&old));
        assert_eq!(new.endpoints()[0].id, lease.endpoint().id);
        assert_eq!((new.endpoints()[0].in_flight(), new.endpoints()[1].in_flight(), new.in_flight()), (1, 0, 1));
        assert_eq!(old.limit(), Some(9), "the limit in force is that of the newest policy");
        drop((lease, permit));
        assert_eq!((new.endpoints()[0].in_flight(), new.in_flight()), (0, 0));
    }

    #[test]
    fn an_ejection_and_a_latency_outlive_a_change_of_policy_and_endpoints() {
        let mut policy = ejecting(1, 0);
        policy.load_balancing.strategy = Strategy::PeakEwma { choices: NonZeroU8::MIN };
        let old = pool(backend([1, 2], policy.clone()));
        let lease = old.pick(&selection(CLIENT, &[old.endpoints()[0].id])).unwrap();
        let pending = old.pick(&selection(CLIENT, &[old.endpoints()[0].id])).unwrap();
        lease.failed(Duration::from_millis(5), 1_000);
        policy.limits.adaptive = true;
        let new = build_at(2_000, backend([1, 2, 3], policy), Some(&old));
        let endpoint = &new.endpoints()[1];
        assert_eq!(endpoint.unfit(&new.backend.policy, 2_000), Some(Unfit::Ejected(Duration::from_secs(29))));
        assert!(endpoint.latency(2_000) >= 10_000.0, "{}", endpoint.latency(2_000));
        pending.abandoned(Duration::from_secs(20), 2_000);
        assert!(endpoint.latency(2_000) >= 20_000.0, "who began under the old policy tells the new one");
    }

    #[test]
    fn pools_of_one_service_port_share_its_limit_and_endpoints() {
        let one = pool(backend([1], limited(1)));
        let metrics = Metrics::new(1);
        let site = Site { metrics: &metrics, threads: 1, replica: 7, now: 0 };
        let other = Backend { protocol: Protocol::H2c, ..backend([1, 2], limited(1)) };
        let two = Pool::build(Arc::new(other), None, Some(&one), &site);
        assert_ne!(two.transport_id, one.transport_id, "connections are not shared");
        assert_eq!(two.endpoints()[0].id, one.endpoints()[0].id);
        let permit = one.admit(0);
        assert!(permit.is_some() && two.admit(0).is_none());
    }

    #[test]
    fn tried_endpoints_are_avoided_while_there_is_another() {
        let pool = pool(backend([1, 2], Policy::default()));
        let first = pool.endpoints()[0].id;
        for _ in 0..10 {
            assert_ne!(pool.pick(&selection(CLIENT, &[first])).unwrap().endpoint().id, first);
        }
        let all: Vec<u64> = pool.endpoints().iter().map(|e| e.id).collect();
        assert!(pool.pick(&selection(CLIENT, &all)).is_ok());
        let none = build_at(0, backend([], Policy::default()), None);
        assert_eq!(none.pick(&at(0)).unwrap_err(), Unpickable::NoEndpoint);
    }

    #[test]
    fn round_robin_is_even_on_each_thread_and_threads_start_apart() {
        let pool = pool(backend(1..=4, Policy::default()));
        let first = |thread| pool.pick(&Selection { thread, ..at(0) }).unwrap().endpoint().id;
        assert_ne!(first(0), first(1));
        for thread in 0..2 {
            let even = BTreeMap::from([(1, 5), (2, 5), (3, 5), (4, 5)]);
            assert_eq!(shares(&pool, &Selection { thread, ..at(0) }, 20), even);
        }
    }

    #[test]
    fn threads_stay_apart_when_a_backend_grows_from_nothing() {
        let mut pool = pool(backend([], Policy::default()));
        for last in [1, 2, 3, 6] {
            pool = build_at(0, backend(1..=last, Policy::default()), Some(&pool));
            let first = |thread| pool.pick(&Selection { thread, ..at(0) }).unwrap().endpoint().id;
            assert_eq!(first(0) != first(1), last > 1, "with {last}");
        }
    }

    #[test]
    fn an_endpoint_without_room_for_a_connection_is_passed_by_while_another_has_some() {
        let mut policy = Policy::default();
        policy.connections.max_per_endpoint = NonZeroU32::new(1);
        let pool = pool(backend([1, 2], policy));
        let limit = NonZeroU32::new(1);
        let slots = |index: usize| &pool.endpoints()[index].slots;
        let one = slots(0).take(limit);
        assert_eq!(shares(&pool, &at(0), 10), BTreeMap::from([(2, 10)]));
        slots(0).rest(1);
        assert_eq!(shares(&pool, &at(0), 10).len(), 2, "an idle connection is there for it");
        slots(0).rise();
        let two = slots(1).take(limit);
        assert_eq!(shares(&pool, &at(0), 10).len(), 2, "requests wait where all are full");
        drop((one, two));
    }

    #[test]
    fn near_endpoints_come_first_and_others_when_they_fail() {
        let mut backend = backend([1, 2], ejecting(1, 0));
        backend.endpoints[1].is_near = false;
        let pool = pool(backend);
        assert_eq!(shares(&pool, &at(0), 10), BTreeMap::from([(1, 10)]));
        let near = pool.endpoints()[0].id;
        let retried = pool.pick(&selection(CLIENT, &[near])).unwrap();
        assert_ne!(retried.endpoint().id, near, "a retry leaves the zone rather than try the same again");
        pool.pick(&at(0)).unwrap().failed(Duration::ZERO, 0);
        assert_eq!(shares(&pool, &at(0), 10), BTreeMap::from([(2, 10)]));
        assert_eq!(shares(&pool, &at(30_000), 10), BTreeMap::from([(1, 10)]), "its ejection is over");
    }

    #[test]
    fn an_endpoint_that_fails_is_ejected_for_its_time() {
        let pool = pool(backend([1, 2, 3, 4], ejecting(3, 0)));
        let bad = pool.endpoints()[0].id;
        let mut errors = 0;
        for _ in 0..12 {
            let lease = pool.pick(&at(5)).unwrap();
            let is_bad = lease.endpoint().id == bad;
            errors += u32::from(is_bad);
            lease.answered(if is_bad { 500 } else { 200 }, Duration::ZERO, 5);
        }
        assert_eq!(errors, 3, "three errors in a row, then no more");
        let policy = &pool.backend.policy;
        assert_eq!(pool.endpoints()[0].unfit(policy, 5), Some(Unfit::Ejected(Duration::from_secs(30))));
        assert_eq!(shares(&pool, &at(30_004), 3).get(&1), None);
        assert_eq!(shares(&pool, &at(30_005), 4)[&1], 1);
    }

    #[test]
    fn no_more_than_the_share_is_ejected() {
        let pool = pool(backend([1, 2, 3, 4], ejecting(1, 0)));
        for _ in 0..20 {
            pool.pick(&at(0)).unwrap().failed(Duration::ZERO, 0);
        }
        assert_eq!(shares(&pool, &at(0), 10).len(), 2);
    }

    #[test]
    fn fitness_is_ignored_when_too_few_are_fit() {
        let probed = |panic_threshold| {
            let active = ActiveCheck {
                probe: Probe::Tcp,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                healthy: NonZeroU32::MIN,
                unhealthy: NonZeroU32::MIN,
                port: None,
            };
            let health = Health { active: Some(active), outlier: None, panic_threshold };
            pool(backend([1, 2, 3], Policy { health, ..Policy::default() }))
        };
        let pool = probed(50);
        pool.endpoints()[0].probed(false, 0);
        assert_eq!(shares(&pool, &at(0), 6).into_keys().collect::<Vec<_>>(), [2, 3], "told at once");
        pool.endpoints()[1].probed(false, 0);
        assert_eq!(shares(&pool, &at(0), 6).len(), 3, "a third is fewer than half");
        let strict = probed(0);
        strict.endpoints().iter().for_each(|endpoint| endpoint.probed(false, 0));
        assert_eq!(strict.pick(&at(0)).unwrap_err(), Unpickable::NoneFit);
        strict.endpoints()[2].probed(true, 0);
        assert_eq!(shares(&strict, &at(0), 5), BTreeMap::from([(3, 5)]));
        let unprobed = build_at(0, backend([1, 2, 3], Policy::default()), Some(&strict));
        assert_eq!(shares(&unprobed, &at(0), 6).len(), 3, "without checks what they said is of no account");
    }

    #[test]
    fn endpoints_that_join_or_recover_start_slowly_and_those_of_the_start_do_not() {
        let slow_start = Duration::from_secs(10);
        let mut policy = ejecting(1, 0);
        policy.load_balancing.slow_start = slow_start;
        let ramp = |pool: &Arc<Pool>, index: usize, now| pool.endpoints()[index].ramp(slow_start, now);
        let old = pool(backend([1, 2], policy.clone()));
        assert!((ramp(&old, 0, 0) - 1.0).abs() < f32::EPSILON);
        let new = build_at(1_000, backend([1, 2, 3], policy), Some(&old));
        for (now, expected) in [(1_000, 0.1), (2_000, 0.1), (6_000, 0.5), (11_000, 1.0), (99_000, 1.0)] {
            assert!((ramp(&new, 2, now) - expected).abs() < 0.01, "at {now}");
        }
        assert!((ramp(&new, 0, 1_000) - 1.0).abs() < f32::EPSILON);
        new.endpoints()[0].probed(false, 2_000);
        new.endpoints()[0].probed(true, 3_000);
        assert!((ramp(&new, 0, 8_000) - 0.5).abs() < 0.01, "it passes its probes again");
        let lease = new.pick(&selection(CLIENT, &[new.endpoints()[0].id, new.endpoints()[2].id])).unwrap();
        lease.failed(Duration::ZERO, 20_000);
        assert!((ramp(&new, 1, 30_000) - 1.0).abs() < f32::EPSILON, "in panic all are equal");
        assert!((ramp(&new, 1, 55_000) - 0.5).abs() < 0.01, "its ejection ended at 50 s");
    }

    #[test]
    fn a_subset_is_the_same_for_a_replica_and_prefers_what_is_near() {
        let mut policy = Policy::default();
        policy.load_balancing.subset = NonZeroU32::new(3);
        let ports = |backend: &Backend, replica| -> Vec<String> {
            used(backend, replica).iter().map(|endpoint| endpoint.address.to_string()).collect()
        };
        let mut large = backend(100..150, policy);
        let first = ports(&large, 1);
        assert_eq!((first.len(), &first), (3, &ports(&large, 1)));
        assert!((2..20).any(|replica| ports(&large, replica) != first), "replicas use different ones");
        large.endpoints.retain(|endpoint| endpoint.address.to_string() != first[0]);
        let kept = ports(&large, 1);
        assert!(kept.contains(&first[1]) && kept.contains(&first[2]), "{first:?} became {kept:?}");
        large.endpoints.iter_mut().skip(2).for_each(|endpoint| endpoint.is_near = false);
        let near = ports(&large, 1);
        assert!(large.endpoints[..2].iter().all(|endpoint| near.contains(&endpoint.address.to_string())));
        assert_eq!(pool(large).endpoints().len(), 3);
    }

    #[test]
    fn a_persistent_session_stays_until_its_endpoint_is_unfit() {
        let mut policy = affinity(AffinityMode::Persistent);
        policy.health = ejecting(1, 0).health;
        let pool = pool(backend([1, 2, 3, 4], policy));
        let first = pool.pick(&at(0)).unwrap();
        let session = first.session.expect("a new client gets a cookie");
        assert_eq!(session, first.endpoint().identity);
        let back = Selection { session: Some(session), ..at(0) };
        for _ in 0..10 {
            let lease = pool.pick(&back).unwrap();
            assert_eq!((lease.endpoint().id, lease.session), (first.endpoint().id, None));
        }
        let tried = [first.endpoint().id];
        let retried = pool.pick(&Selection { tried: &tried, ..back }).unwrap();
        assert_eq!(retried.session, Some(retried.endpoint().identity), "a retry moves the session");
        first.failed(Duration::ZERO, 0);
        let moved = pool.pick(&back).unwrap();
        assert_ne!(moved.endpoint().id, first.endpoint().id);
        assert_eq!(moved.session, Some(moved.endpoint().identity));
        let invented = pool.pick(&Selection { session: Some(1), ..at(0) }).unwrap();
        assert_eq!(invented.session, Some(invented.endpoint().identity));
    }

    #[test]
    fn a_balanced_session_names_the_client_and_new_endpoints_take_their_share() {
        let old = pool(backend([1, 2, 3], affinity(AffinityMode::Balanced)));
        let fresh = old.pick(&at(0)).unwrap();
        assert!(fresh.session.is_some());
        let new = build_at(0, backend([1, 2, 3, 4], affinity(AffinityMode::Balanced)), Some(&old));
        let mut moved = 0;
        for session in 0..400 {
            let of = |pool: &Arc<Pool>| {
                let lease = pool.pick(&Selection { session: Some(session), ..at(0) }).unwrap();
                assert_eq!(lease.session, None);
                lease.endpoint().id
            };
            assert_eq!(of(&old), of(&old));
            if of(&old) != of(&new) {
                moved += 1;
                assert_eq!(of(&new), new.endpoints()[3].id, "clients move to the new endpoint only");
            }
        }
        assert!((60..=140).contains(&moved), "about a quarter moves, not {moved}");
    }

    #[test]
    fn client_ip_affinity_keeps_a_client_on_one_endpoint() {
        let mut backend = backend([1, 2, 3], Policy::default());
        backend.client_ip_affinity = true;
        let pool = pool(backend);
        assert_eq!(shares(&pool, &at(0), 20).len(), 1);
        let clients = (0..50).map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)));
        let used: std::collections::BTreeSet<u64> =
            clients.map(|client| pool.pick(&selection(client, &[])).unwrap().endpoint().id).collect();
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn threads_that_fail_together_eject_no_more_than_may() {
        let mut policy = ejecting(2, 0);
        policy.load_balancing.strategy = Strategy::LeastRequest { choices: NonZeroU8::MIN };
        let pool = pool(backend(1..=10, policy));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(|_| pool.pick(&at(0)).unwrap().failed(Duration::ZERO, 0)));
            }
        });
        let policy = &pool.backend.policy;
        let ejected = pool.endpoints().iter().filter(|endpoint| endpoint.unfit(policy, 0).is_some()).count();
        assert_eq!(ejected, 5);
    }
}
