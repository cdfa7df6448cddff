//! What a policy says of connections to endpoints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::io::AsyncReadExt as _;

use crate::support::{
    backend::{Backend, answer_in_frames, scripted},
    client::{Answer, Raw, get, status_of},
    eventually,
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
};

fn manifests(endpoints: &[&Backend], spec: &str) -> String {
    let addresses: Vec<_> = endpoints.iter().map(|backend| backend.address).collect();
    let ingress = ingress("main").host("a.example").prefix("/", "one").to_string();
    ingress + &service("one", &addresses) + &backend_policy("one", spec)
}

async fn serving(threads: usize, endpoints: &[&Backend], spec: &str) -> Pierhead {
    let setup = Setup::default().manifests(manifests(endpoints, spec));
    setup.flag(format!("--threads={threads}")).start().await
}

/// Asks in the background.
fn ask(pierhead: &Pierhead, path: &'static str) -> tokio::task::JoinHandle<Answer> {
    let address = pierhead.http;
    tokio::spawn(async move { get(address, "a.example", path).await })
}

async fn connection_of(pierhead: &Pierhead) -> u64 {
    get(pierhead.http, "a.example", "/x").await.json()["connection"].as_u64().unwrap()
}

#[tokio::test]
async fn requests_over_the_limit_of_connections_wait_for_one() {
    let one = Backend::start("one").await;
    one.set_delay(Duration::from_millis(5));
    let pierhead = serving(4, &[&one], "connections: {maxPerEndpoint: 2}").await;
    let asked = (0..60).map(|_| get(pierhead.http, "a.example", "/x"));
    let answers = join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(one.most_waiting() <= 2, "{} requests at once by 2 connections", one.most_waiting());
}

#[tokio::test]
async fn a_connection_that_comes_free_serves_who_waits_on_the_same_thread() {
    let one = Backend::start("one").await;
    let pierhead = serving(1, &[&one], "connections: {maxPerEndpoint: 1}").await;
    let waiting: Vec<_> = (0..10).map(|_| ask(&pierhead, "/slow")).collect();
    one.waits_for(1).await;
    one.release();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!((one.connections(), one.most_waiting()), (1, 1));
}

#[tokio::test]
async fn no_connection_within_the_connect_timeout_is_503() {
    let one = Backend::start("one").await;
    let spec = "connections: {maxPerEndpoint: 1}\n  timeouts: {connect: 300ms}";
    let pierhead = serving(2, &[&one], spec).await;
    let first = ask(&pierhead, "/slow");
    one.waits_for(1).await;
    let second = get(pierhead.http, "a.example", "/second").await;
    assert_eq!(second.status, 503);
    assert!(!second.header("retry-after").is_empty());
    assert_eq!(pierhead.logged_path("/second").await["reason"], "connection_limit");
    one.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(one.seen().len(), 1);
    assert_eq!(get(pierhead.http, "a.example", "/third").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_at_its_limit_is_passed_over_for_another() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let spec = "connections: {maxPerEndpoint: 1}\n  timeouts: {connect: 300ms}";
    let pierhead = serving(1, &[&one, &two], spec).await;
    let slow = ask(&pierhead, "/slow");
    let busy = async || [&one, &two].into_iter().find(|backend| !backend.seen().is_empty());
    let busy = eventually("a busy endpoint", busy).await;
    for _ in 0..3 {
        let answer = get(pierhead.http, "a.example", "/x").await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.backend(), busy.name);
    }
    busy.release();
    assert_eq!(slow.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_tunnel_holds_its_connection_until_it_ends() {
    let one = Backend::start("one").await;
    let spec = "connections: {maxPerEndpoint: 1}\n  timeouts: {connect: 300ms}";
    let pierhead = serving(2, &[&one], spec).await;
    let mut tunnel = Raw::connect(pierhead.http).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: \
                   dGhlIHNhbXBsZSBub25jZQ==";
    tunnel.write(format!("GET /chat HTTP/1.1\r\nhost: a.example\r\n{upgrade}\r\n\r\n")).await;
    assert_eq!(status_of(&tunnel.head().await), 101);
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 503);
    drop(tunnel);
    let free = async || (get(pierhead.http, "a.example", "/x").await.status == 200).then_some(());
    eventually("the connection of the tunnel is free", free).await;
}

#[tokio::test]
async fn http2_connections_count_against_the_limit() {
    let one = Backend::h2c("one").await;
    let pierhead = serving(1, &[&one], "protocol: H2C\n  connections: {maxPerEndpoint: 1}").await;
    let asked: Vec<_> = (0..150).map(|_| ask(&pierhead, "/slow")).collect();
    one.waits_for(100).await;
    one.release();
    for answer in asked {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(one.connections(), 1, "the rest waited for streams of the one");
}

#[tokio::test]
async fn threads_take_turns_at_the_only_http2_connection() {
    let one = Backend::h2c("one").await;
    let pierhead = serving(4, &[&one], "protocol: H2C\n  connections: {maxPerEndpoint: 1}").await;
    let answers = join_all((0..40).map(|_| get(pierhead.http, "a.example", "/x"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
}

#[tokio::test]
async fn idle_connections_are_kept_up_to_the_limit_of_all_threads() {
    let one = Backend::start("one").await;
    let pierhead = serving(4, &[&one], "connections: {maxIdlePerEndpoint: 2}").await;
    let asked: Vec<_> = (0..20).map(|_| ask(&pierhead, "/slow")).collect();
    one.waits_for(20).await;
    one.keeps(20).await;
    one.release();
    for answer in asked {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    one.keeps(2).await;
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_idle_timeout() {
    let one = Backend::start("one").await;
    let pierhead = serving(1, &[&one], "connections: {idleTimeout: 300ms}").await;
    assert_eq!(connection_of(&pierhead).await, 1);
    one.keeps(0).await;
    assert_eq!(connection_of(&pierhead).await, 2);
}

#[tokio::test]
async fn an_idle_timeout_of_zero_keeps_no_connection() {
    for (protocol, one) in [("HTTP1", Backend::start("one").await), ("H2C", Backend::h2c("one").await)] {
        let spec = format!("protocol: {protocol}\n  connections: {{idleTimeout: 0s}}");
        let pierhead = serving(1, &[&one], &spec).await;
        for number in 1..=3 {
            assert_eq!(connection_of(&pierhead).await, number, "{protocol}");
            one.keeps(0).await;
        }
    }
}

#[tokio::test]
async fn a_connection_retires_after_its_requests() {
    for (protocol, one) in [("HTTP1", Backend::start("one").await), ("H2C", Backend::h2c("one").await)] {
        let spec = format!("protocol: {protocol}\n  connections: {{maxRequests: 2}}");
        let pierhead = serving(1, &[&one], &spec).await;
        for number in [1, 1, 2, 2, 3] {
            assert_eq!(connection_of(&pierhead).await, number, "{protocol}");
        }
        one.keeps(1).await;
    }
}

#[tokio::test]
async fn a_connection_retires_at_its_age_though_it_is_never_idle() {
    for (protocol, one) in [("HTTP1", Backend::start("one").await), ("H2C", Backend::h2c("one").await)] {
        let spec = format!("protocol: {protocol}\n  connections: {{maxAge: 5s}}");
        let pierhead = serving(1, &[&one], &spec).await;
        assert_eq!([connection_of(&pierhead).await, connection_of(&pierhead).await], [1, 1], "{protocol}: it is young");
        let another = async || (connection_of(&pierhead).await > 1).then_some(());
        eventually("another connection", another).await;
    }
}

#[tokio::test]
async fn a_change_of_the_policy_acts_on_the_next_request_and_breaks_none() {
    let one = Backend::start("one").await;
    let pierhead = serving(1, &[&one], "connections: {maxIdlePerEndpoint: 8}").await;
    assert_eq!(connection_of(&pierhead).await, 1);
    pierhead.write(manifests(&[&one], "connections: {maxIdlePerEndpoint: 0}"));
    let another = async || (connection_of(&pierhead).await > 1).then_some(());
    eventually("connections are not kept", another).await;
    let numbers: Vec<u64> = one.seen().iter().map(|seen| seen["connection"].as_u64().unwrap()).collect();
    assert!(numbers.iter().filter(|number| **number == 1).count() >= 2, "the old one went on: {numbers:?}");
    one.keeps(0).await;
}

#[tokio::test]
async fn connections_over_a_lowered_limit_are_closed_after_use() {
    let one = Backend::h2c("one").await;
    let pierhead = serving(1, &[&one], "protocol: H2C\n  connections: {maxPerEndpoint: 3}").await;
    let asked: Vec<_> = (0..250).map(|_| ask(&pierhead, "/slow")).collect();
    one.waits_for(250).await;
    one.release();
    for answer in asked {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    one.keeps(3).await;
    pierhead.write(manifests(&[&one], "protocol: H2C\n  connections: {maxPerEndpoint: 1}"));
    let closed = async || {
        assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200);
        (one.open() == 1).then_some(())
    };
    eventually("one connection", closed).await;
}

#[tokio::test]
async fn a_refused_stream_is_told_as_such() {
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    let address = scripted(move |stream, _| {
        let refused = Arc::clone(&counted);
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                refused.fetch_add(1, Ordering::SeqCst);
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        }
    })
    .await;
    let pierhead = Pierhead::serving(h2c_without_retries(address)).await;
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 502);
    assert_eq!(pierhead.logged_path("/x").await["reason"], "stream_refused");
    assert_eq!(refused.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stream_above_the_last_of_a_goaway_was_refused_and_the_connection_serves_no_other() {
    let address = scripted(|mut stream, count| async move {
        if count == 0 {
            answer_in_frames(&mut stream, &[GOAWAY]).await;
            let _closed = stream.read_to_end(&mut Vec::new()).await;
            return;
        }
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            let _sent = respond.send_response(http::Response::new(()), true);
        }
    })
    .await;
    let pierhead = Pierhead::serving(h2c_without_retries(address)).await;
    assert_eq!(get(pierhead.http, "a.example", "/first").await.status, 502);
    assert_eq!(pierhead.logged_path("/first").await["reason"], "stream_refused");
    assert_eq!(get(pierhead.http, "a.example", "/second").await.status, 200);
}

fn h2c_without_retries(address: std::net::SocketAddr) -> String {
    let ingress = ingress("main").host("a.example").prefix("/", "one").to_string();
    ingress + &service("one", &[address]) + &backend_policy("one", "protocol: H2C\n  retries: {attempts: 0}")
}

/// A GOAWAY whose last stream comes before the first (RFC 9113 §6.8).
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Whether the kernel runs a keepalive timer on a connection to the port, and in how many ticks of a hundredth second it
/// fires (proc(5): timer 2 of `/proc/net/tcp`).
fn keepalive_timer(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (timer, when) = fields.get(5)?.split_once(':')?;
        (fields[2].ends_with(&remote) && timer == "02").then(|| u64::from_str_radix(when, 16).unwrap())
    })
}

#[tokio::test]
async fn the_kernel_asks_after_so_much_silence_whether_the_endpoint_is_there() {
    for (spec, most) in [("tcpKeepalive: 7s", Some(7)), ("maxRequests: 0", Some(30)), ("tcpKeepalive: 0s", None)] {
        let one = Backend::start("one").await;
        let pierhead = serving(1, &[&one], &format!("connections: {{{spec}}}")).await;
        assert_eq!(connection_of(&pierhead).await, 1);
        let ticks = keepalive_timer(one.address.port());
        assert_eq!(ticks.is_some(), most.is_some(), "{spec}: {ticks:?}");
        if let (Some(ticks), Some(most)) = (ticks, most) {
            assert!(ticks <= most * 100 && ticks > (most - 3) * 100, "{spec}: fires in {ticks} ticks");
        }
    }
}

#[tokio::test]
async fn an_http2_connection_with_streams_stays_with_its_thread() {
    let one = Backend::h2c("one").await;
    let spec =
        "protocol: H2C\n  connections: {maxPerEndpoint: 1}\n  timeouts: {connect: 300ms}\n  retries: {attempts: 0}";
    let pierhead = serving(2, &[&one], spec).await;
    let slow = ask(&pierhead, "/slow");
    one.waits_for(1).await;
    for _ in 0..2 {
        // Of 20 requests none comes to the thread with the connection once in a million runs.
        let answers = join_all((0..20).map(|_| get(pierhead.http, "a.example", "/x"))).await;
        let served = answers.iter().filter(|answer| answer.status == 200).count();
        assert!((1..20).contains(&served), "{served} of 20: the other thread has no connection, and may not take it");
    }
    one.release();
    assert_eq!(slow.await.unwrap().status, 200);
    assert_eq!(get(pierhead.http, "a.example", "/x").await.status, 200);
}
