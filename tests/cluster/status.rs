//! What objects are told: addresses, conditions, Events.

use serde_json::{Value, json};

use crate::support::{Cases, Cluster, Scene, eventually, ingress, policy, service, tls_secret};

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    let pierhead = cluster.pierhead("status", 0, &["--publish-service=pierhead/pierhead"]).await;
    cases.run("addresses_of_the_published_service", published_service(cluster)).await;
    cases.run("status_is_removed_when_the_ingress_is_no_longer_ours", no_longer_ours(cluster)).await;
    cases.run("status_of_others_stays", foreign_status(cluster)).await;
    cases.run("policy_conditions", policy_conditions(cluster)).await;
    cases.run("policy_conflict", policy_conflict(cluster)).await;
    cases.run("policy_entries_of_others_stay", foreign_ancestors(cluster)).await;
    cases.run("each_problem_is_told_once", told_once(cluster)).await;
    cases
        .run("nothing_forbidden_to_status", async {
            assert!(!pierhead.log().to_lowercase().contains("forbidden"), "{}", pierhead.log());
        })
        .await;
    pierhead.stop().await;
    cases.run("addresses_from_the_flag", published_address(cluster)).await;
}

/// Addresses in the status, joined by a space.
async fn addresses(scene: &Scene<'_>, name: &str) -> String {
    let object = scene.get("Ingress", name).await;
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value| entry["ip"].as_str().or(entry["hostname"].as_str()).unwrap_or("?").to_owned();
    ingress.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// Waits until the Ingress shows these addresses.
pub(crate) async fn has_addresses(scene: &Scene<'_>, name: &str, want: &str) {
    eventually(&format!("Ingress {name} has the addresses {want:?}"), async || {
        let shown = addresses(scene, name).await;
        if shown == want { Ok(()) } else { Err(shown) }
    })
    .await;
}

async fn balancer(cluster: &Cluster, addresses: Value) {
    cluster.merge_status("pierhead", "Service", "pierhead", json!({"loadBalancer": {"ingress": addresses}})).await;
}

async fn published_service(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(ingress("front").host(&scene.host("www")).prefix("/", "a:80")).await;
    balancer(cluster, json!([{"ip": "192.0.2.1"}])).await;
    has_addresses(&scene, "front", "192.0.2.1").await;
    balancer(cluster, json!([{"ip": "192.0.2.1"}, {"hostname": "lb.example"}])).await;
    has_addresses(&scene, "front", "192.0.2.1 lb.example").await;
    scene.apply(ingress("later").host(&scene.host("later")).prefix("/", "a:80")).await;
    has_addresses(&scene, "later", "192.0.2.1 lb.example").await;
    balancer(cluster, json!([])).await;
    has_addresses(&scene, "front", "").await;
    balancer(cluster, json!([{"ip": "192.0.2.1"}])).await;
    has_addresses(&scene, "front", "192.0.2.1").await;
}

async fn no_longer_ours(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let of_class = |class| ingress("front").class(class).host(&scene.host("www")).prefix("/", "a:80");
    scene.apply(of_class(Some("pierhead"))).await;
    has_addresses(&scene, "front", "192.0.2.1").await;
    scene.apply(of_class(Some("elsewhere"))).await;
    has_addresses(&scene, "front", "").await;
    eventually("our name is gone from the managed fields", async || {
        let fields = scene.get("Ingress", "front").await["metadata"]["managedFields"].to_string();
        if fields.contains("pierhead:") { Err(fields) } else { Ok(()) }
    })
    .await;
    scene.apply(of_class(Some("pierhead"))).await;
    has_addresses(&scene, "front", "192.0.2.1").await;
}

async fn foreign_status(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(ingress("theirs").class(Some("elsewhere")).host(&scene.host("theirs")).prefix("/", "a:80")).await;
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}});
    cluster.merge_status(&scene.namespace, "Ingress", "theirs", status).await;
    // Once a later object has its status, this one has been looked at.
    scene.apply(ingress("ours").host(&scene.host("ours")).prefix("/", "a:80")).await;
    has_addresses(&scene, "ours", "192.0.2.1").await;
    assert_eq!(addresses(&scene, "theirs").await, "198.51.100.7");
}

/// `type=status/reason` of the conditions that we wrote, by target.
async fn conditions(scene: &Scene<'_>, name: &str) -> Vec<String> {
    let object = scene.get("BackendPolicy", name).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ancestors = object["status"]["ancestors"].as_array().cloned().unwrap_or_default();
    let ours = ancestors.iter().filter(|entry| entry["controllerName"] == "pierhead.dev/ingress-controller");
    ours.flat_map(|entry| {
        let target = text(&entry["ancestorRef"]["name"]);
        let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().map(move |condition| {
            let generation = &condition["observedGeneration"];
            assert!(generation.is_i64(), "{condition}");
            format!(
                "{target} {}={}/{}",
                text(&condition["type"]),
                text(&condition["status"]),
                text(&condition["reason"])
            )
        })
    })
    .collect()
}

pub(crate) async fn has_condition(scene: &Scene<'_>, name: &str, want: &str) {
    eventually(&format!("policy {name} has the condition {want}"), async || {
        let shown = conditions(scene, name).await;
        if shown.iter().any(|shown| shown == want) { Ok(()) } else { Err(shown) }
    })
    .await;
}

async fn policy_conditions(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(policy("fine", "a", json!({}))).await;
    scene.apply(policy("lost", "gone", json!({}))).await;
    for want in ["a Accepted=True/Accepted", "a ResolvedRefs=True/ResolvedRefs", "a Conflicted=False/NoConflict"] {
        has_condition(&scene, "fine", want).await;
    }
    has_condition(&scene, "lost", "gone Accepted=False/TargetNotFound").await;
    has_condition(&scene, "lost", "gone ResolvedRefs=False/TargetNotFound").await;
    let times = |object: &Value| object["status"]["ancestors"][0]["conditions"][2]["lastTransitionTime"].clone();
    let before = times(&scene.get("BackendPolicy", "lost").await);
    scene.apply(service("gone")).await;
    has_condition(&scene, "lost", "gone Accepted=True/Accepted").await;
    let after = scene.get("BackendPolicy", "lost").await;
    assert_eq!(times(&after), before, "Conflicted said the same all the time");
    let table = cluster.control_plane.kubectl(&["get", "bp", "-n", &scene.namespace]).await;
    assert!(table.lines().any(|line| line.starts_with("fine") && line.contains("True")), "{table}");
}

async fn policy_conflict(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(policy("a-first", "a", json!({}))).await;
    scene.apply(policy("b-second", "a", json!({}))).await;
    has_condition(&scene, "a-first", "a Accepted=True/Accepted").await;
    has_condition(&scene, "b-second", "a Accepted=False/Conflicted").await;
    has_condition(&scene, "b-second", "a Conflicted=True/Conflicted").await;
    scene.has_event("BackendPolicy", "b-second", &["Conflict", "a-first"]).await;
    scene.delete("BackendPolicy", "a-first").await;
    has_condition(&scene, "b-second", "a Accepted=True/Accepted").await;
    has_condition(&scene, "b-second", "a Conflicted=False/NoConflict").await;
}

async fn foreign_ancestors(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(policy("shared", "a", json!({}))).await;
    has_condition(&scene, "shared", "a Accepted=True/Accepted").await;
    let mut ancestors = scene.get("BackendPolicy", "shared").await["status"]["ancestors"].clone();
    let foreign = json!({
        "ancestorRef": {"group": "", "kind": "Service", "name": "a"}, "controllerName": "example.net/other",
        "conditions": [],
    });
    ancestors.as_array_mut().expect("a list").push(foreign);
    let namespace = &scene.namespace;
    cluster.merge_status(namespace, "BackendPolicy", "shared", json!({"ancestors": ancestors})).await;
    scene.delete("Service", "a").await;
    has_condition(&scene, "shared", "a Accepted=False/TargetNotFound").await;
    let after = scene.get("BackendPolicy", "shared").await["status"]["ancestors"].to_string();
    assert!(after.contains("example.net/other"), "{after}");
}

async fn told_once(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let (host, namespace) = (scene.host("www"), scene.namespace.clone());
    scene.apply(ingress("front").host(&host).prefix("/", "a:80").prefix("/x", "gone:80").prefix("/y", "lost:80")).await;
    // Two problems with the same reason are two Events.
    scene.has_event("Ingress", "front", &["NotFound", "gone"]).await;
    scene.has_event("Ingress", "front", &["NotFound", "lost"]).await;
    // Changes elsewhere compile everything again; what was told is not told again.
    for round in 0..5 {
        scene.apply(tls_secret(&format!("noise-{round}"), "", "")).await;
        scene.apply(ingress("noise").host(&scene.host("noise")).prefix("/", &format!("noise-{round}:80"))).await;
        scene.has_event("Ingress", "noise", &[&format!("noise-{round}")]).await;
    }
    let events = cluster.events(&namespace, "Ingress", "front").await;
    assert_eq!(events.len(), 2, "{events:?}");
    let described = cluster.control_plane.kubectl(&["describe", "ingress", "front", "-n", &namespace]).await;
    assert!(described.contains("NotFound") && described.contains("gone"), "{described}");
}

async fn published_address(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let addresses = ["--publish-address=203.0.113.9", "--publish-address=edge.example"];
    let pierhead = cluster.pierhead("address", 0, &addresses).await;
    scene.apply(ingress("front").host(&scene.host("www")).prefix("/", "a:80")).await;
    has_addresses(&scene, "front", "203.0.113.9 edge.example").await;
    pierhead.stop().await;
}
