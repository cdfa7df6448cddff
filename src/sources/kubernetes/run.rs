//! From watch events to compiled configurations, and back to the objects as status and Events.
//!
//! Any event marks the world dirty; after a short quiet time everything is compiled again. Nothing is sent before every
//! store has seen everything once, and nothing is ever taken back because of an error.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    Cluster, ObjectKey,
    compile::{self, compile, compile_once},
    events::Teller,
    leader::{self, Leadership},
    secrets::Certificates,
    status::{self, Address},
    stores::{Scope, Stores},
};
use crate::{
    model::Compiled,
    telemetry::watches::{State, Watches},
};

/// A rebuild starts when this long nothing has changed,
const QUIET: Duration = Duration::from_millis(20);
/// and this long after the first change at the latest.
const LIMIT: Duration = Duration::from_millis(200);
/// Time allowed at the end to give the Lease back.
const FAREWELL: Duration = Duration::from_secs(3);

/// Longest silence on a connection to the API server: longer than any watch is silent (watches end after a minute).
/// Set it as `kube::Config::read_timeout`, or a server that froze in the middle of a list is waited for without end.
pub const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// What the source is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For compilation.
    pub compile: compile::Settings,
    /// Namespaces to watch; empty for all.
    pub namespaces: Vec<String>,
    /// Label selector of namespaces to take objects from; None takes all and does not look at Namespaces.
    pub namespace_selector: Option<String>,
    /// What Ingresses are told about where they are reachable.
    pub publish: Publish,
    /// Write status at all.
    pub update_status: bool,
    /// Name of this replica among all, such as the name of its pod.
    pub identity: String,
    /// Namespace of the Lease.
    pub lease_namespace: String,
    /// Name of the Lease.
    pub lease_name: String,
}

impl Settings {
    /// Our name in managed fields: what it owns is ours to change and to take back.
    ///
    /// The Lease tells installations apart: each must leave alone what another has written.
    pub fn field_manager(&self) -> String {
        let name = format!("{}{}/{}", status::FIELD_MANAGER_PREFIX, self.lease_namespace, self.lease_name);
        // The API server takes 128 bytes; names of objects are ASCII.
        name.chars().take(128).collect()
    }
}

impl Default for Settings {
    fn default() -> Self {
        let name = "pierhead".to_owned();
        Self {
            compile: compile::Settings::default(),
            namespaces: Vec::new(),
            namespace_selector: None,
            publish: Publish::None,
            update_status: true,
            identity: name.clone(),
            lease_namespace: name.clone(),
            lease_name: name,
        }
    }
}

/// What stands in `status.loadBalancer` of our Ingresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// Nothing; what we wrote earlier is removed.
    #[default]
    None,
    /// The addresses of this Service, for as long as they are known.
    Service(ObjectKey),
    /// These.
    Addresses(Vec<Address>),
}

/// Why the source ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task panicked.
    #[error("a task of the Kubernetes source failed: {0}")]
    Task(JoinError),
    /// A watch came to an end, which watches do not.
    #[error("a task of the Kubernetes source ended")]
    Ended,
}

/// One state of the world, and what was made of it.
#[derive(Clone)]
struct View {
    cluster: Arc<Cluster>,
    compiled: Arc<Compiled>,
    /// None while they are not known.
    addresses: Option<Vec<Address>>,
}

/// Watches, compiles and tells, until `stop`.
///
/// `updates` gets a configuration whenever it differs from the one before, the first when every store is ready.
///
/// # Errors
/// When one of its tasks fails. Trouble with the API server is not an error: it is logged and tried again.
pub async fn run(
    client: Client,
    settings: Settings,
    watches: Arc<Watches>,
    updates: watch::Sender<Option<Arc<Compiled>>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (leadership, election) =
        leader::elect(client.clone(), &settings.lease_namespace, &settings.lease_name, &settings.identity);
    let leads = leadership.clone();
    watches.elects(move || leads.holds());
    let dirty = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let stores = Stores::watch(&client, &scope(&settings), &watches, &mut tasks, &dirty);
    let settings = Arc::new(settings);
    let (views, viewed) = watch::channel(None);
    tasks.spawn(tell(client, Arc::clone(&settings), viewed, leadership));
    tasks.spawn(rebuild((stores, watches), settings, dirty, updates, views));
    let mut farewell = JoinSet::new();
    let end = CancellationToken::new();
    farewell.spawn(election.run(end.clone()));

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => Err(ended.map_or_else(Error::Task, |()| Error::Ended)),
    };
    // Writing ends before the Lease is given back.
    tasks.shutdown().await;
    end.cancel();
    let _ = timeout(FAREWELL, farewell.join_next()).await;
    ended
}

/// Time allowed to read everything once.
const ONCE: Duration = Duration::from_secs(15);

/// Reads everything once and compiles it. Nothing is written.
///
/// # Errors
/// What the API server said of the kinds that could not be read in time.
pub async fn once(client: Client, settings: &Settings) -> Result<Compiled, String> {
    let (dirty, watches, mut tasks) = (Arc::default(), Arc::<Watches>::default(), JoinSet::new());
    let stores = Stores::watch(&client, &scope(settings), &watches, &mut tasks, &dirty);
    if timeout(ONCE, stores.ready()).await.is_err() {
        let kinds = watches.snapshot();
        let said: Vec<String> = kinds
            .iter()
            .filter_map(|kind| match &kind.state {
                State::Synced => None,
                State::Listing => Some(format!("{}: not listed within {ONCE:?}", kind.kind)),
                State::Failing { reason, .. } => Some(format!("{}: {reason}", kind.kind)),
            })
            .collect();
        return Err(said.join("; "));
    }
    let cluster = Cluster::read(stores.objects());
    Ok(compile_once(&cluster, &settings.compile))
}

fn scope(settings: &Settings) -> Scope {
    Scope {
        namespaces: settings.namespaces.clone(),
        namespace_selector: settings.namespace_selector.clone(),
        // Without restriction the general store has it.
        secret: (!settings.namespaces.is_empty() || settings.namespace_selector.is_some())
            .then(|| settings.compile.default_certificate.clone())
            .flatten(),
        service: match &settings.publish {
            Publish::Service(service) => Some(service.clone()),
            _ => None,
        },
    }
}

/// Compiles the world after each change of it.
async fn rebuild(
    (stores, watches): (Stores, Arc<Watches>),
    settings: Arc<Settings>,
    dirty: Arc<Notify>,
    updates: watch::Sender<Option<Arc<Compiled>>>,
    views: watch::Sender<Option<View>>,
) {
    stores.ready().await;
    info!("every watch has seen everything once, or may not");
    let mut certificates = Certificates::default();
    loop {
        let started = Instant::now();
        let revision = watches.compiling();
        let cluster = Cluster::read(stores.objects());
        certificates.update(&cluster);
        let compiled = Compiled { revision, ..compile(&cluster, &certificates, &settings.compile) };
        let compiled = publish(&updates, compiled);
        if compiled.revision != revision {
            watches.without_effect(revision);
        }
        let addresses = match &settings.publish {
            Publish::None => Some(Vec::new()),
            Publish::Addresses(addresses) => Some(addresses.clone()),
            Publish::Service(_) => {
                stores.service().map(|service| service.map(|s| status::service_addresses(&s)).unwrap_or_default())
            }
        };
        views.send_replace(Some(View { cluster: Arc::new(cluster), compiled, addresses }));
        let took = started.elapsed();
        debug!(?took, "rebuilt");
        // As much rest as work: a storm of changes takes at most half a core.
        sleep(took).await;
        settled(&dirty).await;
    }
}

/// Sends the configuration on if it says anything new; gives the one that was sent last.
fn publish(updates: &watch::Sender<Option<Arc<Compiled>>>, compiled: Compiled) -> Arc<Compiled> {
    let mut sent = None;
    updates.send_if_modified(|current| {
        let is_same = |current: &Compiled| current.agrees_with(&compiled) && current.provenance == compiled.provenance;
        let changed = !current.as_deref().is_some_and(is_same);
        let next = match current.take() {
            Some(current) if !changed => current,
            _ => Arc::new(compiled),
        };
        sent = Some(Arc::clone(&next));
        *current = Some(next);
        changed
    });
    sent.unwrap_or_default()
}

/// Waits for a change, and then until changes pause or [`LIMIT`] is over.
async fn settled(dirty: &Notify) {
    dirty.notified().await;
    let limit = Instant::now() + LIMIT;
    while timeout_at(limit.min(Instant::now() + QUIET), dirty.notified()).await.is_ok() {
        if Instant::now() >= limit {
            return;
        }
    }
}

/// Keeps status and Events current while we lead.
async fn tell(
    client: Client,
    settings: Arc<Settings>,
    mut views: watch::Receiver<Option<View>>,
    mut leadership: Leadership,
) {
    let mut teller =
        Teller::new(client.clone(), &settings.compile.controller_name, &settings.identity, leadership.clone());
    let mut writer = status::Writer::new(client, &settings.field_manager(), leadership.clone());
    loop {
        let view = views.borrow_and_update().clone();
        let mut wake = None;
        if let Some(View { cluster, compiled, addresses }) = &view {
            if settings.update_status && leadership.holds() {
                let patches = status::plan(cluster, &compiled.problems, &settings, addresses.as_deref());
                wake = writer.apply(patches).await;
            }
            let more = teller.tell(cluster, &compiled.problems).await;
            wake = wake.into_iter().chain(more).min();
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = leadership.changed() => {}
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rebuild_waits_for_quiet_but_not_for_ever() {
        let dirty = Arc::new(Notify::new());
        let started = Instant::now();
        dirty.notify_one();
        settled(&dirty).await;
        assert_eq!(started.elapsed().as_millis() / 10, 2);

        let storm = tokio::spawn({
            let dirty = Arc::clone(&dirty);
            async move {
                loop {
                    dirty.notify_one();
                    sleep(Duration::from_millis(5)).await;
                }
            }
        });
        let started = Instant::now();
        settled(&dirty).await;
        storm.abort();
        assert!((200..220).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    }

    #[test]
    fn only_news_is_sent() {
        let (updates, mut received) = watch::channel(None);
        let first = publish(&updates, Compiled::default());
        assert!(received.has_changed().unwrap());
        received.mark_unchanged();
        let second = publish(&updates, Compiled { revision: 2, ..Compiled::default() });
        assert!(!received.has_changed().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }
}
