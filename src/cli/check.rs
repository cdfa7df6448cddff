//! `pierhead check PATH…`: says what is wrong with manifest files, as the controller would.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::builder::BoolishValueParser;

use crate::{
    model::{Compiled, Origin, Severity},
    sources::{
        file::{self, Place},
        kubernetes::{Certificates, Cluster, Settings, compile, is_ours},
    },
};

/// Arguments of `pierhead check`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Manifest files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Serve only Ingresses of this class
    #[arg(long, env = "PIERHEAD_INGRESS_CLASS", value_name = "NAME", help_heading = "Kubernetes")]
    pub ingress_class: Option<String>,
    /// Controller that the classes which are ours name in spec.controller
    #[arg(
        long,
        env = "PIERHEAD_CONTROLLER_NAME",
        value_name = "NAME",
        default_value = "pierhead.dev/ingress-controller",
        help_heading = "Kubernetes"
    )]
    pub controller_name: String,
    /// Allow Services of type `ExternalName`
    #[arg(long, env = "PIERHEAD_ALLOW_EXTERNAL_NAME", value_parser = BoolishValueParser::new(), help_heading = "Kubernetes")]
    pub allow_external_name: bool,
}

/// Checks the files and prints what is wrong with them.
///
/// The exit code is 0 when there is nothing, 1 when there is a problem, 2 when a path does not exist.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    check(args, &mut io::stdout().lock())
}

/// Like [`run`], with the place to print to.
pub fn check(args: &Args, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let settings = file::settings(&Settings {
        ingress_class: args.ingress_class.clone(),
        controller_name: args.controller_name.clone(),
        allow_external_name: args.allow_external_name,
        ..Settings::default()
    });
    let loaded = file::load_all(&args.paths);
    let cluster = Cluster::read(loaded.objects);
    let mut certificates = Certificates::new();
    certificates.update(&cluster);
    let compiled = compile(&cluster, &certificates, &settings);
    for error in &loaded.errors {
        writeln!(out, "error: {error}")?;
    }
    print_problems(&compiled, &loaded.places, out)?;
    let ours = cluster.ingresses.iter().filter(|ingress| is_ours(ingress, &cluster, &settings)).count();
    let other = cluster.ingresses.len() - ours;
    let count = |severity| compiled.problems.iter().filter(|problem| problem.kind.severity() == severity).count();
    let (errors, warnings) = (count(Severity::Error) + loaded.errors.len(), count(Severity::Warning));
    writeln!(out, "{ours} Ingresses checked, {other} of other classes left out: {errors} errors, {warnings} warnings")?;
    let missing = args.paths.iter().any(|path| std::fs::metadata(path).is_err());
    Ok(match (missing, errors + warnings) {
        (true, _) => ExitCode::from(2),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(1),
    })
}

fn print_problems(compiled: &Compiled, places: &BTreeMap<Origin, Place>, out: &mut impl Write) -> io::Result<()> {
    for problem in &compiled.problems {
        let severity = match problem.kind.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        match places.get(&problem.origin) {
            Some(place) => writeln!(out, "{severity}: {place}: {problem}")?,
            None => writeln!(out, "{severity}: {problem}")?,
        }
    }
    Ok(())
}
