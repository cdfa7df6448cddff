//! The control plane with our manifests applied, and scenes: namespaces with objects in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Backend, ControlPlane, Pierhead, Ports, eventually, service, slice};

/// Group, version and plural of the kinds that the tests write or read.
const KINDS: [(&str, &str, &str, &str); 15] = [
    ("Ingress", "networking.k8s.io", "v1", "ingresses"),
    ("IngressClass", "networking.k8s.io", "v1", "ingressclasses"),
    ("Service", "", "v1", "services"),
    ("Secret", "", "v1", "secrets"),
    ("ConfigMap", "", "v1", "configmaps"),
    ("Namespace", "", "v1", "namespaces"),
    ("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices"),
    ("BackendPolicy", "pierhead.dev", "v1alpha1", "backendpolicies"),
    ("Event", "events.k8s.io", "v1", "events"),
    ("Lease", "coordination.k8s.io", "v1", "leases"),
    ("ServiceAccount", "", "v1", "serviceaccounts"),
    ("RoleBinding", "rbac.authorization.k8s.io", "v1", "rolebindings"),
    ("Role", "rbac.authorization.k8s.io", "v1", "roles"),
    ("ClusterRole", "rbac.authorization.k8s.io", "v1", "clusterroles"),
    ("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions"),
];

/// A cluster in which Pierhead may run.
pub(crate) struct Cluster {
    /// Its control plane.
    pub(crate) control_plane: ControlPlane,
    /// What Pierhead connects with: the token of its own service account.
    pub(crate) kubeconfig: PathBuf,
    scenes: AtomicUsize,
}

impl Cluster {
    /// Starts a control plane and applies `crds/` and `deploy/`.
    pub(crate) async fn start() -> Self {
        let control_plane = ControlPlane::start().await;
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = |folder: &str| checkout.join(folder).display().to_string();
        control_plane.kubectl(&["apply", "-f", &path("crds")]).await;
        // The API server makes the objects of its own start a little after it is ready.
        eventually("the namespace default exists", async || {
            Api::<k8s_openapi::api::core::v1::Namespace>::all(control_plane.client()).get("default").await
        })
        .await;
        control_plane.kubectl(&["apply", "--validate=strict", "-k", &path("deploy")]).await;
        let wait = ["wait", "--for=condition=Established", "crd/backendpolicies.pierhead.dev", "--timeout=60s"];
        control_plane.kubectl(&wait).await;
        let kubeconfig = account(&control_plane, "pierhead").await;
        Self { control_plane, kubeconfig, scenes: AtomicUsize::new(0) }
    }

    /// What the service account `pierhead` of a namespace connects with.
    pub(crate) async fn account(&self, namespace: &str) -> PathBuf {
        account(&self.control_plane, namespace).await
    }

    /// Cluster administrator.
    pub(crate) fn client(&self) -> Client {
        self.control_plane.client()
    }

    /// Starts a replica and waits until it is ready.
    pub(crate) async fn pierhead(&self, name: &str, replica: u16, args: &[&str]) -> Pierhead {
        let pierhead = self.spawn(name, replica, args);
        pierhead.ready().await;
        pierhead
    }

    /// Starts a replica.
    pub(crate) fn spawn(&self, name: &str, replica: u16, args: &[&str]) -> Pierhead {
        Pierhead::spawn(self.control_plane.dir(), &self.kubeconfig, name, Ports::of(replica), args)
    }

    /// Starts a replica that connects with another account.
    pub(crate) fn spawn_as(&self, kubeconfig: &Path, name: &str, replica: u16, args: &[&str]) -> Pierhead {
        Pierhead::spawn(self.control_plane.dir(), kubeconfig, name, Ports::of(replica), args)
    }

    /// A new namespace.
    pub(crate) async fn scene(&self) -> Scene<'_> {
        let namespace = format!("scene-{}", self.scenes.fetch_add(1, Ordering::Relaxed));
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        self.apply("", object).await;
        Scene { cluster: self, namespace, backends: BTreeMap::new() }
    }

    /// Applies an object in a namespace; an empty one is for kinds without.
    pub(crate) async fn apply(&self, namespace: &str, object: impl Into<Value>) -> DynamicObject {
        self.try_apply(namespace, object.into()).await.expect("the object is taken")
    }

    /// The same, when the API server may refuse.
    pub(crate) async fn try_apply(&self, namespace: &str, object: Value) -> Result<DynamicObject, kube::Error> {
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let params = PatchParams::apply("test").force();
        self.api(&kind, namespace).patch(&name, &params, &Patch::Apply(&object)).await
    }

    /// Changes parts of an object.
    pub(crate) async fn merge(&self, namespace: &str, kind: &str, name: &str, patch: Value) {
        let done = self.api(kind, namespace).patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        done.expect("the change is taken");
    }

    /// Writes the status of an object as a merge.
    pub(crate) async fn merge_status(&self, namespace: &str, kind: &str, name: &str, status: Value) {
        let patch = json!({ "status": status });
        let api = self.api(kind, namespace);
        let done = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        done.expect("the status is taken");
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, namespace: &str, kind: &str, name: &str) {
        self.api(kind, namespace).delete(name, &DeleteParams::default()).await.expect("it is deleted");
    }

    /// Reads an object.
    pub(crate) async fn get(&self, namespace: &str, kind: &str, name: &str) -> Value {
        let object = self.api(kind, namespace).get(name).await.expect("it exists");
        let mut value = object.data.clone();
        value["metadata"] = serde_json::to_value(&object.metadata).expect("metadata is JSON");
        value
    }

    /// Events about an object, as `reason: note`.
    pub(crate) async fn events(&self, namespace: &str, kind: &str, name: &str) -> Vec<String> {
        let events = self.api("Event", namespace).list(&ListParams::default()).await.expect("a list");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events
            .into_iter()
            .filter(|event| event.data["regarding"]["kind"] == kind && event.data["regarding"]["name"] == name)
            .map(|event| format!("{}: {}", text(&event.data["reason"]), text(&event.data["note"])))
            .collect()
    }

    /// Waits for an Event about an object whose `reason: note` contains all these parts.
    pub(crate) async fn has_event(&self, namespace: &str, kind: &str, name: &str, parts: &[&str]) {
        eventually(&format!("an Event with {parts:?} about {kind} {name}"), async || {
            let events = self.events(namespace, kind, name).await;
            let found = events.iter().any(|event| parts.iter().all(|part| event.contains(part)));
            if found { Ok(()) } else { Err(events) }
        })
        .await;
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let row = KINDS.iter().find(|row| row.0 == kind).unwrap_or_else(|| panic!("{kind} is not in KINDS"));
        let (kind, group, version, plural) = *row;
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        match namespace {
            "" => Api::all_with(self.client(), &resource),
            namespace => Api::namespaced_with(self.client(), namespace, &resource),
        }
    }
}

/// A namespace of its own, with the backends that live in it.
pub(crate) struct Scene<'a> {
    /// Where it is.
    pub(crate) cluster: &'a Cluster,
    /// Its namespace.
    pub(crate) namespace: String,
    backends: BTreeMap<String, Backend>,
}

impl Scene<'_> {
    /// Starts one backend for each name, with a Service and a slice of the same name.
    pub(crate) async fn backends(&mut self, names: &[&str]) {
        for name in names {
            let backend = Backend::start(name).await;
            self.apply(service(name)).await;
            self.apply(slice(name, &[&backend])).await;
            self.backends.insert((*name).to_owned(), backend);
        }
    }

    /// The backend of that name.
    pub(crate) fn backend(&self, name: &str) -> &Backend {
        &self.backends[name]
    }

    /// Applies an object here.
    pub(crate) async fn apply(&self, object: impl Into<Value>) -> String {
        self.cluster.apply(&self.namespace, object).await.name_any()
    }

    /// Deletes an object here.
    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        self.cluster.delete(&self.namespace, kind, name).await;
    }

    /// Reads an object here.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Value {
        self.cluster.get(&self.namespace, kind, name).await
    }

    /// Waits for an Event about an object here.
    pub(crate) async fn has_event(&self, kind: &str, name: &str, parts: &[&str]) {
        self.cluster.has_event(&self.namespace, kind, name, parts).await;
    }

    /// Lets go of the cluster; the backends live on.
    pub(crate) fn into_parts(self) -> (String, BTreeMap<String, Backend>) {
        (self.namespace, self.backends)
    }

    /// A host that only this scene uses.
    pub(crate) fn host(&self, prefix: &str) -> String {
        format!("{prefix}.{}.example", self.namespace)
    }
}

async fn account(control_plane: &ControlPlane, namespace: &str) -> PathBuf {
    let accounts: Api<ServiceAccount> = Api::namespaced(control_plane.client(), namespace);
    let spec = TokenRequestSpec { expiration_seconds: Some(7200), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let token = accounts.create_token_request("pierhead", &PostParams::default(), &request).await.expect("a token");
    control_plane.kubeconfig(&format!("pierhead-{namespace}"), &token.status.expect("filled by the server").token)
}
