//! values.yaml as documentation: each value with its description, its schema and its default.

use serde_json::{Map, Value, json};

use super::read;

/// A value that users may set.
pub(crate) struct Documented {
    /// Its path, such as `controller.image.tag`.
    pub(crate) path: String,
    /// What it is for.
    pub(crate) about: String,
    /// What values it takes.
    pub(crate) schema: Map<String, Value>,
    /// What it is without being set.
    pub(crate) default: Value,
}

/// Every documented value, in the order of the file.
pub(crate) fn documented() -> Vec<Documented> {
    let text = read("charts/pierhead/values.yaml");
    let defaults: Value = serde_saphyr::from_str(&text).unwrap();
    let mut found = Vec::new();
    let (mut about, mut schema) = (String::new(), Map::new());
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        let (indent, line) = (line.len() - line.trim_start().len(), line.trim_start());
        if let Some(first) = line.strip_prefix("# -- ") {
            first.clone_into(&mut about);
        } else if let Some(given) = line.strip_prefix("# @schema ") {
            schema = serde_saphyr::from_str(given).unwrap_or_else(|error| panic!("{line}: {error}"));
        } else if let Some(more) = line.strip_prefix("# ") {
            if !about.is_empty() {
                about = format!("{about} {more}");
            }
        } else if let Some((key, _)) = line.split_once(':') {
            // What a documented value holds is not documented itself.
            if inside.is_some_and(|of| indent > of) {
                continue;
            }
            open.retain(|(outer, _)| *outer < indent);
            open.push((indent, key));
            inside = (!about.is_empty()).then_some(indent);
            if inside.is_some() {
                let path = open.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
                let default = get(&defaults, &path).unwrap_or_else(|| panic!("{path} is not in the file")).clone();
                let schema = std::mem::take(&mut schema);
                found.push(Documented { path, about: std::mem::take(&mut about), schema, default });
            }
        }
    }
    found
}

/// The value at a path.
pub(crate) fn get<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

/// Paths of values that hold no others, but for those that `leaves` names.
pub(crate) fn leaves_of(value: &Value, path: &str, leaves: &[&str], found: &mut Vec<String>) {
    match value.as_object() {
        Some(object) if !object.is_empty() && !leaves.contains(&path) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves_of(value, &path, leaves, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// The schema of one value: its type follows from its default unless it is said.
pub(crate) fn schema_of(value: &Documented) -> Value {
    let mut schema = value.schema.clone();
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return json!({ "$ref": format!("#/definitions/{name}"), "description": value.about });
    }
    if !schema.contains_key("type") && !schema.contains_key("enum") && !schema.contains_key("const") {
        schema.insert("type".to_owned(), type_of(&value.default).into());
    }
    schema.insert("description".to_owned(), value.about.clone().into());
    schema.insert("default".to_owned(), value.default.clone());
    schema.into()
}

fn type_of(default: &Value) -> &'static str {
    match default {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
