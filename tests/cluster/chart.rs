//! The chart against a real API server: what it renders is taken under strict validation, its Pods are admitted under Pod
//! Security "restricted", and a release is installed, upgraded and uninstalled.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::{
    support::{Cases, ControlPlane, eventually},
    tools::helm,
};

/// Sets whose Pods use the node's network or ports, which "restricted" is there to forbid.
const ON_THE_NODE: [&str; 2] = ["daemonset-host-network", "host-port"];

/// The server decides, and nothing is kept.
const DRY: [&str; 2] = ["--dry-run=server", "--validate=strict"];

pub(crate) async fn cases(kubernetes: &ControlPlane, cases: &mut Cases) {
    prepare(kubernetes).await;
    for file in fs::read_dir(checkout().join("tests/chart/golden")).expect("golden files") {
        let file = file.expect("an entry").path();
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        cases.run(&format!("{name}: objects are taken"), objects(kubernetes, &file)).await;
        cases.run(&format!("{name}: the Pod is admitted"), pod(kubernetes, &file, &name)).await;
    }
    cases.run("kustomizations are taken", kustomizations(kubernetes)).await;
    cases.run("a release is installed, upgraded and uninstalled", release(kubernetes)).await;
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the sets of values name: namespaces, kinds, accounts, classes.
async fn prepare(kubernetes: &ControlPlane) {
    // The API server makes the objects of its own start a little after it is ready.
    eventually("the namespace default", async || kubernetes.try_kubectl(&["get", "namespace", "default"]).await).await;
    let file = |name: &str| checkout().join(name).display().to_string();
    kubernetes.kubectl(&["apply", "-f", &file("tests/chart/monitoring-crds.yaml")]).await;
    kubernetes.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await;
    kubernetes.kubectl(&["apply", "-f", &file("deploy/namespace.yaml")]).await;
    for namespace in ["shop", "team-b", "monitoring", "lb", "edge", "node"] {
        kubernetes.kubectl(&["create", "namespace", namespace]).await;
    }
    kubernetes.kubectl(&["label", "namespace", "node", "pod-security.kubernetes.io/enforce=privileged"]).await;
    for (namespace, name) in [("node", "pierhead"), ("pierhead", "pierhead"), ("pierhead", "edge")] {
        kubernetes.kubectl(&["-n", namespace, "create", "serviceaccount", name]).await;
    }
    let gvisor = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc",
    });
    kubernetes.kubectl(&["apply", "-f", &written(kubernetes, &gvisor)]).await;
}

/// Writes an object for kubectl to read.
fn written(kubernetes: &ControlPlane, object: &Value) -> String {
    let file = kubernetes.dir().join("object.json");
    fs::write(&file, object.to_string()).expect("written");
    file.display().to_string()
}

async fn objects(kubernetes: &ControlPlane, file: &Path) {
    let told = kubernetes.kubectl(&[&["apply", "-f", &file.display().to_string()], &DRY[..]].concat()).await;
    assert!(told.lines().count() >= 5 && told.lines().all(|line| line.contains("server dry run")), "{told}");
}

/// A Deployment is taken whatever its Pods are: only the Pod itself is refused.
async fn pod(kubernetes: &ControlPlane, file: &Path, name: &str) {
    let text = fs::read_to_string(file).expect("it is there");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("it is YAML");
    let workload = objects.iter().find(|object| object["spec"]["template"].is_object()).expect("a workload");
    let mut pod = workload["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "probe".into();
    let file = written(kubernetes, &pod);
    let create = |namespace| [&["create", "-f", &file, "--namespace", namespace], &DRY[..]].concat();
    let restricted = kubernetes.try_kubectl(&create("pierhead")).await;
    if ON_THE_NODE.contains(&name) {
        let refused = restricted.expect_err("it is on the node");
        assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
        kubernetes.kubectl(&create("node")).await;
    } else {
        restricted.expect("it is admitted");
    }
}

async fn kustomizations(kubernetes: &ControlPlane) {
    for folder in ["deploy", "deploy/namespaced"] {
        let folder = checkout().join(folder).display().to_string();
        let told = kubernetes.kubectl(&[&["apply", "-k", &folder], &DRY[..]].concat()).await;
        assert!(told.contains("deployment.apps/pierhead"), "{told}");
    }
}

/// As a user would: the definitions were there before, applied by hand.
async fn release(kubernetes: &ControlPlane) {
    kubernetes.kubectl(&["apply", "-f", &checkout().join("crds").display().to_string()]).await;
    let kubeconfig = kubernetes.dir().join("admin.kubeconfig").display().to_string();
    let run = |args: &[&str]| {
        let mut helm = helm();
        helm.args(args).args(["--namespace=edge", "--kubeconfig", &kubeconfig]);
        told(helm)
    };
    let definition = async |path: &str| {
        let output = format!("jsonpath={{{path}}}");
        kubernetes.kubectl(&["get", "crd", "backendpolicies.pierhead.dev", "-o", &output]).await
    };
    let refused = run(&["install", "edge", "charts/pierhead"]).expect_err("the definitions are not helm's");
    assert!(refused.contains("cannot be imported into the current release"), "{refused}");
    run(&["install", "edge", "charts/pierhead", "--take-ownership", "--dry-run=server"]).expect("a dry run");
    let notes = run(&["install", "edge", "charts/pierhead", "--take-ownership"]).expect("an installation");
    assert!(notes.contains("ingressClassName: pierhead"), "{notes}");
    // As an older version of the definition would be.
    let older = r#"{"spec": {"names": {"shortNames": ["old"]}}}"#;
    kubernetes.kubectl(&["patch", "crd", "backendpolicies.pierhead.dev", "--type=merge", "-p", older]).await;
    run(&["upgrade", "edge", "charts/pierhead", "--set=controller.replicaCount=3"]).expect("an upgrade");
    assert_eq!(definition(".spec.names.shortNames[*]").await, "bp", "the definition is upgraded with the chart");
    let replicas = ["-n", "edge", "get", "deployment", "edge-pierhead", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(kubernetes.kubectl(&replicas).await, "3");
    let kept = run(&["uninstall", "edge"]).expect("an end");
    assert!(kept.contains("backendpolicies.pierhead.dev"), "helm says what it keeps: {kept}");
    assert_eq!(definition(".spec.names.shortNames[*]").await, "bp", "the definition survives");
    run(&["install", "edge", "charts/pierhead"]).expect("the same release is installed again without more ado");
    run(&["uninstall", "edge"]).expect("an end");
}

fn told(mut command: Command) -> Result<String, String> {
    let output = command.output().expect("helm runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}
