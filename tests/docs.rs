//! The handbook says what is so: its examples compile, its flags and fields exist, and each reason has its advice.
//! `tests/book.sh` builds it and checks its links.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]
#![cfg(feature = "kubernetes")]

#[path = "support/tools.rs"]
mod tools;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use pierhead::{
    model::{Problem, ProblemKind},
    sources::{
        file,
        kubernetes::{Cluster, Settings, compile_once, is_ours},
    },
    telemetry::Reason,
};
use serde_json::Value;

/// Kinds that the program reads; an example with one of them must be as good as it says.
const KINDS: &[&str] = &["kind: Ingress\n", "kind: IngressClass\n", "kind: BackendPolicy\n"];

/// Flags of other programs that pages name.
const FOREIGN: &[&str] = &[
    // clippy, cargo, nextest
    "--all-targets",
    "--bench",
    "--cargo-profile",
    "--features",
    "--lib",
    "--no-default-features",
    "--test",
    // kubectl, helm, curl, kind, external-dns, promtool, bench/run
    "--cert",
    "--class",
    "--create-namespace",
    "--image",
    "--install",
    "--key",
    "--namespace",
    "--port",
    "--replicas",
    "--repo",
    "--reset-then-reuse-values",
    "--resolve",
    "--rounds",
    "--rule",
    "--seconds",
    "--set",
    "--take-ownership",
    "--wait",
    "--workloads",
];

#[test]
fn examples_compile_without_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let mut examples = 0;
    for page in pages() {
        let name = page.file_stem().unwrap().to_str().unwrap().to_owned();
        for (at, example) in yaml(&fs::read_to_string(&page).unwrap()).into_iter().enumerate() {
            if !KINDS.iter().any(|kind| example.contains(kind)) {
                continue;
            }
            examples += 1;
            let file = folder.path().join(format!("{name}-{at}.yaml"));
            fs::write(&file, &example).unwrap();
            assert_eq!(problems(&file), [], "{}\n{example}", page.display());
        }
    }
    assert!(examples >= 8, "examples are missing");
}

#[test]
fn values_of_the_chart_that_pages_show_render() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let mut examples = 0;
    for page in pages() {
        for example in yaml(&fs::read_to_string(&page).unwrap()) {
            if !example.starts_with("controller:\n") {
                continue;
            }
            examples += 1;
            fs::write(&file, &example).unwrap();
            let mut helm = tools::helm();
            helm.args(["template", "pierhead", "charts/pierhead", "--kube-version", "1.35.0", "--values"]).arg(&file);
            let output = helm.output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}\n{example}\n{told}", page.display());
        }
    }
    assert!(examples >= 6, "examples are missing");
}

#[test]
fn flags_that_pages_name_exist() {
    let mut known: BTreeSet<String> = FOREIGN.iter().map(|flag| (*flag).to_owned()).collect();
    for command in pierhead::cli::definition().get_subcommands() {
        known.extend(command.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}")));
    }
    known.extend(["--help", "--version"].map(str::to_owned));
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for flag in flags(&text) {
            assert!(known.contains(flag), "{}: there is no {flag}", page.display());
        }
    }
}

#[test]
fn fields_of_a_policy_that_pages_name_exist() {
    let definition = pierhead::cli::crds::definition().unwrap();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let blocks: Vec<&String> = spec["properties"].as_object().unwrap().keys().collect();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let path = word.split([':', ' ']).next().unwrap();
            if matches!(path, "tls.crt" | "tls.key") {
                continue;
            }
            if path.split_once('.').is_some_and(|(block, _)| blocks.iter().any(|name| *name == block)) {
                assert!(has(spec, path), "{}: there is no field {path}", page.display());
            }
        }
    }
}

#[test]
fn each_reason_has_its_advice() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let labels: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    let told: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|(reason, _)| reason).collect();
    assert_eq!(labels, told, "one row for each reason");
}

/// What `pierhead check` says of a file, but for the objects that the reader has and the example has not.
fn problems(file: &Path) -> Vec<Problem> {
    let loaded = file::load(file);
    assert_eq!(loaded.errors, [], "{}", file.display());
    let settings = file::settings(&Settings::default());
    let cluster = Cluster::read(loaded.objects);
    assert!(cluster.ingresses.iter().all(|ingress| is_ours(ingress, &cluster, &settings)), "of another class");
    let mut problems = compile_once(&cluster, &settings).problems;
    problems.retain(|problem| !matches!(problem.kind, ProblemKind::NotFound(_) | ProblemKind::SecretNotFound(_)));
    problems
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages of the book, and what stands beside it for readers.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.extend(
        ["README.md", "CONTRIBUTING.md", "charts/pierhead/README.md", "examples/policies/README.md"]
            .map(|page| root().join(page)),
    );
    pages.sort();
    pages
}

/// The blocks that a page fences as YAML.
fn yaml(page: &str) -> Vec<String> {
    let block = |text: &str| text.split_once("\n```").map(|(block, _)| format!("{block}\n"));
    page.split("```yaml\n").skip(1).filter_map(block).collect()
}

/// Words that begin with two hyphens and a letter.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.split(move |c: char| !part(c))
        .filter(|word| word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase())))
}

/// Whether a schema has the field of a path.
fn has(schema: &Value, path: &str) -> bool {
    path.split('.')
        .try_fold(schema, |schema, name| {
            let fields = schema.get("properties").or_else(|| schema["items"].get("properties"))?;
            fields.get(name)
        })
        .is_some()
}
