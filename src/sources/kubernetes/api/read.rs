//! From what was written to an object of a kind, with what is wrong in it.
//!
//! Judges types alone; what values mean is judged where they are converted.

use std::{borrow::Cow, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::NamespaceResourceScope};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;

use super::BackendPolicy;
use crate::model::ProblemKind;

/// A policy as the API server holds it, read as one from a file is.
///
/// After a way back to an older version, values may be stored that this one does not know. They are told and count as
/// not written; `tls` fails closed.
#[derive(Clone, Debug)]
pub(in crate::sources) struct StoredPolicy {
    /// The policy as far as it can be read.
    pub(in crate::sources) policy: Arc<BackendPolicy>,
    /// What is wrong with its fields.
    pub(in crate::sources) told: Vec<(String, ProblemKind)>,
}

impl<'de> Deserialize<'de> for StoredPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (policy, mut told) = lenient(Value::deserialize(deserializer)?)
            .map_err(|(field, why)| D::Error::custom(format!("{field}: {why}")))?;
        // A newer API server may write more about an object than we know of.
        told.retain(|(field, _)| field.starts_with("spec."));
        Ok(Self { policy, told })
    }
}

impl Resource for StoredPolicy {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        BackendPolicy::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        BackendPolicy::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        BackendPolicy::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        BackendPolicy::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.policy.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Arc::make_mut(&mut self.policy).meta_mut()
    }
}

/// Reads an object, or gives the field that is wrong and why.
pub(in crate::sources) fn parse<K: DeserializeOwned>(value: &Value) -> Result<K, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.into_inner().to_string())
    })
}

/// An object and what is wrong with its fields, or the field for which there is no object, and why.
pub(in crate::sources) type Read<K> = Result<(Arc<K>, Vec<(String, ProblemKind)>), (String, String)>;

/// Like [`parse`], and besides tells of the fields that the kind does not have.
///
/// Only for the kinds that are written for us: others gain fields that we need not know.
pub(in crate::sources) fn strict<K: DeserializeOwned + Serialize>(value: &Value) -> Read<K> {
    let object = parse(value)?;
    let mut unknown = Vec::new();
    if let Ok(known) = serde_json::to_value(&object) {
        unknown_fields(value, &known, "", &mut unknown);
    }
    Ok((Arc::new(object), unknown.into_iter().map(|field| (field, ProblemKind::UnknownField)).collect()))
}

/// Like [`strict`], but a field of the policy that does not have its type is told and counts as not written, as one does
/// whose value makes no sense.
pub(in crate::sources) fn lenient(mut value: Value) -> Read<BackendPolicy> {
    let mut told = Vec::new();
    loop {
        match strict(&value) {
            Ok((object, unknown)) => {
                told.extend(unknown);
                return Ok((object, told));
            }
            Err((field, _)) if mend_target(&mut value, &field) => {}
            Err((field, why)) => {
                let (field, found) = if let Some(target) = take_target(&mut value, &field) {
                    // Told of the list: without the entry the others get other numbers.
                    ("spec.targetRefs".to_owned(), target.to_string())
                } else {
                    let found = found(&value, &field);
                    if !forget(&mut value, &field) {
                        return Err((field, why));
                    }
                    (field, found)
                };
                told.push((field, ProblemKind::InvalidValue { found, expected: expected(&why) }));
            }
        }
    }
}

/// The list of targets, and which of them the field is part of.
fn targets<'a>(value: &'a mut Value, field: &str) -> Option<(&'a mut Vec<Value>, usize)> {
    let at = field.strip_prefix("spec.targetRefs[")?.split(']').next()?.parse().ok()?;
    let targets = value.pointer_mut("/spec/targetRefs")?.as_array_mut()?;
    (at < targets.len()).then_some((targets, at))
}

/// Puts texts in place of all else in a target whose Service is named, so that it is judged where texts are: a Service
/// that is named keeps its `tls`. False when there is nothing to do.
fn mend_target(value: &mut Value, field: &str) -> bool {
    let Some((targets, at)) = targets(value, field) else { return false };
    let target = targets[at].as_object_mut().filter(|target| target.get("name").is_some_and(Value::is_string));
    let Some(target) = target else { return false };
    let mut is_mended = false;
    for name in ["group", "kind", "sectionName"] {
        let text = match target.get(name) {
            None if name == "kind" => String::new(),
            Some(Value::Null) if name == "sectionName" => continue,
            None | Some(Value::String(_)) => continue,
            Some(other) => other.to_string(),
        };
        target.insert(name.to_owned(), text.into());
        is_mended = true;
    }
    is_mended
}

/// Takes a target away in which the field stands: with the whole list the other targets would lose their `tls`.
fn take_target(value: &mut Value, field: &str) -> Option<Value> {
    targets(value, field).map(|(targets, at)| targets.remove(at))
}

/// What stands in a field.
fn found(value: &Value, field: &str) -> String {
    let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
    match value.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        found => found.map(ToString::to_string).unwrap_or_default(),
    }
}

/// What serde would have had, in the words of those who write YAML.
fn expected(why: &str) -> String {
    let expected = why.split_once("expected ").map_or(why, |(_, expected)| expected);
    match expected {
        "i32" => "a whole number".to_owned(),
        _ if expected.starts_with("struct ") => "a block of fields".to_owned(),
        _ if expected.contains("untagged enum") => "a number of bytes, such as 64Ki".to_owned(),
        _ => expected.replace("missing field", "a block with the field"),
    }
}

/// Takes a field below `spec` away, with all of its list where it is an entry of one. False when it cannot be.
fn forget(value: &mut Value, field: &str) -> bool {
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return false };
    let Some(field) = field.strip_prefix("spec.") else { return false };
    if field == "tls" || field.starts_with("tls.") {
        // Without its `tls` the backend would be spoken to in clear text: this one is refused, and fails closed.
        let closed = serde_json::json!({ "hostname": "" });
        return spec.insert("tls".to_owned(), closed.clone()).is_some_and(|before| before != closed);
    }
    let list = field.split('[').next().unwrap_or(field);
    let (parents, name) = list.rsplit_once('.').map_or((None, list), |(parents, name)| (Some(parents), name));
    let mut path = parents.into_iter().flat_map(|parents| parents.split('.'));
    let holder = path.try_fold(spec, |fields, name| fields.get_mut(name)?.as_object_mut());
    holder.is_some_and(|fields| fields.remove(name).is_some())
}

/// Fields of `written` that did not survive being read and written again.
fn unknown_fields(written: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            for (name, value) in written {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(known) => unknown_fields(value, known, &path, unknown),
                    // Known fields may be left out when they are empty.
                    None if is_empty(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(known)) => {
            for (i, (value, known)) in written.iter().zip(known).enumerate() {
                unknown_fields(value, known, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use serde_json::json;

    use super::*;

    fn stored(spec: &Value) -> Result<StoredPolicy, String> {
        let object = json!({
            "apiVersion": "pierhead.dev/v1alpha1", "kind": "BackendPolicy", "spec": spec,
            "metadata": {"name": "cart", "namespace": "shop", "resourceVersion": "9", "newer": "than we know"},
        });
        let guard: DeserializeGuard<StoredPolicy> = serde_json::from_value(object).unwrap();
        guard.0.map_err(|invalid| invalid.error)
    }

    #[test]
    fn a_stored_policy_loses_only_what_it_does_not_know_and_its_tls_fails_closed() {
        let stored = stored(&json!({
            "targetRefs": [{"kind": "Service", "name": "cart"}],
            "loadBalancing": {"strategy": "Fastest"},
            "timeouts": {"request": "1m"},
            "tls": {"hostname": "cart.example", "caCertificateRefs": [{"kind": "ClusterTrustBundle", "name": "ca"}]},
            "newer": {"block": true},
        }))
        .unwrap();
        let told: Vec<&str> = stored.told.iter().map(|(field, _)| &**field).collect();
        assert_eq!(told, ["spec.loadBalancing.strategy", "spec.tls.caCertificateRefs[0].kind", "spec.newer"]);
        let spec = &stored.policy.spec;
        assert_eq!(spec.target_refs[0].name, "cart");
        assert!(spec.timeouts.is_some());
        assert_eq!(spec.tls.as_ref().unwrap().hostname, "", "no name can have this hostname");
        assert_eq!(stored.meta().name.as_deref(), Some("cart"));
    }

    #[test]
    fn a_stored_policy_without_targets_to_read_is_none() {
        assert!(stored(&json!({"targetRefs": "all of them", "tls": {}})).is_err());
        assert!(stored(&json!([])).is_err());
    }
}
