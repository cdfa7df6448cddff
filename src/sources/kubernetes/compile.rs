//! [`Cluster`](super::Cluster) to [`Compiled`](crate::model::Compiled): pure, total, deterministic.

use super::ObjectKey;

/// What compilation is told besides the objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `spec.controller` of the `IngressClasses` that are ours.
    pub controller_name: String,
    /// Serve only this `IngressClass`; None serves every class of ours.
    pub ingress_class: Option<String>,
    /// Secret whose certificate hosts without one of their own get.
    pub default_certificate: Option<ObjectKey>,
    /// Redirect plain HTTP on hosts with TLS (308).
    pub ssl_redirect: bool,
    /// Port that such redirects name; None for 443.
    pub https_port: Option<u16>,
    /// Follow Services of type `ExternalName`.
    pub allow_external_name: bool,
    /// Accept loopback endpoints: manifest files may, a cluster never (CVE-2021-25740).
    pub allow_loopback_endpoints: bool,
    /// Serve Ingresses that name no class when no `IngressClass` is known at all: for manifest files.
    pub classless: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            controller_name: "pierhead.dev/ingress-controller".to_owned(),
            ingress_class: None,
            default_certificate: None,
            ssl_redirect: true,
            https_port: None,
            allow_external_name: false,
            allow_loopback_endpoints: false,
            classless: false,
        }
    }
}

/// Compiles (stand-in).
pub fn compile(cluster: &super::Cluster, _: &super::secrets::Certificates, _: &Settings) -> crate::model::Compiled {
    crate::model::Compiled { problems: cluster.malformed.clone(), ..Default::default() }
}
