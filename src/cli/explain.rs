//! `pierhead explain [METHOD] URL`: says why a request gets the answer it gets.
//!
//! It asks a running process, or compiles files or a cluster as `serve` would. It changes nothing anywhere.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use http::{StatusCode, header};
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    admin::{ANSWERED_BY, escaped},
    explain::{By, Request},
};

/// Time allowed for the running process to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the admin port is unless told otherwise.
const ADMIN: &str = "http://127.0.0.1:9090";

/// Arguments of `pierhead explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Method of the request, GET when it is left out, and its URL.
    #[arg(required = true, num_args = 1..=2, value_names = ["METHOD", "URL"])]
    request: Vec<String>,
    /// Header field of the request (repeatable).
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Address of the client.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client_ip: IpAddr,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
    /// Ask the running process whose admin port this is [default: <http://127.0.0.1:9090>, unless another source is given].
    #[arg(long, value_name = "URL", help_heading = "Sources")]
    admin: Option<String>,
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    objects: super::explain_objects::Sources,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Explains the request.
///
/// The exit code is 0 when a backend would answer or we would redirect, 1 when we would answer an error, 2 when the
/// question makes no sense or its source cannot be asked.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (method, url) = match &*args.request {
        [method, url] => (method.as_str(), url.as_str()),
        [url] => ("GET", url.as_str()),
        _ => bail!("expected a method and a URL"),
    };
    let request = Request::parse(method, url, &args.headers, args.client_ip)?;
    let (text, by) = args.ask(&request, method, url)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if by == By::Error { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

impl Args {
    fn ask(&self, request: &Request, method: &str, url: &str) -> anyhow::Result<(String, By)> {
        #[cfg(feature = "kubernetes")]
        if self.admin.is_none()
            && let Some(explanation) = self.objects.explain(request)?
        {
            let text = match self.output {
                Output::Text => explanation.to_string(),
                Output::Json => serde_json::to_string_pretty(&explanation)? + "\n",
            };
            return Ok((text, explanation.answer.by));
        }
        #[cfg(not(feature = "kubernetes"))]
        let _ = request;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.ask_process(method, url))
    }

    /// Asks the process that serves.
    async fn ask_process(&self, method: &str, url: &str) -> anyhow::Result<(String, By)> {
        let admin = self.admin.as_deref().unwrap_or(ADMIN);
        let authority = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
        if authority.contains('/') {
            bail!("--admin {admin}: expected a URL such as {ADMIN}");
        }
        let output = if self.output == Output::Json { "json" } else { "text" };
        let client = self.client_ip.to_string();
        let mut query = vec![("method", method), ("url", url), ("client", &client), ("output", output)];
        query.extend(self.headers.iter().map(|header| ("header", header.as_str())));
        let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let target = format!("/debug/explain?{}", query.join("&"));
        let response = timeout(PATIENCE, get(authority, &target))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer in {PATIENCE:?}")));
        let (status, by, body) = response.with_context(|| {
            format!(
                "the admin port {admin} cannot be asked (for one in a cluster: kubectl -n NAMESPACE port-forward \
                 deployment/pierhead 9090, or give --manifests or --kubernetes)"
            )
        })?;
        let by = match by.as_deref() {
            Some("backend") => By::Backend,
            Some("pierhead") => By::Pierhead,
            Some("error") => By::Error,
            _ => bail!("{admin} answered {status} and no explanation: {}", body.trim()),
        };
        Ok((body, by))
    }
}

/// Status, who would answer, and body.
async fn get(authority: &str, target: &str) -> anyhow::Result<(StatusCode, Option<String>, String)> {
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get(target).header(header::HOST, authority).body(String::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let by = response.headers().get(ANSWERED_BY).and_then(|by| by.to_str().ok()).map(ToOwned::to_owned);
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok((status, by, String::from_utf8_lossy(&bytes).into_owned()))
}
