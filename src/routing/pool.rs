//! The endpoints of a backend with what is known of them: shared by all threads, carried from snapshot to snapshot.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{
    balance::{self, Candidates, RetryBudget},
    model::{Address, Backend},
};

/// Live endpoints of one backend.
#[derive(Debug)]
pub struct Pool {
    /// What is wanted.
    pub backend: Arc<Backend>,
    endpoints: Vec<Arc<EndpointState>>,
    state: Arc<BackendState>,
}

/// What is known of one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    /// Unique in this process: an address that goes and comes back is another endpoint.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    in_flight: AtomicU32,
}

/// What is known of one backend over all its endpoints.
#[derive(Debug, Default)]
struct BackendState {
    in_flight: AtomicU32,
    turn: AtomicUsize,
    retries: RetryBudget,
}

impl EndpointState {
    fn new(address: Address) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), address, in_flight: AtomicU32::new(0) }
    }

    /// Requests in flight to it now, over all threads.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl Pool {
    /// A pool for the backend that keeps what `previous` knows of the same addresses.
    pub fn build(backend: Arc<Backend>, previous: Option<&Pool>) -> Self {
        let endpoints = backend
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
        Self { backend, endpoints, state: previous.map(|pool| Arc::clone(&pool.state)).unwrap_or_default() }
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
    /// `second` is a monotonic clock in whole seconds, for the retry budget.
    pub fn admit(&self, second: u64) -> Option<Permit> {
        let permit = Permit(Arc::clone(&self.state)); // counted before the check, so its drop takes it back
        let before = self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.backend.policy.max_concurrent_requests {
            Some(limit) if before >= limit.get() => None,
            _ => {
                self.state.retries.request(second);
                Some(permit)
            }
        }
    }

    /// Takes a retry out of the backend's budget; false when it is spent.
    pub fn may_retry(&self, second: u64) -> bool {
        self.state.retries.retry(second)
    }

    /// Picks an endpoint for a request of `client`, none of those in `tried` while there is another.
    ///
    /// None when there is no endpoint at all. The request counts as in flight until the lease is dropped.
    pub fn pick(&self, client: IpAddr, tried: &[u64]) -> Option<Lease> {
        let index = self.choose(client, tried).or_else(|| self.choose(client, &[]))?;
        let endpoint = Arc::clone(&self.endpoints[index]);
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Lease(endpoint))
    }

    fn choose(&self, client: IpAddr, tried: &[u64]) -> Option<usize> {
        let candidates = Untried { endpoints: &self.endpoints, tried };
        if self.backend.client_ip_affinity {
            let key = client.to_canonical().to_string();
            return balance::rendezvous(&candidates, key.as_bytes(), |i| self.endpoints[i].address.to_string());
        }
        self.backend.policy.strategy.choose(&candidates, &self.state.turn)
    }
}

struct Untried<'a> {
    endpoints: &'a [Arc<EndpointState>],
    tried: &'a [u64],
}

impl Candidates for Untried<'_> {
    fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn is_open(&self, index: usize) -> bool {
        !self.tried.contains(&self.endpoints[index].id)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.endpoints[index].in_flight()
    }
}

/// One request in flight to an endpoint; it ends when dropped.
#[derive(Debug)]
pub struct Lease(Arc<EndpointState>);

impl Lease {
    /// The endpoint that was picked.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
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
    use crate::model::{BackendId, Endpoint, Policy, Protocol};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn backend(ports: &[u16], limit: Option<u32>, client_ip_affinity: bool) -> Arc<Backend> {
        let address = |port: &u16| Address::Socket((Ipv4Addr::LOCALHOST, *port).into());
        Arc::new(Backend {
            id: BackendId::new("shop", "cart", 80),
            protocol: Protocol::Http1,
            endpoints: ports.iter().map(|port| Endpoint { address: address(port) }).collect(),
            client_ip_affinity,
            policy: Arc::new(Policy { max_concurrent_requests: limit.and_then(NonZeroU32::new), ..Policy::default() }),
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
        let lease = pool.pick(CLIENT, &[]).unwrap();
        assert_eq!(lease.endpoint().in_flight(), 1);
        drop(lease);
        assert_eq!(pool.endpoints()[0].in_flight(), 0);
    }

    #[test]
    fn a_new_pool_keeps_the_state_of_the_same_addresses() {
        let old = Pool::build(backend(&[1, 2], None, false), None);
        let lease = old.pick(CLIENT, &[old.endpoints()[0].id]).unwrap();
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
            assert_ne!(pool.pick(CLIENT, &[first]).unwrap().endpoint().id, first);
        }
        let all: Vec<u64> = pool.endpoints().iter().map(|e| e.id).collect();
        assert!(pool.pick(CLIENT, &all).is_some());
        assert!(Pool::build(backend(&[], None, false), None).pick(CLIENT, &[]).is_none());
    }

    #[test]
    fn client_ip_affinity_keeps_a_client_on_one_endpoint() {
        let pool = Pool::build(backend(&[1, 2, 3], None, true), None);
        let picked: Vec<u64> = (0..20).map(|_| pool.pick(CLIENT, &[]).unwrap().endpoint().id).collect();
        assert!(picked.iter().all(|id| *id == picked[0]), "{picked:?}");
        let clients = (0..50).map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)));
        let used: std::collections::BTreeSet<u64> =
            clients.map(|client| pool.pick(client, &[]).unwrap().endpoint().id).collect();
        assert_eq!(used.len(), 3);
    }
}
