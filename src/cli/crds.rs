//! `pierhead crds`: the kinds we define, for `kubectl apply -f -`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use kube::CustomResourceExt;

use crate::sources::kubernetes::api::BackendPolicy;

/// Arguments of `pierhead crds`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {}

/// Prints the definitions.
pub fn run(_: &Args) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(yaml()?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The definitions as YAML, as in `crds/`.
pub fn yaml() -> anyhow::Result<String> {
    Ok(format!("# Generated from src/sources/kubernetes/api.\n{}", serde_saphyr::to_string(&BackendPolicy::crd())?))
}
