//! Every kind, created, changed and deleted, as traffic sees it.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Backend, Cases, Cluster, Pierhead, Traffic, eventually, ingress, policy, service, slice};

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    let pierhead = cluster.pierhead("lifecycle", 0, &[]).await;
    cases.run("ingress_created_changed_deleted", ingress_lives(cluster, &pierhead)).await;
    cases.run("ingress_class_created_changed_deleted", class_lives(cluster, &pierhead)).await;
    cases.run("service_created_changed_deleted", service_lives(cluster, &pierhead)).await;
    cases.run("endpoint_slices_created_changed_deleted", slices_live(cluster, &pierhead)).await;
    cases.run("policy_created_changed_deleted", policy_lives(cluster, &pierhead)).await;
    cases.run("endpoint_replaced_under_load", replaced_under_load(cluster, &pierhead)).await;
    cases.run("ingress_changed_under_load", changed_under_load(cluster, &pierhead)).await;
    cases.run("watched_namespaces_only", watched_namespaces(cluster)).await;
    cases.run("namespaces_by_label", namespaces_by_label(cluster)).await;
    cases
        .run("log_shows_nothing_forbidden", async {
            assert!(!pierhead.log().to_lowercase().contains("forbidden"), "{}", pierhead.log());
        })
        .await;
    pierhead.stop().await;
}

async fn ingress_lives(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "b"]).await;
    let (host, other) = (scene.host("one"), scene.host("two"));
    pierhead.answers(&host, "/", "404").await;
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    scene.apply(ingress("front").host(&host).prefix("/", "b:80")).await;
    pierhead.answers(&host, "/", "b").await;
    scene.apply(ingress("front").host(&other).prefix("/", "a:80")).await;
    pierhead.answers(&other, "/", "a").await;
    pierhead.table(&[(&host, "/", "404")]).await;
    scene.delete("Ingress", "front").await;
    pierhead.answers(&other, "/", "404").await;
}

async fn class_lives(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("class");
    scene.apply(ingress("front").class(Some("second")).host(&host).prefix("/", "a:80")).await;
    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "second"},
        "spec": {"controller": "pierhead.dev/ingress-controller"},
    });
    cluster.apply("", class.clone()).await;
    pierhead.answers(&host, "/", "a").await;
    cluster.delete("", "IngressClass", "second").await;
    pierhead.answers(&host, "/", "404").await;
    // The controller of a class cannot be changed; its other fields can, and change nothing.
    cluster.apply("", class).await;
    pierhead.answers(&host, "/", "a").await;
    cluster.merge("", "IngressClass", "second", json!({"metadata": {"labels": {"a": "b"}}})).await;
    pierhead.table(&[(&host, "/", "a")]).await;
    cluster.delete("", "IngressClass", "second").await;
    pierhead.answers(&host, "/", "404").await;
}

async fn service_lives(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.delete("Service", "a").await;
    let host = scene.host("service");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "503").await;
    scene.apply(service("a")).await;
    pierhead.answers(&host, "/", "a").await;
    let mut moved = service("a");
    moved["spec"]["ports"][0]["port"] = 81.into();
    scene.delete("Service", "a").await;
    pierhead.answers(&host, "/", "503").await;
    scene.apply(moved).await;
    scene.apply(ingress("front").host(&host).prefix("/", "a:81")).await;
    pierhead.answers(&host, "/", "a").await;
}

async fn slices_live(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("slices");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    let second = Backend::start("second").await;
    let mut more = slice("a", &[&second]);
    more["metadata"]["name"] = "a-2".into();
    scene.apply(more).await;
    pierhead.answers(&host, "/", "second").await;
    // Each of the two threads takes its own turns, and of three requests two are served by the same one.
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        seen.insert(pierhead.get(&host, "/").await.expect("an answer").backend);
    }
    assert_eq!(seen, ["a", "second"].map(str::to_owned).into(), "both slices count");
    scene.apply(slice("a", &[])).await;
    eventually("only the second slice is left", async || {
        for _ in 0..4 {
            let reply = pierhead.get(&host, "/").await.expect("an answer");
            if reply.backend != "second" {
                return Err(reply);
            }
        }
        Ok(())
    })
    .await;
    scene.delete("EndpointSlice", "a-2").await;
    pierhead.answers(&host, "/", "503").await;
}

async fn policy_lives(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("policy");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    // One request is held open, so a limit of one leaves no room.
    let held = tokio::spawn({
        let (host, port) = (host.clone(), pierhead.ports.http);
        async move { crate::support::get(port, &host, "/hold").await }
    });
    scene.backend("a").holds_one().await;
    pierhead.answers(&host, "/", "a").await;
    let limit = |count: u32| policy("limit", "a", json!({"limits": {"maxConcurrentRequests": count}}));
    scene.apply(limit(1)).await;
    pierhead.answers(&host, "/", "503").await;
    scene.apply(limit(2)).await;
    pierhead.answers(&host, "/", "a").await;
    scene.apply(limit(1)).await;
    pierhead.answers(&host, "/", "503").await;
    scene.delete("BackendPolicy", "limit").await;
    pierhead.answers(&host, "/", "a").await;
    held.abort();
}

async fn replaced_under_load(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("load");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    let traffic = Traffic::start(pierhead.ports.http, &host, "/");
    let mut old: Option<Backend> = None;
    for generation in 0..5 {
        let name = format!("generation-{generation}");
        let new = Backend::start(&name).await;
        // As in a rolling update: the new one is ready, the old one still serves while it terminates.
        let mut both = slice("a", &[&new]);
        if let Some(old) = &old {
            let leaving = json!({"ready": false, "serving": true, "terminating": true});
            let endpoints = both["endpoints"].as_array_mut().expect("a list");
            endpoints.push(json!({"addresses": [old.ip], "conditions": leaving}));
        }
        scene.apply(both).await;
        eventually(&format!("{name} takes the traffic"), async || {
            let before = traffic.seen();
            let reply = pierhead.get(&host, "/").await.expect("an answer");
            let taken = before.answered.get(&name).is_some_and(|count| *count > 20);
            if taken && reply.backend == name { Ok(()) } else { Err(before) }
        })
        .await;
        if let Some(old) = old.replace(new) {
            old.retire();
        }
        scene.apply(slice("a", &[old.as_ref().expect("just set")])).await;
    }
    let seen = traffic.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
    assert!(seen.answered.len() >= 5, "{:?}", seen.answered);
}

async fn changed_under_load(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "b"]).await;
    let (host, other) = (scene.host("steady"), scene.host("churn"));
    scene.apply(ingress("steady").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    let traffic = Traffic::start(pierhead.ports.http, &host, "/");
    for round in 0..10 {
        let backend = ["a", "b"][round % 2];
        scene.apply(ingress("churn").host(&other).prefix("/", &format!("{backend}:80"))).await;
        pierhead.answers(&other, "/", backend).await;
    }
    let seen = traffic.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
}

async fn watched_namespaces(cluster: &Cluster) {
    let (mut inside, mut outside) = (cluster.scene().await, cluster.scene().await);
    inside.backends(&["a"]).await;
    outside.backends(&["b"]).await;
    let pierhead = cluster.pierhead("restricted", 1, &[&format!("--watch-namespace={}", inside.namespace)]).await;
    let (seen, unseen) = (inside.host("www"), outside.host("www"));
    outside.apply(ingress("front").host(&unseen).prefix("/", "b:80")).await;
    inside.apply(ingress("front").host(&seen).prefix("/", "a:80")).await;
    pierhead.answers(&seen, "/", "a").await;
    pierhead.table(&[(&unseen, "/", "404")]).await;
}

async fn namespaces_by_label(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("www");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    // The rule that the chart adds for this setting.
    let shipped = cluster.get("", "ClusterRole", "pierhead").await["rules"].clone();
    let mut rules = shipped.clone();
    let rule = json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]});
    rules.as_array_mut().expect("a list").push(rule);
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": rules})).await;
    let pierhead = cluster.pierhead("labels", 1, &["--watch-namespace-selector=edge=yes"]).await;
    pierhead.table(&[(&host, "/", "404")]).await;
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"edge": value}}});
    cluster.merge("", "Namespace", &scene.namespace, label("yes".into())).await;
    pierhead.answers(&host, "/", "a").await;
    cluster.merge("", "Namespace", &scene.namespace, label(serde_json::Value::Null)).await;
    pierhead.answers(&host, "/", "404").await;
    // Other cases run with the rights that are shipped, and no more.
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": shipped})).await;
}
