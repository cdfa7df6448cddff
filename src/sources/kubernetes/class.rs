//! Which Ingresses are ours.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::ResourceExt;

use super::{Cluster, compile::Settings};

/// Names the class in Ingresses older than `spec.ingressClassName`, and in the charts that never moved on.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Marks the class of Ingresses that name none.
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const CLASS: &str = "IngressClass";
/// The class that is ours without an `IngressClass` object, unless a setting names another.
const OWN_CLASS: &str = "pierhead";

/// Whether the Ingress is ours to serve and to report on.
///
/// `spec.ingressClassName` decides, else the annotation `kubernetes.io/ingress.class`, else a setting, else the default
/// class.
pub fn is_ours(ingress: &Ingress, cluster: &Cluster, settings: &Settings) -> bool {
    let spec_class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    if let Some(name) = spec_class.filter(|name| !name.is_empty()) {
        return match cluster.classes.iter().find(|class| class.name_any() == name) {
            Some(class) => serves(class, settings),
            // Manifest files often come without the IngressClass that the cluster has.
            // Nor can it be looked up where kinds without a namespace may not be read.
            None => (settings.classless || cluster.unread.has(CLASS, "")) && is_own_name(name, settings),
        };
    }
    if let Some(name) = ingress.annotations().get(CLASS_ANNOTATION).filter(|name| !name.is_empty()) {
        return match cluster.classes.iter().find(|class| class.name_any() == *name) {
            Some(class) => serves(class, settings),
            None => is_own_name(name, settings),
        };
    }
    if settings.watch_without_class {
        return true;
    }
    match default_class(cluster) {
        Some(class) => serves(class, settings),
        None => settings.classless && cluster.classes.is_empty(),
    }
}

/// The class that an Ingress names.
pub(super) fn named(ingress: &Ingress) -> Option<String> {
    let by_spec = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.clone());
    let by_annotation = || ingress.annotations().get(CLASS_ANNOTATION).cloned().filter(|name| !name.is_empty());
    by_spec.filter(|name| !name.is_empty()).or_else(by_annotation)
}

fn is_own_name(name: &str, settings: &Settings) -> bool {
    name == settings.ingress_class.as_deref().unwrap_or(OWN_CLASS)
}

fn serves(class: &IngressClass, settings: &Settings) -> bool {
    let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
    controller == Some(&settings.controller_name)
        && settings.ingress_class.as_ref().is_none_or(|only| *only == class.name_any())
}

/// The default class. Of several the newest counts, then the first by name, as in the API server's admission.
fn default_class(cluster: &Cluster) -> Option<&IngressClass> {
    let is_default =
        |class: &&IngressClass| class.annotations().get(DEFAULT_CLASS_ANNOTATION).is_some_and(|value| value == "true");
    let created = |class: &IngressClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    // Classes are sorted by name and `max_by_key` keeps the last of equals, so look from the end.
    cluster.classes.iter().map(|class| &**class).filter(is_default).rev().max_by_key(|class| created(class))
}
