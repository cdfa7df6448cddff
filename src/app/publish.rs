//! Puts each configuration in force and tells what is wrong with it.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, info, warn};

use crate::{
    model::{Compiled, Problem, Severity},
    routing::Live,
    sources::Updates,
    telemetry::metrics::{self, Metrics},
};

/// Publishes until the sources are gone; `first` is told when something is in force, `published` each time.
pub(super) async fn run(
    mut updates: Updates,
    live: Live,
    metrics: Arc<Metrics>,
    first: oneshot::Sender<()>,
    published: Arc<Notify>,
) {
    let mut first = Some(first);
    let mut known = BTreeSet::new();
    loop {
        let compiled = updates.borrow_and_update().clone();
        if let Some(compiled) = compiled {
            publish(&live, &metrics, Arc::clone(&compiled)).await;
            published.notify_one();
            known = tell(&compiled.problems, &known);
            if let Some(first) = first.take() {
                // Nobody waits any more when the process is already ending.
                let _ending = first.send(());
            }
        }
        if updates.changed().await.is_err() {
            return;
        }
    }
}

async fn publish(live: &Live, metrics: &Metrics, compiled: Arc<Compiled>) {
    let (hosts, backends) = (compiled.model.hosts.len(), compiled.model.backends.len());
    let problems = compiled.problems.len();
    let (live, begun) = (live.clone(), Instant::now());
    // Indexing a large configuration takes a while: not on a thread that others wait for.
    if let Err(error) = tokio::task::spawn_blocking(move || live.publish(compiled)).await {
        error!(%error, "a configuration could not be put in force");
        metrics::count(&metrics.process.config_failures);
        return;
    }
    metrics.process.published(begun.elapsed());
    if let Some(lag) = metrics.watches.in_force() {
        metrics.process.propagated(lag);
    }
    // Once with each start; a busy cluster changes many times a second, and the metrics tell of that.
    if metrics.process.config_publishes.load(Ordering::Relaxed) == 1 {
        info!(hosts, backends, problems, "configuration in force");
    } else {
        debug!(hosts, backends, problems, "configuration in force");
    }
}

/// Logs the problems that were not there before; returns those that are there now.
fn tell(problems: &[Problem], known: &BTreeSet<Problem>) -> BTreeSet<Problem> {
    let now: BTreeSet<Problem> = problems.iter().cloned().collect();
    for problem in now.difference(known) {
        let Problem { origin, field, kind } = problem;
        let reason = kind.reason();
        match kind.severity() {
            Severity::Warning => warn!(%origin, field, reason, problem = %kind, "without effect"),
            Severity::Error => error!(%origin, field, reason, problem = %kind, "not served as written"),
        }
    }
    for solved in known.difference(&now) {
        info!(origin = %solved.origin, field = solved.field, reason = solved.kind.reason(), "problem solved");
    }
    now
}
