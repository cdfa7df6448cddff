//! `explain` by files or by the objects of a cluster, without a running process.

use std::{num::NonZeroU16, sync::Arc};

use anyhow::{Context as _, bail};
use clap::builder::BoolishValueParser;

use super::serve_cluster::ClusterArgs;
use crate::{
    explain::{self, Explanation, Knowledge, Request},
    model::{Compiled, Problem},
    routing::Live,
    sources::{
        file,
        kubernetes::{Cluster, compile, compile_once, run},
    },
    telemetry::metrics::Metrics,
};

/// Where objects come from, and the flags of `serve` that say what becomes of them.
#[derive(Debug, clap::Args)]
pub(super) struct Sources {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Redirect plain HTTP on hosts with TLS.
    #[arg(long, env = "PIERHEAD_SSL_REDIRECT", value_name = "BOOL", default_value = "true", help_heading = "Traffic",
        action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    ssl_redirect: bool,
    /// Port that redirects to HTTPS name [default: 443, left out].
    #[arg(long, env = "PIERHEAD_HTTPS_REDIRECT_PORT", value_name = "PORT", help_heading = "Traffic")]
    https_redirect_port: Option<NonZeroU16>,
}

impl Sources {
    /// Explains the request by the objects; None when no source of objects is given.
    pub(super) fn explain(&self, request: &Request) -> anyhow::Result<Option<Explanation>> {
        let settings = self.cluster.compile(self.ssl_redirect, self.https_redirect_port.map(NonZeroU16::get));
        let compiled = if !self.cluster.manifests.is_empty() {
            self.files(&settings)?
        } else if self.cluster.kubernetes {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(self.objects(settings))?
        } else {
            return Ok(None);
        };
        let live = Live::new(Arc::new(Metrics::new(1)), "explain");
        live.publish(Arc::new(compiled));
        let mut explanation = explain::explain(&live, request, Knowledge::ObjectsOnly);
        if explanation.backend.is_some() {
            explanation
                .hints
                .push("by objects alone, every endpoint counts as fit; --admin asks a running one".to_owned());
        }
        Ok(Some(explanation))
    }

    fn files(&self, settings: &compile::Settings) -> anyhow::Result<Compiled> {
        for path in &self.cluster.manifests {
            std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        let mut loaded = file::load_all(&self.cluster.manifests);
        loaded.objects.malformed.extend(loaded.errors.iter().map(Problem::from));
        let cluster = Cluster::read(loaded.objects);
        let mut compiled = compile_once(&cluster, &file::settings(settings));
        compiled.provenance.places = loaded.places;
        Ok(compiled)
    }

    async fn objects(&self, settings: compile::Settings) -> anyhow::Result<Compiled> {
        let config = kube::Config::infer().await.context("no Kubernetes configuration: set KUBECONFIG")?;
        let client = kube::Client::try_from(config).context("the Kubernetes configuration is not usable")?;
        let settings = self.cluster.cluster(settings, String::new());
        match run::once(client, &settings).await {
            Ok(compiled) => Ok(compiled),
            Err(reason) => bail!("the Kubernetes API cannot be read: {reason}"),
        }
    }
}
