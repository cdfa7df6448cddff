//! The command line.
//!
//! One file a command. Whatever the user can mend (a flag, a path, a port) ends in one line on standard error that says
//! how, and status 2.

#[cfg(feature = "kubernetes")]
pub mod check;
#[cfg(feature = "kubernetes")]
pub mod crds;
mod explain;
#[cfg(feature = "kubernetes")]
mod explain_objects;
#[cfg(feature = "kubernetes")]
mod selector;
mod serve;
#[cfg(feature = "kubernetes")]
mod serve_cluster;

use std::{ffi::OsString, process::ExitCode};

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};

/// Status when the user has to change something.
const USAGE: u8 = 2;

/// Pierhead: Ingress YAML in, balanced traffic out.
#[derive(Debug, Parser)]
#[command(name = "pierhead", version, about, subcommand_required = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve traffic from the Kubernetes API, manifest files or backends given by flags.
    Serve(Box<serve::Args>),
    /// Read manifests as `serve` would and tell what is wrong with them.
    #[cfg(feature = "kubernetes")]
    Check(check::Args),
    /// Say why a request gets the answer it gets: which rule takes it, what came near, what would be picked.
    Explain(Box<explain::Args>),
    /// Print the custom resource definitions of this version.
    #[cfg(feature = "kubernetes")]
    Crds(crds::Args),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Every command and flag, as docs/flags.md is written from.
pub fn definition() -> Command {
    Cli::command()
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(arguments).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // A provider that somebody installed before us serves as well.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = match cli.command {
        Subcommands::Serve(args) => args.settings().and_then(crate::app::run),
        #[cfg(feature = "kubernetes")]
        Subcommands::Check(args) => check::run(&args),
        Subcommands::Explain(args) => explain::run(&args),
        #[cfg(feature = "kubernetes")]
        Subcommands::Crds(args) => crds::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", one_line(&format!("{error:#}")));
        ExitCode::from(USAGE)
    })
}

/// The command, blind to environment variables that are set to nothing: a manifest that leaves one empty means "unset".
fn command() -> Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(None),
            _ => arg,
        })
    })
}

/// Help and version as clap prints them; what is wrong as one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell when standard output is closed.
            let _printed = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            eprintln!("error: no command given: try `pierhead serve` or see `pierhead --help`");
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("{}", summary(&error.render().to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// The first paragraph and the tips of clap's message, as one line.
fn summary(message: &str) -> String {
    let wanted =
        message.split("\n\n").enumerate().filter(|(at, text)| *at == 0 || text.trim_start().starts_with("tip:"));
    let text: Vec<&str> = wanted.map(|(_, text)| text).collect();
    format!("{}; see `--help`", one_line(&text.join("; ")))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_is_one_line_with_the_tip() {
        let error = command().try_get_matches_from(["pierhead", "serve", "--backen", "x"]).unwrap_err();
        let line = summary(&error.render().to_string());
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("--backen'") && line.contains("'--backend'") && line.contains("--help"), "{line}");
    }
}
