//! What the chart renders of each set of values in values/, kept in golden/.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{is_current, path, read, tools::helm};

/// A version of Kubernetes to render for where none is asked.
pub(crate) const KUBERNETES: &str = "1.34.0";

/// Renders the chart; gives what helm says when it does not.
pub(crate) fn template(args: &[&str]) -> Result<String, String> {
    let mut helm = helm();
    helm.args(["template", "pierhead", "charts/pierhead", "--namespace=pierhead", "--kube-version", KUBERNETES]);
    let output = helm.args(args).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if output.status.success() { Ok(out) } else { Err(err) }
}

/// The objects in YAML documents.
pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    all.into_iter().filter(Value::is_object).collect()
}

#[test]
fn each_set_of_values_renders_as_kept() {
    let mut sets = Vec::new();
    for file in fs::read_dir(path("tests/chart/values")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let values = format!("tests/chart/values/{name}");
        // The definitions are a copy of crds/, which is checked below.
        let text = template(&["--values", &values, "--set", "crds.enabled=false"]).unwrap();
        is_current(&format!("tests/chart/golden/{name}"), &text);
        sets.push(name);
    }
    assert!(sets.len() >= 10, "{sets:?}");
}

#[test]
fn every_flag_that_the_chart_gives_is_one_of_serve() {
    for file in fs::read_dir(path("tests/chart/golden")).unwrap() {
        let file = file.unwrap().path();
        let objects = objects(&fs::read_to_string(&file).unwrap());
        let workload = objects.iter().find(|object| object["spec"]["template"].is_object()).unwrap();
        let containers = workload["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let args = containers.iter().find_map(|container| container.get("args")).unwrap().as_array().unwrap();
        let args = args.iter().map(|arg| arg.as_str().unwrap());
        // The last one is wrong: that it is what is complained of means that those before it are right.
        let output = Command::new(env!("CARGO_BIN_EXE_pierhead")).args(args).arg("--threads=none").env_clear().output();
        let told = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(told.contains("--threads"), "{}: {told}", file.display());
    }
}

#[test]
fn the_definitions_are_those_of_crds_and_are_kept_on_uninstall() {
    let mut kept = 0;
    for file in fs::read_dir(path("crds")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let generated = read(&format!("crds/{name}"));
        is_current(&format!("charts/pierhead/files/crds/{name}"), &generated);
        let mut definition: Value = serde_saphyr::from_str(&generated).unwrap();
        let rendered = objects(&template(&["--show-only=templates/crds.yaml"]).unwrap());
        let rendered = rendered.into_iter().find(|object| object["metadata"]["name"] == definition["metadata"]["name"]);
        let rendered = rendered.expect("the chart renders it");
        assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], json!("keep"));
        definition["metadata"] = rendered["metadata"].clone();
        assert_eq!(rendered, definition, "{name}");
        kept += 1;
    }
    assert!(kept > 0 && fs::read_dir(path("charts/pierhead/files/crds")).unwrap().count() == kept);
    assert!(!template(&["--set=crds.enabled=false"]).unwrap().contains("CustomResourceDefinition"));
}

#[test]
fn ports_below_1024_are_opened_to_a_process_without_root_in_a_network_of_its_own() {
    let opened = |values: &str| {
        let objects = objects(&template(&["--show-only=templates/workload.yaml", "--set", values]).unwrap());
        let context = &objects[0]["spec"]["template"]["spec"]["securityContext"];
        context["sysctls"].as_array().cloned().unwrap_or_default()
    };
    let setting = [json!({"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"})];
    assert_eq!(opened("controller.containerPort.http=80"), setting);
    assert_eq!(opened("controller.containerPort.https=443"), setting);
    assert!(opened("controller.replicaCount=1").is_empty());
    // Kubernetes refuses settings of the node's own network.
    assert!(opened("controller.hostNetwork=true").is_empty());
}

#[test]
fn probes_are_answered_where_the_kubelet_reaches_them() {
    for (addresses, monitoring) in [
        ("{0.0.0.0}", "0.0.0.0"),
        ("{127.0.0.1}", "0.0.0.0"),
        ("{[::1]}", "[::]"),
        (r"{127.0.0.1,10.0.0.7}", "10.0.0.7"),
    ] {
        let rendered = template(&["--set", &format!("controller.bindAddresses={addresses}")]).unwrap();
        assert!(rendered.contains(&format!("--monitoring={monitoring}:10254\"")), "{addresses}");
    }
}

#[test]
fn alerts_ask_for_the_job_of_their_release() {
    let enabled = "--set=controller.metrics.enabled=true,controller.metrics.prometheusRule.enabled=true";
    for (values, job) in [
        ("replicaCount=2", ".*pierhead.*"),
        ("metrics.serviceMonitor.enabled=true,fullnameOverride=edge", ".*edge.*"),
        (r"metrics.serviceMonitor.jobLabel=app\.kubernetes\.io/name,fullnameOverride=edge", ".*(edge|pierhead).*"),
    ] {
        let values = format!("--set=controller.{values}");
        let rendered = template(&[enabled, &values, "--show-only=templates/prometheusrule.yaml"]).unwrap();
        let asked = rendered.matches("{job=~").count();
        assert!(asked >= 2 && rendered.matches(&format!("{{job=~\"{job}\"}}")).count() == asked, "{job}");
    }
}

#[test]
fn helm_finds_nothing_to_mend() {
    let output = helm().args(["lint", "--strict", "charts/pierhead", "--kube-version", KUBERNETES]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("0 chart(s) failed"), "{told}");
    assert!(!told.contains("[WARNING]"), "{told}");
}

#[test]
fn the_rights_are_those_that_the_code_asks_for() {
    use pierhead::sources::kubernetes::rights::{ALL, Place};
    for (values, scoped, selector) in
        [("default", false, false), ("namespaces-by-label", false, true), ("scoped", true, false)]
    {
        let objects = objects(&read(&format!("tests/chart/golden/{values}.yaml")));
        let mut given: Vec<String> = objects
            .iter()
            .filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole")
            .flat_map(rights)
            .collect();
        let mut asked = Vec::new();
        for right in ALL {
            let (place, name) = match right.place {
                Place::Watched if scoped => ("Role pierhead-watch in shop", ""),
                Place::Cluster if scoped => continue,
                Place::ClusterForSelector if !selector => continue,
                Place::Watched | Place::Cluster | Place::ClusterForSelector => ("ClusterRole", ""),
                Place::Lease => ("Role pierhead in pierhead", ""),
                Place::LeaseByName => ("Role pierhead in pierhead", "pierhead"),
            };
            asked.push(format!("{place}: {:?} {} {name:?} {}", right.group, right.resource, right.verbs.join(",")));
            if scoped && right.place == Place::Watched {
                let (_, what) = asked.last().unwrap().split_once(": ").unwrap();
                let again = format!("Role pierhead-watch in team-b: {what}");
                asked.push(again);
            }
        }
        if scoped {
            // The Service of the release lies outside the namespaces that are watched.
            asked.push(r#"Role pierhead-services in pierhead: "" services "pierhead" list,watch"#.to_owned());
        }
        given.sort();
        asked.sort();
        assert_eq!(given, asked, "{values}");
    }
}

/// What a role gives: place, group, resource, name, verbs.
fn rights(role: &Value) -> Vec<String> {
    let metadata = &role["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = match role["kind"].as_str().unwrap() {
        "Role" => format!("Role {} in {}", text(&metadata["name"]), text(&metadata["namespace"])),
        kind => kind.to_owned(),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for rule in list(&role["rules"]) {
        let verbs = list(&rule["verbs"]).iter().map(text).collect::<Vec<_>>().join(",");
        let names = list(&rule["resourceNames"]);
        let names = if names.is_empty() { vec![Value::from("")] } else { names };
        for (group, resource) in list(&rule["apiGroups"])
            .iter()
            .flat_map(|group| list(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource)))
        {
            for name in &names {
                all.push(format!("{place}: {:?} {} {:?} {verbs}", text(&group), text(&resource), text(name)));
            }
        }
    }
    all
}
