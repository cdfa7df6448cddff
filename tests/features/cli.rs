//! What a user sees who gives something wrong: one line that says what to do, and status 2.

use std::process::Output;

use crate::support::{manifests::ingress, pierhead::command, soon, tls::Pair};

async fn ended(flags: &[&str], variables: &[(&str, &str)]) -> Output {
    let child = command().args(flags).envs(variables.iter().copied()).spawn().unwrap();
    soon("end of the process", child.wait_with_output()).await.unwrap()
}

/// Status 2, nothing on standard output, and one line alone that says `expected`.
async fn refused(flags: &[&str], expected: &str) {
    refused_with(flags, &[], &[expected]).await;
}

async fn refused_with(flags: &[&str], variables: &[(&str, &str)], expected: &[&str]) {
    let Output { status, stdout, stderr } = ended(flags, variables).await;
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stdout.is_empty());
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    for part in expected {
        assert!(stderr.contains(part), "{part:?} in {stderr}");
    }
}

const FREE: [&str; 3] = ["--http=127.0.0.1:0", "--https=127.0.0.1:0", "--admin=127.0.0.1:0"];

#[tokio::test]
async fn no_source_is_told_with_what_to_give() {
    refused(&[], "--manifests").await;
}

#[tokio::test]
async fn an_unknown_flag_is_told_with_the_likely_one() {
    refused(&["--manifest=x", "--htp=1"], "--manifests").await;
}

#[tokio::test]
async fn an_unreadable_path_is_named() {
    refused(&["--manifests=/nonexistent/manifests"], "/nonexistent/manifests").await;
}

#[tokio::test]
async fn a_value_that_is_none_is_named() {
    refused(&["--backend=http://127.0.0.1:1", "--idle-timeout=soon"], "--idle-timeout").await;
    refused(&["--backend=http://127.0.0.1:1", "--http=nowhere"], "--http").await;
    refused(&["--backend=http://127.0.0.1:1", "--log-level=x=y=z"], "log level").await;
    refused(&["--backend=not a url", "--http=127.0.0.1:0", "--https=127.0.0.1:0", "--admin=127.0.0.1:0"], "not a url")
        .await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (http, https, admin) in [(&*address, free, free), (free, &address, free), (free, free, &address)] {
        let flags = [format!("--http={http}"), format!("--https={https}"), format!("--admin={admin}")];
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--backend=http://127.0.0.1:1"]).collect();
        refused(&flags, &address).await;
    }
    drop(held);
    let clash = [format!("--http={address}"), format!("--admin={address}")];
    let flags = [FREE[1], "--backend=http://127.0.0.1:1", &clash[0], &clash[1]];
    refused_with(&flags, &[], &[&address, "in use", "choose another with --http"]).await;
}

#[tokio::test]
async fn an_address_of_no_interface_is_told() {
    let flags = ["--http=192.0.2.1:8080", FREE[1], FREE[2], "--backend=http://127.0.0.1:1"];
    refused_with(&flags, &[], &["192.0.2.1:8080", "no interface", "--http"]).await;
}

#[tokio::test]
async fn a_configuration_of_the_api_server_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let flags = [&FREE[..], &["--kubernetes"]].concat();
    for (path, part) in [
        (missing.clone(), missing.as_str()),
        (written("empty", "apiVersion: v1\nkind: Config\n"), "current context"),
        (written("garbage", "{{{"), "KUBECONFIG"),
    ] {
        refused_with(&flags, &[("KUBECONFIG", &path)], &["--kubernetes", "KUBECONFIG", part]).await;
    }
}

#[tokio::test]
async fn a_selector_that_is_none_is_told() {
    refused_with(&["--kubernetes", "--watch-namespace-selector=a=b=c"], &[], &["--watch-namespace-selector", "a=b=c"])
        .await;
}

#[tokio::test]
async fn certificate_files_that_are_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (Pair::new(&["a.example"]), Pair::new(&["b.example"]));
    let [chain, key] = one.files(folder.path(), "one");
    let [_, other_key] = other.files(folder.path(), "other");
    let garbage = folder.path().join("garbage").to_str().unwrap().to_owned();
    std::fs::write(&garbage, "no PEM").unwrap();
    for (chain, key, parts) in [
        ("/nonexistent/chain.pem", &*key, ["--tls-certificate", "/nonexistent/chain.pem"]),
        (&chain, "/nonexistent/key.pem", ["--tls-key", "/nonexistent/key.pem"]),
        (&garbage, &key, ["--tls-certificate", "holds no certificate"]),
        (&chain, &garbage, ["--tls-key", "holds no PEM private key"]),
        (&chain, &other_key, ["--tls-key", "does not belong to"]),
    ] {
        let pair = [format!("--tls-certificate={chain}"), format!("--tls-key={key}")];
        let flags = [&FREE[..], &["--backend=http://127.0.0.1:1", &pair[0], &pair[1]]].concat();
        refused_with(&flags, &[], &parts).await;
    }
    refused(&["--backend=http://127.0.0.1:1", &format!("--tls-certificate={chain}")], "--tls-key").await;
}

#[tokio::test]
async fn an_empty_variable_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), ingress("main").host("a.example").prefix("/", "one").to_string())
        .unwrap();
    let variables = [("PIERHEAD_IDLE_TIMEOUT", ""), ("PIERHEAD_HTTP", ""), ("PIERHEAD_BACKEND", "")];
    let Output { status, stderr, .. } =
        ended(&["--log-level=x=y=z", "--manifests", folder.path().to_str().unwrap()], &variables).await;
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(stderr.contains("log level"), "the empty variables were read: {stderr}");
    assert_eq!(status.code(), Some(2));
}

#[tokio::test]
async fn a_variable_stands_for_its_flag() {
    let Output { stderr, .. } = ended(&["--backend=http://127.0.0.1:1"], &[("PIERHEAD_IDLE_TIMEOUT", "soon")]).await;
    assert!(String::from_utf8(stderr).unwrap().contains("--idle-timeout"));
}

#[tokio::test]
async fn help_groups_the_flags() {
    let Output { status, stdout, .. } = ended(&["--help"], &[]).await;
    let help = String::from_utf8(stdout).unwrap();
    assert!(status.success());
    for heading in ["Sources:", "Listeners:", "Traffic:", "Limits of time:", "Logs:", "Kubernetes:"] {
        assert!(help.contains(heading), "{heading} in {help}");
    }
}

/// `check` and `crds` as commands, from the binary.
#[tokio::test]
async fn check_and_crds_answer_on_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.yaml");
    std::fs::write(&path, ingress("main").host("A_B").prefix("/", "one").to_string()).unwrap();
    let binary = env!("CARGO_BIN_EXE_pierhead");
    let run = async |arguments: &[&str]| {
        let command = tokio::process::Command::new(binary).args(arguments).output();
        soon("end of the process", command).await.unwrap()
    };
    let checked = run(&["check", path.to_str().unwrap()]).await;
    let out = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{out}");
    assert!(out.contains("shop.yaml") && out.contains("spec.rules[0].host"), "{out}");
    let crds = run(&["crds"]).await;
    assert_eq!(crds.status.code(), Some(0));
    assert!(String::from_utf8(crds.stdout).unwrap().contains("kind: CustomResourceDefinition"));
}
