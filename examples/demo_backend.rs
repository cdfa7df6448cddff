//! A backend for the quickstart: `demo_backend NAME PORT` answers every request on 127.0.0.1 with its name and the path.

use std::{convert::Infallible, net::Ipv4Addr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, port] = arguments.as_slice() else { anyhow::bail!("usage: demo_backend NAME PORT") };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let text = format!("{name} answers {} {}\n", request.method(), request.uri().path());
                async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
            });
            // A client that breaks off concerns nobody here.
            let _closed = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
