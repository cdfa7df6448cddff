//! `BackendPolicy`, `pierhead.dev/v1alpha1`: a Direct Policy in the sense of Gateway API's GEP-2648.
#![expect(unreachable_pub, reason = "the derive macros repeat the structs inside of functions")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::sources::policy::{
    Connections, Health, Limits, LoadBalancing, ProtocolName, ProxyProtocolName, Retries, ServerErrorsName,
    SessionAffinity, Timeouts, Tls,
};

/// What a policy says and which Services it says it of.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "pierhead.dev",
    version = "v1alpha1",
    kind = "BackendPolicy",
    namespaced,
    plural = "backendpolicies",
    shortname = "bp",
    derive = "PartialEq",
    doc = "Says how requests to a Service are balanced, limited, retried and checked. It attaches to Services of its own \
        namespace, and acts on the next request.",
    status = "BackendPolicyStatus",
    printcolumn = r#"{"name": "Strategy", "type": "string", "jsonPath": ".spec.loadBalancing.strategy"}"#,
    printcolumn = r#"{"name": "Targets", "type": "string", "jsonPath": ".spec.targetRefs[*].name"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string",
        "jsonPath": ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sessionAffinity) || \
    !(self.loadBalancing.strategy in ['ConsistentHash', 'Maglev'])")
    .message("sessionAffinity has no place beside the strategies ConsistentHash and Maglev")
    .field_path(".sessionAffinity"))]
#[x_kube(validation = Rule::new("!has(self.tls) || !has(self.protocol) || self.protocol != 'H2C'")
    .message("protocol H2C is clear text and has no place beside tls").field_path(".protocol"))]
pub struct BackendPolicySpec {
    /// The Services, or single ports of Services, that the policy is for. Of several policies for one port the one that
    /// names the port wins, then the oldest, then the first by name.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen for a request.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// Keeps the requests of one client on one endpoint, by a cookie. Not with strategies that hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SessionAffinity")]
    pub session_affinity: Option<SessionAffinity>,
    /// How endpoints are spoken to. `HTTP1` is HTTP/1.1, over TLS where `tls` is set; `H2C` HTTP/2 in clear text; `HTTP2`
    /// HTTP/2 over TLS; `GRPC` HTTP/2, over TLS where `tls` is set and in clear text otherwise. The Ingress annotation
    /// backend-protocol goes before it. Default: as appProtocol of the Service port says, over TLS where `tls` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProtocolName")]
    pub protocol: Option<ProtocolName>,
    /// Connections to endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Connections")]
    pub connections: Option<Connections>,
    /// Limits on what the backend gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Limits")]
    pub limits: Option<Limits>,
    /// Times allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Timeouts")]
    pub timeouts: Option<Timeouts>,
    /// When a request is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Retries")]
    pub retries: Option<Retries>,
    /// What becomes of a response with a server error once retries are spent: `Relay` passes it on unchanged;
    /// `BadGateway` makes it a 502 of our own, so that nothing of it reaches the client. It looks at the status of HTTP
    /// alone: gRPC calls that fail are passed on.
    #[serde(default)]
    pub server_errors: ServerErrorsName,
    /// How endpoints are found to be unfit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Health")]
    pub health: Option<Health>,
    /// Speaks to endpoints over TLS, and verifies them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tls")]
    pub tls: Option<Tls>,
    /// Opens each connection to an endpoint with the address and port that the client's connection comes from, in this
    /// version of the PROXY protocol; behind another proxy that is the proxy's. Endpoints must expect it. A connection to
    /// an endpoint then serves the requests of one client connection only, and is closed with it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProxyProtocolName")]
    pub proxy_protocol: Option<ProxyProtocolName>,
}

/// A Service, or one port of it, in the namespace of the policy.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind == 'Service' && (!has(self.group) || self.group == '')")
    .message("only kind Service of group \"\" is supported"))]
pub struct TargetRef {
    /// API group of the target: "" for Services.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the target: Service.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the Service.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one port of the Service. Default: all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// What became of the policy, by controller (Gateway API `PolicyStatus`).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicyStatus {
    /// One entry for each object that the policy concerns, by controller.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// What became of the policy with regard to one object.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The object that the conditions are about.
    pub ancestor_ref: ParentReference,
    /// Name of the controller that wrote this entry.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// What became of the policy: Accepted, `ResolvedRefs`, Conflicted and, where a part of it is not valid,
    /// `PartiallyInvalid`.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// Names the object that conditions are about (Gateway API `ParentReference`, with its defaults, because other
/// controllers may write entries of their own).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group; "" for Services.
    #[serde(default = "gateway_group")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind.
    #[serde(default = "gateway_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace; that of the policy when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one port or listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// Number of one port or listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

impl Default for ParentReference {
    fn default() -> Self {
        Self {
            group: gateway_group(),
            kind: gateway_kind(),
            namespace: None,
            name: String::new(),
            section_name: None,
            port: None,
        }
    }
}

fn gateway_group() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}
