//! Manifests, built in the order that their YAML has.

use std::{
    fmt::{self, Display},
    net::SocketAddr,
};

/// An Ingress of namespace `default`: `ingress("shop").host("a.example").prefix("/cart", "cart")`.
#[derive(Clone, Default)]
pub struct Ingress {
    name: String,
    namespace: String,
    created: Option<String>,
    class: Option<String>,
    annotations: Vec<(String, String)>,
    default: Option<String>,
    tls: Vec<(String, Option<String>)>,
    rules: Vec<(String, Vec<Rule>)>,
}

#[derive(Clone)]
struct Rule {
    path: String,
    path_type: &'static str,
    service: String,
}

/// An Ingress without rules.
pub fn ingress(name: &str) -> Ingress {
    Ingress { name: name.to_owned(), namespace: "default".to_owned(), ..Ingress::default() }
}

impl Ingress {
    /// Begins a rule; an empty host takes any.
    pub fn host(mut self, host: &str) -> Self {
        self.rules.push((host.to_owned(), Vec::new()));
        self
    }

    /// Adds a path of type Prefix to the last rule.
    pub fn prefix(self, path: &str, service: &str) -> Self {
        self.path("Prefix", path, service)
    }

    /// Adds a path of type Exact to the last rule.
    pub fn exact(self, path: &str, service: &str) -> Self {
        self.path("Exact", path, service)
    }

    /// Adds a path of type `ImplementationSpecific` to the last rule.
    pub fn specific(self, path: &str, service: &str) -> Self {
        self.path("ImplementationSpecific", path, service)
    }

    fn path(mut self, path_type: &'static str, path: &str, service: &str) -> Self {
        if self.rules.is_empty() {
            self.rules.push((String::new(), Vec::new()));
        }
        let path = Rule { path: path.to_owned(), path_type, service: service.to_owned() };
        self.rules.last_mut().unwrap().1.push(path);
        self
    }

    /// Sets `spec.defaultBackend`.
    pub fn default_backend(mut self, service: &str) -> Self {
        self.default = Some(service.to_owned());
        self
    }

    /// Serves a host over TLS, with the certificate of a Secret.
    pub fn tls(mut self, host: &str, secret: &str) -> Self {
        self.tls.push((host.to_owned(), (!secret.is_empty()).then(|| secret.to_owned())));
        self
    }

    /// Sets `metadata.creationTimestamp`.
    pub fn created(mut self, time: &str) -> Self {
        self.created = Some(time.to_owned());
        self
    }

    /// Sets `spec.ingressClassName`.
    pub fn class(mut self, name: &str) -> Self {
        self.class = Some(name.to_owned());
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl From<Ingress> for String {
    fn from(ingress: Ingress) -> Self {
        ingress.to_string()
    }
}

impl Display for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, namespace, .. } = self;
        writeln!(f, "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:")?;
        writeln!(f, "  name: {name}\n  namespace: {namespace}")?;
        if let Some(created) = &self.created {
            writeln!(f, "  creationTimestamp: {created}")?;
        }
        if !self.annotations.is_empty() {
            writeln!(f, "  annotations:")?;
        }
        for (name, value) in &self.annotations {
            writeln!(f, "    {name}: {value:?}")?;
        }
        writeln!(f, "spec:")?;
        if let Some(class) = &self.class {
            writeln!(f, "  ingressClassName: {class}")?;
        }
        if let Some(service) = &self.default {
            writeln!(f, "  defaultBackend: {}", backend(service))?;
        }
        if !self.tls.is_empty() {
            writeln!(f, "  tls:")?;
        }
        for (host, secret) in &self.tls {
            writeln!(f, "  - hosts: [{host:?}]")?;
            if let Some(secret) = secret {
                writeln!(f, "    secretName: {secret}")?;
            }
        }
        if !self.rules.is_empty() {
            writeln!(f, "  rules:")?;
        }
        for (host, paths) in &self.rules {
            let host = if host.is_empty() { String::new() } else { format!("host: {host:?}, ") };
            writeln!(f, "  - {{{host}http: {{paths: [")?;
            for Rule { path, path_type, service } in paths {
                writeln!(f, "      {{path: {path:?}, pathType: {path_type}, backend: {}}},", backend(service))?;
            }
            writeln!(f, "    ]}}}}")?;
        }
        writeln!(f, "---")
    }
}

/// `cart` means port 80, `cart:http` the port of that name, `cart:81` that number.
fn backend(service: &str) -> String {
    let (name, port) = service.split_once(':').unwrap_or((service, "80"));
    let port = if port.parse::<u16>().is_ok() { format!("number: {port}") } else { format!("name: {port}") };
    format!("{{service: {{name: {name}, port: {{{port}}}}}}}")
}

/// A Service of port 80 with one ready endpoint for each address.
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    service_with(name, "", endpoints)
}

/// A Service whose port has more fields, such as `appProtocol: kubernetes.io/h2c`.
pub fn service_with(name: &str, port_fields: &str, endpoints: &[SocketAddr]) -> String {
    let port_fields = if port_fields.is_empty() { String::new() } else { format!(", {port_fields}") };
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  ports: [{{port: 80, \
         protocol: TCP{port_fields}}}]\n---\n"
    );
    for (at, address) in endpoints.iter().enumerate() {
        text.push_str(&slice(name, &format!("{name}-{at}"), *address, "ready: true"));
    }
    text
}

/// An `EndpointSlice` with one endpoint under these conditions.
pub fn slice(service: &str, name: &str, address: SocketAddr, conditions: &str) -> String {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: default\n  \
         labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\nports: [{{port: {}, protocol: \
         TCP}}]\nendpoints: [{{addresses: [{:?}], conditions: {{{conditions}}}}}]\n---\n",
        address.port(),
        address.ip().to_string(),
    )
}

/// An `EndpointSlice` with one ready endpoint, with annotations and more fields of the endpoint, both in flow style.
pub fn slice_with(service: &str, name: &str, address: SocketAddr, annotations: &str, endpoint: &str) -> String {
    let annotated = format!("metadata:\n  annotations: {{{annotations}}}\n");
    let fields = if endpoint.is_empty() { String::new() } else { format!(", {endpoint}") };
    slice(service, name, address, "ready: true").replacen("metadata:\n", &annotated, 1).replacen(
        "ready: true}",
        &format!("ready: true}}{fields}"),
        1,
    )
}

/// A `BackendPolicy` for a Service: its spec without `targetRefs`, in flow style.
pub fn backend_policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: pierhead.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {{name: {service}, namespace: \
         default}}\nspec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  {spec}\n---\n"
    )
}

/// Everything of `a.example` to these endpoints, under a policy of this spec.
pub fn governed(endpoints: &[SocketAddr], spec: &str) -> String {
    let rules = ingress("main").host("a.example").prefix("/", "one");
    format!("{rules}{}{}", service("one", endpoints), backend_policy("one", spec))
}
