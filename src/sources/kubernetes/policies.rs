//! Which policy is in force for which port of which Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use super::{
    Certificates, Cluster, ObjectKey,
    api::{BackendPolicy, TargetRef},
};
use crate::{
    model::{Builder, Origin, Problem, ProblemKind},
    sources::policy::{self, Converted, Refusals},
};

/// A Service, and one of its ports by name or all of them.
type Target = (ObjectKey, Option<String>);

/// The policies in force.
#[derive(Debug, Default)]
pub(super) struct Policies {
    by_target: BTreeMap<Target, Claimed>,
    /// Services that a policy with `tls` names in a target that is refused: nothing is sent to them in clear text.
    closed: BTreeSet<ObjectKey>,
    default: Claimed,
}

/// A policy that claimed a target.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimed {
    pub(super) policy: Arc<Converted>,
    /// The object; None where there is none.
    pub(super) origin: Option<Origin>,
    /// Fields that differ from their defaults.
    pub(super) fields: Arc<BTreeSet<String>>,
}

impl Policies {
    /// Lets each policy claim its targets, strongest policy first, and tells those that lose or name nothing.
    pub(super) fn read(cluster: &Cluster, certificates: &Certificates, builder: &mut Builder) -> Self {
        let mut policies = Self::default();
        for object in &cluster.policies {
            policies.claim(object, cluster, certificates, builder);
        }
        policies
    }

    /// The policy for a port. One that names the port beats one for the whole Service.
    pub(super) fn find(&self, service: &ObjectKey, port_name: Option<&str>) -> Claimed {
        let of_port = port_name.and_then(|name| self.by_target.get(&(service.clone(), Some(name.to_owned()))));
        let found = of_port.or_else(|| self.by_target.get(&(service.clone(), None)));
        let mut claimed = found.unwrap_or(&self.default).clone();
        if self.closed.contains(service) {
            claimed.policy = Arc::new(claimed.policy.closed());
        }
        claimed
    }

    fn claim(&mut self, object: &BackendPolicy, cluster: &Cluster, certificates: &Certificates, builder: &mut Builder) {
        let namespace = object.namespace().unwrap_or_default();
        let origin = Origin::new("BackendPolicy", namespace.as_str(), object.name_any());
        if let Some(time) = &object.metadata.creation_timestamp {
            builder.created(origin.clone(), time.0.as_second());
        }
        let mut problem = |field: String, kind| {
            builder.problem(Problem { origin: origin.clone(), field: format!("spec.{field}"), kind });
        };
        let spec = &object.spec;
        let mut refusals = Refusals::default();
        let converted = Arc::new(policy::convert(spec, &certificates.of(&namespace), &mut refusals));
        let fields = Arc::new(policy::written(spec, &refusals));
        for (field, kind) in refusals.0 {
            problem(field, kind);
        }
        if spec.target_refs.is_empty() || spec.target_refs.len() > 16 {
            let found = format!("{} targets", spec.target_refs.len());
            problem("targetRefs".into(), ProblemKind::InvalidValue { found, expected: "1 to 16".into() });
        }
        for (i, target) in spec.target_refs.iter().enumerate() {
            let key = (namespace.clone(), target.name.clone());
            if let Err((field, kind)) = check(target, &key, cluster) {
                problem(format!("targetRefs[{i}].{field}"), kind);
                if spec.tls.is_some() {
                    self.closed.insert(key);
                }
                continue;
            }
            let key = (key, target.section_name.clone());
            if let Some(winner) = self.by_target.get(&key).and_then(|claimed| claimed.origin.as_ref()) {
                let port = target.section_name.as_ref().map(|name| format!(" port {name}")).unwrap_or_default();
                let what = format!("the policy of Service {namespace}/{}{port}", target.name);
                problem(format!("targetRefs[{i}]"), ProblemKind::Conflict { what, winner: winner.clone() });
            } else {
                let (policy, fields) = (Arc::clone(&converted), Arc::clone(&fields));
                self.by_target.insert(key, Claimed { policy, origin: Some(origin.clone()), fields });
            }
        }
    }
}

fn check(target: &TargetRef, key: &ObjectKey, cluster: &Cluster) -> Result<(), (&'static str, ProblemKind)> {
    // The CRD's rules say the same; manifest files have no API server to apply them.
    if target.kind != "Service" {
        return Err(("kind", ProblemKind::InvalidValue { found: target.kind.clone(), expected: "Service".into() }));
    }
    if !target.group.is_empty() {
        let expected = "an empty group, that of Service".into();
        return Err(("group", ProblemKind::InvalidValue { found: target.group.clone(), expected }));
    }
    let origin = Origin::new("Service", key.0.as_str(), key.1.as_str());
    let Some(service) = cluster.services.get(key) else {
        return Err(("name", ProblemKind::NotFound(origin)));
    };
    match &target.section_name {
        Some(port) if !has_port(service, port) => {
            let kind = ProblemKind::PortNotFound {
                service: origin,
                port: format!("named {port:?}"),
                existing: super::services::ports(service),
            };
            Err(("sectionName", kind))
        }
        _ => Ok(()),
    }
}

fn has_port(service: &Service, name: &str) -> bool {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.is_some_and(|ports| ports.iter().any(|port| port.name.as_deref() == Some(name)))
}
