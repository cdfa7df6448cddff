//! Start, readiness, shutdown.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::reload::Load;
use crate::support::{
    backend::Backend,
    client::{self, Answer, Raw, h2_request, status_of},
    eventually,
    manifests::{ingress, service},
    pierhead::{Pierhead, Setup},
    soon,
};

fn setup(one: &Backend) -> Setup {
    let manifests = ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[one.address]);
    Setup::default().manifests(manifests)
}

async fn unready(pierhead: &Pierhead) {
    eventually("readiness to turn false", async || (pierhead.ready().await == 503).then_some(())).await;
}

#[tokio::test]
async fn sigterm_turns_readiness_false_while_traffic_goes_on() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).flag("--drain-delay=600s").start().await;
    assert_eq!(client::get(pierhead.admin, "admin", "/livez").await.status, 200);
    pierhead.signal("TERM").await;
    unready(&pierhead).await;
    assert_eq!(client::get(pierhead.admin, "admin", "/livez").await.status, 200);
    assert_eq!(client::get(pierhead.http, "a.example", "/").await.status, 200, "new connections are accepted");
    // A second signal ends the process at once.
    pierhead.signal("TERM").await;
    assert_eq!(pierhead.ended().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_request() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).flag("--drain-delay=1s").start().await;
    let load = Load::start(pierhead.http, 4, "/x");
    load.goes_on(50).await;
    pierhead.signal("TERM").await;
    assert_eq!(pierhead.ended().await.code(), Some(0));
    assert!(load.stop().await > 50, "requests were answered during the delay");
}

#[tokio::test]
async fn requests_in_flight_finish_before_the_end() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).start().await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET /slow HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    one.waits_for(1).await;
    pierhead.signal("TERM").await;
    eventually("the port to close", async || TcpStream::connect(pierhead.http).await.is_err().then_some(())).await;
    one.release();
    let head = client.head().await;
    assert_eq!(status_of(&head), 200);
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{head}");
    assert_eq!(pierhead.ended().await.code(), Some(0));
    pierhead.logged_path("/slow").await;
}

#[tokio::test]
async fn what_outlives_the_drain_timeout_is_cut_and_counted() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).flag("--drain-timeout=300ms").start().await;
    let mut client = Raw::connect(pierhead.http).await;
    client.write("GET /slow HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    one.waits_for(1).await;
    pierhead.signal("TERM").await;
    assert_eq!(pierhead.ended().await.code(), Some(0));
    pierhead.told("one request cut", |line| line["cut"] == 1).await;
}

#[tokio::test]
async fn an_idle_keep_alive_connection_does_not_delay_the_end() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).start().await;
    let mut idle = client::http1::<Full<Bytes>>(TcpStream::connect(pierhead.http).await.unwrap()).await;
    let request = client::request("a.example", "/").body(Full::default()).unwrap();
    Answer::read(idle.send_request(request).await.unwrap()).await.unwrap();
    pierhead.signal("TERM").await;
    assert_eq!(pierhead.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_h2_connection_finishes_its_streams() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).start().await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut sender = client::http2::<Full<Bytes>>(stream).await;
    let slow = h2_request("http", "a.example", "/slow").body(Full::default()).unwrap();
    let slow = tokio::spawn(sender.send_request(slow));
    one.waits_for(1).await;
    pierhead.signal("TERM").await;
    eventually("the port to close", async || TcpStream::connect(pierhead.http).await.is_err().then_some(())).await;
    one.release();
    let answer = Answer::read(soon("the open stream", slow).await.unwrap().unwrap()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(pierhead.ended().await.code(), Some(0));
}

#[tokio::test]
async fn goaway_names_the_largest_stream_first() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).start().await;
    let mut stream = TcpStream::connect(pierhead.http).await.unwrap();
    // Preface and an empty SETTINGS frame (RFC 9113 §3.4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let first = soon("SETTINGS", frame(&mut stream)).await.unwrap();
    assert_eq!(first.0, 4);
    pierhead.signal("TERM").await;
    let mut last_streams = Vec::new();
    while let Some((kind, payload)) = soon("frame", frame(&mut stream)).await {
        match kind {
            // The proxy asks with a PING whether everything before has arrived.
            6 => {
                let ack = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat();
                let _gone = stream.write_all(&ack).await;
            }
            7 => last_streams.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            _ => {}
        }
    }
    assert_eq!(last_streams.first(), Some(&0x7fff_ffff), "{last_streams:?}");
    assert_eq!(pierhead.ended().await.code(), Some(0));
}

/// Type and payload of the next HTTP/2 frame; None at the end of the connection.
async fn frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

#[tokio::test]
async fn sigint_ends_as_sigterm_does() {
    let one = Backend::start("one").await;
    let mut pierhead = setup(&one).start().await;
    pierhead.signal("INT").await;
    assert_eq!(pierhead.ended().await.code(), Some(0));
}

#[tokio::test]
async fn ports_can_be_bound_again_at_once_after_a_kill() {
    let one = Backend::start("one").await;
    let flags = [format!("--http={}", quiet_address(0)), format!("--https={}", quiet_address(1))];
    let mut first = flags.iter().cloned().fold(setup(&one), Setup::flag).start().await;
    assert_eq!(client::get(first.http, "a.example", "/").await.status, 200);
    first.signal("KILL").await;
    first.ended().await;
    let again = flags.into_iter().fold(setup(&one), Setup::flag).start().await;
    assert_eq!(again.http, first.http);
    assert_eq!(client::get(again.http, "a.example", "/").await.status, 200);
}

/// A free address below the ports that the kernel gives to whoever asks for any, so that nobody takes it meanwhile.
fn quiet_address(nth: u16) -> SocketAddr {
    let start = u16::try_from(std::process::id() % 5000).unwrap() * 2 + 20_000;
    let free = (start..32_000).filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    (std::net::Ipv4Addr::LOCALHOST, free.into_iter().nth(nth.into()).unwrap()).into()
}
