//! Flags of `serve` that concern Kubernetes objects, from the API or from files.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use k8s_openapi::api::networking::v1::ServiceBackendPort;

use super::{
    selector::selector,
    serve::{line_of, variable},
};
use crate::sources::kubernetes::{ObjectKey, compile, run, status};

#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Watch the Kubernetes API [default: in a Pod, when no other source is given].
    #[arg(long, env = "PIERHEAD_KUBERNETES", help_heading = "Sources", value_parser = BoolishValueParser::new())]
    pub(super) kubernetes: bool,
    /// Manifest file or folder of such, read again when it changes (repeatable).
    #[arg(long, env = "PIERHEAD_MANIFESTS", value_name = "PATH", value_delimiter = ',', help_heading = "Sources")]
    pub(super) manifests: Vec<PathBuf>,
    #[command(flatten)]
    objects: ObjectArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
struct ObjectArgs {
    /// Serve only Ingresses of this class, named by field or annotation [default: every class of our controller].
    #[arg(long, env = "PIERHEAD_INGRESS_CLASS", value_name = "NAME")]
    ingress_class: Option<String>,
    /// Serve Ingresses that name no class too, by field or annotation.
    #[arg(long, env = "PIERHEAD_WATCH_INGRESS_WITHOUT_CLASS", value_parser = BoolishValueParser::new())]
    watch_ingress_without_class: bool,
    /// Controller that the classes which are ours name in spec.controller.
    #[arg(
        long,
        env = "PIERHEAD_CONTROLLER_NAME",
        value_name = "NAME",
        default_value = "pierhead.dev/ingress-controller"
    )]
    controller_name: String,
    /// Watch only this namespace (repeatable) [default: all].
    #[arg(long, env = "PIERHEAD_WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// Watch only namespaces with these labels.
    #[arg(
        long,
        env = "PIERHEAD_WATCH_NAMESPACE_SELECTOR",
        value_name = "SELECTOR",
        value_parser = selector,
        conflicts_with = "watch_namespace"
    )]
    watch_namespace_selector: Option<String>,
    /// Publish the addresses of this Service in the status of Ingresses.
    #[arg(
        long,
        env = "PIERHEAD_PUBLISH_SERVICE",
        value_name = "NAMESPACE/NAME",
        value_parser = object_key,
        conflicts_with = "publish_address"
    )]
    publish_service: Option<ObjectKey>,
    /// Publish this address or name in the status of Ingresses (repeatable).
    #[arg(long, env = "PIERHEAD_PUBLISH_ADDRESS", value_name = "ADDRESS", value_delimiter = ',')]
    publish_address: Vec<status::Address>,
    /// Write the status of Ingresses and of policies.
    #[arg(long, env = "PIERHEAD_UPDATE_STATUS", value_name = "BOOL", default_value = "true",
        action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    update_status: bool,
    /// Service that takes what no route takes, unless an Ingress without rules does [default: 404].
    #[arg(long, env = "PIERHEAD_DEFAULT_BACKEND", value_name = "NAMESPACE/NAME:PORT", value_parser = service_port)]
    default_backend: Option<(ObjectKey, ServiceBackendPort)>,
    /// Secret with the certificate of hosts without one of their own [default: self-signed].
    #[arg(long, env = "PIERHEAD_DEFAULT_CERTIFICATE", value_name = "NAMESPACE/NAME", value_parser = object_key)]
    default_certificate: Option<ObjectKey>,
    /// Follow Services that are external names.
    #[arg(long, env = "PIERHEAD_ALLOW_EXTERNAL_NAME", value_parser = BoolishValueParser::new())]
    allow_external_name: bool,
    /// Our zone, as the label topology.kubernetes.io/zone of our node names it; without one no endpoint is near.
    #[arg(long, env = "PIERHEAD_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// Name of the Lease by which one replica is elected to write status.
    #[arg(long, env = "PIERHEAD_LEASE_NAME", value_name = "NAME", default_value = "pierhead")]
    lease_name: String,
    /// Namespace of the Lease [default: the Pod's own].
    #[arg(long, env = "PIERHEAD_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
}

impl ClusterArgs {
    /// What compilation is told, whatever the source.
    pub(super) fn compile(&self, ssl_redirect: bool, https_port: Option<u16>) -> compile::Settings {
        compile::Settings {
            controller_name: self.objects.controller_name.clone(),
            ingress_class: self.objects.ingress_class.clone(),
            watch_without_class: self.objects.watch_ingress_without_class,
            default_backend: self.objects.default_backend.clone(),
            default_certificate: self.objects.default_certificate.clone(),
            ssl_redirect,
            https_port,
            allow_external_name: self.objects.allow_external_name,
            zone: self.objects.zone.clone(),
            ..compile::Settings::default()
        }
    }

    /// How the Kubernetes API is watched and told.
    pub(super) fn cluster(&self, compile: compile::Settings, identity: String) -> run::Settings {
        let publish = match (&self.objects.publish_service, &self.objects.publish_address) {
            (Some(service), _) => run::Publish::Service(service.clone()),
            (None, addresses) if addresses.is_empty() => run::Publish::None,
            (None, addresses) => run::Publish::Addresses(addresses.clone()),
        };
        run::Settings {
            compile,
            namespaces: self.objects.watch_namespace.clone(),
            namespace_selector: self.objects.watch_namespace_selector.clone(),
            publish,
            update_status: self.objects.update_status,
            identity,
            lease_namespace: self.objects.lease_namespace.clone().unwrap_or_else(own_namespace),
            lease_name: self.objects.lease_name.clone(),
        }
    }
}

/// Reads `namespace/name`.
fn object_key(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

/// Reads a Service with the number or name of its port.
fn service_port(text: &str) -> Result<(ObjectKey, ServiceBackendPort), String> {
    let expected = || "expected NAMESPACE/NAME:PORT, the port by number or name".to_owned();
    let (service, port) = text.rsplit_once(':').filter(|(_, port)| !port.is_empty()).ok_or_else(expected)?;
    let port = match port.parse::<u16>() {
        Ok(0) => return Err(expected()),
        Ok(number) => ServiceBackendPort { number: Some(number.into()), name: None },
        Err(_) => ServiceBackendPort { number: None, name: Some(port.to_owned()) },
    };
    Ok((object_key(service).map_err(|_| expected())?, port))
}

fn own_namespace() -> String {
    variable("POD_NAMESPACE")
        .or_else(|| line_of("/var/run/secrets/kubernetes.io/serviceaccount/namespace"))
        .unwrap_or_else(|| "default".to_owned())
}
