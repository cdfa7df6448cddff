//! Builders of objects; they read as the YAML does.

use serde_json::{Value, json};

use super::Backend;

/// Starts an Ingress of class `pierhead`.
pub(crate) fn ingress(name: &str) -> Ingress {
    Ingress { name: name.to_owned(), class: Some("pierhead".to_owned()), ..Ingress::default() }
}

/// An Ingress under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ingress {
    name: String,
    class: Option<String>,
    annotations: Vec<(String, String)>,
    rules: Vec<(String, Vec<Value>)>,
    default: Option<Value>,
    tls: Vec<Value>,
}

impl Ingress {
    /// Names another class, or none.
    pub(crate) fn class(mut self, class: Option<&str>) -> Self {
        self.class = class.map(ToOwned::to_owned);
        self
    }

    /// Adds an annotation.
    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Begins a rule; an empty host is a rule without one.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.rules.push((host.to_owned(), Vec::new()));
        self
    }

    /// Adds a Prefix path to the last rule.
    pub(crate) fn prefix(self, path: &str, backend: &str) -> Self {
        self.path("Prefix", path, backend)
    }

    /// Adds an Exact path to the last rule.
    pub(crate) fn exact(self, path: &str, backend: &str) -> Self {
        self.path("Exact", path, backend)
    }

    /// Adds a path to the last rule.
    pub(crate) fn path(mut self, kind: &str, path: &str, backend: &str) -> Self {
        let path = json!({"path": path, "pathType": kind, "backend": service_ref(backend)});
        self.rules.last_mut().expect("host() comes first").1.push(path);
        self
    }

    /// Sets the default backend.
    pub(crate) fn default_backend(mut self, backend: &str) -> Self {
        self.default = Some(service_ref(backend));
        self
    }

    /// Serves hosts over TLS.
    pub(crate) fn tls(mut self, hosts: &[&str], secret: &str) -> Self {
        self.tls.push(json!({"hosts": hosts, "secretName": secret}));
        self
    }
}

impl From<Ingress> for Value {
    fn from(ingress: Ingress) -> Self {
        let rules: Vec<Value> = ingress
            .rules
            .into_iter()
            .map(|(host, paths)| {
                let mut rule = json!({"http": {"paths": paths}});
                if !host.is_empty() {
                    rule["host"] = host.into();
                }
                rule
            })
            .collect();
        let annotations: serde_json::Map<String, Value> =
            ingress.annotations.into_iter().map(|(key, value)| (key, value.into())).collect();
        let mut object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": ingress.name, "annotations": annotations},
            "spec": {"rules": rules, "tls": ingress.tls},
        });
        if let Some(class) = ingress.class {
            object["spec"]["ingressClassName"] = class.into();
        }
        if let Some(default) = ingress.default {
            object["spec"]["defaultBackend"] = default;
        }
        object
    }
}

/// `name:number` or `name:port-name`.
fn service_ref(backend: &str) -> Value {
    let (name, port) = backend.split_once(':').expect("service:port");
    let port = port.parse::<u16>().map_or_else(|_| json!({"name": port}), |number| json!({"number": number}));
    json!({"service": {"name": name, "port": port}})
}

/// A Service with port 80, named `http`, to port 8080.
pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// A slice of the Service with these backends, all ready.
pub(crate) fn slice(service: &str, backends: &[&Backend]) -> Value {
    let endpoints: Vec<Value> =
        backends.iter().map(|backend| json!({"addresses": [backend.ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

/// A policy for one Service; `spec` holds the rest.
pub(crate) fn policy(name: &str, target: &str, mut spec: Value) -> Value {
    spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": target}]);
    json!({
        "apiVersion": "pierhead.dev/v1alpha1", "kind": "BackendPolicy", "metadata": {"name": name}, "spec": spec,
    })
}

/// A new certificate for the names: PEM of certificate and key, and the certificate in DER.
pub(crate) fn certificate(names: &[&str]) -> (String, String, Vec<u8>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("valid names");
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().to_vec())
}

/// A Secret of type `kubernetes.io/tls`.
pub(crate) fn tls_secret(name: &str, certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key},
    })
}
