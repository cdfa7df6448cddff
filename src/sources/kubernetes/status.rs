//! What the objects are told about themselves: where an Ingress is reachable, what became of a `BackendPolicy`.
//!
//! [`plan`] is pure and says what should change; the [`Writer`] applies it. Status never feeds back into routing, and
//! an error here never stops anything.

mod policy;
mod writer;

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{Ingress, IngressLoadBalancerIngress},
};
use kube::Resource;
use serde_json::{Value, json};

pub use writer::Writer;

use super::{Cluster, class, cluster, run::Settings};
use crate::model::{Origin, Problem};

/// How our names in managed fields begin; see [`Settings::field_manager`].
pub const FIELD_MANAGER_PREFIX: &str = "pierhead:";

/// A change of the status of one object, to be applied server-side.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The object.
    pub target: Origin,
    /// The whole object as we want it: identity, the resource version the decision rests on, and our part of the
    /// status. Without our part it gives up what we own.
    pub body: Value,
}

/// Where clients reach us.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// By IP address.
    Ip(IpAddr),
    /// By name.
    Host(String),
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Host(text.to_owned()), Self::Ip)
    }
}

/// The addresses that a Service stands for, as ingress-nginx reads them.
pub fn service_addresses(service: &Service) -> Vec<Address> {
    let address = |text: &String| Address::from(text.as_str());
    let Some(spec) = &service.spec else { return Vec::new() };
    let external = spec.external_ips.iter().flatten().map(address);
    let cluster_ip = || spec.cluster_ip.iter().filter(|ip| !matches!(ip.as_str(), "" | "None")).map(address);
    match spec.type_.as_deref() {
        Some("ExternalName") => spec.external_name.iter().map(address).collect(),
        Some("LoadBalancer") => {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let given = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
            let mut addresses: Vec<Address> =
                given.filter_map(|ingress| ingress.ip.as_ref().or(ingress.hostname.as_ref())).map(address).collect();
            addresses.extend(external);
            addresses
        }
        Some("NodePort") if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) => external.collect(),
        _ => cluster_ip().collect(),
    }
}

/// What to change so that every status says what is.
///
/// `addresses` is None while they are not known: then no Ingress is touched. Empty, they are taken back.
pub fn plan(cluster: &Cluster, problems: &[Problem], settings: &Settings, addresses: Option<&[Address]>) -> Vec<Patch> {
    let mut patches = Vec::new();
    if let Some(addresses) = addresses {
        let manager = settings.field_manager();
        let wanted: Vec<IngressLoadBalancerIngress> = addresses.iter().map(load_balancer).collect();
        for ingress in &cluster.ingresses {
            let wanted: &[_] = if class::is_ours(ingress, cluster, &settings.compile) { &wanted } else { &[] };
            patches.extend(plan_ingress(ingress, wanted, &manager));
        }
        patches.extend(cluster.left.iter().filter_map(|ingress| plan_ingress(ingress, &[], &manager)));
    }
    let now = k8s_openapi::jiff::Timestamp::now();
    patches.extend(cluster.policies.iter().filter_map(|policy| policy::plan(policy, problems, &settings.compile, now)));
    patches
}

fn plan_ingress(ingress: &Ingress, wanted: &[IngressLoadBalancerIngress], manager: &str) -> Option<Patch> {
    let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let shown = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let status = if wanted.is_empty() {
        // Only what we wrote is ours to remove; another controller's address stays.
        owns_status(ingress, manager).then_some(None)
    } else {
        (!same(shown, wanted)).then(|| Some(json!({ "loadBalancer": { "ingress": wanted } })))
    };
    status.map(|status| patch(ingress, "Ingress", "networking.k8s.io/v1", status))
}

fn load_balancer(address: &Address) -> IngressLoadBalancerIngress {
    match address {
        Address::Ip(ip) => IngressLoadBalancerIngress { ip: Some(ip.to_string()), ..Default::default() },
        Address::Host(name) => IngressLoadBalancerIngress { hostname: Some(name.clone()), ..Default::default() },
    }
}

/// Compares addresses alone: another writer may have added ports.
fn same(a: &[IngressLoadBalancerIngress], b: &[IngressLoadBalancerIngress]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.ip == b.ip && a.hostname == b.hostname)
}

fn owns_status(object: &impl Resource, manager: &str) -> bool {
    object.meta().managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(manager))
}

/// The whole status that we want to own; None gives up what we own.
fn patch<K: Resource>(object: &K, kind: &'static str, version: &str, status: Option<Value>) -> Patch {
    let (namespace, name) = cluster::key(object);
    let meta = object.meta();
    let mut body = json!({
        "apiVersion": version,
        "kind": kind,
        // The resource version makes a write that was overtaken fail: a replica that was frozen cannot put back
        // what a newer leader has changed.
        "metadata": { "name": name, "namespace": namespace, "uid": meta.uid, "resourceVersion": meta.resource_version },
    });
    // An empty status would be owned as well, and taken back again and again.
    if let Some(status) = status {
        body["status"] = status;
    }
    Patch { target: Origin::new(kind, namespace, name), body }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::networking::v1::IngressClass;

    use super::*;
    use crate::sources::kubernetes::Objects;

    fn class(controller: &str) -> Arc<IngressClass> {
        from(json!({"metadata": {"name": "pierhead"}, "spec": {"controller": controller}}))
    }

    fn from<K: serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn ingress(class: &str, shown: &[&str], written_by_us: bool) -> Arc<Ingress> {
        let shown: Vec<Value> = shown.iter().map(|ip| json!({"ip": ip})).collect();
        let owner = if written_by_us { Settings::default().field_manager() } else { "another".to_owned() };
        from(json!({
            "metadata": {
                "name": "front", "namespace": "shop", "resourceVersion": "7",
                "managedFields": [{"manager": owner, "operation": "Apply", "subresource": "status"}],
            },
            "spec": {"ingressClassName": class},
            "status": {"loadBalancer": {"ingress": shown}},
        }))
    }

    fn planned(ingress: Arc<Ingress>, addresses: Option<&[&str]>) -> Option<Value> {
        let settings = Settings::default();
        let cluster = Cluster::read(Objects {
            ingresses: vec![ingress],
            classes: vec![class(&settings.compile.controller_name)],
            ..Objects::default()
        });
        let addresses: Option<Vec<Address>> =
            addresses.map(|all| all.iter().map(|text| Address::from(*text)).collect());
        let patches = plan(&cluster, &[], &settings, addresses.as_deref());
        assert!(patches.len() <= 1);
        patches.into_iter().next().map(|patch| {
            assert_eq!(patch.body["metadata"]["resourceVersion"], "7");
            patch.body.get("status").cloned().unwrap_or_default()
        })
    }

    #[test]
    fn an_ingress_gets_the_addresses_only_when_they_differ() {
        let want = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"hostname": "lb.example"}]}});
        assert_eq!(planned(ingress("pierhead", &[], false), Some(&["10.0.0.1", "lb.example"])), Some(want));
        assert_eq!(planned(ingress("pierhead", &["10.0.0.1"], true), Some(&["10.0.0.1"])), None);
        assert_eq!(planned(ingress("pierhead", &["10.0.0.1"], false), Some(&["10.0.0.1"])), None);
    }

    #[test]
    fn only_our_own_addresses_are_taken_back() {
        assert_eq!(planned(ingress("other", &["10.0.0.1"], true), Some(&["10.0.0.1"])), Some(Value::Null));
        assert_eq!(planned(ingress("other", &["10.0.0.1"], false), Some(&["10.0.0.1"])), None);
        assert_eq!(planned(ingress("pierhead", &["10.0.0.1"], true), Some(&[])), Some(Value::Null));
    }

    #[test]
    fn unknown_addresses_change_nothing() {
        assert_eq!(planned(ingress("pierhead", &["10.0.0.1"], true), None), None);
        assert_eq!(planned(ingress("other", &["10.0.0.1"], true), None), None);
    }

    #[test]
    fn a_service_stands_for_the_addresses_of_its_type() {
        let rows = [
            (json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9"}), vec![]),
            (json!({"type": "LoadBalancer", "externalIPs": ["1.2.3.4"]}), vec!["1.2.3.4"]),
            (json!({"type": "NodePort", "clusterIP": "10.96.0.9", "externalIPs": ["1.2.3.4"]}), vec!["1.2.3.4"]),
            (json!({"type": "NodePort", "clusterIP": "10.96.0.9"}), vec!["10.96.0.9"]),
            (json!({"clusterIP": "10.96.0.9"}), vec!["10.96.0.9"]),
            (json!({"clusterIP": "None"}), vec![]),
            (json!({"type": "ExternalName", "externalName": "lb.example"}), vec!["lb.example"]),
        ];
        for (spec, want) in rows {
            let service: Arc<Service> = from(json!({"metadata": {"name": "pierhead"}, "spec": spec}));
            let want: Vec<Address> = want.iter().map(|text| Address::from(*text)).collect();
            assert_eq!(service_addresses(&service), want, "{spec}");
        }
        let service: Arc<Service> = from(json!({
            "metadata": {"name": "pierhead"},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "lb.example"}]}},
        }));
        assert_eq!(service_addresses(&service), [Address::from("1.2.3.4"), Address::from("lb.example")]);
    }
}
