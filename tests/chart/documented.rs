//! The schema and the table of values are those of values.yaml; values of ingress-nginx carry over or are named.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{
    is_current, read,
    values::{Documented, documented, get, leaves_of, schema_of},
};

const DURATION: &str = "^$|^[0-9]+(ms|s|m|h|d)( ?[0-9]+(ms|s|m|h|d))*$";

#[test]
fn every_value_is_documented() {
    let values: Value = serde_saphyr::from_str(&read("charts/pierhead/values.yaml")).unwrap();
    let documented = documented();
    let paths: Vec<&str> = documented.iter().map(|value| value.path.as_str()).collect();
    let mut leaves = Vec::new();
    leaves_of(&values, "", &paths, &mut leaves);
    let undocumented: Vec<_> = leaves.iter().filter(|leaf| !paths.contains(&leaf.as_str())).collect();
    assert!(undocumented.is_empty(), "without a line `# --`: {undocumented:?}");
    for value in &documented {
        assert!(
            value.about.ends_with('.') || value.about.ends_with("].") || value.about.ends_with(')'),
            "{}",
            value.about
        );
    }
}

#[test]
fn the_schema_is_that_of_the_values() {
    let mut root = block();
    for value in documented() {
        *place(&mut root, &value.path) = schema_of(&value);
    }
    for (path, advice) in of_nginx() {
        let mut at = String::new();
        for key in path.split('.') {
            at = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
            if find(&root, &at).is_none() {
                // Free below, so that the chart and not the schema says what to do.
                *place(&mut root, &at) =
                    json!({ "description": format!("Of ingress-nginx, without meaning here: {advice}.") });
                break;
            }
            if find(&root, &at).is_some_and(|schema| schema.get("properties").is_none()) {
                break;
            }
        }
    }
    root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    root["title"] = "Values of the chart pierhead".into();
    root["definitions"] = json!({ "duration": { "type": "string", "pattern": DURATION } });
    let text = serde_json::to_string_pretty(&root).unwrap() + "\n";
    is_current("charts/pierhead/values.schema.json", &text);
}

#[test]
fn the_table_of_values_is_that_of_the_values() {
    const MARK: &str = "<!-- Generated from values.yaml. -->\n";
    let written = read("charts/pierhead/README.md");
    let (by_hand, _) = written.split_once(MARK).expect("the mark of what is generated");
    let mut text = format!("{by_hand}{MARK}\n| Value | Type | Default | |\n|---|---|---|---|\n");
    for value in documented() {
        let default = match &value.default {
            Value::Null => String::new(),
            value => format!("`{value}`"),
        };
        let about = value.about.replace('|', "\\|");
        writeln!(text, "| `{}` | {} | {default} | {about} |", value.path, kind(&value)).unwrap();
    }
    is_current("charts/pierhead/README.md", &text);
}

#[test]
fn values_of_ingress_nginx_are_values_here_or_named_as_without_meaning() {
    let documented = documented();
    let of_nginx = of_nginx();
    let covers = |path: &str, key: &str| {
        key == path || key.starts_with(&format!("{path}.")) || path.starts_with(&format!("{key}."))
    };
    let known = |key: &str| {
        documented.iter().any(|value| covers(&value.path, key)) || of_nginx.iter().any(|(path, _)| covers(path, key))
    };
    let keys = read("tests/chart/ingress-nginx-keys.txt");
    let unknown: Vec<&str> = keys.lines().filter(|key| !key.starts_with('#') && !known(key)).collect();
    assert!(unknown.is_empty(), "neither in values.yaml nor in files/ingress-nginx.yaml: {unknown:?}");
}

fn kind(value: &Documented) -> String {
    let schema = schema_of(value);
    if let Some(names) = schema["enum"].as_array() {
        let names = names.iter().map(|name| name.as_str().unwrap_or_default());
        return names.filter(|name| !name.is_empty()).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    }
    match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.collect::<Vec<_>>().join(" or ")
        }
        _ if schema.get("$ref").is_some() => "duration".to_owned(),
        _ => "integer".to_owned(),
    }
}

/// Path and advice of each value of ingress-nginx that has no meaning here.
fn of_nginx() -> Vec<(String, String)> {
    let table: Value = serde_saphyr::from_str(&read("charts/pierhead/files/ingress-nginx.yaml")).unwrap();
    let rows = ["refused", "ignored"].into_iter().flat_map(|what| table[what].as_object().unwrap().clone());
    rows.map(|(path, advice)| (path, advice.as_str().unwrap().to_owned())).collect()
}

/// An object that holds only what it names.
fn block() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": Map::new() })
}

/// Where the schema of a path goes; the blocks on the way are made.
fn place<'a>(root: &'a mut Value, path: &str) -> &'a mut Value {
    let (outer, key) = path.rsplit_once('.').map_or((None, path), |(outer, key)| (Some(outer), key));
    let holder = match outer {
        Some(outer) => place(root, outer),
        None => root,
    };
    if holder.is_null() {
        *holder = block();
    }
    &mut holder["properties"][key]
}

fn find<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    get(root, &format!("properties.{}", path.replace('.', ".properties.")))
}
