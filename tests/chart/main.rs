//! The chart: its values, their schema and their table; what it renders; what it refuses. `PIERHEAD_UPDATE=1 cargo test
//! --test chart` writes what is generated anew. What a real API server says of it is in tests/cluster/chart.rs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]
#![cfg(feature = "kubernetes")]

mod deploy;
mod documented;
mod refused;
mod rendered;
#[path = "../support/tools.rs"]
mod tools;
mod values;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A file of the checkout.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Checks that the file is as generated, or writes it.
fn is_current(name: &str, generated: &str) {
    if env::var_os("PIERHEAD_UPDATE").is_some() {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), generated).unwrap();
    }
    let written = fs::read_to_string(path(name)).unwrap_or_default();
    let line = written.lines().zip(generated.lines()).find(|(written, generated)| written != generated);
    assert!(written == generated, "{name} is not current, first at {line:?}: run with PIERHEAD_UPDATE=1");
}
