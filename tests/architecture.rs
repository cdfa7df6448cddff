//! Who may know whom: the layers of ARCHITECTURE.md, held by a table. An edge that is not in it fails.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each top-level module, and the others that it may name.
const PERMITTED: &[(&str, &[&str])] = &[
    ("matching", &[]),
    ("filters", &[]),
    ("balance", &[]),
    ("telemetry", &[]),
    ("model", &["matching", "filters", "balance"]),
    ("sources", &["matching", "filters", "balance", "model", "telemetry"]),
    ("routing", &["matching", "filters", "balance", "model", "telemetry"]),
    ("transport", &["model"]),
    ("health", &["model", "telemetry", "routing", "transport"]),
    ("proxy", &["matching", "filters", "balance", "model", "telemetry", "routing", "transport"]),
    // It decides with the parts that decide on requests.
    ("explain", &["matching", "filters", "balance", "model", "telemetry", "routing", "proxy"]),
    ("admin", &["matching", "filters", "balance", "model", "telemetry", "routing", "explain"]),
    // These wire the halves together and may see everything.
    ("settings", &["sources", "routing", "proxy", "admin", "telemetry", "model"]),
    ("app", &["model", "telemetry", "sources", "routing", "health", "proxy", "admin", "settings"]),
    ("cli", &["model", "telemetry", "sources", "routing", "explain", "proxy", "admin", "settings", "app"]),
];

#[test]
fn modules_name_only_the_layers_above_them() {
    let permitted: BTreeMap<&str, BTreeSet<&str>> =
        PERMITTED.iter().map(|(module, may)| (*module, may.iter().copied().collect())).collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(may) = permitted.get(module) else {
            wrong.push(format!("{}: module {module} is not in the table", relative.display()));
            continue;
        };
        for named in named_modules(&fs::read_to_string(&file).unwrap()) {
            if named != module && !may.contains(named.as_str()) {
                wrong.push(format!("{}: {module} may not name {named}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_form_of_naming_a_module_is_seen() {
    let source = "use crate::a;\nuse crate::{\n    b::{self, x},\n    c,\n    d::Y as Z,\n};\nlet x = crate::e::f();\n\
                  // crate::comment\npub(crate) fn crate_free() {}\n";
    assert_eq!(named_modules(source).into_iter().collect::<String>(), "abcde");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Modules that follow `crate::`, also in a `use crate::{...}` list.
fn named_modules(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(named.insert(identifier(rest))),
            Some(list) => named.extend(list_heads(list)),
        }
    }
    named.remove("");
    named
}

/// First identifiers of the items of a `use` list, up to its closing brace.
fn list_heads(list: &str) -> Vec<String> {
    let (mut heads, mut depth, mut at_head) = (Vec::new(), 0, true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && !c.is_whitespace() => {
                heads.push(identifier(&list[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}
