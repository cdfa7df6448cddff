//! Installing, asking, upgrading and uninstalling, as an operator does.

use std::{fs, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    cluster::{Release, chart, kubectl, run, try_run},
    load::Load,
    support::{client, eventually},
};

const DEFINITION: &str = "crd backendpolicies.pierhead.dev";
const POLICY: &str = r#"
{"apiVersion": "pierhead.dev/v1alpha1", "kind": "BackendPolicy", "metadata": {"name": "app"},
 "spec": {"loadBalancing": {"strategy": "PeakEwma"},
          "targetRefs": [{"group": "", "kind": "Service", "name": "app"}]}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn installs_serves_and_leaves_definitions() {
    let address_of_ours = "--set controller.publishAddresses[0]=192.0.2.7";
    let release = Release::install("installs", address_of_ours).await;
    let address = release.app(2).await;
    Load::asks(200, address, &release.host()).await.no_request_failed("traffic through the Service").await;

    let shown = async || release.kubectl("get ingress app").await.contains("192.0.2.7").then_some(());
    eventually("ADDRESS of the Ingress", shown).await;
    run("kubectl", "apply -n installs -f -", POLICY).await;
    let accepted = async || release.kubectl("get backendpolicy app -o yaml").await.contains("Accepted").then_some(());
    eventually("status of the BackendPolicy", accepted).await;
    let logged = async || {
        let log = release.kubectl("logs -l app.kubernetes.io/name=pierhead --tail=-1").await;
        log.contains("installs.example").then_some(())
    };
    eventually("a request in the log", logged).await;
    admin_by_port_forward(&release).await;

    release.uninstall().await;
    assert!(
        kubectl("get ingressclasses,clusterroles,clusterrolebindings -o name")
            .await
            .lines()
            .all(|name| !name.ends_with("/installs"))
    );
    kubectl(&format!("get {DEFINITION}")).await;
}

/// The admin port listens on loopback of the pod only.
async fn admin_by_port_forward(release: &Release) {
    let port_forward = ["-n", release.name, "port-forward", "deployment/installs", ":9090"];
    let mut command = Command::new("kubectl");
    let mut child = command.args(port_forward).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    // "Forwarding from 127.0.0.1:34567 -> 9090"; kubectl ends when nobody may read what it says next.
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = said.next_line().await.unwrap().unwrap();
    let admin = told.split(' ').find_map(|word| word.parse().ok()).expect(&told);
    let routes = async || {
        let snapshot = client::try_get(admin, "127.0.0.1", "/debug/snapshot").await?;
        snapshot.text().contains("installs.example").then_some(())
    };
    eventually("the admin port by kubectl port-forward", routes).await;
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_values_that_do_not_exist() {
    let release = Release { name: "refused" };
    let flags = "--create-namespace --set controller.replicas=3";
    let error = release.helm("install", &chart(), flags).await.unwrap_err();
    assert!(error.contains("controller") && error.contains("'replicas' not allowed"), "{error}");
    assert!(try_run("helm", "status refused -n refused", "").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_values_and_definitions_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("pierhead");
    run("cp", &format!("-r {} {}", chart(), old.display()), "").await;
    forget_a_field(&old.join("files/crds/pierhead.dev_backendpolicies.yaml"));
    let release = Release { name: "upgrades" };
    release.helm("install", &old.display().to_string(), "--create-namespace").await.unwrap();
    assert!(!kubectl(&format!("get {DEFINITION} -o yaml")).await.contains("jsonPath: .spec.loadBalancing.strategy"));

    let address = release.app(2).await;
    let load = Load::start(address, &release.host());
    load.answers(100).await;
    release.helm("upgrade", &chart(), "--set controller.proxy.via=true --set controller.replicaCount=3").await.unwrap();
    release.has_pods("app.kubernetes.io/name=pierhead", 3).await;
    load.answers(100).await;
    load.no_request_failed("an upgrade of the chart").await;

    assert!(kubectl(&format!("get {DEFINITION} -o yaml")).await.contains("jsonPath: .spec.loadBalancing.strategy"));
    assert!(client::get(address, &release.host(), "/").await.header("via").contains("pierhead"));
    release.uninstall().await;
}

/// Makes the definition one of an earlier version, which has no column for the strategy.
fn forget_a_field(definition: &Path) {
    let text = fs::read_to_string(definition).unwrap();
    let column = "  - additionalPrinterColumns:\n    - jsonPath: .spec.loadBalancing.strategy\n      name: Strategy\n\
                  \x20     type: string\n";
    assert!(text.contains(column));
    fs::write(definition, text.replace(column, "  - additionalPrinterColumns:\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_one_namespace_with_roles_alone() {
    // IngressClasses cannot be read then: an Ingress is served by the name of its class alone.
    let values = "--set rbac.scope=true --set controller.scope.enabled=true \
                  --set controller.ingressClassResource.enabled=false --set controller.ingressClass=scoped";
    let release = Release::install("scoped", values).await;
    let roles = kubectl("get clusterroles,clusterrolebindings -o json").await;
    let roles: Value = serde_json::from_str(&roles).unwrap();
    let of_ours = |role: &&Value| role["metadata"]["annotations"]["meta.helm.sh/release-name"] == "scoped";
    assert_eq!(roles["items"].as_array().unwrap().iter().filter(of_ours).count(), 0);
    let address = release.app(1).await;
    Load::asks(200, address, &release.host()).await.no_request_failed("a namespace with Roles alone").await;
    release.uninstall().await;
}
