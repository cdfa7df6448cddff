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
    routing::Published,
    sources::Updates,
    telemetry::metrics::{self, Metrics},
};

/// Publishes until the sources are gone; `first` is told when something is in force, `published` each time.
///
/// `put` puts a configuration in force. One that it panics at leaves the one before in force, and is told as a failure.
pub(super) async fn run(
    mut updates: Updates,
    put: impl Fn(Arc<Compiled>) -> Published + Clone + Send + 'static,
    metrics: Arc<Metrics>,
    first: oneshot::Sender<()>,
    published: Arc<Notify>,
) {
    let mut first = Some(first);
    let mut known = BTreeSet::new();
    loop {
        let compiled = updates.borrow_and_update().clone();
        if let Some(compiled) = compiled {
            let outcome = publish(put.clone(), &metrics, Arc::clone(&compiled)).await;
            if outcome == Some(Published::Built) {
                published.notify_one();
                known = tell(&compiled.problems, &known);
                if let Some(first) = first.take() {
                    // Nobody waits any more when the process is already ending.
                    let _ending = first.send(());
                }
            }
        }
        if updates.changed().await.is_err() {
            return;
        }
    }
}

/// None when the one before stays in force.
async fn publish(
    put: impl Fn(Arc<Compiled>) -> Published + Send + 'static,
    metrics: &Metrics,
    compiled: Arc<Compiled>,
) -> Option<Published> {
    let (hosts, backends) = (compiled.model.hosts.len(), compiled.model.backends.len());
    let (problems, revision) = (compiled.problems.len(), compiled.revision);
    let begun = Instant::now();
    // Indexing a large configuration takes a while: not on a thread that others wait for.
    let outcome = match tokio::task::spawn_blocking(move || put(compiled)).await {
        Ok(outcome) => outcome,
        Err(error) => {
            error!(%error, "a configuration could not be put in force, the one before stays");
            metrics::count(&metrics.process.config_failures);
            return None;
        }
    };
    let lag = metrics.watches.in_force(revision);
    if outcome == Published::Annotated {
        return Some(outcome);
    }
    metrics.process.published(begun.elapsed());
    if let Some(lag) = lag {
        metrics.process.propagated(lag);
    }
    // Once with each start; a busy cluster changes many times a second, and the metrics tell of that.
    if metrics.process.config_publishes.load(Ordering::Relaxed) == 1 {
        info!(hosts, backends, problems, "configuration in force");
    } else {
        debug!(hosts, backends, problems, "configuration in force");
    }
    Some(outcome)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::{
        model::{Origin, ProblemKind},
        routing::Live,
    };

    fn with_problem(field: &str, revision: u64) -> Arc<Compiled> {
        let kind = ProblemKind::Malformed(String::new());
        let problem = Problem { origin: Origin::new("Ingress", "shop", "web"), field: field.to_owned(), kind };
        Arc::new(Compiled { problems: vec![problem], revision, ..Compiled::default() })
    }

    /// What is thrown away by `put`.
    const BAD: &str = "bad";

    #[tokio::test]
    async fn a_configuration_that_cannot_be_put_in_force_leaves_the_one_before() {
        let metrics = Arc::new(Metrics::new(1));
        let live = Live::new(Arc::clone(&metrics), "test");
        let put = {
            let live = live.clone();
            move |compiled: Arc<Compiled>| {
                assert_ne!(compiled.problems[0].field, BAD);
                live.publish(compiled)
            }
        };
        let failures = || metrics.process.config_failures.load(Ordering::Relaxed);
        let in_force = || live.load().compiled.problems.first().map(|problem| problem.field.clone());
        let watch = metrics.watches.watch("ingresses", "");
        watch.followed(1);
        let (updates, received) = watch::channel(Some(with_problem(BAD, metrics.watches.compiling())));
        let (first, mut ready) = oneshot::channel();
        let published = Arc::new(Notify::new());
        let task = tokio::spawn(run(received, put, Arc::clone(&metrics), first, Arc::clone(&published)));

        until(|| failures() == 1).await;
        assert!(ready.try_recv().is_err(), "told as ready with nothing in force");
        assert!(!live.is_published());
        assert!(metrics.watches.lag() > Duration::ZERO, "a change that is not in force");

        updates.send_replace(Some(with_problem("good", metrics.watches.compiling())));
        published.notified().await;
        ready.await.unwrap();
        assert_eq!((in_force().as_deref(), metrics.watches.lag()), (Some("good"), Duration::ZERO));

        watch.followed(1);
        updates.send_replace(Some(with_problem(BAD, metrics.watches.compiling())));
        until(|| failures() == 2).await;
        assert_eq!(in_force().as_deref(), Some("good"));
        assert!(metrics.watches.lag() > Duration::ZERO, "a change that is not in force");
        assert_eq!(metrics.process.config_publishes.load(Ordering::Relaxed), 1);
        drop(updates);
        task.await.unwrap();
        let told = tokio::time::timeout(Duration::ZERO, published.notified()).await;
        assert!(told.is_err(), "told as published");
    }

    /// Waits for a condition, for ten seconds at most.
    async fn until(holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the condition holds in time");
    }
}
