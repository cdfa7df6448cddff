//! `BackendPolicy`, `pierhead.dev/v1alpha1`.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// How requests to a Service are balanced and limited.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(group = "pierhead.dev", version = "v1alpha1", kind = "BackendPolicy", namespaced, shortname = "bp")]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicySpec {}
