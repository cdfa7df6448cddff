//! Settings of the whole process, composed of each layer's own.

use std::{net::SocketAddr, time::Duration};

use crate::{
    proxy,
    sources::flags::BackendUrl,
    telemetry::{access_log, logging, trace},
};

/// Everything `serve` is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this replica among its like.
    pub identity: String,
    /// Where the configuration comes from.
    pub sources: Sources,
    /// The data plane.
    pub proxy: proxy::Settings,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// Names that the admin port answers to, besides addresses and local names.
    pub admin_names: Vec<String>,
    /// Address of the port with probes and metrics alone; None for no such port.
    pub monitoring: Option<SocketAddr>,
    /// How the process ends.
    pub drain: Drain,
    /// The process log.
    pub log: Log,
    /// The access log.
    pub access_log: access_log::Settings,
    /// Traces of requests.
    pub trace: trace::Settings,
}

/// Where the configuration comes from; at least one is given.
#[derive(Clone, Debug)]
pub struct Sources {
    /// URLs that take every request.
    pub backends: Vec<BackendUrl>,
    /// The certificate of hosts without one of their own, from files.
    pub certificate: Option<std::sync::Arc<crate::model::Certificate>>,
    /// Manifest files and folders.
    #[cfg(feature = "kubernetes")]
    pub manifests: Vec<std::path::PathBuf>,
    /// How objects are compiled.
    #[cfg(feature = "kubernetes")]
    pub compile: crate::sources::kubernetes::compile::Settings,
    /// The Kubernetes API; None when it is not watched.
    #[cfg(feature = "kubernetes")]
    pub cluster: Option<crate::sources::kubernetes::run::Settings>,
}

/// How the process ends after SIGTERM.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Connections are accepted for this long, while readiness is already false.
    pub delay: Duration,
    /// Then what is in flight may take this long.
    pub timeout: Duration,
}

/// The process log.
#[derive(Clone, Debug)]
pub struct Log {
    /// How lines are written.
    pub format: logging::Format,
    /// A level, or a list of `target=level`.
    pub level: String,
}
