//! Manifest files: reading, checking, and following them as they change.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]
#![cfg(feature = "kubernetes")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use pierhead::{
    cli::check::{self, Args},
    model::{Compiled, ProblemKind},
    sources::{file, kubernetes::Settings},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

fn ingress(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  rules:\n  - host: {host}\n    \
         http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: cart, port: {{number: 80}}}}}}}}]}}\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {ports: [{port: 80}]}\n";

fn hosts(compiled: &Compiled) -> Vec<String> {
    compiled.model.hosts.keys().map(ToString::to_string).collect()
}

/// A `file::run` over some paths, stopped when dropped.
struct Running {
    updates: watch::Receiver<Option<Arc<Compiled>>>,
    stop: CancellationToken,
}

impl Running {
    fn start(paths: &[&Path]) -> Self {
        let (sender, updates) = watch::channel(None);
        let stop = CancellationToken::new();
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        tokio::spawn(file::run(paths, Settings::default(), sender, stop.clone()));
        Self { updates, stop }
    }

    /// Waits for a state in which the condition holds. Far below the interval at which files are read without an event.
    async fn until(&mut self, what: &str, holds: impl Fn(&Compiled) -> bool) -> Arc<Compiled> {
        let wanted = self.updates.wait_for(|compiled| compiled.as_deref().is_some_and(&holds));
        let compiled =
            timeout(Duration::from_secs(10), wanted).await.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
        compiled.clone().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[test]
fn places_name_file_document_and_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    let text =
        format!("# first comes a comment\n---\n{}---\n# nothing here\n---\n{SERVICE}", ingress("shop", "a.example"));
    fs::write(&path, text).unwrap();
    let loaded = file::load(&path);
    let places: Vec<_> =
        loaded.places.iter().map(|(origin, place)| (origin.to_string(), place.document, place.line)).collect();
    assert_eq!(places, [("Ingress default/shop".into(), 1, 2), ("Service default/cart".into(), 2, 12)]);
    assert_eq!(loaded.errors, []);
}

#[test]
fn a_folder_is_its_manifests_but_not_those_of_folders_in_it() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("sub.yaml")).unwrap();
    for (file, name) in [("b.yml", "b"), ("a.yaml", "a"), ("c.json", "c"), ("d.txt", "d"), ("sub.yaml/e.yaml", "e")] {
        fs::write(folder.path().join(file), ingress(name, "a.example")).unwrap();
    }
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}}"#;
    fs::write(folder.path().join("c.json"), json).unwrap();
    let found: BTreeSet<String> = file::load(folder.path()).places.keys().map(ToString::to_string).collect();
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        ["Ingress default/a", "Ingress default/b", "Service default/cart"]
    );
}

#[test]
fn of_two_objects_of_one_name_the_last_counts_and_is_told() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    fs::write(&path, format!("{}---\n{}", ingress("shop", "a.example"), ingress("shop", "b.example"))).unwrap();
    let loaded = file::load(&path);
    assert_eq!(loaded.objects.ingresses.len(), 1);
    let host = loaded.objects.ingresses[0].spec.as_ref().unwrap().rules.as_ref().unwrap()[0].host.clone();
    assert_eq!(host.as_deref(), Some("b.example"));
    assert_eq!(loaded.objects.malformed[0].field, "metadata.name");
}

#[test]
fn errors_of_yaml_name_the_line_in_the_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    fs::write(&path, format!("{SERVICE}---\nkind: Service\nmetadata: [\n")).unwrap();
    let errors = file::load(&path).errors;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].error.starts_with("document 2, line 7:"), "{}", errors[0].error);
}

fn check(paths: &[&Path]) -> (ExitCode, String) {
    check_as(paths, check::Output::Text)
}

fn check_as(paths: &[&Path], output: check::Output) -> (ExitCode, String) {
    let args = Args {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        output,
        ingress_class: None,
        controller_name: Settings::default().controller_name,
        allow_external_name: false,
    };
    let mut out = Vec::new();
    let code = check::check(&args, &mut out).unwrap();
    (code, String::from_utf8(out).unwrap())
}

#[test]
fn a_kind_that_is_a_slip_is_told_and_one_of_somebody_else_is_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    let slips = "apiVersion: networking.k8s.io/v1\nkind: Ingres\nmetadata: {name: shop}\n---\nmetadata: {name: lost}\n";
    fs::write(&path, slips).unwrap();
    let (code, out) = check(&[&path]);
    assert_eq!(code, ExitCode::from(1));
    assert!(out.contains("shop: kind:") && out.contains("Ingres") && out.contains("lost: kind:"), "{out}");
    fs::write(&path, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\n").unwrap();
    assert_eq!(check(&[&path]).0, ExitCode::SUCCESS);
}

#[test]
fn check_names_place_object_field_and_severity() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    fs::write(&path, format!("{SERVICE}---\n{}", ingress("shop", "a.example"))).unwrap();
    let (code, out) = check(&[&path]);
    assert_eq!(
        (code, out.as_str()),
        (ExitCode::SUCCESS, "1 Ingresses checked, 0 of other classes left out: 0 errors, 0 warnings\n")
    );

    fs::write(&path, format!("{SERVICE}---\n{}", ingress("shop", "a_b"))).unwrap();
    let (code, out) = check(&[folder.path()]);
    assert_eq!(code, ExitCode::from(1));
    let expected =
        format!("error: {}:11: Ingress default/shop: spec.rules[0].host: \"a_b\" is not valid", path.display());
    assert!(out.starts_with(&expected), "{out}");

    let (code, out) = check(&[&path, Path::new("/does/not/exist")]);
    assert_eq!(code, ExitCode::from(2));
    assert!(out.contains("error: /does/not/exist: "), "{out}");
}

#[tokio::test]
async fn changes_are_followed_also_when_a_file_is_replaced_or_deleted() {
    let folder = TempDir::new().unwrap();
    let (one, two) = (folder.path().join("one.yaml"), folder.path().join("two.yaml"));
    fs::write(&one, ingress("one", "one.example")).unwrap();
    let mut running = Running::start(&[folder.path()]);
    running.until("the first state", |compiled| hosts(compiled) == ["one.example"]).await;
    fs::write(&two, ingress("two", "two.example")).unwrap();
    running.until("a new file", |compiled| hosts(compiled) == ["one.example", "two.example"]).await;
    fs::write(folder.path().join("one.yaml~"), ingress("one", "other.example")).unwrap();
    fs::rename(folder.path().join("one.yaml~"), &one).unwrap();
    running.until("a replaced file", |compiled| hosts(compiled) == ["other.example", "two.example"]).await;
    fs::remove_file(&two).unwrap();
    running.until("a deleted file", |compiled| hosts(compiled) == ["other.example"]).await;
}

#[tokio::test]
async fn what_can_no_longer_be_read_keeps_its_last_good_content() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    fs::write(&path, format!("{}---\n{SERVICE}", ingress("shop", "a.example"))).unwrap();
    let mut running = Running::start(&[&path]);
    let good = running.until("the first state", |compiled| compiled.problems.is_empty()).await;

    let malformed = |compiled: &Compiled, kind: &str| {
        compiled.problems.iter().any(|p| matches!(p.kind, ProblemKind::Malformed(_)) && p.origin.kind == kind)
    };
    fs::write(&path, "kind: [").unwrap();
    let broken = running.until("broken YAML", |compiled| malformed(compiled, "File")).await;
    assert_eq!(broken.model, good.model);

    fs::write(&path, format!("{}---\n{SERVICE}", ingress("shop", "[a.example]"))).unwrap();
    let broken = running.until("a malformed object", |compiled| malformed(compiled, "Ingress")).await;
    assert_eq!(broken.model, good.model);

    fs::remove_file(&path).unwrap();
    let gone = running.until("a missing file", |compiled| malformed(compiled, "File")).await;
    assert_eq!(gone.model, good.model);

    fs::write(&path, ingress("shop", "b.example")).unwrap();
    running.until("a good file", |compiled| hosts(compiled) == ["b.example"]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn mounted_config_maps_are_followed_through_their_links() {
    use std::os::unix::fs::symlink;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (version, host) in [("..1", "one.example"), ("..2", "two.example")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("shop.yaml"), ingress("shop", host)).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/shop.yaml", at("shop.yaml")).unwrap();
    let mut of_file = Running::start(&[&at("shop.yaml")]);
    let mut of_folder = Running::start(&[folder.path()]);
    of_file.until("the first state", |compiled| hosts(compiled) == ["one.example"]).await;
    of_folder.until("the first state", |compiled| hosts(compiled) == ["one.example"]).await;
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    of_file.until("the swap", |compiled| hosts(compiled) == ["two.example"]).await;
    of_folder.until("the swap", |compiled| hosts(compiled) == ["two.example"]).await;
}

/// A writer that takes its time: what stands in the file meanwhile is not what is meant.
#[tokio::test]
async fn a_file_is_read_when_its_writer_has_closed_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, ingress("a", "a.example") + "---\n" + SERVICE).unwrap();
    let mut running = Running::start(&[folder.path()]);
    running.until("the first content", |compiled| hosts(compiled) == ["a.example"]).await;
    let mut open = fs::File::create(&path).unwrap();
    let changed = timeout(Duration::from_millis(500), running.updates.changed()).await;
    assert!(changed.is_err(), "an open file is not read: {:?}", running.updates.borrow().as_deref().map(hosts));
    std::io::Write::write_all(&mut open, (ingress("b", "b.example") + "---\n" + SERVICE).as_bytes()).unwrap();
    drop(open);
    running.until("the new content", |compiled| hosts(compiled) == ["b.example"]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_that_leads_nowhere_keeps_the_last_content_and_is_told() {
    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let target = elsewhere.path().join("a");
    fs::write(&target, ingress("a", "a.example") + "---\n" + SERVICE).unwrap();
    std::os::unix::fs::symlink(&target, folder.path().join("a.yaml")).unwrap();
    let mut running = Running::start(&[folder.path()]);
    running.until("the first content", |compiled| hosts(compiled) == ["a.example"]).await;
    fs::remove_file(&target).unwrap();
    fs::write(folder.path().join("b.yaml"), ingress("b", "b.example")).unwrap();
    let compiled = running.until("the other file", |compiled| hosts(compiled) == ["a.example", "b.example"]).await;
    assert!(compiled.problems.iter().any(|problem| problem.origin.name.ends_with("a.yaml")), "{:?}", compiled.problems);
}

#[test]
fn findings_are_told_to_programs_and_to_workflows() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.yaml");
    fs::write(&path, format!("{SERVICE}---\n{}", ingress("shop", "A_B"))).unwrap();
    let (code, out) = check_as(&[&path], check::Output::Json);
    assert_eq!(code, ExitCode::from(1));
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&out["ingresses"], &out["otherClasses"]), (&1.into(), &0.into()), "{out}");
    let finding = &out["findings"][0];
    assert_eq!(finding["file"], path.to_str().unwrap(), "{out}");
    assert_eq!((&finding["severity"], &finding["reason"]), (&"error".into(), &"InvalidValue".into()), "{out}");
    assert_eq!((&finding["line"], &finding["field"]), (&11.into(), &"spec.rules[0].host".into()), "{out}");
    let (code, out) = check_as(&[&path], check::Output::Github);
    assert_eq!(code, ExitCode::from(1));
    let start = format!("::error file={},line={},title=InvalidValue::Ingress ", path.display(), finding["line"]);
    assert!(out.starts_with(&start) && out.lines().last().unwrap().contains("1 errors"), "{out}");
    let missing = folder.path().join("missing");
    assert_eq!(check_as(&[&missing], check::Output::Json).0, ExitCode::from(2));
}
