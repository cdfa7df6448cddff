//! Generated files are current. `PIERHEAD_UPDATE=1 cargo test --test generated` writes them anew.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]
#![cfg(feature = "kubernetes")]

use std::{collections::BTreeSet, env, fmt::Write, fs, path::Path};

use serde_json::Value;

#[test]
fn the_definitions_in_crds_are_those_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/pierhead.dev_backendpolicies.yaml");
    let generated = pierhead::cli::crds::yaml().unwrap();
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), generated, "run with PIERHEAD_UPDATE=1");
}

#[test]
fn the_definitions_survive_yaml() {
    let yaml = pierhead::cli::crds::yaml().unwrap();
    let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read, pierhead::cli::crds::definition().unwrap());
}

#[test]
fn the_reference_of_backend_policy_is_that_of_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backend-policy.md");
    let written = fs::read_to_string(&path).unwrap();
    let (by_hand, _) = written.split_once("-->\n").expect("the mark of what is generated");
    let mut generated = format!("{by_hand}-->\n");
    write_block(&mut generated, "spec", &spec());
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(written == generated || env::var_os("PIERHEAD_UPDATE").is_some(), "run with PIERHEAD_UPDATE=1");
}

#[test]
fn the_reference_of_metrics_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let written = fs::read_to_string(&path).unwrap();
    let (by_hand, _) = written.split_once("-->\n").expect("the mark of what is generated");
    let mut generated = format!("{by_hand}-->\n{}", pierhead::telemetry::metrics::table::markdown());
    generated += "\n## Reasons\n\nThe label `reason` of answers and refusals, and `outcome` of attempts without a response.\n\n\
                  | Reason | |\n|---|---|\n";
    for reason in pierhead::telemetry::Reason::ALL {
        writeln!(generated, "| `{}` | {} |", reason.label(), reason.meaning()).unwrap();
    }
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(written == generated || env::var_os("PIERHEAD_UPDATE").is_some(), "run with PIERHEAD_UPDATE=1");
}

#[test]
fn the_reference_of_flags_is_that_of_the_command_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
    let written = fs::read_to_string(&path).unwrap();
    let (by_hand, _) = written.split_once("-->\n").expect("the mark of what is generated");
    let mut generated = format!("{by_hand}-->\n");
    for command in pierhead::cli::definition().get_subcommands() {
        write_command(&mut generated, command);
    }
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(written == generated || env::var_os("PIERHEAD_UPDATE").is_some(), "run with PIERHEAD_UPDATE=1");
}

#[test]
fn the_reference_of_annotations_is_that_of_the_table() {
    use pierhead::sources::kubernetes::annotations::{documentation, ignored};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/annotations.md");
    let written = fs::read_to_string(&path).unwrap();
    let (by_hand, _) = written.split_once("-->\n").expect("the mark of what is generated");
    let mut generated = format!("{by_hand}-->\n\n## With an effect\n\n| Annotation | |\n|---|---|\n");
    for row in documentation().filter(|row| !row.protects) {
        let only = if row.has_own_prefix { "" } else { " (under `nginx.ingress.kubernetes.io/` only)" };
        writeln!(generated, "| `{}`{only} | {} |", row.name, row.doc).unwrap();
    }
    generated.push_str(
        "\n## Refused, because they protect\n\nNot supported yet. A route that asks for one of them answers 503 \
         (`unprotected`) rather than being served\nwithout it, except where its value protects nothing, such as `off`.\n\n\
         | Annotation | |\n|---|---|\n",
    );
    for row in documentation().filter(|row| row.protects) {
        writeln!(generated, "| `{}` | {} |", row.name, row.doc).unwrap();
    }
    generated.push_str(
        "\n## Without effect\n\nKeys of ingress-nginx that protect nothing and have no effect here. They are told as \
         `IgnoredAnnotation`.\n\n",
    );
    for name in ignored() {
        writeln!(generated, "- `{name}`").unwrap();
    }
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(written == generated || env::var_os("PIERHEAD_UPDATE").is_some(), "run with PIERHEAD_UPDATE=1");
}

/// A command with its arguments, then a table of flags for each group of its help.
fn write_command(text: &mut String, command: &clap::Command) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(text, "\n## `pierhead {}`\n\n{}.", command.get_name(), about.trim_end_matches('.')).unwrap();
    for argument in command.get_positionals() {
        writeln!(text, "\n`{argument}`: {}.", help(argument).0.trim_end_matches('.')).unwrap();
    }
    let mut groups: Vec<(&str, Vec<&clap::Arg>)> = Vec::new();
    for flag in command.get_opts().filter(|flag| !flag.is_hide_set()) {
        let heading = flag.get_help_heading().unwrap_or("Other");
        match groups.iter_mut().find(|(name, _)| *name == heading) {
            Some((_, flags)) => flags.push(flag),
            None => groups.push((heading, vec![flag])),
        }
    }
    for (heading, flags) in groups {
        writeln!(text, "\n### {heading} of `{}`\n", command.get_name()).unwrap();
        writeln!(text, "| Flag | Variable | Default | |\n|---|---|---|---|").unwrap();
        for flag in flags {
            let (about, default) = help(flag);
            let variable = flag.get_env().map(|name| format!("`{}`", name.display())).unwrap_or_default();
            let usage = usage(flag).replace('|', "\\|");
            writeln!(text, "| `{usage}` | {variable} | {default} | {} |", about.replace('|', "\\|")).unwrap();
        }
    }
}

/// `-o, --long VALUE`.
fn usage(flag: &clap::Arg) -> String {
    let short = flag.get_short().map(|short| format!("-{short}"));
    let long = flag.get_long().map(|long| format!("--{long}"));
    let name = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    let values = flag.get_value_names().filter(|_| flag.get_action().takes_values()).unwrap_or_default();
    values.iter().fold(name, |name, value| format!("{name} {value}"))
}

/// What a flag is for, and what holds without it: its default value or what its help says of it.
fn help(flag: &clap::Arg) -> (String, String) {
    let text = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let (about, told) = match text.split_once(" [default: ") {
        Some((about, rest)) => (about.to_owned(), rest.trim_end_matches(['.', ']']).to_owned()),
        None => (text, String::new()),
    };
    let values: Vec<_> = flag.get_default_values().iter().map(|value| format!("`{}`", value.display())).collect();
    let default = match flag.get_action().takes_values() {
        _ if !told.is_empty() => told,
        true if flag.is_required_set() => "required".to_owned(),
        true => values.join(", "),
        false => "off".to_owned(),
    };
    (about, default)
}

/// Each leaf of the schema has a row in docs/backend-policy-tests.md, and each test that it names exists and speaks of
/// the field.
#[test]
fn each_field_of_backend_policy_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/backend-policy-tests.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let mut leaves = Vec::new();
    find_leaves("", &spec(), &mut leaves);
    let told: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(told, leaves, "one row for each field, in the order of the schema");
    for row in &rows {
        let [field, acts, golden, refused] = row[..] else { panic!("{row:?}: four columns") };
        let name = field.trim_matches('`').rsplit('.').next().unwrap();
        for column in [acts, golden, refused] {
            let tests: BTreeSet<&str> = column.split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "{field}: no test in {column:?}");
            for test in tests {
                let source = source_of(root, test).unwrap_or_else(|| panic!("{field}: there is no {test}"));
                assert!(source.contains(&format!("{name}:")), "{test} says nothing of {field}");
            }
        }
    }
}

/// The source of `golden::case`, `cluster::case` or `feature::test`, without what other tests of its file say; None when
/// there is no such test.
fn source_of(root: &Path, test: &str) -> Option<String> {
    let (module, name) = test.split_once("::")?;
    if module == "golden" {
        return fs::read_to_string(root.join(format!("tests/compile/{name}.in.yaml"))).ok();
    }
    if module == "cluster" {
        let source = fs::read_to_string(root.join("tests/cluster/policy.rs")).ok()?;
        let (_, case) = source.split_once(&format!("\"{name}\", "))?;
        return Some(reach(&source, case.split('(').next()?));
    }
    let source = fs::read_to_string(root.join(format!("tests/features/{module}.rs"))).ok()?;
    Some(reach(&source, name)).filter(|text| !text.is_empty())
}

/// A function with the functions and constants of its file that it uses, and those that they use.
fn reach(source: &str, name: &str) -> String {
    let (mut text, mut seen, mut next) = (String::new(), BTreeSet::new(), vec![name]);
    while let Some(name) = next.pop() {
        if !seen.insert(name) {
            continue;
        }
        let item = |begin: String, end: &str| {
            let from = source.find(&begin)?;
            Some(&source[from..][..source[from..].find(end)?])
        };
        let function = || item(format!("fn {name}("), "\n}\n");
        if let Some(found) = function().or_else(|| item(format!("\nconst {name}:"), ";\n")) {
            text += found;
            next.extend(found.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()));
        }
    }
    text
}

fn spec() -> Value {
    let definition = pierhead::cli::crds::definition().unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// The fields of a block, or of the blocks in a list.
fn fields(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    schema.get("properties").or_else(|| schema["items"].get("properties"))?.as_object()
}

fn find_leaves(path: &str, schema: &Value, leaves: &mut Vec<String>) {
    match fields(schema) {
        Some(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                find_leaves(&path, field, leaves);
            }
        }
        None => leaves.push(path.to_owned()),
    }
}

/// A heading, the table of the block's own fields, the rules that join them; then the blocks in it.
fn write_block(text: &mut String, path: &str, schema: &Value) {
    let Some(fields) = fields(schema) else { return };
    let description = schema["items"].get("description").or(schema.get("description"));
    let description = description.and_then(Value::as_str).unwrap_or_default();
    writeln!(text, "\n## `{path}`\n\n{description}\n").unwrap();
    writeln!(text, "| Field | Type | Default | Bounds | |\n|---|---|---|---|---|").unwrap();
    let holder = schema.get("items").unwrap_or(schema);
    for (name, field) in fields {
        let required = holder["required"].as_array().is_some_and(|all| all.contains(&Value::from(name.as_str())));
        let default = match field.get("default") {
            _ if required => "required".to_owned(),
            Some(Value::String(text)) if !text.is_empty() => format!("`{text}`"),
            Some(Value::Object(_)) | None => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let about = field["description"].as_str().unwrap_or_default().replace('|', "\\|");
        writeln!(text, "| `{name}` | {} | {default} | {} | {about} |", type_of(field), bounds(field)).unwrap();
    }
    let rules: Vec<&str> = holder["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["message"].as_str())
        .collect();
    if !rules.is_empty() {
        writeln!(text, "\nRules: {}.", rules.join("; ")).unwrap();
    }
    for (name, field) in fields {
        write_block(text, &format!("{path}.{name}"), field);
    }
}

fn type_of(field: &Value) -> String {
    let kind = |schema: &Value| match schema["type"].as_str() {
        _ if schema.get("enum").is_some() => {
            let names: Vec<String> = schema["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|name| format!("`{}`", name.as_str().unwrap_or_default()))
                .collect();
            names.join(", ")
        }
        None => "size".to_owned(),
        Some("string") if schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("h|m|s|ms")) => {
            "duration".to_owned()
        }
        Some("object") => "block".to_owned(),
        Some(name) => name.to_owned(),
    };
    match field.get("items") {
        Some(items) => format!("list of {}", kind(items)),
        None => kind(field),
    }
}

fn bounds(field: &Value) -> String {
    let holder = field.get("items").filter(|items| items.get("minimum").is_some()).unwrap_or(field);
    let number = |name: &str| holder[name].as_f64();
    let numbers = match (number("minimum"), number("maximum")) {
        (Some(low), Some(high)) => format!("{low} to {high}"),
        (Some(low), None) => format!("from {low}"),
        _ => String::new(),
    };
    let entries = match (field["minItems"].as_u64(), field["maxItems"].as_u64()) {
        (Some(low), Some(high)) => format!("{low} to {high} entries"),
        (None, Some(high)) => format!("up to {high} entries"),
        _ => String::new(),
    };
    let rules = field["x-kubernetes-validations"].as_array().filter(|_| field.get("properties").is_none());
    let rules = rules.into_iter().flatten().filter_map(|rule| rule["message"].as_str()).map(ToOwned::to_owned);
    let all: Vec<String> = [numbers, entries].into_iter().filter(|text| !text.is_empty()).chain(rules).collect();
    all.join("; ")
}

#[test]
fn the_reference_of_the_access_log_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access-log.md");
    let written = fs::read_to_string(&path).unwrap();
    let (by_hand, _) = written.split_once("-->\n").expect("the mark of what is generated");
    let mut generated = format!("{by_hand}-->\n\n| Field | Type or unit | Example | |\n|---|---|---|---|\n");
    for field in pierhead::telemetry::access_log::FIELDS {
        writeln!(generated, "| `{}` | {} | `{}` | {} |", field.name, field.unit, field.example, field.meaning).unwrap();
    }
    for side in ["request", "response"] {
        writeln!(generated, "| `{side}_header(NAME)` | text | `\"blue\"` | This field of the {side}. |").unwrap();
    }
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert!(written == generated || env::var_os("PIERHEAD_UPDATE").is_some(), "run with PIERHEAD_UPDATE=1");
}
