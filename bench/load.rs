//! The two ends of a measurement: `bench_load origin PORT...` answers, `bench_load load ...` asks.
//!
//! Both are as cheap as they can be made simply, and written for this: only bodies of known length, no pipelining.

#[path = "../tests/support/unverified.rs"]
mod unverified;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use unverified::Unverified;

/// What a browser sends, roughly.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) \
                       AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\nAccept: \
                       text/html,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.7\r\nAccept-Encoding: gzip, \
                       br\r\nReferer: https://bench.local/account\r\nCookie: session=8f14e45fceea167a5a36dedd4bea2543; \
                       theme=dark\r\nCache-Control: no-cache\r\n\r\n";

/// Answers in the first part of a run are not counted in latencies.
const WARM_UP: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["origin", port] => origin(port.parse()?).await,
        ["load", port, connections, seconds, scheme] => {
            let tls = match *scheme {
                "http" => false,
                "https" => true,
                other => bail!("unknown scheme {other}"),
            };
            let address = (Ipv4Addr::LOCALHOST, port.parse()?).into();
            load(address, connections.parse()?, Duration::from_secs_f64(seconds.parse()?), tls).await
        }
        _ => bail!("usage: bench_load origin PORT | bench_load load PORT CONNECTIONS SECONDS http|https"),
    }
}

/// Answers every request head with 1 KiB.
async fn origin(port: u16) -> anyhow::Result<()> {
    let body = "x".repeat(1024);
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nCache-Control: private\r\nETag: \"5f3a\"\r\nVary: \
         Accept-Encoding\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let response: Arc<[u8]> = response.into_bytes().into();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let response = Arc::clone(&response);
        tokio::spawn(async move {
            let mut head = Vec::with_capacity(4096);
            // A client that breaks off ends its connection and nothing else.
            while let Ok(1..) = stream.read_buf(&mut head).await {
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    if stream.write_all(&response).await.is_err() {
                        break;
                    }
                }
            }
        });
    }
}

/// Asks on `connections` for `length`, each again as soon as it is answered, and prints what came of it as JSON.
async fn load(address: SocketAddr, connections: usize, length: Duration, tls: bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        if tls {
            let name = ServerName::try_from("bench.local")?;
            let stream = TlsConnector::from(client_config()?).connect(name, stream).await.context("TLS handshake")?;
            clients.spawn(ask(stream, begin, length));
        } else {
            clients.spawn(ask(stream, begin, length));
        }
    }
    let (mut total, mut errors, mut latencies) = (0_u64, 0_u64, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (answered, outcome) = client?;
        errors += u64::from(outcome.is_err());
        total += answered.total;
        latencies.extend(answered.latencies);
    }
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
    let seconds = begin.elapsed().as_secs_f64();
    let result = serde_json::json!({
        "total": total, "errors": errors, "seconds": seconds,
        "p50_us": percentile(50), "p99_us": percentile(99),
    });
    let mut out = tokio::io::stdout();
    out.write_all(format!("{result}\n").as_bytes()).await?;
    Ok(out.flush().await?)
}

#[derive(Default)]
struct Answered {
    total: u64,
    /// Microseconds.
    latencies: Vec<u32>,
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    begin: Instant,
    length: Duration,
) -> (Answered, anyhow::Result<()>) {
    let mut answered = Answered::default();
    let mut buffer = Vec::with_capacity(8192);
    let outcome = async {
        while begin.elapsed() < length {
            let asked = Instant::now();
            stream.write_all(REQUEST.as_bytes()).await?;
            stream.flush().await?;
            read_response(&mut stream, &mut buffer).await?;
            answered.total += 1;
            if begin.elapsed() > WARM_UP {
                answered.latencies.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
        }
        Ok(())
    }
    .await;
    (answered, outcome)
}

async fn read_response(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    buffer.clear();
    let mut whole = None;
    loop {
        ensure!(stream.read_buf(buffer).await? > 0, "the connection was closed");
        if whole.is_none() {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(head) = response.parse(buffer)? {
                ensure!(response.code == Some(200), "status {:?}", response.code);
                let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
                let length = length.context("no Content-Length")?.value;
                whole = Some(head + std::str::from_utf8(length)?.parse::<usize>()?);
            }
        }
        if whole.is_some_and(|whole| buffer.len() >= whole) {
            return Ok(());
        }
    }
}

fn client_config() -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}
