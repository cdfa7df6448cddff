//! An ordered read view of the objects of a cluster, with the joins that compilation needs.
//!
//! API watches and manifest files both end here, so everything below treats them alike.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{Resource, ResourceExt};

use super::api::BackendPolicy;
use crate::model::Problem;

/// Namespace and name.
pub type ObjectKey = (String, String);

/// Objects as they come: unordered, unjoined.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// `networking.k8s.io/v1` Ingresses of all classes.
    pub ingresses: Vec<Arc<Ingress>>,
    /// `networking.k8s.io/v1` `IngressClasses` of all controllers.
    pub classes: Vec<Arc<IngressClass>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// `discovery.k8s.io/v1` `EndpointSlices`.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Secrets of type `kubernetes.io/tls`.
    pub secrets: Vec<Arc<Secret>>,
    /// `ConfigMaps` with a key `ca.crt`; others may be among them.
    pub config_maps: Vec<Arc<ConfigMap>>,
    /// Our policies.
    pub policies: Vec<Arc<BackendPolicy>>,
    /// What could not be read as an object of its kind.
    pub malformed: Vec<Problem>,
    /// Ingresses of namespaces that are not selected: nothing of them is served, but what we wrote is taken back.
    pub left: Vec<Arc<Ingress>>,
    /// What we may not read.
    pub unread: Unread,
}

/// Kinds that were never read because we may not, so that nothing is known of their objects.
#[derive(Clone, Debug, Default)]
pub struct Unread(Vec<(&'static str, String)>);

impl Unread {
    /// Adds a kind in a namespace; an empty one stands for all of them.
    pub fn add(&mut self, kind: &'static str, namespace: &str) {
        self.0.push((kind, namespace.to_owned()));
    }

    /// Whether objects of this kind in this namespace may exist without our knowing.
    pub fn has(&self, kind: &str, namespace: &str) -> bool {
        self.0.iter().any(|(of, place)| *of == kind && (place.is_empty() || place == namespace))
    }
}

/// Objects in a total order, joined.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Strongest claim first: oldest, then by namespace and name.
    pub ingresses: Vec<Arc<Ingress>>,
    /// By name.
    pub classes: Vec<Arc<IngressClass>>,
    /// By namespace and name.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// Slices by namespace and name of their Service; each list is sorted by slice name and never empty.
    pub slices: BTreeMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
    /// By namespace and name.
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    /// By namespace and name.
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    /// Strongest claim first: oldest, then by namespace and name.
    pub policies: Vec<Arc<BackendPolicy>>,
    /// What could not be read as an object of its kind.
    pub malformed: Vec<Problem>,
    /// Ingresses of namespaces that are not selected.
    pub left: Vec<Arc<Ingress>>,
    /// What we may not read.
    pub unread: Unread,
}

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Cluster {
    /// Orders and joins.
    pub fn read(objects: Objects) -> Self {
        let Objects {
            mut ingresses,
            mut classes,
            services,
            slices,
            secrets,
            config_maps,
            mut policies,
            mut malformed,
            left,
            unread,
        } = objects;
        ingresses.sort_by_cached_key(|ingress| precedence(&**ingress));
        policies.sort_by_cached_key(|policy| precedence(&**policy));
        classes.sort_by_cached_key(|class| class.name_any());
        malformed.sort();
        let mut by_service: BTreeMap<ObjectKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in slices {
            if let Some(service) = slice.labels().get(SERVICE_NAME) {
                let of = (slice.namespace().unwrap_or_default(), service.clone());
                by_service.entry(of).or_default().push(slice);
            }
        }
        for slices in by_service.values_mut() {
            slices.sort_by_cached_key(|slice| slice.name_any());
        }
        Self {
            ingresses,
            classes,
            services: by_key(services),
            slices: by_service,
            secrets: by_key(secrets),
            config_maps: by_key(config_maps),
            policies,
            malformed,
            left,
            unread,
        }
    }
}

/// The key of an object.
pub fn key(object: &impl Resource) -> ObjectKey {
    (object.meta().namespace.clone().unwrap_or_default(), object.meta().name.clone().unwrap_or_default())
}

fn by_key<K: Resource>(objects: Vec<Arc<K>>) -> BTreeMap<ObjectKey, Arc<K>> {
    objects.into_iter().map(|object| (key(&*object), object)).collect()
}

/// Sorts the strongest claim first. Objects without a creation time, as in manifest files, come after those with one.
fn precedence(object: &impl Resource) -> (bool, i64, ObjectKey) {
    let created = object.meta().creation_timestamp.as_ref().map(|time| time.0.as_second());
    (created.is_none(), created.unwrap_or_default(), key(object))
}
