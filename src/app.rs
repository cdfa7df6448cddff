//! Wires the tasks of `serve`; owns the order of start and shutdown.
//!
//! Start: log, ports (so that a clash is told at once), sources, first configuration, data plane, ready. Shutdown: not
//! ready, accept for a while, drain, end. Tasks live in one set; the first that ends too early ends the process.

mod publish;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admin::{self, Port},
    health,
    model::Backend,
    proxy::{Proxy, Running},
    routing::Live,
    settings::{Drain, Settings, Sources},
    sources,
    telemetry::{access_log::AccessLog, logging, metrics::Metrics, trace::Tracer},
};

/// Threads of the control half. Traffic has threads of its own.
const CONTROL_THREADS: usize = 2;

/// How long the tasks of the control half may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the last lines of the access log may take when the process ends.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long the last spans may take when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Serves until a signal ends it.
///
/// # Errors
/// When something that the user can mend keeps it from starting: a port in use, a source that cannot be read.
pub fn run(mut settings: Settings) -> anyhow::Result<ExitCode> {
    let log_level = logging::init(settings.log.format, &settings.log.level)?;
    let metrics = Arc::new(Metrics::new(settings.proxy.threads.get()));
    let own = [(Port::Admin, Some(settings.admin)), (Port::Monitoring, settings.monitoring)];
    let own = own.into_iter().filter_map(|(port, address)| Some(OwnPort::bind(port, address?)));
    let own = own.collect::<Result<Vec<_>, _>>()?;
    settings.proxy.reserved_ports.extend(own.iter().map(|own| own.address.port()));
    let proxy = Proxy::bind(&settings.proxy)?;
    let access_log = AccessLog::start(settings.access_log.clone(), Arc::clone(&metrics.process))
        .context("cannot start the access log")?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    metrics.watch_runtime("control", control.metrics());
    let tracer = tracer(&settings, &control, &metrics)?;
    let app = App {
        live: Live::new(Arc::clone(&metrics), &settings.identity),
        metrics,
        log_level,
        access_log: access_log.clone(),
        tracer: tracer.clone(),
        serving: Arc::default(),
        stopping: CancellationToken::new(),
        stop: CancellationToken::new(),
        tasks: JoinSet::new(),
    };
    let outcome = control.block_on(app.serve(settings, proxy, own));
    access_log.finish(LAST_LINES);
    control.block_on(tracer.finish(LAST_SPANS));
    control.shutdown_background();
    outcome
}

/// The tracer; its exporter runs on the control half.
#[cfg(feature = "otel")]
fn tracer(settings: &Settings, control: &Runtime, metrics: &Metrics) -> anyhow::Result<Tracer> {
    let _inside = control.enter();
    Ok(Tracer::start(&settings.trace, &settings.identity, Arc::clone(&metrics.process))?)
}

#[cfg(not(feature = "otel"))]
fn tracer(_: &Settings, _: &Runtime, _: &Metrics) -> anyhow::Result<Tracer> {
    Ok(Tracer::default())
}

/// A port that tells of the process.
struct OwnPort {
    port: Port,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl OwnPort {
    fn bind(port: Port, address: SocketAddr) -> Result<Self, admin::BindError> {
        let (listener, address) = admin::bind(port, address)?;
        Ok(Self { port, listener, address })
    }
}

/// What the tasks share.
struct App {
    live: Live,
    metrics: Arc<Metrics>,
    log_level: logging::Level,
    access_log: AccessLog,
    tracer: Tracer,
    /// The data plane runs.
    serving: Arc<AtomicBool>,
    /// Shutdown has begun.
    stopping: CancellationToken,
    /// Tasks of the control half end.
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl App {
    async fn serve(mut self, settings: Settings, proxy: Proxy, own: Vec<OwnPort>) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let addresses: Vec<_> = own.iter().map(|own| (own.port.name(), own.address)).collect();
        for port in own {
            self.spawn_admin(port, &settings)?;
        }
        let updates = self.spawn_sources(settings.sources).await?;
        // Not before: whatever the user can mend is the only line.
        for (listener, address) in proxy.addresses().into_iter().chain(addresses) {
            info!(listener, %address, "bound");
        }
        let (first, in_force) = oneshot::channel();
        let published = Arc::new(Notify::new());
        let metrics = Arc::clone(&self.metrics);
        let live = self.live.clone();
        let put = move |compiled| live.publish(compiled);
        let publish = publish::run(updates, put, metrics, first, Arc::clone(&published));
        self.spawn("publisher", until_end(publish));
        self.spawn_health(published, proxy.own_ports());
        tokio::select! {
            Ok(()) = in_force => {}
            Some(ended) = self.tasks.join_next() => {
                let error = too_early(ended);
                self.end().await;
                return Err(error);
            }
            signal = signals.next() => {
                info!(signal, "stopped before the first configuration");
                self.end().await;
                return Ok(ExitCode::SUCCESS);
            }
        }
        let running = proxy
            .start(self.live.clone(), Arc::clone(&self.metrics), self.access_log.clone(), self.tracer.clone())
            .context("cannot start the data plane")?;
        self.serving.store(true, Ordering::Release);
        info!("ready");
        let failed = tokio::select! {
            signal = signals.next() => {
                info!(signal, delay = ?settings.drain.delay, timeout = ?settings.drain.timeout, "stopping");
                false
            }
            () = running.failed() => true,
            Some(ended) = self.tasks.join_next() => {
                error!(error = format!("{:#}", too_early(ended)), "stopping");
                true
            }
        };
        self.stopping.cancel();
        tokio::select! {
            () = drain(running, settings.drain) => {}
            signal = signals.next() => {
                warn!(signal, "ending at once, without waiting for requests in flight");
                return Ok(ExitCode::FAILURE);
            }
        }
        self.end().await;
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Lets the tasks end by themselves: the leader gives its Lease back.
    async fn end(&mut self) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            warn!("tasks did not end in time");
        }
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    fn spawn_admin(&mut self, own: OwnPort, settings: &Settings) -> anyhow::Result<()> {
        let state = admin::State {
            live: self.live.clone(),
            identity: settings.identity.as_str().into(),
            names: settings.admin_names.as_slice().into(),
            metrics: Arc::clone(&self.metrics),
            log_level: self.log_level.clone(),
            serving: Arc::clone(&self.serving),
            stopping: self.stopping.clone(),
        };
        let OwnPort { port, listener, .. } = own;
        let listener = tokio::net::TcpListener::from_std(listener)
            .with_context(|| format!("cannot serve the {} port", port.name()))?;
        let stop = self.stop.clone();
        let name = match port {
            Port::Admin => "admin port",
            Port::Monitoring => "monitoring port",
        };
        self.spawn(name, until_end(admin::serve(port, listener, state, stop)));
        Ok(())
    }

    fn spawn_health(&mut self, published: Arc<Notify>, own_ports: Arc<[u16]>) {
        let prepare = move |backend: &Backend| {
            let prober = Arc::new(health::Prober::new(backend, Arc::clone(&own_ports)));
            move |backend, address| Arc::clone(&prober).probe(backend, address)
        };
        let (process, stop) = (Arc::clone(&self.metrics.process), self.stop.clone());
        self.spawn("health checks", until_end(health::run(self.live.clone(), process, published, prepare, stop)));
    }

    /// Starts every source and their merge; what is merged comes out.
    async fn spawn_sources(&mut self, settings: Sources) -> anyhow::Result<sources::Updates> {
        let mut inputs = Vec::new();
        if !settings.backends.is_empty() || settings.certificate.is_some() {
            let compiled = sources::flags::compile(&settings.backends, settings.certificate.as_ref());
            let (sender, updates) = watch::channel(Some(Arc::new(compiled)));
            inputs.push(updates);
            // Flags do not change: the sender only has to stay.
            let stop = self.stop.clone();
            self.spawn("flags", async move {
                stop.cancelled().await;
                drop(sender);
                Ok(())
            });
        }
        #[cfg(feature = "kubernetes")]
        self.spawn_kubernetes(settings, &mut inputs).await?;
        let (sender, updates) = watch::channel(None);
        self.spawn("merge of sources", until_end(sources::merged(inputs, sender)));
        Ok(updates)
    }

    #[cfg(feature = "kubernetes")]
    async fn spawn_kubernetes(&mut self, settings: Sources, inputs: &mut Vec<sources::Updates>) -> anyhow::Result<()> {
        if !settings.manifests.is_empty() {
            let (sender, updates) = watch::channel(None);
            inputs.push(updates);
            let run = sources::file::run(settings.manifests, settings.compile, sender, self.stop.clone());
            self.spawn("manifest files", until_end(run));
        }
        if let Some(cluster) = settings.cluster {
            let config = kube::Config::infer().await.map_err(|error| unconfigured(&error))?;
            let client = sources::kubernetes::client::client(config, &self.metrics.watches)
                .context("the Kubernetes configuration is not usable")?;
            let (sender, updates) = watch::channel(None);
            inputs.push(updates);
            let run = sources::kubernetes::run::run(
                client,
                cluster,
                Arc::clone(&self.metrics.watches),
                sender,
                self.stop.clone(),
            );
            self.spawn("Kubernetes API", async { Ok(run.await?) });
        }
        Ok(())
    }
}

/// Why the API server cannot be connected to: in a Pod the whole story, elsewhere what is wrong with the file.
#[cfg(feature = "kubernetes")]
fn unconfigured(error: &dyn std::error::Error) -> anyhow::Error {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let error = error.source().filter(|_| !in_pod).unwrap_or(error);
    anyhow!("no configuration for --kubernetes: run in a Pod, or let KUBECONFIG name a kubeconfig file: {error}")
}

/// Keeps accepting for the delay, then ends what is in flight.
async fn drain(running: Running, drain: Drain) {
    tokio::time::sleep(drain.delay).await;
    info!("draining");
    match running.drain(drain.timeout).await {
        0 => info!("drained"),
        cut => warn!(cut, "drain timeout: requests were cut"),
    }
}

/// A task that cannot fail, as one that could.
async fn until_end(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// Why a task that should run until the end did not.
fn too_early(ended: Result<(&'static str, anyhow::Result<()>), JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Err(error))) => error.context(format!("the {name} failed")),
        Ok((name, Ok(()))) => anyhow!("the {name} ended by itself"),
        Err(error) => error.into(),
    }
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
