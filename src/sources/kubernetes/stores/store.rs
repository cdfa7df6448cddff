//! One store and the watch that keeps it current.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Client, Resource,
    core::DeserializeGuard,
    runtime::{watcher, watcher::Event},
};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::{
    model::{Origin, Problem, ProblemKind},
    sources::kubernetes::{ObjectKey, api::BackendPolicy, cluster, rights::Right, status::FIELD_MANAGER_PREFIX},
    telemetry::watches::{self, Turn, Watches},
};

/// Annotation of `kubectl apply`: a second copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What to do about a kind that has to be installed.
const NOT_INSTALLED: &str = "the kind is not installed: run `kubectl apply -f crds/`, or `pierhead crds | kubectl apply -f -`; \
                             everything else is served meanwhile";

/// One kind in one namespace, or in all of them.
#[derive(Debug)]
pub(super) struct Store<K> {
    subject: Subject,
    told: watches::Watch,
    objects: Mutex<HashMap<ObjectKey, Kept<K>>>,
    state: watch::Sender<State>,
}

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) right: &'static Right,
    /// Namespace, or namespace and name; empty for all of them.
    pub(super) place: String,
    pub(super) need: Need,
}

/// Whether a refusal is trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Something is not served, or not as it was meant.
    Required,
    /// Who names namespaces may well have no right to a kind without one.
    Optional,
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
    /// The kind does not exist, and so no object of it; this may change.
    Absent,
    /// We may not look; this may change.
    Forbidden,
    /// A complete list at least.
    Synced,
}

impl<K: Resource<DynamicType = ()>> Store<K> {
    pub(super) fn new(subject: Subject, watches: &Arc<Watches>) -> Self {
        let told = watches.watch(subject.right.resource, &subject.place);
        Self { subject, told, objects: Mutex::default(), state: watch::Sender::new(State::Waiting) }
    }

    pub(super) async fn ready(&self) {
        // The sender is in `self`, so the channel cannot close.
        let _ = self.state.subscribe().wait_for(|state| *state != State::Waiting).await;
    }

    /// Waits for the first complete list.
    pub(super) async fn synced(&self) {
        let _ = self.state.subscribe().wait_for(|state| *state == State::Synced).await;
    }

    /// Kind and namespace, when nothing is known because we may not look.
    pub(super) fn unread(&self) -> Option<(&'static str, &str)> {
        let namespace = self.subject.place.split('/').next().unwrap_or_default();
        (*self.state.borrow() == State::Forbidden).then_some((self.subject.right.kind, namespace))
    }

    pub(super) fn is_synced(&self) -> bool {
        *self.state.borrow() == State::Synced
    }

    /// Takes note that there is nothing to see for us. What was seen before stays. Says whether that is news.
    fn refused(&self, code: Option<u16>) -> bool {
        let next = match code {
            Some(403) => State::Forbidden,
            Some(404) if self.subject.right.has_to_be_installed() => State::Absent,
            _ => return false,
        };
        self.state.send_if_modified(|state| {
            let news = *state != State::Synced && *state != next;
            if news {
                *state = next;
            }
            news
        })
    }

    fn tell(&self, code: Option<u16>, error: &watcher::Error, is_new: bool) {
        let Subject { right, need, .. } = &self.subject;
        if *need == Need::Optional && code == Some(403) && !self.is_synced() {
            self.told.withdrawn();
            if is_new {
                info!(kind = right.kind, meanwhile = right.without, "may not be read, which is optional here");
            }
            return;
        }
        let (error, advice) = (reason(error), self.advice(code));
        let turn = self.told.failed(error.clone(), advice.clone());
        if is_new || turn == Turn::Failed {
            warn!(kind = right.kind, error, advice, "watch failed, trying again");
        }
    }

    fn advice(&self, code: Option<u16>) -> String {
        match code {
            Some(403) if self.is_synced() => {
                let advice = self.subject.right.advice(&self.subject.place);
                let (grant, _) = advice.split_once(';').unwrap_or((&advice, ""));
                format!("{grant}; what was seen before stays in force, but a restart forgets it")
            }
            Some(403) => self.subject.right.advice(&self.subject.place),
            Some(404) if self.subject.right.has_to_be_installed() => NOT_INSTALLED.to_owned(),
            Some(410) => "the watch fell behind and lists again".to_owned(),
            _ if self.is_synced() => "what was seen before stays in force".to_owned(),
            _ => "nothing is served before it has seen everything once: look at the API server and the way to it"
                .to_owned(),
        }
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
                origin: Origin::new(self.subject.right.kind, namespace.as_str(), name.as_str()),
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

/// A refusal to show a kind that is not there, as the API server would tell somebody who may look: with 404.
///
/// Rights are looked at before the kind is, but everybody may ask which kinds there are.
pub(super) async fn or_absent<K>(
    event: watcher::Result<Event<DeserializeGuard<K>>>,
    right: &'static Right,
    client: Client,
) -> watcher::Result<Event<DeserializeGuard<K>>> {
    match event {
        Err(watcher::Error::InitialListFailed(kube::Error::Api(mut status)))
            if status.code == 403 && right.has_to_be_installed() =>
        {
            let known = client.list_api_group_resources(BackendPolicy::api_version(&()).as_ref()).await;
            if let Err(kube::Error::Api(absent)) = known
                && absent.code == 404
            {
                status = absent;
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
        }
        event => event,
    }
}

/// Keeps a store current for as long as the stream lasts, which is for ever.
pub(super) async fn follow<K>(
    store: Arc<Store<K>>,
    events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>>,
    trim: fn(&mut K),
    dirty: Arc<Notify>,
) where
    K: Resource<DynamicType = ()>,
{
    let mut events = pin!(events);
    let mut list = HashMap::new();
    let mut failure = None;
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if matches!(event, Event::Init) && std::mem::replace(&mut listed, true) {
                    store.told.restarted();
                }
                if store.apply(event, &mut list, trim) {
                    if store.told.followed(store.lock().len()) == Turn::Recovered {
                        info!(kind = store.subject.right.kind, "watch works again");
                    }
                    dirty.notify_one();
                }
            }
            Err(error) => {
                let code = status_code(&error);
                // Once per kind of failure: the backoff repeats it for as long as it lasts.
                store.tell(code, &error, failure.replace(code) != Some(code));
                if store.refused(code) {
                    dirty.notify_one();
                }
            }
        }
    }
}

/// What the API server said, or why it could not be asked.
fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
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
    use crate::sources::kubernetes::rights;

    fn all(right: &'static Right) -> Subject {
        Subject { right, place: String::new(), need: Need::Required }
    }

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
        events: Vec<watcher::Result<Event<DeserializeGuard<Ingress>>>>,
    ) -> (Vec<String>, usize) {
        follow(Arc::clone(store), stream::iter(events), |_| {}, Arc::default()).await;
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
        let store = Arc::new(Store::new(all(&rights::INGRESSES), &Arc::default()));
        let full = vec![Ok(Event::Init), Ok(Event::InitApply(ingress("a"))), Ok(Event::InitDone)];
        assert_eq!(after(&store, full).await.0, ["a"]);
        let broken = vec![Ok(Event::Init), Err(refusal(500)), Ok(Event::Init), Ok(Event::InitApply(ingress("b")))];
        assert_eq!(after(&store, broken).await.0, ["a"]);
        let relist = vec![Ok(Event::Init), Ok(Event::InitApply(ingress("b"))), Ok(Event::InitDone)];
        assert_eq!(after(&store, relist).await.0, ["b"]);
    }

    #[tokio::test]
    async fn a_malformed_object_is_a_problem_until_it_is_repaired_or_gone() {
        let store = Arc::new(Store::new(all(&rights::INGRESSES), &Arc::default()));
        let list = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(ingress("a"))),
            Ok(Event::InitApply(malformed("b"))),
            Ok(Event::InitDone),
        ];
        assert_eq!(after(&store, list).await, (vec!["a".to_owned()], 1));
        let worse = vec![Ok(Event::Apply(malformed("a")))];
        assert_eq!(after(&store, worse).await, (vec!["a".to_owned()], 2), "the version before stays");
        let relist = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(malformed("a"))),
            Ok(Event::InitApply(malformed("b"))),
            Ok(Event::InitDone),
        ];
        assert_eq!(after(&store, relist).await, (vec!["a".to_owned()], 2));
        assert_eq!(after(&store, vec![Ok(Event::Apply(ingress("a")))]).await.1, 1);
        assert_eq!(after(&store, vec![Ok(Event::Delete(malformed("b")))]).await.1, 0);
    }

    #[tokio::test]
    async fn only_a_refusal_or_a_kind_that_is_not_there_ends_the_wait_without_a_list() {
        for (right, code, want) in [
            (&rights::BACKEND_POLICIES, 404, State::Absent),
            (&rights::BACKEND_POLICIES, 403, State::Forbidden),
            (&rights::BACKEND_POLICIES, 500, State::Waiting),
            (&rights::INGRESSES, 403, State::Forbidden),
            (&rights::INGRESSES, 404, State::Waiting),
        ] {
            let store = Arc::new(Store::new(all(right), &Arc::default()));
            after(&store, vec![Ok(Event::Init), Err(refusal(code))]).await;
            assert_eq!(state(&store), want, "{} {code}", right.kind);
            after(&store, vec![Ok(Event::Init), Ok(Event::InitDone)]).await;
            assert_eq!(state(&store), State::Synced);
            after(&store, vec![Err(refusal(403))]).await;
            assert_eq!(state(&store), State::Synced, "what was seen stays");
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
