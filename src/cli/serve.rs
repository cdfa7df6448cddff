//! `pierhead serve`: flags and environment to [`Settings`].

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use anyhow::bail;
use clap::builder::BoolishValueParser;
use ipnet::IpNet;

use crate::{
    model::{Certificate, Origin},
    proxy,
    settings::{Drain, Log, Settings, Sources},
    sources::{certificate, flags::BackendUrl},
    telemetry::{
        access_log::{self, Layout},
        logging, trace,
    },
};

/// More threads than any machine of today has CPUs are a slip of the keyboard.
const MAX_THREADS: usize = 1024;

/// Flags of `serve`. Each can be given as an environment variable; lists are then separated by commas.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Send every request to these, in turn: `http://host:port`, https or h2c (repeatable).
    #[arg(long, env = "PIERHEAD_BACKEND", value_name = "URL", value_delimiter = ',', help_heading = "Sources")]
    backend: Vec<BackendUrl>,
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    cluster: super::serve_cluster::ClusterArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    traffic: TrafficArgs,
    #[command(flatten)]
    timeouts: TimeoutArgs,
    #[command(flatten)]
    log: LogArgs,
    /// Name of this replica among its like, in leader election and in the choice of a subset of endpoints [default: the
    /// Pod's name, or the host name].
    #[arg(long, env = "PIERHEAD_IDENTITY", value_name = "NAME", help_heading = "Process")]
    identity: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Listeners")]
struct ListenArgs {
    /// Address for plain HTTP/1.1 and HTTP/2 with prior knowledge (repeatable).
    #[arg(long, env = "PIERHEAD_HTTP", value_name = "ADDR", value_delimiter = ',', default_value = "0.0.0.0:8080")]
    http: Vec<SocketAddr>,
    /// Address for TLS (repeatable).
    #[arg(long, env = "PIERHEAD_HTTPS", value_name = "ADDR", value_delimiter = ',', default_value = "0.0.0.0:8443")]
    https: Vec<SocketAddr>,
    /// PEM file with the certificate chain of hosts without one of their own, read at start; it goes before
    /// --default-certificate [default: self-signed].
    #[arg(long, env = "PIERHEAD_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of --tls-certificate.
    #[arg(long, env = "PIERHEAD_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Address for health, metrics and debugging; keep it off public networks.
    #[arg(long, env = "PIERHEAD_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// DNS name by which browsers reach the admin port, through a proxy for example (repeatable); others are refused, but
    /// addresses, localhost and names of Services never are.
    #[arg(long, env = "PIERHEAD_ADMIN_HOST", value_name = "NAME", value_delimiter = ',')]
    admin_host: Vec<String>,
    /// Address with /livez, /readyz and /metrics alone, for the kubelet and Prometheus to reach [default: none].
    #[arg(long, env = "PIERHEAD_MONITORING", value_name = "ADDR")]
    monitoring: Option<SocketAddr>,
    /// Threads that serve traffic [default: one per CPU].
    #[arg(long, env = "PIERHEAD_THREADS", value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Traffic")]
struct TrafficArgs {
    /// Peers whose X-Forwarded-* fields are believed (repeatable).
    #[arg(long, env = "PIERHEAD_TRUSTED_CIDR", value_name = "CIDR", value_delimiter = ',')]
    trusted_cidr: Vec<IpNet>,
    /// Requests in flight over the whole process; more are answered 503 [default: no limit].
    #[arg(long, env = "PIERHEAD_MAX_CONCURRENT_REQUESTS", value_name = "N")]
    max_concurrent_requests: Option<NonZeroUsize>,
    /// Largest request body; more is answered 413 [default: no limit].
    #[arg(long, env = "PIERHEAD_MAX_BODY_SIZE", value_name = "BYTES")]
    max_body_size: Option<u64>,
    /// Redirect plain HTTP on hosts with TLS.
    #[arg(long, env = "PIERHEAD_SSL_REDIRECT", value_name = "BOOL", default_value = "true",
        action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    ssl_redirect: bool,
    /// Port that redirects to HTTPS name [default: 443, left out].
    #[arg(long, env = "PIERHEAD_HTTPS_REDIRECT_PORT", value_name = "PORT")]
    https_redirect_port: Option<NonZeroU16>,
    /// Send Strict-Transport-Security with this max-age on responses over TLS, such as 365d.
    #[arg(long, env = "PIERHEAD_HSTS_MAX_AGE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    hsts_max_age: Option<Duration>,
    /// Send "Server: pierhead" when the backend names none.
    #[arg(long, env = "PIERHEAD_SERVER_HEADER", value_name = "BOOL", default_value = "true",
        action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    server_header: bool,
    /// Add Via to requests and responses.
    #[arg(long, env = "PIERHEAD_VIA", value_parser = BoolishValueParser::new())]
    via: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits of time")]
struct TimeoutArgs {
    /// First byte to end of a request head.
    #[arg(long, env = "PIERHEAD_REQUEST_HEAD_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = positive)]
    request_head_timeout: Duration,
    /// TLS handshake.
    #[arg(long, env = "PIERHEAD_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = positive)]
    handshake_timeout: Duration,
    /// Client connection without a request.
    #[arg(long, env = "PIERHEAD_KEEP_ALIVE_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = positive)]
    keep_alive_timeout: Duration,
    /// Between reads or writes of a body.
    #[arg(long, env = "PIERHEAD_IDLE_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = positive)]
    idle_timeout: Duration,
    /// Request sent to head of the response.
    #[arg(long, env = "PIERHEAD_RESPONSE_HEAD_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = positive)]
    response_head_timeout: Duration,
    /// Connection to an endpoint without a request.
    #[arg(long, env = "PIERHEAD_UPSTREAM_KEEP_ALIVE_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = positive)]
    upstream_keep_alive_timeout: Duration,
    /// Upgraded connection, such as a WebSocket, on which nothing moves.
    #[arg(long, env = "PIERHEAD_TUNNEL_TIMEOUT", value_name = "DURATION", default_value = "1h", value_parser = positive)]
    tunnel_timeout: Duration,
    /// How long to keep accepting after SIGTERM, while load balancers learn that we are not ready.
    #[arg(long, env = "PIERHEAD_DRAIN_DELAY", value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    drain_delay: Duration,
    /// How long requests in flight may take after that.
    #[arg(long, env = "PIERHEAD_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "240s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
struct LogArgs {
    /// How log lines on standard error are written: text or json.
    #[arg(long, env = "PIERHEAD_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    log_format: logging::Format,
    /// off, error, warn, info, debug, trace, or a list such as info,pierhead=debug; PUT to /debug/log-level on the admin
    /// port changes it.
    #[arg(long, env = "PIERHEAD_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// How requests are logged on standard output: off, text or json [default: as --log-format].
    #[arg(long, env = "PIERHEAD_ACCESS_LOG", value_name = "FORMAT")]
    access_log: Option<access_log::Format>,
    /// Log requests as this template says: `%client% "%method% %path%" %status% "%request_header(x-foo)%"`; the fields are
    /// those of docs/access-log.md.
    #[arg(long, env = "PIERHEAD_ACCESS_LOG_TEMPLATE", value_name = "TEXT", value_parser = Layout::template)]
    access_log_template: Option<Layout>,
    /// Log requests as JSON with these fields only, `time,status,agent=user_agent,request_header(x-foo)` for example.
    #[arg(long, env = "PIERHEAD_ACCESS_LOG_FIELDS", value_name = "FIELDS", value_parser = Layout::fields)]
    access_log_fields: Option<Layout>,
    /// Share of requests that are logged, 0 to 1; those that end in a 5xx or a cut response always are.
    #[arg(long, env = "PIERHEAD_ACCESS_LOG_SAMPLE", value_name = "RATE", default_value = "1", value_parser = share)]
    access_log_sample: f64,
    #[cfg(feature = "otel")]
    #[command(flatten)]
    trace: TraceArgs,
}

#[cfg(feature = "otel")]
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Traces")]
struct TraceArgs {
    /// Collector that takes spans by OTLP over gRPC, such as `http://collector:4317` [default:
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`; none].
    #[arg(long, env = "PIERHEAD_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Share of requests that are traced, 0 to 1; those from `--trusted-cidr` with a `traceparent` follow its sampled flag.
    #[arg(long, env = "PIERHEAD_TRACE_SAMPLE", value_name = "RATE", default_value = "1", value_parser = share)]
    trace_sample: f64,
}

impl Args {
    /// The settings, or what the user has to change.
    pub(super) fn settings(self) -> anyhow::Result<Settings> {
        let sources = self.sources()?;
        Ok(Settings {
            identity: self.identity(),
            sources,
            admin: self.listen.admin,
            admin_names: self.listen.admin_host.clone(),
            monitoring: self.listen.monitoring,
            drain: Drain { delay: self.timeouts.drain_delay, timeout: self.timeouts.drain_timeout },
            log: self.log.log(),
            access_log: self.log.access_log()?,
            trace: self.log.trace(),
            proxy: proxy_settings(self.listen, self.traffic, &self.timeouts),
        })
    }

    fn identity(&self) -> String {
        self.identity.clone().unwrap_or_else(host_name)
    }

    #[cfg(feature = "kubernetes")]
    fn sources(&self) -> anyhow::Result<Sources> {
        let redirect_port = self.traffic.https_redirect_port.map(NonZeroU16::get);
        let compile = self.cluster.compile(self.traffic.ssl_redirect, redirect_port);
        let manifests = self.cluster.manifests.clone();
        for path in &manifests {
            std::fs::metadata(path).with_context(|| format!("--manifests {}", path.display()))?;
        }
        let nothing_given = manifests.is_empty() && self.backend.is_empty();
        let in_cluster = || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty());
        let kubernetes = self.cluster.kubernetes || nothing_given && in_cluster();
        if nothing_given && !kubernetes {
            bail!("nothing to serve: give --manifests PATH, --backend URL or --kubernetes");
        }
        let cluster = kubernetes.then(|| self.cluster.cluster(compile.clone(), self.identity()));
        Ok(Sources {
            backends: self.backend.clone(),
            certificate: self.listen.certificate()?,
            manifests,
            compile,
            cluster,
        })
    }

    #[cfg(not(feature = "kubernetes"))]
    fn sources(&self) -> anyhow::Result<Sources> {
        if self.backend.is_empty() {
            bail!("nothing to serve: give --backend URL");
        }
        Ok(Sources { backends: self.backend.clone(), certificate: self.listen.certificate()? })
    }
}

impl ListenArgs {
    fn certificate(&self) -> anyhow::Result<Option<Arc<Certificate>>> {
        let (Some(chain), Some(key)) = (&self.tls_certificate, &self.tls_key) else { return Ok(None) };
        let (chain_name, key_name) =
            (format!("--tls-certificate {}", chain.display()), format!("--tls-key {}", key.display()));
        let chain = std::fs::read(chain).with_context(|| format!("cannot read {chain_name}"))?;
        let key = std::fs::read(key).with_context(|| format!("cannot read {key_name}"))?;
        let origin = Origin::new("Flag", "", "--tls-certificate");
        let read = certificate::read(origin, (&chain_name, &chain), (&key_name, &key));
        Ok(Some(Arc::new(read.map_err(anyhow::Error::msg)?)))
    }
}

impl LogArgs {
    fn log(&self) -> Log {
        Log { format: self.log_format, level: self.log_level.clone() }
    }

    #[cfg(feature = "otel")]
    fn trace(&self) -> trace::Settings {
        let standard =
            || variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let endpoint = self.trace.otlp_endpoint.clone().or_else(standard);
        trace::Settings { endpoint, sample: self.trace.trace_sample }
    }

    #[cfg(not(feature = "otel"))]
    fn trace(&self) -> trace::Settings {
        trace::Settings::default()
    }

    fn access_log(&self) -> anyhow::Result<access_log::Settings> {
        use access_log::Format;

        let follows = match self.log_format {
            logging::Format::Text => Format::Text,
            logging::Format::Json => Format::Json,
        };
        let layout = match (self.access_log, &self.access_log_template, &self.access_log_fields) {
            (Some(Format::Off), _, _) => None,
            (_, Some(_), Some(_)) => bail!("give --access-log-template or --access-log-fields, not both"),
            (Some(Format::Json), Some(_), _) => bail!("--access-log-template writes text: leave out --access-log json"),
            (Some(Format::Text), _, Some(_)) => bail!("--access-log-fields writes JSON: leave out --access-log text"),
            (_, Some(layout), _) | (_, _, Some(layout)) => Some(layout.clone()),
            (format, None, None) => match format.unwrap_or(follows) {
                Format::Text => Some(Layout::text()),
                Format::Json | Format::Off => Some(Layout::json()),
            },
        };
        Ok(access_log::Settings { layout, sample: self.access_log_sample })
    }
}

fn proxy_settings(listen: ListenArgs, traffic: TrafficArgs, timeouts: &TimeoutArgs) -> proxy::Settings {
    proxy::Settings {
        http: listen.http,
        https: listen.https,
        reserved_ports: Vec::new(),
        threads: listen.threads.unwrap_or_else(|| proxy::Settings::default().threads),
        trusted_cidrs: traffic.trusted_cidr,
        max_concurrent_requests: traffic.max_concurrent_requests,
        max_body_bytes: traffic.max_body_size,
        hsts: traffic.hsts_max_age,
        server_header: traffic.server_header,
        via: traffic.via,
        timeouts: proxy::Timeouts {
            request_head: timeouts.request_head_timeout,
            handshake: timeouts.handshake_timeout,
            keep_alive: timeouts.keep_alive_timeout,
            idle: timeouts.idle_timeout,
            response_head: timeouts.response_head_timeout,
            upstream_keep_alive: timeouts.upstream_keep_alive_timeout,
            tunnel: timeouts.tunnel_timeout,
        },
    }
}

fn host_name() -> String {
    variable("POD_NAME")
        .or_else(|| line_of("/proc/sys/kernel/hostname"))
        .unwrap_or_else(|| format!("pierhead-{}", std::process::id()))
}

/// A variable that the Pod's manifest sets from its own fields.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(super) fn line_of(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|line| !line.is_empty())
}

/// Reads a number of threads.
fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MAX_THREADS);
    number.ok_or_else(|| format!("expected a number between 1 and {MAX_THREADS}"))
}

/// Reads a number from 0 to 1.
fn share(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or("expected a number from 0 to 1")
}

/// Reads a duration that is not zero.
fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}: expected a duration such as 5s, 250ms or 1m")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn settings(flags: &[&str]) -> anyhow::Result<Settings> {
        let flags = ["serve"].iter().chain(flags);
        Command::try_parse_from(flags)?.args.settings()
    }

    #[test]
    fn defaults_are_those_of_the_layers() {
        let settings = settings(&["--backend", "http://127.0.0.1:1"]).unwrap();
        assert_eq!(format!("{:?}", settings.proxy), format!("{:?}", proxy::Settings::default()));
        assert_eq!(settings.drain.delay, Duration::from_secs(5));
        assert_eq!(settings.drain.timeout, Duration::from_mins(4));
        assert!(settings.admin.ip().is_loopback());
    }

    #[test]
    fn flags_reach_their_layer() {
        let all = settings(&[
            "--backend=http://127.0.0.1:1",
            "--http=127.0.0.1:0",
            "--http=[::1]:0",
            "--trusted-cidr=10.0.0.0/8",
            "--max-body-size=10",
            "--request-head-timeout=250ms",
            "--hsts-max-age=365d",
            "--server-header=false",
            "--log-format=text",
        ])
        .unwrap();
        assert_eq!(all.proxy.http.len(), 2);
        assert_eq!(all.proxy.trusted_cidrs.len(), 1);
        assert_eq!(all.proxy.max_body_bytes, Some(10));
        assert_eq!(all.proxy.timeouts.request_head, Duration::from_millis(250));
        assert_eq!(all.proxy.hsts, Some(Duration::from_hours(365 * 24)));
        assert!(!all.proxy.server_header);
        assert_eq!(all.access_log.layout, Some(Layout::text()), "the access log follows the log");
    }

    #[test]
    fn what_cannot_be_served_is_told() {
        for (flags, expected) in [
            (vec!["--backend=http://127.0.0.1:1", "--idle-timeout=0s"], "more than zero"),
            (vec!["--backend=http://127.0.0.1:1", "--idle-timeout=soon"], "such as 5s"),
            (vec!["--backend=http://127.0.0.1:1", "--threads=0"], "--threads"),
            (vec!["--access-log-template=%stats%"], "one of time, request_id"),
            (vec!["--access-log-fields=stats"], "one of time, request_id"),
            (vec!["--access-log-sample=2"], "from 0 to 1"),
            (
                vec!["--backend=http://127.0.0.1:1", "--access-log=json", "--access-log-template=%status%"],
                "writes text",
            ),
            (
                vec!["--backend=http://127.0.0.1:1", "--access-log-fields=time", "--access-log-template=%time%"],
                "not both",
            ),
        ] {
            let error = format!("{:#}", settings(&flags).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn cluster_flags_reach_their_layer() {
        let all = settings(&["--kubernetes", "--publish-service=edge/pierhead", "--watch-namespace=a,b"]).unwrap();
        let cluster = all.sources.cluster.unwrap();
        assert_eq!(cluster.namespaces, ["a", "b"]);
        assert!(!cluster.compile.allow_loopback_endpoints, "a cluster never reaches loopback");
        for (flags, expected) in [
            (["--kubernetes", "--publish-service=edge"], "NAMESPACE/NAME"),
            (["--manifests=/nonexistent", "--via"], "/nonexistent"),
        ] {
            let error = format!("{:#}", settings(&flags).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
