//! `pierhead crds`: the kinds we define, for `kubectl apply -f -`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use kube::CustomResourceExt;
use serde_json::Value;

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
    Ok(format!("# Generated from src/sources/kubernetes/api.\n{}", serde_saphyr::to_string(&definition()?)?))
}

/// The definition of `BackendPolicy`. The lines of a description are joined: whoever shows it breaks it anew.
pub fn definition() -> anyhow::Result<Value> {
    let mut definition = serde_json::to_value(BackendPolicy::crd())?;
    join_lines(&mut definition);
    Ok(definition)
}

fn join_lines(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "description" => *text = text.replace('\n', " "),
                    value => join_lines(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(join_lines),
        _ => {}
    }
}
