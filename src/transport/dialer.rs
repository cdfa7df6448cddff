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

/// How long one address of several is waited for before the next is tried.
const NEXT_ADDRESS: Duration = Duration::from_secs(1);

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
    keep_alive: Option<Duration>,
    own_ports: Arc<[u16]>,
}

impl Dialer {
    /// A dialer for endpoints that speak `protocol`. `own_ports` are those of this process, which it never connects to.
    ///
    /// A policy with verification means TLS, whatever the protocol says.
    pub fn build(policy: &Policy, protocol: Protocol, own_ports: Arc<[u16]>) -> Self {
        Self {
            security: tls::security(&policy.tls, protocol),
            proxy_protocol: policy.proxy_protocol,
            keep_alive: policy.connections.tcp_keepalive,
            own_ports,
        }
    }

    /// Opens a connection on behalf of `proxied`, up to and with the TLS handshake. Of a name with several addresses the
    /// first that takes a connection is used.
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
        for address in others {
            // It says nothing, or no: the last one has all the time that is left.
            if let Ok(Ok(stream)) = tokio::time::timeout(NEXT_ADDRESS, self.connect_to(*address)).await {
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
        tune(&stream, self.keep_alive);
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
