//! `BackendPolicy`, `pierhead.dev/v1alpha1`: a Direct Policy in the sense of Gateway API's GEP-2648.
#![expect(unreachable_pub, reason = "the derive macros repeat the structs inside of functions")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::sources::policy::{Limits, LoadBalancing, Timeouts};

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
    doc = "Says how requests to a Service are balanced and limited. It attaches to Services of its own namespace.",
    status = "BackendPolicyStatus",
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.loadBalancing.strategy"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicySpec {
    /// The Services, or single ports of Services, that the policy is for. Of several policies for one port the one that
    /// names the port wins, then the oldest, then the first by name.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen for a request.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// Times allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Limits on what the backend gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
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
    #[schemars(length(min = 1, max = 253))]
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
    /// Accepted, and why or why not.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// Names the object that conditions are about (Gateway API `ParentReference`).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group; "" for Services.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace; that of the policy when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}
