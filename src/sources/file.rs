//! Manifest files: the YAML of `kubectl apply`, served without a cluster.
//!
//! Files end in the same [`Objects`] as API watches, so that everything behind them treats both alike. Only the kinds
//! that we serve are read; a folder may hold others.

mod document;
mod watch;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

pub use watch::run;

use self::document::{Entry, Object};
use super::kubernetes::{Objects, Settings};
use crate::model::{Origin, Problem, ProblemKind};

pub use crate::model::Place;

/// What files hold.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects, and those that could not be read as their kind.
    pub objects: Objects,
    /// Where each object stands.
    pub places: BTreeMap<Origin, Place>,
    /// Files that could not be read at all.
    pub errors: Vec<Unreadable>,
}

/// A file or folder that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {error}", file.display())]
pub struct Unreadable {
    /// Its path.
    pub file: PathBuf,
    /// What is wrong with it.
    pub error: String,
}

impl From<&Unreadable> for Problem {
    fn from(unreadable: &Unreadable) -> Self {
        Self {
            origin: Origin::new("File", "", unreadable.file.display().to_string()),
            field: String::new(),
            kind: ProblemKind::Malformed(unreadable.error.clone()),
        }
    }
}

/// The settings with what holds for files only: loopback endpoints, and Ingresses without a class.
pub fn settings(base: &Settings) -> Settings {
    Settings { allow_loopback_endpoints: true, classless: true, ..base.clone() }
}

/// Reads a file, or the `*.yaml`, `*.yml` and `*.json` files of a folder but not of folders in it, in the order of their
/// names, as `kubectl apply -f` does.
pub fn load(path: &Path) -> Loaded {
    load_all(&[path.to_owned()])
}

/// Reads several files and folders as one.
pub fn load_all(paths: &[PathBuf]) -> Loaded {
    Contents::read(paths).loaded()
}

/// Files by path, in the order in which their objects count.
#[derive(Clone, Debug, Default)]
struct Contents(BTreeMap<PathBuf, Content>);

/// One file. It may have an error *and* entries: those of the time when it had none.
#[derive(Clone, Debug, Default)]
struct Content {
    entries: Vec<Entry>,
    error: Option<String>,
}

impl Contents {
    fn read(paths: &[PathBuf]) -> Self {
        let mut contents = BTreeMap::new();
        for path in paths {
            match files(path) {
                Ok(files) => contents.extend(files.into_iter().map(|file| {
                    let content = read_file(&file);
                    (file, content)
                })),
                Err(error) => {
                    contents.insert(path.clone(), Content { entries: Vec::new(), error: Some(error.to_string()) });
                }
            }
        }
        Self(contents)
    }

    /// Puts the last good content in the place of what cannot be read any more.
    fn keep(&mut self, before: &Self) {
        let good: BTreeMap<&Origin, &Object> =
            before.entries().filter_map(|entry| Some((&entry.origin, entry.object.as_ref()?))).collect();
        for entry in self.0.values_mut().flat_map(|content| &mut content.entries) {
            if entry.object.is_none() {
                entry.object = good.get(&entry.origin).map(|object| (*object).clone());
            }
        }
        let broken: Vec<PathBuf> =
            self.0.iter().filter(|(_, content)| content.error.is_some()).map(|(path, _)| path.clone()).collect();
        for path in broken {
            // A folder that cannot be listed stands for every file that was in it.
            for (file, content) in before.0.iter().filter(|(file, _)| file.starts_with(&path)) {
                self.0.entry(file.clone()).or_default().entries.clone_from(&content.entries);
            }
        }
    }

    fn has_errors(&self) -> bool {
        self.0.values().any(|content| content.error.is_some())
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values().flat_map(|content| &content.entries)
    }

    fn loaded(&self) -> Loaded {
        let mut loaded = Loaded::default();
        let mut last: BTreeMap<&Origin, &Entry> = BTreeMap::new();
        for entry in self.entries() {
            loaded.objects.malformed.extend(entry.problems.iter().cloned());
            loaded.places.insert(entry.origin.clone(), entry.place.clone());
            if last.insert(&entry.origin, entry).is_some() {
                let found = entry.origin.to_string();
                let expected = "a name that no other object of this kind has; the last one counts".to_owned();
                let kind = ProblemKind::InvalidValue { found, expected };
                let problem = Problem { origin: entry.origin.clone(), field: "metadata.name".into(), kind };
                loaded.objects.malformed.push(problem);
            }
        }
        for object in last.into_values().filter_map(|entry| entry.object.as_ref()) {
            object.add_to(&mut loaded.objects);
        }
        for (file, content) in &self.0 {
            loaded
                .errors
                .extend(content.error.iter().map(|error| Unreadable { file: file.clone(), error: error.clone() }));
        }
        loaded
    }
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        // What cannot be looked at, such as a link that leads nowhere, is a file that cannot be read.
        let is_file = fs::metadata(&file).map_or(true, |metadata| metadata.is_file());
        if matches!(extension, Some("yaml" | "yml" | "json")) && is_file {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path) -> Content {
    let read = fs::read_to_string(file).map_err(|error| error.to_string()).and_then(|text| document::read(file, &text));
    match read {
        Ok(entries) => Content { entries, error: None },
        Err(error) => Content { entries: Vec::new(), error: Some(error) },
    }
}
