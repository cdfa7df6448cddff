//! Manifests in, model and problems out: `compile/<case>.in.yaml` gives `compile/<case>.out.yaml`.
//!
//! `PIERHEAD_UPDATE=1 cargo test --test compile` writes the expected files anew; read the difference before it goes in.
//! A case is compiled as in a cluster. A document of kind `TestSettings` changes that: `classless`,
//! `allowLoopbackEndpoints`, `allowExternalName`, `sslRedirect`, `httpsPort`, `ingressClass`, `defaultCertificate`,
//! `defaultBackend`, `watchWithoutClass`, `zone`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]
#![cfg(feature = "kubernetes")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::networking::v1::ServiceBackendPort;
use pierhead::{
    model::Compiled,
    sources::{
        file,
        kubernetes::{Cluster, Settings, compile_once},
    },
};
use serde_json::Value;

#[test]
fn each_case_compiles_into_what_is_expected() {
    let update = env::var_os("PIERHEAD_UPDATE").is_some();
    let cases = cases();
    assert!(cases.len() >= 25, "cases are missing");
    let mut failed = Vec::new();
    for case in cases {
        let compiled = compile_case(&case);
        let found = serde_saphyr::to_string(&serde_json::to_value(&compiled).unwrap()).unwrap();
        let expected = PathBuf::from(case.to_str().unwrap().replace(".in.yaml", ".out.yaml"));
        if update {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            failed.push(format!("{}\n{found}", expected.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn no_expected_file_is_left_over() {
    for file in files(".out.yaml") {
        let input = file.to_str().unwrap().replace(".out.yaml", ".in.yaml");
        assert!(Path::new(&input).exists(), "{} has no input", file.display());
    }
}

#[test]
fn the_order_of_objects_changes_nothing() {
    for case in cases() {
        let settings = settings(&case);
        let mut objects = file::load(&case).objects;
        objects.ingresses.reverse();
        objects.classes.reverse();
        objects.services.reverse();
        objects.slices.reverse();
        objects.secrets.reverse();
        objects.config_maps.reverse();
        objects.policies.reverse();
        objects.malformed.reverse();
        let cluster = Cluster::read(objects);
        assert_eq!(compile_once(&cluster, &settings), compile_case(&case), "{}", case.display());
    }
}

#[test]
fn each_example_of_a_policy_compiles_without_a_problem() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policies");
    let loaded = file::load(&folder);
    assert_eq!(loaded.errors, []);
    let cluster = Cluster::read(loaded.objects);
    assert!(cluster.policies.len() >= 3, "examples are missing");
    assert_eq!(compile_once(&cluster, &Settings::default()).problems, []);
}

fn compile_case(case: &Path) -> Compiled {
    let loaded = file::load(case);
    assert_eq!(loaded.errors, [], "{}", case.display());
    let cluster = Cluster::read(loaded.objects);
    compile_once(&cluster, &settings(case))
}

fn settings(case: &Path) -> Settings {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(case).unwrap()).unwrap();
    let given = documents.into_iter().find(|document| document["kind"] == "TestSettings").unwrap_or_default();
    let on = |field: &str| given[field].as_bool();
    let text = |field: &str| given[field].as_str();
    Settings {
        watch_without_class: on("watchWithoutClass").unwrap_or_default(),
        classless: on("classless").unwrap_or_default(),
        allow_loopback_endpoints: on("allowLoopbackEndpoints").unwrap_or_default(),
        allow_external_name: on("allowExternalName").unwrap_or_default(),
        ssl_redirect: on("sslRedirect").unwrap_or(true),
        zone: text("zone").map(ToOwned::to_owned),
        https_port: given["httpsPort"].as_u64().map(|port| u16::try_from(port).unwrap()),
        ingress_class: text("ingressClass").map(ToOwned::to_owned),
        default_certificate: text("defaultCertificate")
            .and_then(|key| key.split_once('/'))
            .map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
        default_backend: text("defaultBackend").map(|text| {
            let (key, port) = text.split_once(':').unwrap();
            let (namespace, name) = key.split_once('/').unwrap();
            let port = ServiceBackendPort { number: port.parse().ok(), name: None };
            ((namespace.to_owned(), name.to_owned()), port)
        }),
        ..Settings::default()
    }
}

fn cases() -> Vec<PathBuf> {
    files(".in.yaml")
}

fn files(suffix: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_str().unwrap().ends_with(suffix));
    files.sort();
    files
}
