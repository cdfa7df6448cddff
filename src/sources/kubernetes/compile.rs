//! [`Cluster`] to [`Compiled`]: pure, total, deterministic.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::ServiceBackendPort;

use super::{
    Certificates, Cluster, ObjectKey,
    annotations::Options,
    class::{self, is_ours},
    ingress,
    policies::Policies,
    services::{self, Backends},
};
use crate::{
    matching::HostPattern,
    model::{Action, Builder, Compiled, Loss, Origin, Problem, Route},
};

/// What compilation is told besides the objects.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub struct Settings {
    /// `spec.controller` of the `IngressClasses` that are ours.
    pub controller_name: String,
    /// Serve only this `IngressClass`; None serves every class of ours.
    pub ingress_class: Option<String>,
    /// Secret whose certificate hosts without one of their own get.
    pub default_certificate: Option<ObjectKey>,
    /// Service and port that take what no route takes, unless an Ingress without rules claims that.
    pub default_backend: Option<(ObjectKey, ServiceBackendPort)>,
    /// Redirect plain HTTP on hosts with TLS (308).
    pub ssl_redirect: bool,
    /// Port that such redirects name; None for 443.
    pub https_port: Option<u16>,
    /// Follow Services of type `ExternalName`.
    pub allow_external_name: bool,
    /// Our zone, as endpoints name theirs; None looks at no zones.
    pub zone: Option<String>,
    /// Accept loopback endpoints: manifest files may, a cluster never (CVE-2021-25740).
    pub allow_loopback_endpoints: bool,
    /// Serve Ingresses that name no class, whatever class is the default.
    pub watch_without_class: bool,
    /// Serve Ingresses that name no class when no `IngressClass` is known at all: for manifest files.
    pub classless: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            controller_name: "pierhead.dev/ingress-controller".to_owned(),
            ingress_class: None,
            default_certificate: None,
            default_backend: None,
            ssl_redirect: true,
            https_port: None,
            allow_external_name: false,
            zone: None,
            allow_loopback_endpoints: false,
            watch_without_class: false,
            classless: false,
        }
    }
}

/// Compiles a cluster of which nothing was seen before: no Secret has a last good certificate.
pub fn compile_once(cluster: &Cluster, settings: &Settings) -> Compiled {
    let mut certificates = Certificates::new();
    certificates.update(cluster);
    compile(cluster, &certificates, settings)
}

/// Compiles a cluster into what is wanted and what was wrong.
///
/// Pure, total and deterministic: an object that is wrong loses the part that is wrong and nothing else, and equal
/// inputs give equal outputs.
pub fn compile(cluster: &Cluster, certificates: &Certificates, settings: &Settings) -> Compiled {
    let mut builder = Builder::new();
    for problem in &cluster.malformed {
        builder.problem(problem.clone());
    }
    let policies = Policies::read(cluster, certificates, &mut builder);
    let backends = Backends { cluster, settings, policies };
    for object in &cluster.ingresses {
        if is_ours(object, cluster, settings) {
            ingress::compile(&mut builder, object, &backends, certificates);
        } else {
            ingress::lose(&mut builder, object, &class::named(object).map_or(Loss::NoClass, Loss::OtherClass));
        }
    }
    if let Some((service, port)) = &settings.default_backend {
        default_backend(&mut builder, &backends, service, port);
    }
    if let Some(key) = &settings.default_certificate {
        default_certificate(&mut builder, key, certificates);
    }
    builder.finish()
}

fn default_backend(builder: &mut Builder, backends: &Backends<'_>, service: &ObjectKey, port: &ServiceBackendPort) {
    if builder.has_default() {
        return;
    }
    let origin = Origin::new("Flag", "", "--default-backend");
    let action = match backends.resolve(builder, service, Some(port), &Options::default()) {
        Ok(id) => Action::Forward(id),
        Err((_, kind)) => {
            let unavailable = services::unavailable(&kind);
            builder.problem(Problem { origin: origin.clone(), field: String::new(), kind });
            unavailable
        }
    };
    let (field, filters) = (String::new(), Vec::new());
    builder.default_route(Route { origin, field, host: HostPattern::Any, path: None, filters, action });
}

fn default_certificate(builder: &mut Builder, key: &ObjectKey, certificates: &Certificates) {
    let (certificate, kinds) = certificates.judge(key);
    for kind in kinds {
        builder.problem(Problem {
            origin: Origin::new("Flag", "", "--default-certificate"),
            field: String::new(),
            kind,
        });
    }
    if let Some(certificate) = certificate {
        builder.default_certificate(Arc::clone(certificate));
    }
}
