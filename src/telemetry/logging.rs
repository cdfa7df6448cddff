//! The process log: state changes and problems, on standard error. Its level can change while the process runs.
//!
//! Requests never appear here; they have [`super::access_log`].

use std::{
    fmt::{Display, Formatter, Result as Written},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::info;
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::LevelFilter,
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    #[default]
    Json,
}

impl Display for Format {
    fn fmt(&self, f: &mut Formatter<'_>) -> Written {
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

/// Why the log could not be started, or its level not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("log level {text:?}: expected off, error, warn, info, debug, trace or a list such as info,pierhead=debug")]
    Level {
        /// What was given.
        text: String,
    },
    /// Somebody else started one first.
    #[error("the log was started twice")]
    Started(#[from] TryInitError),
    /// The log has ended.
    #[error("the log cannot be changed")]
    Gone(#[from] reload::Error),
}

/// What the log lets through, which can change while the process runs. Clones are the same.
#[derive(Clone, Debug)]
pub struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
}

impl Level {
    /// The level in force, as it was given.
    pub fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another level in force, and logs the change once.
    ///
    /// # Errors
    /// [`Error::Level`] when `level` does not parse; the old one stays.
    pub fn set(&self, level: &str) -> Result<(), Error> {
        let filter = filter(level)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let tell = |from: &str| info!(from, to = level, "log level changed");
        // The quieter of the two would keep it to itself.
        let told = tracing::enabled!(tracing::Level::INFO);
        if told {
            tell(&text);
        }
        self.filter.reload(filter)?;
        let old = std::mem::replace(&mut *text, level.to_owned());
        if !told {
            tell(&old);
        }
        Ok(())
    }

    /// A level that no log follows, for tests of what shows or changes it.
    #[cfg(test)]
    pub(crate) fn detached(level: &str) -> (Self, impl Sized) {
        let (layer, handle) = reload::Layer::new(filter(level).expect("a level"));
        (Self { filter: handle, text: Arc::new(Mutex::new(level.to_owned())) }, layer)
    }
}

/// Starts the log of this process. `level` is a level or a list of `target=level`.
///
/// # Errors
/// [`Error::Level`] when `level` does not parse, [`Error::Started`] when there is a log already.
pub fn init(format: Format, level: &str) -> Result<Level, Error> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Text => registry.with(lines.with_ansi(false)).try_init()?,
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(Level { filter: handle, text: Arc::new(Mutex::new(level.to_owned())) })
}

/// Reads a level or a list of `target=level`.
fn filter(level: &str) -> Result<EnvFilter, Error> {
    let wrong = || Error::Level { text: level.to_owned() };
    // The library takes a misspelt level for a target, which would silence everything else.
    let is_directive = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => is_level(part),
    };
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    if !directives.iter().all(|part| is_directive(part)) {
        return Err(wrong());
    }
    let directives = directives.join(",");
    // The election library tells followers every few seconds that they are such, the watcher repeats each refusal for as
    // long as it lasts, which the source tells once, and the file watcher names its own sources where a folder has gone,
    // which the manifests' problems tell better. What `level` says comes after and wins.
    let quiet = "kube_leader_election=warn,kube_runtime=error,notify=error";
    EnvFilter::try_new(format!("{quiet},{directives}")).map_err(|_| wrong())
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_or_a_list_by_target() {
        for good in ["info", "off", "INFO", "info,pierhead=debug", "warn, kube=trace", "pierhead::proxy=debug"] {
            filter(good).unwrap();
        }
        for bad in ["", " ", "infoo", "pierhead", "info,", "info,pierhead", "pierhead=loud", "=debug", "info;warn"] {
            let error = filter(bad).unwrap_err().to_string();
            assert!(error.contains("expected") && !error.contains('\n'), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_level_that_is_wrong_leaves_the_old_one() {
        let (level, _log) = Level::detached("info");
        level.set("debug").unwrap();
        level.set("loud").unwrap_err();
        assert_eq!(level.get(), "debug");
    }
}
