//! Reads the header of the PROXY protocol as a server does, by its specification and not by our writer.

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// The header that a connection begins with, written as version 1 is, after the number of its version:
/// `2 TCP4 192.0.2.7 198.51.100.1 5000 443`. None when there is none.
pub async fn proxy_header(stream: &mut TcpStream) -> Option<String> {
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.ok()?;
    if start == *b"\r\n\r\n\0\r\nQUIT\n" { version_2(stream).await } else { version_1(start, stream).await }
}

async fn version_1(start: [u8; 12], stream: &mut TcpStream) -> Option<String> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.ok()?);
        assert!(line.len() <= 107, "a header of version 1 has at most 107 bytes");
    }
    let line = String::from_utf8(line).unwrap();
    Some(format!("1 {}", line.strip_prefix("PROXY ")?.trim_end()))
}

async fn version_2(stream: &mut TcpStream) -> Option<String> {
    let (command, family) = (stream.read_u8().await.ok()?, stream.read_u8().await.ok()?);
    let mut rest = vec![0; stream.read_u16().await.ok()?.into()];
    stream.read_exact(&mut rest).await.ok()?;
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let v4 = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&rest[at..at + 4]).unwrap());
    let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&rest[at..at + 16]).unwrap());
    match (command, family) {
        (0x20, 0x00) => Some("2 UNKNOWN".to_owned()),
        (0x21, 0x11) => Some(format!("2 TCP4 {} {} {} {}", v4(0), v4(4), port(8), port(10))),
        (0x21, 0x21) => Some(format!("2 TCP6 {} {} {} {}", v6(0), v6(16), port(32), port(34))),
        other => panic!("not a header of version 2: {other:02x?}"),
    }
}
