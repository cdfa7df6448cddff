//! Opens connections to the endpoints of one backend.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Transport,
    address::{is_of_this_host, resolve},
    proxy_protocol::{self, Proxied},
    tls::{self, Security},
    tune,
};
use crate::model::{Address, Policy, Protocol, ProxyProtocol};

/// Why a connection did not open. The endpoint has seen nothing of a request.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("the name of the endpoint cannot be resolved")]
    Unresolved(#[source] io::Error),
    /// The address is this process itself, or what no name may lead to.
    #[error("nothing is ever sent to this address")]
    Forbidden,
    /// This process is out of descriptors.
    #[error("this process is out of descriptors")]
    Exhausted(#[source] io::Error),
    /// The connection was refused or failed.
    #[error("the connection failed")]
    Connect(#[source] io::Error),
    /// The handshake failed, or the endpoint is not who it should be.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The endpoint cannot be verified, whoever it is.
    #[error("the endpoint cannot be verified: {0}")]
    Unverifiable(&'static str),
}

/// Opens connections in the way that one backend wants. Costly to build where certificates are verified: keep it.
#[derive(Debug)]
pub struct Dialer {
    security: Security,
    proxy_protocol: Option<ProxyProtocol>,
    times: DialTimes,
    own_ports: Arc<[u16]>,
}

/// The times of a policy that a dialer goes by: what else it depends on, `routing::Pool::transport_id` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DialTimes {
    keep_alive: Option<Duration>,
    /// What the addresses of a name share between them.
    connect: Duration,
}

impl DialTimes {
    /// Those of this policy.
    pub fn of(policy: &Policy) -> Self {
        Self { keep_alive: policy.connections.tcp_keepalive, connect: policy.timeouts.connect }
    }
}

impl Dialer {
    /// A dialer for endpoints that speak `protocol`. `own_ports` are those of this process, which it never connects to.
    ///
    /// A policy with verification means TLS, whatever the protocol says.
    pub fn build(policy: &Policy, protocol: Protocol, own_ports: Arc<[u16]>) -> Self {
        Self {
            security: tls::security(&policy.tls, protocol),
            proxy_protocol: policy.proxy_protocol,
            times: DialTimes::of(policy),
            own_ports,
        }
    }

    /// Opens a connection on behalf of `proxied`, up to and with the TLS handshake. Of a name with several addresses the
    /// first that takes a connection is used, in its share of the policy's connect timeout.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, address: &Address, proxied: Proxied) -> Result<Transport, DialError> {
        if let Security::Impossible(why) = self.security {
            return Err(DialError::Unverifiable(why));
        }
        let mut stream = self.connect(&resolve(address).await?).await?;
        let peer = stream.peer_addr().map_err(DialError::Connect)?;
        if let Some(version) = self.proxy_protocol {
            let header = proxy_protocol::header(version, proxied);
            stream.write_all(&header).await.map_err(DialError::Connect)?;
        }
        match &self.security {
            Security::Tls(client) => client.handshake(peer.ip(), stream).await.map_err(DialError::Tls),
            Security::Plain | Security::Impossible(_) => Ok(Transport::Plain(stream)),
        }
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        let Some((last, others)) = addresses.split_last() else { return Err(DialError::Forbidden) };
        let share = self.times.connect / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in others {
            // It says nothing, or no: the last one has all the time that is left.
            if let Ok(Ok(stream)) = tokio::time::timeout(share, self.connect_to(*address)).await {
                return Ok(stream);
            }
        }
        self.connect_to(*last).await
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, DialError> {
        if self.own_ports.contains(&address.port()) && is_of_this_host(address.ip()) {
            return Err(DialError::Forbidden); // a loop, or the admin port
        }
        let stream = TcpStream::connect(address).await.map_err(failure)?;
        tune(&stream, self.times.keep_alive);
        Ok(stream)
    }
}

/// Whose fault it is that a connection did not open.
fn failure(error: io::Error) -> DialError {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    match error.raw_os_error() {
        Some(EMFILE | ENFILE) => DialError::Exhausted(error),
        _ => DialError::Connect(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::model::EndpointTls;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn dialer(policy: &Policy) -> Dialer {
        Dialer::build(policy, Protocol::Http1, Arc::default())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_policy_says_how_silence_is_broken() {
        let (_listener, address) = listener().await;
        for silence in [None, Some(Duration::from_secs(7))] {
            let mut policy = Policy::default();
            policy.connections.tcp_keepalive = silence;
            let opened = dialer(&policy).dial(&Address::Socket(address), Proxied::Local).await.unwrap();
            let Transport::Plain(stream) = opened else { panic!("nobody asked for TLS") };
            let socket = socket2::SockRef::from(&stream);
            assert_eq!(socket.keepalive().unwrap(), silence.is_some());
            if let Some(silence) = silence {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), silence);
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn of_several_addresses_the_first_that_answers_is_used() {
        let (listener, address) = listener().await;
        let unused = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        unused.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let refusing = unused.local_addr().unwrap().as_socket().unwrap();
        let dialer = dialer(&Policy::default());
        let stream = dialer.connect(&[refusing, address, refusing]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(matches!(dialer.connect(&[refusing, refusing]).await, Err(DialError::Connect(_))));
        drop(listener);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_that_says_nothing_leaves_time_for_the_next() {
        // A listener whose queue is full: connections neither open nor fail.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let silent_address = silent.local_addr().unwrap().as_socket().unwrap();
        let mut fillers = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(Ok(filler)) = tokio::time::timeout(patience, TcpStream::connect(silent_address)).await {
            fillers.push(filler);
        }
        let (_listener, address) = listener().await;
        let mut policy = Policy::default();
        policy.timeouts.connect = Duration::from_millis(400);
        let (dialer, addresses) = (dialer(&policy), [silent_address, address]);
        let stream = tokio::time::timeout(Duration::from_secs(30), dialer.connect(&addresses)).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_cannot_be_verified_is_never_connected_to() {
        let (listener, address) = listener().await;
        let policy = Policy { tls: EndpointTls::Unavailable, ..Policy::default() };
        let failed = dialer(&policy).dial(&Address::Socket(address), Proxied::Local).await;
        assert!(matches!(failed, Err(DialError::Unverifiable(_))));
        let own = Dialer::build(&Policy::default(), Protocol::Http1, [address.port()].into());
        assert!(matches!(own.dial(&Address::Socket(address), Proxied::Local).await, Err(DialError::Forbidden)));
        let accepted = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(accepted.is_err(), "nobody came");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_probe_says_that_it_is_nobodys_proxy() {
        let (listener, address) = listener().await;
        let policy = Policy { proxy_protocol: Some(ProxyProtocol::V1), ..Policy::default() };
        let opened = dialer(&policy).dial(&Address::Socket(address), Proxied::Local).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        drop(opened);
        let mut said = String::new();
        accepted.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "PROXY UNKNOWN\r\n");
    }
}
