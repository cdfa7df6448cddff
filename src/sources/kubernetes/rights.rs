//! What we may do in a cluster: every right that we ask for, and no other.
//!
//! The table is what the watches ask by and what the RBAC of the chart is compared with. No kind needs `get`: objects are
//! listed and watched, of the single Secret or Service too (by a field selector on its name).

/// A right to use verbs on one resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural in lower case, with the subresource behind a slash.
    pub resource: &'static str,
    /// The kind, as objects name it.
    pub kind: &'static str,
    /// Sorted.
    pub verbs: &'static [&'static str],
    /// Where it is needed.
    pub place: Place,
    /// What becomes of traffic for as long as it was never granted.
    pub without: &'static str,
}

impl Right {
    /// Whether the kind is one of ours, which an API server lacks until it is installed.
    pub fn has_to_be_installed(&self) -> bool {
        self.group == "pierhead.dev"
    }

    /// What to do where it is missing: in this namespace, or in all of them when it is empty.
    pub fn advice(&self, namespace: &str) -> String {
        let Self { group, resource, verbs, without, .. } = self;
        let verbs = verbs.join(" and ");
        let dot = if group.is_empty() { "" } else { "." };
        let (binding, place) = match namespace.split('/').next() {
            None | Some("") => ("ClusterRole", String::new()),
            Some(name) => ("Role", format!(" in namespace {name}")),
        };
        format!("grant {verbs} on {resource}{dot}{group} to the ServiceAccount by a {binding}{place}; {without}")
    }
}

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In each watched namespace: a Role there, or a `ClusterRole` when all are watched.
    Watched,
    /// A kind without a namespace: a `ClusterRole`. Where namespaces are named it is made do without.
    Cluster,
    /// Only with `--watch-namespace-selector`: a `ClusterRole`.
    ClusterForSelector,
    /// In the namespace of the Lease.
    Lease,
    /// On the Lease alone, by its name.
    LeaseByName,
}

const READ: &[&str] = &["list", "watch"];

/// A right to list and watch in the watched namespaces.
const fn read(group: &'static str, resource: &'static str, kind: &'static str, without: &'static str) -> Right {
    Right { group, resource, kind, verbs: READ, place: Place::Watched, without }
}

/// What is never served without an answer of ours.
const UNAVAILABLE: &str = "routes to Services answer 503 meanwhile";

/// The routes.
pub const INGRESSES: Right =
    read("networking.k8s.io", "ingresses", "Ingress", "no route of these Ingresses is served meanwhile");
/// Which of them are ours.
pub const INGRESS_CLASSES: Right = Right {
    place: Place::Cluster,
    ..read(
        "networking.k8s.io",
        "ingressclasses",
        "IngressClass",
        "the name of its class alone makes an Ingress ours meanwhile, which is right where namespaces are named",
    )
};
/// Where they go; the Service of `--publish-service` too, where it lies.
pub const SERVICES: Right = read("", "services", "Service", UNAVAILABLE);
/// The endpoints of Services.
pub const ENDPOINT_SLICES: Right = read("discovery.k8s.io", "endpointslices", "EndpointSlice", UNAVAILABLE);
/// Certificates; the Secret of `--default-certificate` too, where it lies. RBAC cannot name the type
/// `kubernetes.io/tls`, which is all that we list.
pub const SECRETS: Right = read("", "secrets", "Secret", "hosts with TLS show the default certificate meanwhile");
/// Certification authorities that policies name.
pub const CONFIG_MAPS: Right =
    read("", "configmaps", "ConfigMap", "Services whose policy verifies by a ConfigMap answer 503 meanwhile");
/// Our policies.
pub const BACKEND_POLICIES: Right = read(
    "pierhead.dev",
    "backendpolicies",
    "BackendPolicy",
    "routes to Services answer 503 meanwhile, as a policy may protect them",
);
/// Labels of namespaces.
pub const NAMESPACES: Right = Right {
    place: Place::ClusterForSelector,
    ..read("", "namespaces", "Namespace", "no namespace is selected meanwhile")
};

const STATUS: &str = "no status is written";

/// Everything, in the order of the shipped RBAC.
pub const ALL: &[Right] = &[
    INGRESSES,
    INGRESS_CLASSES,
    SERVICES,
    SECRETS,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    BACKEND_POLICIES,
    NAMESPACES,
    Right { verbs: &["patch"], ..read("networking.k8s.io", "ingresses/status", "Ingress", STATUS) },
    Right { verbs: &["patch"], ..read("pierhead.dev", "backendpolicies/status", "BackendPolicy", STATUS) },
    Right {
        verbs: &["create", "patch"],
        ..read("events.k8s.io", "events", "Event", "problems are told by the log alone")
    },
    // RBAC cannot limit `create` by name.
    Right { verbs: &["create"], place: Place::Lease, ..read("coordination.k8s.io", "leases", "Lease", STATUS) },
    Right {
        verbs: &["get", "patch"],
        place: Place::LeaseByName,
        ..read("coordination.k8s.io", "leases", "Lease", STATUS)
    },
];
