//! Services and their endpoints: what an Ingress names, resolved into a [`Backend`].

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice},
    networking::v1::ServiceBackendPort,
};
use kube::ResourceExt;

use super::{
    Cluster, ObjectKey,
    annotations::Options,
    compile::Settings,
    locality::{Found, WEIGHT, mark_near, weight},
    policies::Policies,
};
use crate::{
    matching::HostPattern,
    model::{
        Action, Address, Backend, BackendId, BackendTarget, Builder, Endpoint, Origin, Problem, ProblemKind, Protocol,
        Scope, SettingsOrigin, Unavailable, Variant,
    },
};

/// Why a backend cannot be had: the field below `backend`, and what is wrong with it.
pub(super) type Fault = (&'static str, ProblemKind);

const SERVICE: &str = "service.name";
const PORT: &str = "service.port";
const POLICY: &str = "BackendPolicy";

/// How a route is out of service whose backend cannot be had.
pub(super) fn unavailable(kind: &ProblemKind) -> Action {
    Action::Unavailable(match kind {
        ProblemKind::Forbidden { kind: POLICY, .. } => Unavailable::Unprotected,
        _ => Unavailable::BackendUnresolved,
    })
}

/// Resolves what Ingresses name.
pub(super) struct Backends<'a> {
    /// Where Services and slices are looked up.
    pub(super) cluster: &'a Cluster,
    /// What is allowed.
    pub(super) settings: &'a Settings,
    /// How backends are balanced.
    pub(super) policies: Policies,
}

impl Backends<'_> {
    /// The backend for a port of a Service, added to `builder` when it is not there yet.
    pub(super) fn resolve(
        &self,
        builder: &mut Builder,
        key: &ObjectKey,
        port: Option<&ServiceBackendPort>,
        options: &Options,
    ) -> Result<BackendId, Fault> {
        let origin = origin(key);
        let missing = || self.unread("Service", key).unwrap_or_else(|| ProblemKind::NotFound(origin.clone()));
        let service = self.cluster.services.get(key).ok_or_else(|| (SERVICE, missing()))?;
        // A policy that we cannot see may ask for TLS: nothing is sent in clear text on the chance that none does.
        self.unread(POLICY, key).map_or(Ok(()), |kind| Err((SERVICE, kind)))?;
        let spec = spec_of(service);
        let external = spec.type_.as_deref() == Some("ExternalName");
        if external && !self.settings.allow_external_name {
            return Err((SERVICE, ProblemKind::ExternalNameOff(origin)));
        }
        let (number, service_port) = find_port(service, &origin, port)?;
        let claimed = self.policies.find(key, service_port.and_then(|port| port.name.as_deref()));
        let converted = &claimed.policy;
        let of_port = service_port.map(protocol_of).unwrap_or_default();
        let own = converted.protocol(of_port, None);
        let protocol = converted.protocol(of_port, options.protocol);
        let variant = Variant {
            // Asking for what the Service says anyway shares its backend.
            protocol: Some(protocol).filter(|protocol| *protocol != own),
            target: if external { BackendTarget::Endpoints } else { options.target },
        };
        let id = BackendId { variant, ..BackendId::new(key.0.as_str(), key.1.as_str(), number) };
        if builder.has_backend(&id) {
            return Ok(id);
        }
        if !external && variant.target == BackendTarget::Endpoints {
            self.unread("EndpointSlice", key).map_or(Ok(()), |kind| Err((SERVICE, kind)))?;
        }
        let policy = converted.policy(&id);
        let endpoints = if external {
            vec![self.external_name(spec, number).map_err(|kind| told(builder, kind, &origin))?]
        } else {
            let port_name = service_port.and_then(|port| port.name.as_deref());
            match variant.target {
                BackendTarget::ClusterIp => self.cluster_ip(builder, &origin, spec, number),
                BackendTarget::Endpoints => {
                    let found = self.endpoints(builder, key, port_name);
                    mark_near(found, policy.load_balancing.zone, self.settings.zone.as_deref())
                }
            }
        };
        let app_protocol = service_port.and_then(|port| port.app_protocol.clone());
        let (policy_origin, fields) = (claimed.origin.clone(), Arc::clone(&claimed.fields));
        let slices = match variant.target {
            BackendTarget::Endpoints if !external => self.slices(key).map(slice_origin).collect(),
            _ => Vec::new(),
        };
        builder.settings(id.clone(), SettingsOrigin { policy: policy_origin, fields, app_protocol, slices });
        builder.backend(Backend {
            id: id.clone(),
            protocol,
            endpoints,
            client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            policy,
        });
        Ok(id)
    }

    /// What is wrong when objects of this kind may not be read where the Service is.
    fn unread(&self, kind: &'static str, (namespace, _): &ObjectKey) -> Option<ProblemKind> {
        let unread = self.cluster.unread.has(kind, namespace);
        unread.then(|| ProblemKind::Forbidden { kind, namespace: namespace.clone() })
    }

    fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        self.cluster.slices.get(service).into_iter().flatten().map(|slice| &**slice)
    }

    /// Ready endpoints; when there is none, those that still serve while they terminate.
    fn endpoints(&self, builder: &mut Builder, key: &ObjectKey, port_name: Option<&str>) -> Vec<Found<'_>> {
        let mut ready = BTreeMap::new();
        let mut terminating = BTreeMap::new();
        for slice in self.slices(key) {
            let origin = slice_origin(slice);
            if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
                let kind = ProblemKind::Unsupported(format!("address type {}", slice.address_type));
                builder.problem(Problem { origin, field: "addressType".into(), kind });
                continue;
            }
            let port = match slice_port(slice, port_name) {
                None => continue,
                Some((_, Ok(port))) => port,
                Some((i, Err(kind))) => {
                    builder.problem(Problem { origin, field: format!("ports[{i}].port"), kind });
                    continue;
                }
            };
            let weight = weight(slice).unwrap_or_else(|kind| {
                let field = format!("metadata.annotations[{WEIGHT}]");
                builder.problem(Problem { origin: origin.clone(), field, kind });
                1
            });
            for (i, endpoint) in slice.endpoints.iter().enumerate() {
                let list = match state(endpoint) {
                    State::Ready => &mut ready,
                    State::Terminating => &mut terminating,
                    State::Out => continue,
                };
                // Of several addresses the first is the one to use, says the API.
                let Some(text) = endpoint.addresses.first() else { continue };
                match self.address(text).and_then(|ip| of_family(ip, &slice.address_type)) {
                    Ok(ip) => {
                        let address = Address::Socket((ip, port).into());
                        let of_slice = || Endpoint { weight, ..Endpoint::new(address.clone()) };
                        list.entry(address.clone()).or_insert_with(|| Found::new(of_slice(), endpoint));
                    }
                    Err(kind) => {
                        let field = format!("endpoints[{i}].addresses[0]");
                        builder.problem(Problem { origin: origin.clone(), field, kind });
                    }
                }
            }
        }
        let chosen = if ready.is_empty() { terminating } else { ready };
        chosen.into_values().collect()
    }

    fn cluster_ip(&self, builder: &mut Builder, origin: &Origin, spec: &ServiceSpec, port: u16) -> Vec<Endpoint> {
        let text = spec.cluster_ip.as_deref().unwrap_or_default();
        let kind = match self.address(text) {
            Ok(ip) => return vec![Endpoint::new(Address::Socket((ip, port).into()))],
            Err(_) if text.is_empty() || text == "None" => {
                ProblemKind::Unsupported("annotation service-upstream on a Service without cluster IP".into())
            }
            Err(kind) => kind,
        };
        builder.problem(Problem { origin: origin.clone(), field: "spec.clusterIP".into(), kind });
        Vec::new()
    }

    fn external_name(&self, spec: &ServiceSpec, port: u16) -> Result<Endpoint, ProblemKind> {
        let text = spec.external_name.as_deref().unwrap_or_default();
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if host.parse::<IpAddr>().is_ok() {
            let ip = self.address(&host)?;
            return Ok(Endpoint::new(Address::Socket((ip, port).into())));
        }
        let last = host.rsplit('.').next().unwrap_or_default();
        // Resolvers read names such as `127.1` and `0x7f.1` as IPv4 addresses.
        let numeric = last.starts_with(|first: char| first.is_ascii_digit());
        if last == "localhost" || numeric || !matches!(host.parse(), Ok(HostPattern::Exact(_))) {
            let expected = "a DNS name that is neither localhost nor below it".into();
            return Err(ProblemKind::InvalidValue { found: text.to_owned(), expected });
        }
        Ok(Endpoint::new(Address::Name { host: host.into(), port }))
    }

    fn address(&self, text: &str) -> Result<IpAddr, ProblemKind> {
        let Ok(ip) = text.parse::<IpAddr>() else {
            return Err(ProblemKind::InvalidValue { found: text.to_owned(), expected: "an IP address".into() });
        };
        match Scope::of(ip) {
            Scope::Ordinary => Ok(ip),
            Scope::Loopback if self.settings.allow_loopback_endpoints => Ok(ip),
            Scope::Loopback | Scope::Forbidden => Err(ProblemKind::ForbiddenAddress(ip)),
        }
    }
}

/// Reports what is wrong with the name to the Service itself; the Ingress is told that its backend cannot be had.
fn told(builder: &mut Builder, kind: ProblemKind, service: &Origin) -> Fault {
    builder.problem(Problem { origin: service.clone(), field: "spec.externalName".into(), kind });
    (SERVICE, ProblemKind::Unsupported(format!("the externalName of {service}, as that object is told")))
}

/// What the ports of a Service are called, for the reader.
pub(super) fn ports(service: &Service) -> String {
    let name = |port: &ServicePort| match &port.name {
        Some(name) => format!("{} ({name})", port.port),
        None => port.port.to_string(),
    };
    let all: Vec<String> = spec_of(service).ports.iter().flatten().map(name).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn origin(key: &ObjectKey) -> Origin {
    Origin::new("Service", key.0.as_str(), key.1.as_str())
}

/// The number of the port and what the Service says of it; an `ExternalName` Service may say nothing.
fn find_port<'a>(
    service: &'a Service,
    origin: &Origin,
    port: Option<&ServiceBackendPort>,
) -> Result<(u16, Option<&'a ServicePort>), Fault> {
    let (name, number) = match port {
        Some(ServiceBackendPort { name: Some(name), .. }) if !name.is_empty() => (Some(name.as_str()), None),
        Some(ServiceBackendPort { number: Some(number), .. }) => (None, Some(*number)),
        _ => {
            let expected = "the number or the name of a port".into();
            return Err((PORT, ProblemKind::InvalidValue { found: String::new(), expected }));
        }
    };
    let spec = spec_of(service);
    let is_tcp = |port: &&ServicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let is_asked = |port: &&ServicePort| match name {
        Some(name) => port.name.as_deref() == Some(name),
        None => Some(port.port) == number,
    };
    let found = spec.ports.iter().flatten().filter(is_tcp).find(is_asked);
    let external = spec.type_.as_deref() == Some("ExternalName");
    let wanted = match (found, number) {
        (Some(port), _) => Some(port.port),
        (None, Some(number)) if external => Some(number),
        _ => None,
    };
    if let Some(number) = wanted.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0) {
        return Ok((number, found));
    }
    let port = name.map(ToOwned::to_owned).or(number.map(|number| number.to_string())).unwrap_or_default();
    Err((PORT, ProblemKind::PortNotFound { service: origin.clone(), port, existing: ports(service) }))
}

/// The protocol that a Service port declares.
///
/// `appProtocol` is free text: a value that says nothing of HTTP (`tcp`, `example.com/custom`) is no mistake of its
/// author, so it means HTTP/1.1 without a problem, as no value does.
fn protocol_of(port: &ServicePort) -> Protocol {
    match port.app_protocol.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
        "https" | "kubernetes.io/wss" => Protocol::Https,
        "kubernetes.io/h2c" | "grpc" => Protocol::H2c,
        "grpcs" => Protocol::H2,
        _ => Protocol::Http1,
    }
}

fn slice_origin(slice: &EndpointSlice) -> Origin {
    Origin::new("EndpointSlice", slice.namespace().unwrap_or_default(), slice.name_any())
}

/// The port of a slice that serves the Service port of this name, with its place; unnamed ports go together.
///
/// None when the slice has no such port, or leaves its number open, which the API says means all ports.
fn slice_port(slice: &EndpointSlice, name: Option<&str>) -> Option<(usize, Result<u16, ProblemKind>)> {
    let is_tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    let (i, port) = slice.ports.iter().flatten().enumerate().find(|(_, port)| {
        port.name.as_deref().unwrap_or_default() == name.unwrap_or_default() && is_tcp(port.protocol.as_deref())
    })?;
    let number = port.port?;
    let valid = u16::try_from(number).ok().filter(|number| *number != 0);
    let expected = || "a port number between 1 and 65535".to_owned();
    Some((i, valid.ok_or_else(|| ProblemKind::InvalidValue { found: number.to_string(), expected: expected() })))
}

/// The address, if it is of the family that its slice declares.
fn of_family(ip: IpAddr, family: &str) -> Result<IpAddr, ProblemKind> {
    if ip.is_ipv4() == (family == "IPv4") {
        return Ok(ip);
    }
    Err(ProblemKind::InvalidValue {
        found: ip.to_string(),
        expected: format!("an {family} address, as addressType says"),
    })
}

enum State {
    Ready,
    Terminating,
    Out,
}

/// `ready` counts as true when it is not given; `serving` counts as `ready`, which is false where it is asked for.
fn state(endpoint: &SliceEndpoint) -> State {
    let Some(conditions) = &endpoint.conditions else { return State::Ready };
    match (conditions.ready, conditions.serving, conditions.terminating) {
        (None | Some(true), ..) => State::Ready,
        (Some(false), Some(true), Some(true)) => State::Terminating,
        _ => State::Out,
    }
}

/// The `spec` of a Service; empty when it has none.
fn spec_of(service: &Service) -> &ServiceSpec {
    static EMPTY: LazyLock<ServiceSpec> = LazyLock::new(ServiceSpec::default);
    service.spec.as_ref().unwrap_or(&EMPTY)
}
