//! Which Ingress is ours (stand-in).

use k8s_openapi::api::networking::v1::Ingress;

use super::{Cluster, compile::Settings};

/// Whether the Ingress is ours.
pub fn is_ours(ingress: &Ingress, cluster: &Cluster, settings: &Settings) -> bool {
    let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    cluster.classes.iter().any(|known| {
        known.metadata.name.as_deref() == class
            && known.spec.as_ref().and_then(|spec| spec.controller.as_ref()) == Some(&settings.controller_name)
    })
}
