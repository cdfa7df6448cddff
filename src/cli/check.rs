//! `pierhead check PATH…`: says what is wrong with manifest files, as the controller would.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{ValueEnum, builder::BoolishValueParser};
use serde::Serialize;
use serde_json::json;

use crate::{
    model::{Origin, Problem},
    sources::{
        file::{self, Place},
        kubernetes::{Cluster, Settings, compile_once, is_ours},
    },
};

/// Arguments of `pierhead check`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Manifest files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
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

/// How findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line each, for people.
    #[default]
    Text,
    /// One object: `findings`, and the counts of the last line of the text.
    Json,
    /// Commands of a GitHub workflow, which shows them at their lines.
    Github,
}

/// Something that is wrong, and where.
#[derive(Debug, Serialize)]
struct Finding {
    severity: &'static str,
    /// Path of the file; None for what stands in none.
    file: Option<String>,
    /// Line of the field, or of the nearest that holds it, from one.
    line: Option<usize>,
    /// Number of the YAML document in the file, from one.
    document: Option<usize>,
    /// The object; None for a file that cannot be read.
    origin: Option<String>,
    field: String,
    /// One word.
    reason: &'static str,
    message: String,
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
    let compiled = compile_once(&cluster, &settings);
    let findings: Vec<Finding> = loaded
        .errors
        .iter()
        .map(unreadable)
        .chain(compiled.problems.iter().map(|problem| finding(problem, &loaded.places)))
        .collect();
    let ours = cluster.ingresses.iter().filter(|ingress| is_ours(ingress, &cluster, &settings)).count();
    let other = cluster.ingresses.len() - ours;
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count("error"), count("warning"));
    let summary =
        format!("{ours} Ingresses checked, {other} of other classes left out: {errors} errors, {warnings} warnings");
    match args.output {
        Output::Text => {
            for finding in &findings {
                writeln!(out, "{}", finding.text())?;
            }
            writeln!(out, "{summary}")?;
        }
        Output::Json => {
            let counts = json!({ "findings": findings, "ingresses": ours, "otherClasses": other, "errors": errors, "warnings": warnings });
            writeln!(out, "{counts:#}")?;
        }
        Output::Github => {
            for finding in &findings {
                writeln!(out, "{}", finding.command())?;
            }
            writeln!(out, "{summary}")?;
        }
    }
    let missing = args.paths.iter().any(|path| std::fs::metadata(path).is_err());
    Ok(match (missing, errors + warnings) {
        (true, _) => ExitCode::from(2),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(1),
    })
}

fn unreadable(unreadable: &file::Unreadable) -> Finding {
    Finding {
        severity: "error",
        file: Some(unreadable.file.display().to_string()),
        line: None,
        document: None,
        origin: None,
        field: String::new(),
        reason: "Unreadable",
        message: unreadable.error.clone(),
    }
}

fn finding(problem: &Problem, places: &BTreeMap<Origin, Place>) -> Finding {
    let place = places.get(&problem.origin);
    Finding {
        severity: problem.kind.severity().name(),
        file: place.map(|place| place.file.display().to_string()),
        line: place.map(|place| place.line_of(&problem.field)),
        document: place.map(|place| place.document),
        origin: Some(problem.origin.to_string()),
        field: problem.field.clone(),
        reason: problem.kind.reason(),
        message: problem.kind.to_string(),
    }
}

impl Finding {
    /// `severity: file:line: object: field: message`, without what there is not.
    fn text(&self) -> String {
        let file = self.file.as_ref().map(|file| match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file.clone(),
        });
        let field = Some(&self.field).filter(|field| !field.is_empty());
        let parts = [Some(&self.severity.to_owned()), file.as_ref(), self.origin.as_ref(), field, Some(&self.message)];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// `::error file=…,line=…,title=…::message`. Properties and messages escape what ends them.
    fn command(&self) -> String {
        let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let file = self.file.as_ref().map(|file| format!("file={},", property(file))).unwrap_or_default();
        let line = self.line.map(|line| format!("line={line},")).unwrap_or_default();
        let object = [self.origin.as_deref().unwrap_or_default(), self.field.as_str()];
        let object: Vec<&str> = object.into_iter().filter(|part| !part.is_empty()).collect();
        let message = data(&[&*object.join(": "), &*self.message].join(if object.is_empty() { "" } else { ": " }));
        format!("::{} {file}{line}title={}::{message}", self.severity, property(self.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_workflow_escape_what_would_end_them() {
        let finding = Finding {
            severity: "error",
            file: Some("a,b:c%.yaml".to_owned()),
            line: Some(7),
            document: Some(2),
            origin: Some("Ingress shop/main".to_owned()),
            field: "spec.rules[0].host".to_owned(),
            reason: "InvalidValue",
            message: "50 %\r\nof it: wrong".to_owned(),
        };
        assert_eq!(
            finding.command(),
            "::error file=a%2Cb%3Ac%25.yaml,line=7,title=InvalidValue::Ingress shop/main: spec.rules[0].host: \
             50 %25%0D%0Aof it: wrong"
        );
    }
}
