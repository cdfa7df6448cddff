//! The endpoints of a backend with what is known of them: shared by all threads, carried from snapshot to snapshot.

mod endpoint;
mod slots;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

pub use self::{
    endpoint::{EndpointState, Lease},
    slots::{Slot, Slots},
};
use crate::{
    balance::{Balancer, Candidates, Draw, Member, RetrySpending},
    model::Backend,
};

/// Live endpoints of one backend.
#[derive(Debug)]
pub struct Pool {
    /// What is wanted.
    pub backend: Arc<Backend>,
    /// Names the way in which endpoints are spoken to: protocol, TLS and PROXY protocol. Connections of another way
    /// serve nobody.
    pub transport_id: u64,
    endpoints: Vec<Arc<EndpointState>>,
    balancer: Balancer,
    state: Arc<BackendState>,
}

/// What is known of one backend over all its endpoints.
#[derive(Debug, Default)]
struct BackendState {
    in_flight: AtomicU32,
    turn: AtomicUsize,
    retries: RetrySpending,
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
    /// A pool for the backend that keeps what `previous` knows of the same addresses.
    pub fn build(backend: Arc<Backend>, previous: Option<&Pool>) -> Self {
        static NEXT_TRANSPORT: AtomicU64 = AtomicU64::new(1);
        let endpoints: Vec<_> = backend
            .endpoints
            .iter()
            .map(|endpoint| {
                // Both lists are sorted by address: `Backend::endpoints` says so.
                let known = previous.and_then(|pool| {
                    let at = pool.endpoints.binary_search_by(|state| state.address.cmp(&endpoint.address)).ok()?;
                    Some(Arc::clone(&pool.endpoints[at]))
                });
                known.unwrap_or_else(|| Arc::new(EndpointState::new(endpoint.address.clone())))
            })
            .collect();
        let members = endpoints.iter().zip(&backend.endpoints);
        let members = members.map(|(state, endpoint)| Member { identity: state.identity, weight: endpoint.weight });
        let balancer = Balancer::build(backend.policy.load_balancing.strategy, members.collect());
        let transport_id = match previous.filter(|pool| same_transport(&pool.backend, &backend)) {
            Some(pool) => pool.transport_id,
            None => NEXT_TRANSPORT.fetch_add(1, Ordering::Relaxed),
        };
        let state = previous.map(|pool| Arc::clone(&pool.state)).unwrap_or_default();
        Self { backend, transport_id, endpoints, balancer, state }
    }

    /// Its endpoints, sorted by address.
    pub fn endpoints(&self) -> &[Arc<EndpointState>] {
        &self.endpoints
    }

    /// Requests in flight to the backend now, over all threads.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Admits one more request, or None when the backend has as many as its policy allows.
    ///
    /// `now` is milliseconds since [`Live::epoch`](super::Live::epoch).
    pub fn admit(&self, now: u64) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.state)); // counted before the check, so its drop takes it back
        let before = self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.backend.policy.limits.max_concurrent_requests {
            Some(limit) if before >= limit.get() => None,
            _ => {
                self.state.retries.request(now / 1000);
                Some(permit)
            }
        }
    }

    /// Takes a retry out of the backend's budget; false when it is spent.
    pub fn may_retry(&self, now: u64) -> bool {
        self.state.retries.retry(self.backend.policy.retries.budget, now / 1000)
    }

    /// Picks an endpoint. The request counts as in flight until the lease is dropped.
    ///
    /// # Errors
    /// When the backend has no endpoint, or none that is fit.
    pub fn pick(&self, selection: &Selection<'_>) -> Result<Lease, Unpickable> {
        let index = self.choose(selection, selection.tried).or_else(|| self.choose(selection, &[]));
        let index = index.ok_or(Unpickable::NoEndpoint)?;
        Ok(Lease::new(Arc::clone(&self.endpoints[index]), None))
    }

    fn choose(&self, selection: &Selection<'_>, tried: &[u64]) -> Option<usize> {
        let candidates = Untried { endpoints: &self.endpoints, tried };
        if self.backend.client_ip_affinity {
            let client = selection.client.to_canonical().to_string();
            return self.balancer.rendezvous(&candidates, xxhash_rust::xxh3::xxh3_64(client.as_bytes()));
        }
        let draw = Draw { turn: &self.state.turn, key: selection.key, total_in_flight: self.in_flight() };
        self.balancer.choose(&candidates, draw)
    }
}

/// Whether connections of one are of use to the other.
fn same_transport(a: &Backend, b: &Backend) -> bool {
    a.protocol == b.protocol && a.policy.tls == b.policy.tls && a.policy.proxy_protocol == b.policy.proxy_protocol
}

struct Untried<'a> {
    endpoints: &'a [Arc<EndpointState>],
    tried: &'a [u64],
}

impl Candidates for Untried<'_> {
    fn is_open(&self, index: usize) -> bool {
        !self.tried.contains(&self.endpoints[index].id)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.endpoints[index].in_flight()
    }

    fn latency(&self, _: usize) -> f32 {
        0.0
    }

    fn ramp(&self, _: usize) -> f32 {
        1.0
    }
}

/// One request admitted to a backend; it ends when dropped.
#[derive(Debug)]
pub struct Permit(Arc<BackendState>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, num::NonZeroU32};

    use super::*;
    use crate::model::{Address, BackendId, Endpoint, Limits, Policy, Protocol};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn selection(client: IpAddr, tried: &[u64]) -> Selection<'_> {
        Selection { thread: 0, now: 0, client, key: None, session: None, tried }
    }

    fn backend(ports: &[u16], limit: Option<u32>, client_ip_affinity: bool) -> Arc<Backend> {
        let limits = Limits { max_concurrent_requests: limit.and_then(NonZeroU32::new), ..Limits::default() };
        let address = |port: &u16| Address::Socket((Ipv4Addr::LOCALHOST, *port).into());
        Arc::new(Backend {
            id: BackendId::new("shop", "cart", 80),
            protocol: Protocol::Http1,
            endpoints: ports.iter().map(|port| Endpoint::new(address(port))).collect(),
            client_ip_affinity,
            policy: Arc::new(Policy { limits, ..Policy::default() }),
        })
    }

    #[test]
    fn leases_and_permits_count_until_dropped() {
        let pool = Pool::build(backend(&[1], Some(2), false), None);
        let (one, two) = (pool.admit(0), pool.admit(0));
        assert!(one.is_some() && two.is_some() && pool.admit(0).is_none());
        assert_eq!(pool.in_flight(), 2, "a refused request does not count");
        drop(one);
        assert!(pool.admit(0).is_some());
        let lease = pool.pick(&selection(CLIENT, &[])).unwrap();
        assert_eq!(lease.endpoint().in_flight(), 1);
        drop(lease);
        assert_eq!(pool.endpoints()[0].in_flight(), 0);
    }

    #[test]
    fn a_new_pool_keeps_the_state_of_the_same_addresses() {
        let old = Pool::build(backend(&[1, 2], None, false), None);
        let lease = old.pick(&selection(CLIENT, &[old.endpoints()[0].id])).unwrap();
        let permit = old.admit(0);
        let new = Pool::build(backend(&[2, 3], None, false), Some(&old));
        assert_eq!(new.endpoints()[0].id, lease.endpoint().id);
        assert_eq!((new.endpoints()[0].in_flight(), new.endpoints()[1].in_flight(), new.in_flight()), (1, 0, 1));
        drop((lease, permit));
        assert_eq!((new.endpoints()[0].in_flight(), new.in_flight()), (0, 0));
    }

    #[test]
    fn tried_endpoints_are_avoided_while_there_is_another() {
        let pool = Pool::build(backend(&[1, 2], None, false), None);
        let first = pool.endpoints()[0].id;
        for _ in 0..10 {
            assert_ne!(pool.pick(&selection(CLIENT, &[first])).unwrap().endpoint().id, first);
        }
        let all: Vec<u64> = pool.endpoints().iter().map(|e| e.id).collect();
        assert!(pool.pick(&selection(CLIENT, &all)).is_ok());
        let none = Pool::build(backend(&[], None, false), None);
        assert_eq!(none.pick(&selection(CLIENT, &[])).unwrap_err(), Unpickable::NoEndpoint);
    }

    #[test]
    fn client_ip_affinity_keeps_a_client_on_one_endpoint() {
        let pool = Pool::build(backend(&[1, 2, 3], None, true), None);
        let picked: Vec<u64> = (0..20).map(|_| pool.pick(&selection(CLIENT, &[])).unwrap().endpoint().id).collect();
        assert!(picked.iter().all(|id| *id == picked[0]), "{picked:?}");
        let clients = (0..50).map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)));
        let used: std::collections::BTreeSet<u64> =
            clients.map(|client| pool.pick(&selection(client, &[])).unwrap().endpoint().id).collect();
        assert_eq!(used.len(), 3);
    }
}
