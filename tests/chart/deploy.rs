//! deploy/ is rendered from the chart with the values beside it.

use std::fmt::Write;

use super::{
    is_current,
    rendered::{objects, template},
};

/// Which kinds go to which file.
const FILES: [(&str, &[&str]); 5] = [
    ("rbac.yaml", &["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("ingressclass.yaml", &["IngressClass"]),
    ("deployment.yaml", &["Deployment", "PodDisruptionBudget"]),
    ("service.yaml", &["Service"]),
    ("networkpolicy.yaml", &["NetworkPolicy"]),
];

#[test]
fn the_static_manifests_are_those_of_the_chart() {
    is_rendered("deploy");
}

#[test]
fn the_manifests_of_a_scoped_installation_are_those_of_the_chart_and_need_no_cluster_role() {
    for document in is_rendered("deploy/namespaced") {
        let [object] = &objects(&document)[..] else { panic!("{document}") };
        assert!(object["metadata"]["namespace"].is_string(), "{} is not in a namespace", object["kind"]);
    }
}

/// Checks or writes the files of a folder; gives the documents in them.
fn is_rendered(folder: &str) -> Vec<String> {
    let rendered = template(&["--values", &format!("{folder}/values.yaml")]).unwrap();
    let documents: Vec<String> = rendered.split("---\n").filter(|part| part.contains("kind:")).map(plain).collect();
    let mut left = documents.len();
    for (file, kinds) in FILES {
        let mut text = "# Rendered from charts/pierhead with values.yaml.\n".to_owned();
        let before = left;
        for document in &documents {
            if kinds.iter().any(|kind| document.contains(&format!("\nkind: {kind}\n"))) {
                if left < before {
                    text += "---\n";
                }
                write!(text, "{document}").unwrap();
                left -= 1;
            }
        }
        if left < before {
            is_current(&format!("{folder}/{file}"), &text);
        }
    }
    assert_eq!(left, 0, "a kind has no file");
    documents
}

/// A document without what only helm needs.
fn plain(document: &str) -> String {
    let of_helm = ["# Source: ", "helm.sh/chart:", "app.kubernetes.io/managed-by:"];
    let lines = document.lines().filter(|line| !of_helm.iter().any(|part| line.trim_start().starts_with(part)));
    lines.filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}
