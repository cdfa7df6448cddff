//! The dashboard and the alerts that come with the chart: they ask for nothing that is not in the table of metrics, and
//! promtool takes them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test as the tests themselves do")]
#![cfg(feature = "kubernetes")]

#[path = "support/tools.rs"]
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use pierhead::telemetry::metrics::table::{ALL, Kind};
use serde_json::Value;

/// Labels that Prometheus gives each series of a target.
const OF_THE_TARGET: [&str; 3] = ["job", "instance", "pod"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> Vec<Value> {
    let text = fs::read_to_string(root().join("charts/pierhead/files/rules.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&text).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("charts/pierhead/files/dashboard.json")).unwrap()).unwrap()
}

/// Each expression of a panel with its title.
fn panels() -> Vec<(String, String)> {
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    dashboard()["panels"].as_array().unwrap().iter().flat_map(of_panel).collect()
}

/// Names of series, with the labels that they have.
fn series() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut series = BTreeMap::from([("up".to_owned(), BTreeSet::from(OF_THE_TARGET))]);
    for metric in ALL.iter().flat_map(|(_, metrics)| *metrics) {
        let labels: BTreeSet<&str> = metric.labels.iter().copied().chain(OF_THE_TARGET).collect();
        if metric.kind == Kind::Histogram {
            for suffix in ["_sum", "_count"] {
                series.insert(metric.name() + suffix, labels.clone());
            }
            series.insert(metric.name() + "_bucket", labels.into_iter().chain(["le"]).collect());
        } else {
            series.insert(metric.name(), labels);
        }
    }
    series
}

/// Each series that an expression asks for, with the labels that it is asked for by.
fn asked(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut asked = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let word: String = rest[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "_:".contains(*c)).collect();
        rest = &rest[at + word.len()..];
        let is_series = ["pierhead_", "process_"].iter().any(|prefix| word.starts_with(prefix)) || word == "up";
        let selector = rest.strip_prefix('{').map(|selector| &selector[..selector.find('}').unwrap()]);
        if is_series {
            let matchers = selector.unwrap_or_default().split(", ").filter(|matcher| !matcher.is_empty());
            asked.push((word, matchers.map(|matcher| matcher.split(['=', '!']).next().unwrap().to_owned()).collect()));
        }
        if let Some(selector) = selector {
            rest = &rest[selector.len() + 2..];
        }
    }
    asked
}

/// The labels that an expression groups or joins by.
fn grouped(expression: &str) -> BTreeSet<String> {
    let lists = [" by (", "on ("].iter().flat_map(|word| expression.split(word).skip(1));
    let labels = lists.flat_map(|list| list.split(')').next().unwrap().split(", "));
    labels.map(ToOwned::to_owned).collect()
}

/// What an expression asks for that does not exist.
fn unknown(expression: &str) -> Vec<String> {
    let series = series();
    let (mut unknown, mut known) = (Vec::new(), BTreeSet::new());
    for (name, labels) in asked(expression) {
        match series.get(&name) {
            None => unknown.push(name),
            Some(has) => {
                known.extend(has.iter().copied());
                unknown.extend(labels.into_iter().filter(|label| !has.contains(&**label)));
            }
        }
    }
    unknown.extend(grouped(expression).into_iter().filter(|label| !known.contains(&**label)));
    unknown
}

#[test]
fn what_an_expression_asks_for_is_seen() {
    let expression =
        r#"sum by (ingress, wrong) (rate(pierhead_requests_total{status="5xx", nothing!="x"}[5m])) / on (job) up"#;
    assert_eq!(unknown(expression), ["nothing", "wrong"]);
    assert_eq!(unknown("rate(pierhead_request_total[5m])"), ["pierhead_request_total"]);
    assert_eq!(unknown("pierhead_request_duration_seconds"), ["pierhead_request_duration_seconds"]);
}

#[test]
fn alerts_ask_for_metrics_and_labels_that_exist() {
    let rules = rules();
    assert!(rules.len() > 15);
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        assert!(!asked(expression).is_empty(), "{expression}");
        assert_eq!(unknown(expression), [""; 0], "{}", rule["alert"]);
        let (names, grouped) = (rule["annotations"].to_string(), grouped(expression));
        for label in names.split("$labels.").skip(1).map(|rest| rest.split(' ').next().unwrap()) {
            let has =
                grouped.contains(label) || asked(expression).iter().all(|(name, _)| series()[name].contains(label));
            assert!(has, "{}: {label}", rule["alert"]);
        }
        assert!(rule["annotations"]["description"].as_str().is_some_and(|text| text.len() > 80), "{}", rule["alert"]);
    }
}

#[test]
fn panels_ask_for_metrics_and_labels_that_exist() {
    let panels = panels();
    assert!(panels.len() > 40);
    for (title, expression) in panels {
        assert!(!asked(&expression).is_empty(), "{title}: {expression}");
        assert_eq!(unknown(&expression), [""; 0], "{title}: {expression}");
    }
    for variable in dashboard()["templating"]["list"].as_array().unwrap() {
        let Some(definition) = variable["definition"].as_str() else { continue };
        assert_eq!(unknown(definition), [""; 0], "{definition}");
    }
}

#[test]
fn every_metric_is_in_a_panel() {
    let shown: BTreeSet<String> =
        panels().iter().flat_map(|(_, expression)| asked(expression)).map(|(name, _)| name).collect();
    for metric in ALL.iter().flat_map(|(_, metrics)| *metrics) {
        let name = metric.name();
        // How much address space a process has says little.
        let is_shown = name == "process_virtual_memory_bytes" || shown.iter().any(|shown| shown.starts_with(&name));
        assert!(is_shown, "{name}");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for cell in (0..place("h")).flat_map(|row| (0..place("w")).map(move |column| (row, column))) {
            let cell = (place("y") + cell.0, place("x") + cell.1);
            assert!(cell.1 < 24 && taken.insert(cell), "{} lies over another", panel["title"]);
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}

#[test]
fn promtool_takes_the_rules_and_each_alert_has_a_test() {
    let said = |output: std::process::Output| {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    };
    said(tools::run("promtool", &["check", "rules", "charts/pierhead/files/rules.yaml"], root(), b""));
    said(tools::run("promtool", &["test", "rules", "tests/observability/rules_test.yaml"], root(), b""));
    let tests = fs::read_to_string(root().join("tests/observability/rules_test.yaml")).unwrap();
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}\n")), "{alert}");
    }
}
