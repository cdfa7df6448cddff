//! Which fields of a policy say something.
//!
//! The API server fills defaults in, so that nothing tells a default that was written from one that was not: both count
//! as not written. Nothing here judges values.

use std::{collections::BTreeSet, sync::LazyLock};

use kube::CustomResourceExt;
use serde_json::Value;

use super::Refusals;
use crate::sources::kubernetes::api::{BackendPolicy, BackendPolicySpec};

/// Schema of `spec`.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let definition = serde_json::to_value(BackendPolicy::crd()).unwrap_or_default();
    definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
});

/// The fields below `spec` that differ from their defaults and are not refused, with the blocks that are given.
pub(in crate::sources) fn written(spec: &BackendPolicySpec, refusals: &Refusals) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    collect(&serde_json::to_value(spec).unwrap_or_default(), &SCHEMA, "", &mut fields);
    for (refused, _) in &refusals.0 {
        let below =
            |field: &str| field.strip_prefix(&**refused).is_some_and(|rest| matches!(rest.get(..1), None | Some(".")));
        fields.retain(|field| !below(field));
    }
    fields
}

fn collect(value: &Value, schema: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match (value.as_object(), schema.get("properties")) {
        (Some(block), Some(properties)) => {
            if !path.is_empty() {
                fields.insert(path.to_owned());
            }
            for (name, value) in block {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(value, &properties[name], &path, fields);
            }
        }
        _ if schema.get("default") != Some(value) => drop(fields.insert(path.to_owned())),
        _ => {}
    }
}
