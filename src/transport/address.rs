//! From the address of an endpoint to those that can be connected to.

use std::net::{IpAddr, SocketAddr};

use super::DialError;
use crate::model::{Address, Scope};

/// The addresses to connect to, in order. Names are resolved each time and never lead to ourselves (CVE-2021-25740).
///
/// # Errors
/// [`DialError::Unresolved`] when a name has no address, [`DialError::Forbidden`] when it has none but such.
pub async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, DialError> {
    match address {
        Address::Socket(address) => Ok(vec![*address]),
        Address::Name { host, port } => {
            let found = tokio::net::lookup_host((&**host, *port)).await.map_err(DialError::Unresolved)?;
            let found: Vec<_> = found.filter(|address| Scope::of(address.ip()) == Scope::Ordinary).collect();
            if found.is_empty() { Err(DialError::Forbidden) } else { Ok(found) }
        }
    }
}

/// Whether an address is one of this host's: nobody else's can be bound.
pub(super) fn is_of_this_host(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}
