//! One store and the watch that keeps it current.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::DeserializeGuard,
    runtime::{watcher, watcher::Event},
};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::{
    model::{Origin, Problem, ProblemKind},
    sources::kubernetes::{ObjectKey, cluster, status::FIELD_MANAGER_PREFIX},
    telemetry::watches,
};

/// Annotation of `kubectl apply`: a second copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One kind in one namespace, or in all of them.
#[derive(Debug)]
pub(super) struct Store<K> {
    kind: &'static str,
    told: watches::Watch,
    objects: Mutex<HashMap<ObjectKey, Kept<K>>>,
    state: watch::Sender<State>,
}

/// An object, and what is wrong with what came after it.
#[derive(Clone, Debug)]
struct Kept<K> {
    /// The last version that could be read.
    object: Option<Arc<K>>,
    /// Why the latest version could not.
    malformed: Option<String>,
}

impl<K> Kept<K> {
    /// What cannot be read loses nothing: the version before it stays.
    fn after(self, previous: Option<&Self>) -> Self {
        let object = self.object.or_else(|| previous.and_then(|previous| previous.object.clone()));
        Self { object, malformed: self.malformed }
    }
}

/// How much a store knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing yet.
    Waiting,
    /// The API server says that there is nothing for us to see; this may change.
    Absent,
    /// A complete list at least.
    Synced,
}

impl<K: Resource<DynamicType = ()>> Store<K> {
    pub(super) fn new(kind: &'static str, told: watches::Watch) -> Self {
        Self { kind, told, objects: Mutex::default(), state: watch::Sender::new(State::Waiting) }
    }

    pub(super) async fn ready(&self) {
        // The sender is in `self`, so the channel cannot close.
        let _ = self.state.subscribe().wait_for(|state| *state != State::Waiting).await;
    }

    pub(super) fn is_synced(&self) -> bool {
        *self.state.borrow() == State::Synced
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Kept<K>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects, and what could not be read as one.
    pub(super) fn read(&self) -> (Vec<Arc<K>>, Vec<Problem>) {
        let (mut objects, mut problems) = (Vec::new(), Vec::new());
        for ((namespace, name), kept) in &*self.lock() {
            objects.extend(kept.object.clone());
            problems.extend(kept.malformed.as_ref().map(|error| Problem {
                origin: Origin::new(self.kind, namespace.as_str(), name.as_str()),
                field: String::new(),
                kind: ProblemKind::Malformed(error.clone()),
            }));
        }
        (objects, problems)
    }

    /// Takes one event in; `list` collects the list under way. Says whether anything to be read has changed.
    fn apply(
        &self,
        event: Event<DeserializeGuard<K>>,
        list: &mut HashMap<ObjectKey, Kept<K>>,
        trim: fn(&mut K),
    ) -> bool {
        match event {
            Event::Init => list.clear(),
            Event::InitApply(guard) => {
                let (key, kept) = keep(guard, trim);
                let kept = kept.after(self.lock().get(&key));
                list.insert(key, kept);
            }
            Event::InitDone => {
                *self.lock() = std::mem::take(list);
                self.state.send_replace(State::Synced);
                return true;
            }
            Event::Apply(guard) => {
                let (key, kept) = keep(guard, trim);
                let mut objects = self.lock();
                let kept = kept.after(objects.get(&key));
                objects.insert(key, kept);
                return true;
            }
            Event::Delete(guard) => {
                self.lock().remove(&cluster::key(&guard));
                return true;
            }
        }
        false
    }
}

fn keep<K: Resource<DynamicType = ()>>(guard: DeserializeGuard<K>, trim: fn(&mut K)) -> (ObjectKey, Kept<K>) {
    let key = cluster::key(&guard);
    let kept = match guard.0 {
        Ok(mut object) => {
            trim_meta(object.meta_mut());
            trim(&mut object);
            Kept { object: Some(Arc::new(object)), malformed: None }
        }
        Err(invalid) => Kept { object: None, malformed: Some(invalid.error) },
    };
    (key, kept)
}

/// Leaves of the managed fields only the trace that the status is ours, without which it could not be taken back.
fn trim_meta(meta: &mut ObjectMeta) {
    if let Some(fields) = &mut meta.managed_fields {
        fields.retain(|entry| {
            entry.manager.as_deref().is_some_and(|manager| manager.starts_with(FIELD_MANAGER_PREFIX))
                && entry.subresource.as_deref() == Some("status")
        });
        for entry in &mut *fields {
            entry.fields_v1 = None;
        }
        if fields.is_empty() {
            meta.managed_fields = None;
        }
    }
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// When the answer of the API server counts as "there is nothing".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// Never: only a complete list makes the store ready.
    Never,
    /// When we may not look.
    Forbidden,
    /// When the kind does not exist. Where it does but we may not look, there may be objects that protect.
    UnknownKind,
}

impl Absence {
    fn covers(self, code: u16) -> bool {
        match self {
            Self::Never => false,
            Self::Forbidden => code == 403,
            Self::UnknownKind => code == 404,
        }
    }
}

/// What a watch does besides storing.
pub(super) struct Watch<K> {
    pub(super) absence: Absence,
    /// Takes away what nobody reads.
    pub(super) trim: fn(&mut K),
}

/// Keeps a store current for as long as the stream lasts, which is for ever.
pub(super) async fn follow<K>(
    store: Arc<Store<K>>,
    events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>>,
    watch: Watch<K>,
    dirty: Arc<Notify>,
) where
    K: Resource<DynamicType = ()>,
{
    let mut events = pin!(events);
    let mut list = HashMap::new();
    let mut failing = None;
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let works = !matches!(event, Event::Init);
                if !works && std::mem::replace(&mut listed, true) {
                    store.told.restarted();
                }
                if store.apply(event, &mut list, watch.trim) {
                    store.told.followed(store.lock().len());
                    dirty.notify_one();
                }
                if works && failing.take().is_some() {
                    info!(kind = store.kind, "watch works again");
                }
            }
            Err(error) => {
                let code = status_code(&error);
                let advice = advice(store.kind, code);
                store.told.failed(error.to_string(), advice.to_owned());
                // Once per kind of failure: the backoff repeats it for as long as it lasts.
                if failing.replace(code) != Some(code) {
                    warn!(kind = store.kind, %error, advice, "watch failed, trying again");
                }
                if code.is_some_and(|code| watch.absence.covers(code)) {
                    let first = store.state.send_if_modified(|state| {
                        let waiting = *state == State::Waiting;
                        if waiting {
                            *state = State::Absent;
                        }
                        waiting
                    });
                    if first {
                        dirty.notify_one();
                    }
                }
            }
        }
    }
}

fn advice(kind: &str, code: Option<u16>) -> &'static str {
    match code {
        Some(403) => "the ServiceAccount may not list and watch this kind: apply deploy/rbac.yaml",
        Some(404) if kind == "BackendPolicy" => {
            "the kind is not installed: apply crds/; Ingresses are served meanwhile"
        }
        Some(410) => "the watch fell behind and lists again",
        _ => "the last known state stays in force",
    }
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use k8s_openapi::api::networking::v1::Ingress;
    use serde_json::{Value, json};

    use super::*;

    fn guarded(object: Value) -> DeserializeGuard<Ingress> {
        serde_json::from_value(object).unwrap()
    }

    fn ingress(name: &str) -> DeserializeGuard<Ingress> {
        guarded(json!({"metadata": {"name": name, "namespace": "shop"}}))
    }

    fn malformed(name: &str) -> DeserializeGuard<Ingress> {
        guarded(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": "no"}))
    }

    fn refusal(code: u16) -> watcher::Error {
        let status = json!({"status": "Failure", "message": "no", "reason": "", "code": code});
        let status: Box<kube::core::Status> = serde_json::from_value(status).unwrap();
        watcher::Error::InitialListFailed(kube::Error::Api(status))
    }

    async fn after(
        store: &Arc<Store<Ingress>>,
        absence: Absence,
        events: Vec<watcher::Result<Event<DeserializeGuard<Ingress>>>>,
    ) -> (Vec<String>, usize) {
        let watch = Watch { absence, trim: |_: &mut Ingress| {} };
        follow(Arc::clone(store), stream::iter(events), watch, Arc::default()).await;
        let (objects, problems) = store.read();
        let mut names: Vec<String> = objects.iter().filter_map(|object| object.metadata.name.clone()).collect();
        names.sort();
        (names, problems.len())
    }

    fn state(store: &Store<Ingress>) -> State {
        *store.state.borrow()
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_takes_nothing_away() {
        let store = Arc::new(Store::new("Ingress", Arc::<watches::Watches>::default().watch("ingresses", "")));
        let full = vec![Ok(Event::Init), Ok(Event::InitApply(ingress("a"))), Ok(Event::InitDone)];
        assert_eq!(after(&store, Absence::Never, full).await.0, ["a"]);
        let broken = vec![Ok(Event::Init), Err(refusal(500)), Ok(Event::Init), Ok(Event::InitApply(ingress("b")))];
        assert_eq!(after(&store, Absence::Never, broken).await.0, ["a"]);
        let relist = vec![Ok(Event::Init), Ok(Event::InitApply(ingress("b"))), Ok(Event::InitDone)];
        assert_eq!(after(&store, Absence::Never, relist).await.0, ["b"]);
    }

    #[tokio::test]
    async fn a_malformed_object_is_a_problem_until_it_is_repaired_or_gone() {
        let store = Arc::new(Store::new("Ingress", Arc::<watches::Watches>::default().watch("ingresses", "")));
        let list = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(ingress("a"))),
            Ok(Event::InitApply(malformed("b"))),
            Ok(Event::InitDone),
        ];
        assert_eq!(after(&store, Absence::Never, list).await, (vec!["a".to_owned()], 1));
        let worse = vec![Ok(Event::Apply(malformed("a")))];
        assert_eq!(after(&store, Absence::Never, worse).await, (vec!["a".to_owned()], 2), "the version before stays");
        let relist = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(malformed("a"))),
            Ok(Event::InitApply(malformed("b"))),
            Ok(Event::InitDone),
        ];
        assert_eq!(after(&store, Absence::Never, relist).await, (vec!["a".to_owned()], 2));
        assert_eq!(after(&store, Absence::Never, vec![Ok(Event::Apply(ingress("a")))]).await.1, 1);
        assert_eq!(after(&store, Absence::Never, vec![Ok(Event::Delete(malformed("b")))]).await.1, 0);
    }

    #[tokio::test]
    async fn only_what_a_kind_may_lack_makes_its_store_ready() {
        for (absence, code, want) in [
            (Absence::UnknownKind, 404, State::Absent),
            (Absence::UnknownKind, 403, State::Waiting),
            (Absence::UnknownKind, 500, State::Waiting),
            (Absence::Forbidden, 403, State::Absent),
            (Absence::Forbidden, 404, State::Waiting),
            (Absence::Never, 403, State::Waiting),
        ] {
            let store = Arc::new(Store::new("Ingress", Arc::<watches::Watches>::default().watch("ingresses", "")));
            after(&store, absence, vec![Ok(Event::Init), Err(refusal(code))]).await;
            assert_eq!(state(&store), want, "{absence:?} {code}");
            after(&store, absence, vec![Ok(Event::Init), Ok(Event::InitDone)]).await;
            assert_eq!(state(&store), State::Synced);
        }
    }

    #[test]
    fn of_managed_fields_only_our_hold_on_the_status_is_kept() {
        let object = json!({"metadata": {
            "name": "a", "namespace": "shop",
            "annotations": {(LAST_APPLIED): "{}", "kept": "yes"},
            "managedFields": [
                {"manager": "kubectl", "operation": "Apply", "fieldsV1": {}},
                {"manager": format!("{FIELD_MANAGER_PREFIX}a/b"), "operation": "Apply", "subresource": "status", "fieldsV1": {}},
            ],
        }});
        let kept = keep(guarded(object), |_| {}).1.object.unwrap();
        let fields = kept.metadata.managed_fields.as_deref().unwrap();
        assert_eq!(fields.len(), 1);
        assert!(fields[0].fields_v1.is_none());
        assert_eq!(kept.metadata.annotations.as_ref().unwrap().len(), 1);
    }
}
