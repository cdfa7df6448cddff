//! Generated files are current. `PIERHEAD_UPDATE=1 cargo test --test generated` writes them anew.
#![cfg(feature = "kubernetes")]

use std::{env, fs, path::Path};

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
