//! A backend for the quickstart and the end-to-end tests: `demo_backend NAME PORT` answers every request on 127.0.0.1
//! with its name and the path; `demo_backend NAME ADDRESS:PORT` does so elsewhere.
//!
//! On SIGTERM it ends as most programs do: it stops listening at once and answers what it has begun.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, port] = arguments.as_slice() else { anyhow::bail!("usage: demo_backend NAME [ADDRESS:]PORT") };
    let address = match port.parse() {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => port.parse()?,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(address).await?;
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
        };
        let name = name.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let text = format!("{name} answers {} {}\n", request.method(), request.uri().path());
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
        });
        // A client that breaks off concerns nobody here.
        tokio::spawn(connections.watch(http1::Builder::new().serve_connection(TokioIo::new(stream), service)));
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}
