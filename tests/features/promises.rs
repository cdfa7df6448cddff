//! The table of promises names tests that exist.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_test_that_the_table_of_promises_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/behaviour-tests.md")).unwrap();
    let named: BTreeSet<&str> = table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
    assert!(named.len() > 80, "the table names {} tests", named.len());
    for name in named {
        let Some((module, test)) = name.split_once("::") else { continue };
        let file = root.join(format!("tests/features/{module}.rs"));
        let Ok(source) = fs::read_to_string(&file) else { panic!("{name}: no such module") };
        assert!(source.contains(&format!("fn {test}(")), "{name}: no such test");
    }
}
