//! The header of the PROXY protocol that tells an endpoint who the client is, versions 1 and 2
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! Written here: the crates for it (`ppp`, `proxy-header`) are parsers first, and writing is these lines.

use std::net::{IpAddr, SocketAddr};

use crate::model::ProxyProtocol;

/// §2.2: what version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.2: version 2, and the command.
const VERSION_2_LOCAL: u8 = 0x20;
const VERSION_2_PROXY: u8 = 0x21;
/// §2.2: address family and transport: none, TCP over IPv4, TCP over IPv6.
const UNSPEC: u8 = 0x00;
const TCP_4: u8 = 0x11;
const TCP_6: u8 = 0x21;

/// On whose behalf a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// On behalf of a client.
    For {
        /// Address and port of the client.
        source: SocketAddr,
        /// Address and port that it came to.
        destination: SocketAddr,
    },
    /// On our own behalf, as probes are.
    Local,
}

/// The header that a connection begins with.
pub(super) fn header(version: ProxyProtocol, proxied: Proxied) -> Vec<u8> {
    match (version, proxied) {
        // §2.1: receivers ignore what follows UNKNOWN and use the connection's own addresses.
        (ProxyProtocol::V1, Proxied::Local) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocol::V2, Proxied::Local) => binary(VERSION_2_LOCAL, UNSPEC, &[]),
        (ProxyProtocol::V1, Proxied::For { source, destination }) => {
            let (from, to) = same_family(source.ip(), destination.ip());
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        (ProxyProtocol::V2, Proxied::For { source, destination }) => {
            let ends = same_family(source.ip(), destination.ip());
            let (family, mut addresses) = match ends {
                (IpAddr::V4(from), IpAddr::V4(to)) => (TCP_4, [from.octets(), to.octets()].concat()),
                (from, to) => (TCP_6, [to_v6(from).octets(), to_v6(to).octets()].concat()),
            };
            addresses.extend(source.port().to_be_bytes());
            addresses.extend(destination.port().to_be_bytes());
            binary(VERSION_2_PROXY, family, &addresses)
        }
    }
}

fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).expect("at most two IPv6 addresses and ports");
    [SIGNATURE, &[command, family][..], &length.to_be_bytes(), addresses].concat()
}

/// Both ends in one family: IPv4 when both are, also where a socket of both families writes them as IPv6.
fn same_family(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    match (source.to_canonical(), destination.to_canonical()) {
        ends @ (IpAddr::V4(_), IpAddr::V4(_)) => ends,
        (source, destination) => (to_v6(source).into(), to_v6(destination).into()),
    }
}

fn to_v6(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(source: &str, destination: &str) -> Proxied {
        Proxied::For { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        let cases = [
            (proxied("192.0.2.7:5000", "198.51.100.1:443"), "PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n"),
            (proxied("[2001:db8::7]:1", "[2001:db8::1]:80"), "PROXY TCP6 2001:db8::7 2001:db8::1 1 80\r\n"),
            (proxied("[::ffff:192.0.2.7]:1", "[::ffff:192.0.2.1]:80"), "PROXY TCP4 192.0.2.7 192.0.2.1 1 80\r\n"),
            (proxied("192.0.2.7:1", "[2001:db8::1]:80"), "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 80\r\n"),
            (Proxied::Local, "PROXY UNKNOWN\r\n"),
        ];
        for (proxied, line) in cases {
            assert_eq!(String::from_utf8(header(ProxyProtocol::V1, proxied)).unwrap(), line);
        }
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = header(ProxyProtocol::V2, proxied("192.0.2.7:258", "198.51.100.1:443"));
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 1, 2, 1, 187];
        assert_eq!(v4, [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &addresses[..]].concat());
        let v6 = header(ProxyProtocol::V2, proxied("[2001:db8::7]:258", "[::1]:443"));
        assert_eq!(&v6[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24");
        assert_eq!((v6.len(), &v6[48..]), (52, &[1, 2, 1, 187][..]));
        assert_eq!(header(ProxyProtocol::V2, Proxied::Local), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0");
    }
}
