//! The process log: state changes and problems, on standard error.
//!
//! Requests never appear here; they have [`super::access_log`].

use std::{fmt, str::FromStr};

use tracing_subscriber::{EnvFilter, filter::ParseError, util::TryInitError};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    #[default]
    Json,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for Format {
    type Err = &'static str;

    /// Reads `text` or `json`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json"),
        }
    }
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("log level {text:?}: expected error, warn, info, debug, trace or a list such as info,pierhead=debug")]
    Filter {
        /// What was given.
        text: String,
        /// Where it went wrong.
        source: ParseError,
    },
    /// Somebody else started one first.
    #[error("the log was started twice")]
    Started(#[from] TryInitError),
}

/// Starts the log of this process. `level` is a level or a list of `target=level`.
///
/// # Errors
/// [`Error::Filter`] when `level` does not parse, [`Error::Started`] when there is a log already.
pub fn init(format: Format, level: &str) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    // The election library tells followers every few seconds that they are such, and the file watcher names its own
    // sources where a folder has gone, which the manifests' problems tell better. What `level` says comes after and wins.
    let directives = format!("kube_leader_election=warn,notify=error,{level}");
    let filter = EnvFilter::try_new(directives).map_err(|source| Error::Filter { text: level.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(false).finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
