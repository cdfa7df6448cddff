//! What the cluster holds now: one watch and one store per kind and watched namespace.
//!
//! A store keeps what it last saw completely. Neither an error nor a list that breaks off half-way takes anything away;
//! only a complete list or a deletion does. Nothing is joined or judged here.

mod store;

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use futures_util::{StreamExt, future::select_all};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, task::JoinSet};

use self::store::{Need, Store, Subject, follow, or_absent};
use super::{
    ObjectKey, Objects,
    api::{BackendPolicy, StoredPolicy},
    cluster::{self, Unread},
    locality,
    rights::{self, Right},
};
use crate::{
    model::{Origin, Problem, ProblemKind},
    telemetry::watches::Watches,
};

/// Seconds after which a watch is opened anew. A connection that died without a word is noticed five seconds later.
const WATCH_SECONDS: u32 = 60;

/// Only these Secrets are ever read, and of them only [`SECRET_KEYS`].
const TLS_SECRETS: &str = "type=kubernetes.io/tls";
const SECRET_KEYS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Only this key of `ConfigMaps` is ever kept.
const AUTHORITIES: &str = "ca.crt";

/// Which part of the cluster is watched.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Namespaces; empty for all of them.
    pub namespaces: Vec<String>,
    /// Label selector for namespaces; None does not look at Namespaces at all.
    pub namespace_selector: Option<String>,
    /// A Secret to watch wherever it lies, even outside the namespaces above.
    pub secret: Option<ObjectKey>,
    /// A Service to watch wherever it lies.
    pub service: Option<ObjectKey>,
}

/// The stores of every kind.
#[derive(Debug)]
pub struct Stores {
    ingresses: Vec<Arc<Store<Ingress>>>,
    classes: Arc<Store<IngressClass>>,
    services: Vec<Arc<Store<Service>>>,
    slices: Vec<Arc<Store<EndpointSlice>>>,
    secrets: Vec<Arc<Store<Secret>>>,
    config_maps: Vec<Arc<Store<ConfigMap>>>,
    policies: Vec<Arc<Store<StoredPolicy>>>,
    /// Names of the namespaces that the selector picks.
    selected: Option<Arc<Store<PartialObjectMeta<Namespace>>>>,
    /// The Secret and the Service of [`Scope`], each alone in its store.
    secret: Option<Arc<Store<Secret>>>,
    service: Option<Arc<Store<Service>>>,
}

impl Stores {
    /// Starts to watch. Every change, and every store that becomes ready, is a permit in `dirty`.
    pub fn watch(
        client: &Client,
        scope: &Scope,
        watches: &Arc<Watches>,
        tasks: &mut JoinSet<()>,
        dirty: &Arc<Notify>,
    ) -> Self {
        // Who grants rights in single namespaces alone cannot grant that to see a kind without one.
        let of_classes = if scope.namespaces.is_empty() { Need::Required } else { Need::Optional };
        let mut start = Start { client, scope, watches, tasks, dirty };
        let tls = || config().fields(TLS_SECRETS);
        let one = |name: &str| config().fields(&format!("metadata.name={name}"));
        Self {
            ingresses: start.each(&rights::INGRESSES, &config(), |_| {}),
            classes: start.one(
                Subject { need: of_classes, ..of(&rights::INGRESS_CLASSES, String::new()) },
                Api::all(client.clone()),
                config(),
                |_| {},
            ),
            services: start.each(&rights::SERVICES, &config(), |_| {}),
            slices: start.each(&rights::ENDPOINT_SLICES, &config(), |slice: &mut EndpointSlice| {
                if let Some(annotations) = &mut slice.metadata.annotations {
                    annotations.retain(|name, _| name == locality::WEIGHT);
                }
            }),
            secrets: start.each(&rights::SECRETS, &tls(), trim_secret),
            config_maps: start.each(&rights::CONFIG_MAPS, &config(), trim_config_map),
            policies: start.each(&rights::BACKEND_POLICIES, &config(), |_| {}),
            selected: scope.namespace_selector.as_deref().map(|selector| start.namespaces(selector)),
            secret: scope.secret.as_ref().map(|(namespace, name)| {
                let api = Api::namespaced(client.clone(), namespace);
                let fields = format!("{TLS_SECRETS},metadata.name={name}");
                start.one(
                    of(&rights::SECRETS, format!("{namespace}/{name}")),
                    api,
                    config().fields(&fields),
                    trim_secret,
                )
            }),
            service: scope.service.as_ref().map(|(namespace, name)| {
                let api = Api::namespaced(client.clone(), namespace);
                start.one(of(&rights::SERVICES, format!("{namespace}/{name}")), api, one(name), |_| {})
            }),
        }
    }

    /// Waits until every store has seen everything once, or has a reason to do without.
    ///
    /// Where no Ingress at all may be read, or not which namespaces are selected, there is nothing left to serve: that is
    /// waited for, so that a rollout stops rather than replacing replicas that serve.
    pub async fn ready(&self) {
        all_ready(&self.ingresses).await;
        select_all(self.ingresses.iter().map(|store| Box::pin(store.synced()))).await;
        all_ready(std::slice::from_ref(&self.classes)).await;
        all_ready(&self.services).await;
        all_ready(&self.slices).await;
        all_ready(&self.secrets).await;
        all_ready(&self.config_maps).await;
        all_ready(&self.policies).await;
        if let Some(selected) = &self.selected {
            selected.synced().await;
        }
        all_ready(self.secret.as_slice()).await;
        all_ready(self.service.as_slice()).await;
    }

    /// Everything as it is now, in the namespaces that are selected.
    pub fn objects(&self) -> Objects {
        let mut malformed = Vec::new();
        let selected = self.selected.as_ref().map(|store| {
            let (namespaces, _) = store.read();
            namespaces.iter().filter_map(|namespace| namespace.metadata.name.clone()).collect::<HashSet<_>>()
        });
        let mut objects = Objects {
            ingresses: read_all(&self.ingresses, &mut malformed),
            classes: read_all(std::slice::from_ref(&self.classes), &mut malformed),
            services: read_all(&self.services, &mut malformed),
            slices: read_all(&self.slices, &mut malformed),
            secrets: read_all(&self.secrets, &mut malformed),
            config_maps: read_all(&self.config_maps, &mut malformed),
            policies: read_policies(&self.policies, &mut malformed),
            malformed,
            left: Vec::new(),
            unread: self.unread(),
        };
        if let Some(selected) = selected {
            let all = std::mem::take(&mut objects.ingresses);
            (objects.ingresses, objects.left) = all.into_iter().partition(|ingress| is_in(&**ingress, &selected));
            retain(&mut objects.services, &selected);
            retain(&mut objects.slices, &selected);
            retain(&mut objects.secrets, &selected);
            retain(&mut objects.config_maps, &selected);
            retain(&mut objects.policies, &selected);
            objects
                .malformed
                .retain(|problem| problem.origin.namespace.is_empty() || selected.contains(&*problem.origin.namespace));
        }
        if let Some(store) = &self.secret {
            // The general store may hold it as well; they agree but for a moment.
            objects.secrets.extend(store.read().0);
        }
        objects
    }

    fn unread(&self) -> Unread {
        let mut unread = Unread::default();
        note(std::slice::from_ref(&self.classes), &mut unread);
        note(&self.services, &mut unread);
        note(&self.slices, &mut unread);
        note(&self.secrets, &mut unread);
        note(&self.config_maps, &mut unread);
        note(&self.policies, &mut unread);
        note(self.secret.as_slice(), &mut unread);
        unread
    }

    /// The Service of [`Scope::service`]: None while nothing is known about it, `Some(None)` when there is none.
    pub fn service(&self) -> Option<Option<Arc<Service>>> {
        let store = self.service.as_ref()?;
        store.is_synced().then(|| store.read().0.pop())
    }
}

fn trim_secret(secret: &mut Secret) {
    if let Some(data) = &mut secret.data {
        data.retain(|key, _| SECRET_KEYS.contains(&key.as_str()));
    }
}

fn trim_config_map(map: &mut ConfigMap) {
    map.metadata.annotations = None;
    map.metadata.labels = None;
    map.binary_data = None;
    if let Some(data) = &mut map.data {
        data.retain(|key, _| key == AUTHORITIES);
    }
}

async fn all_ready<K: Resource<DynamicType = ()>>(stores: &[Arc<Store<K>>]) {
    for store in stores {
        store.ready().await;
    }
}

fn read_all<K: Resource<DynamicType = ()>>(stores: &[Arc<Store<K>>], malformed: &mut Vec<Problem>) -> Vec<Arc<K>> {
    let mut all = Vec::new();
    for store in stores {
        let (objects, problems) = store.read();
        all.extend(objects);
        malformed.extend(problems);
    }
    all
}

fn read_policies(stores: &[Arc<Store<StoredPolicy>>], malformed: &mut Vec<Problem>) -> Vec<Arc<BackendPolicy>> {
    let all = read_all(stores, malformed);
    for stored in &all {
        let (namespace, name) = cluster::key(&**stored);
        let origin = Origin::new("BackendPolicy", namespace, name);
        let problem = |(field, kind): &(_, _)| Problem {
            origin: origin.clone(),
            field: String::clone(field),
            kind: ProblemKind::clone(kind),
        };
        malformed.extend(stored.told.iter().map(problem));
    }
    all.iter().map(|stored| Arc::clone(&stored.policy)).collect()
}

fn retain<K: Resource>(objects: &mut Vec<Arc<K>>, namespaces: &HashSet<String>) {
    objects.retain(|object| is_in(&**object, namespaces));
}

fn is_in(object: &impl Resource, namespaces: &HashSet<String>) -> bool {
    object.meta().namespace.as_ref().is_some_and(|namespace| namespaces.contains(namespace))
}

fn note<K: Resource<DynamicType = ()>>(stores: &[Arc<Store<K>>], unread: &mut Unread) {
    for (kind, namespace) in stores.iter().filter_map(|store| store.unread()) {
        unread.add(kind, namespace);
    }
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn of(right: &'static Right, place: String) -> Subject {
    Subject { right, place, need: Need::Required }
}

/// Starts watches.
struct Start<'a> {
    client: &'a Client,
    scope: &'a Scope,
    watches: &'a Arc<Watches>,
    tasks: &'a mut JoinSet<()>,
    dirty: &'a Arc<Notify>,
}

impl Start<'_> {
    /// One store per watched namespace.
    fn each<K>(&mut self, right: &'static Right, config: &watcher::Config, trim: fn(&mut K)) -> Vec<Arc<Store<K>>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let client = self.client.clone();
        let apis: Vec<(&str, Api<DeserializeGuard<K>>)> = match &*self.scope.namespaces {
            [] => vec![("", Api::all(client))],
            some => some.iter().map(|name| (name.as_str(), Api::namespaced(client.clone(), name))).collect(),
        };
        let one = |(namespace, api): (&str, _)| self.one(of(right, namespace.to_owned()), api, config.clone(), trim);
        apis.into_iter().map(one).collect()
    }

    fn one<K>(
        &mut self,
        subject: Subject,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        trim: fn(&mut K),
    ) -> Arc<Store<K>>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let right = subject.right;
        let store = Arc::new(Store::new(subject, self.watches));
        let client = self.client.clone();
        let events = watcher(api, config).default_backoff().then(move |event| or_absent(event, right, client.clone()));
        self.tasks.spawn(follow(Arc::clone(&store), events, trim, Arc::clone(self.dirty)));
        store
    }

    /// Namespaces by label, names only.
    fn namespaces(&mut self, selector: &str) -> Arc<Store<PartialObjectMeta<Namespace>>> {
        let store = Arc::new(Store::new(of(&rights::NAMESPACES, String::new()), self.watches));
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let events = watcher(api, config().labels(selector)).default_backoff().map(|event| event.map(guard));
        self.tasks.spawn(follow(Arc::clone(&store), events, |_| {}, Arc::clone(self.dirty)));
        store
    }
}

/// Metadata alone has no shape to get wrong.
fn guard<K>(event: Event<K>) -> Event<DeserializeGuard<K>> {
    match event {
        Event::Apply(object) => Event::Apply(DeserializeGuard(Ok(object))),
        Event::Delete(object) => Event::Delete(DeserializeGuard(Ok(object))),
        Event::InitApply(object) => Event::InitApply(DeserializeGuard(Ok(object))),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}
