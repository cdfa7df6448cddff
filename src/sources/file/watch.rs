//! Follows manifest files as they change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Contents, settings};
use crate::{
    model::{Compiled, Problem},
    sources::kubernetes::{self, Certificates, Cluster, Settings},
};

/// How long files must be quiet before they are read: an editor or `kubectl cp` writes more than once.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes may go on before files are read all the same.
const AT_MOST: Duration = Duration::from_secs(1);
/// Files are read again this often without any event: network file systems send none, and a folder that is replaced
/// takes its watch with it.
const RESCAN: Duration = Duration::from_secs(30);
/// And this often while something could not be read: what was in the way, such as a lack of descriptors, tells nobody
/// when it goes.
const RETRY: Duration = Duration::from_secs(1);

/// Follows files and folders until `stop`, and sends what they compile into at once and whenever it changes.
///
/// A file that stops being YAML keeps its last good content, a malformed object its last good form; both are problems.
/// Problems are logged once, when they appear.
pub async fn run(
    paths: Vec<PathBuf>,
    base: Settings,
    updates: watch::Sender<Option<Arc<Compiled>>>,
    stop: CancellationToken,
) {
    let dirty = Arc::new(Notify::new());
    let mut watcher = watcher(paths.clone(), Arc::clone(&dirty));
    let mut state = State { paths, settings: settings(&base), ..State::default() };
    loop {
        if let Some(watcher) = &mut watcher {
            // Before reading, so that no change falls between.
            arm(watcher, &state.paths);
        }
        let compiled = state.compile();
        updates.send_if_modified(|held| {
            let changed = held.as_deref() != Some(&compiled);
            if changed {
                *held = Some(Arc::new(compiled));
            }
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = dirty.notified() => settle(&dirty).await,
            () = sleep(if state.contents.has_errors() { RETRY } else { RESCAN }) => {}
        }
    }
}

/// Waits until no change came for [`QUIET`], but at most [`AT_MOST`].
async fn settle(dirty: &Notify) {
    let deadline = Instant::now() + AT_MOST;
    let quiet = async { while timeout(QUIET, dirty.notified()).await.is_ok() {} };
    tokio::select! {
        () = quiet => {}
        () = sleep_until(deadline) => {}
    }
}

fn watcher(paths: Vec<PathBuf>, dirty: Arc<Notify>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<Event>| {
        if event.as_ref().map_or(true, |event| concerns(event, &paths)) {
            dirty.notify_one();
        }
    };
    match notify::recommended_watcher(on_event) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%error, every = ?RESCAN, "files cannot be watched and are read at intervals only");
            None
        }
    }
}

/// Watches the paths, and what they are in: editors and `mv` replace a file, which takes a watch on it away, and mounted
/// `ConfigMap`s swap the link `..data` beside it.
fn arm(watcher: &mut RecommendedWatcher, paths: &[PathBuf]) {
    let mut folders: BTreeSet<&Path> = BTreeSet::new();
    for path in paths {
        folders.insert(parent(path));
        if path.is_dir() {
            folders.insert(path);
        }
    }
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::debug!(folder = %folder.display(), %error, "folder cannot be watched");
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Whether an event may have changed what the paths hold.
///
/// Our own reading is an event too and must not count. Nor does a write while the file is still open: what stands there
/// then may be any part of what will, so the end of writing is waited for.
fn concerns(event: &Event, paths: &[PathBuf]) -> bool {
    let written = match event.kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    };
    let concerned = |changed: &PathBuf| {
        let swapped = changed.file_name().is_some_and(|name| name == "..data");
        swapped || paths.iter().any(|path| changed.starts_with(path) || same_name(changed, path))
    };
    written && (event.need_rescan() || event.paths.iter().any(concerned))
}

/// The watched folder may be spelled otherwise (`./x` for `x`), so a file of this name there may be the one.
fn same_name(changed: &Path, path: &Path) -> bool {
    changed.file_name().is_some() && changed.file_name() == path.file_name()
}

/// What is kept from one reading to the next.
#[derive(Default)]
struct State {
    paths: Vec<PathBuf>,
    settings: Settings,
    contents: Contents,
    certificates: Certificates,
}

impl State {
    fn compile(&mut self) -> Compiled {
        let mut contents = Contents::read(&self.paths);
        contents.keep(&self.contents);
        let mut loaded = contents.loaded();
        loaded.objects.malformed.extend(loaded.errors.iter().map(Problem::from));
        self.contents = contents;
        let cluster = Cluster::read(loaded.objects);
        self.certificates.update(&cluster);
        let mut compiled = kubernetes::compile(&cluster, &self.certificates, &self.settings);
        compiled.provenance.places = loaded.places;
        compiled
    }
}
