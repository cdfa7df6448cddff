//! The table of promises names tests that exist.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_test_that_the_table_of_promises_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/behaviour-tests.md")).unwrap();
    let named: BTreeSet<&str> = table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
    assert!(named.len() > 120, "the table names {} tests", named.len());
    let cluster = sources(&root.join("tests/cluster"));
    for name in named {
        let Some((module, test)) = name.split_once("::") else { continue };
        let exists = match module {
            "golden" => root.join(format!("tests/compile/{test}.in.yaml")).exists(),
            "cluster" => cluster.contains(&format!("\"{test}\"")),
            _ => {
                let file = root.join(format!("tests/features/{module}.rs"));
                let Ok(source) = fs::read_to_string(&file) else { panic!("{name}: no such module") };
                source.contains(&format!("fn {test}("))
            }
        };
        assert!(exists, "{name}: no such test");
    }
}

/// All sources of a folder as one text.
fn sources(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file());
    files.map(|file| fs::read_to_string(file).unwrap()).collect()
}
