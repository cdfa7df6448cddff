//! Trouble: an API server that goes away, kinds that do not exist, objects that mean harm.

use serde_json::json;

use crate::{
    status::has_condition,
    support::{Cases, Cluster, Pierhead, Traffic, eventually, ingress, policy, service, slice, tls_secret},
};

/// All of them.
pub(crate) async fn cases(cluster: &mut Cluster, cases: &mut Cases) {
    let pierhead = cluster.pierhead("faults", 1, &[]).await;
    cases.run("hostile_objects_harm_only_themselves", hostile(cluster, &pierhead)).await;
    cases.run("malformed_policy_is_a_problem_and_repaired", malformed(cluster, &pierhead)).await;
    cases.run("api_server_restarts_under_traffic", restart(cluster, &pierhead)).await;
    cases.run("api_server_freezes_under_traffic", freeze(cluster, &pierhead)).await;
    cases.run("start_without_api_server", late_api_server(cluster)).await;
    cases.run("start_without_the_policy_kind", without_policies(cluster)).await;
    cases.run("missing_rights_are_named", missing_rights(cluster)).await;
    cases.run("without_the_right_to_see_policies_none_is_ready", without_policy_rights(cluster)).await;
    cases.run("a_role_that_cannot_list_config_maps_hurts_nothing_else", without_config_maps(cluster)).await;
}

async fn hostile(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("good");
    scene.apply(ingress("good").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    let traffic = Traffic::start(pierhead.ports.http, &host, "/");

    let bad = scene.host("bad");
    let paths = ingress("bad").host(&bad).prefix("/fine", "a:80").prefix("/gone", "gone:80");
    scene.apply(paths.prefix("/metadata", "metadata:80").tls(&[&bad], "garbage")).await;
    scene.apply(tls_secret("garbage", "not a certificate", "not a key")).await;
    scene.apply(service("metadata")).await;
    // The API server refuses link-local addresses in slices; an address it takes but we must not use is our own kind.
    let mut harmful = slice("metadata", &[]);
    harmful["endpoints"] = json!([{"addresses": ["169.254.169.254"], "conditions": {"ready": true}}]);
    let refused = cluster.try_apply(&scene.namespace, harmful.clone()).await;
    assert!(refused.is_err(), "the API server takes link-local endpoints");
    harmful["endpoints"] = json!([{"addresses": ["0.0.0.1"], "conditions": {"ready": true}}]);
    scene.apply(harmful).await;
    let external = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "outside"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    scene.apply(external).await;
    let outside = scene.host("outside");
    scene.apply(ingress("outside").host(&outside).prefix("/", "outside:80")).await;
    // Its TLS host has no certificate of its own: the fallback is shown and the rest of it works.
    scene.has_event("Ingress", "bad", &["NotFound", "gone"]).await;
    scene.has_event("Ingress", "bad", &["InvalidCertificate", "garbage"]).await;
    scene.has_event("Ingress", "outside", &["ExternalNameOff"]).await;
    eventually("the rest of the bad Ingress works", async || match pierhead.get_tls(&bad, "/fine").await {
        Ok((reply, _)) if reply.backend == "a" => Ok(()),
        other => Err(other.map(|(reply, _)| reply)),
    })
    .await;
    for path in ["/gone", "/metadata"] {
        let (reply, _) = pierhead.get_tls(&bad, path).await.expect("an answer");
        assert!(matches!(reply.status, 502..=504), "{path}: {reply:?}");
    }
    pierhead.table(&[(&outside, "/", "503")]).await;
    let seen = traffic.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
}

/// Policies of a newer schema than ours, as after a downgrade: one without anything to read, and one with values that
/// nobody here knows, of which the rest is in force and its TLS fails closed.
async fn malformed(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("www");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    let crd = "backendpolicies.pierhead.dev";
    let before = cluster.get("", "CustomResourceDefinition", crd).await;
    let mut versions = before["spec"]["versions"].clone();
    versions[0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    cluster.merge("", "CustomResourceDefinition", crd, json!({"spec": {"versions": versions}})).await;
    let object = json!({
        "apiVersion": "pierhead.dev/v1alpha1", "kind": "BackendPolicy", "metadata": {"name": "strange"},
        "spec": {"targetRefs": "all of them"},
    });
    eventually("the new schema is in force", async || cluster.try_apply(&scene.namespace, object.clone()).await).await;
    scene.has_event("BackendPolicy", "strange", &["Malformed"]).await;
    pierhead.answers(&host, "/", "a").await;
    scene.delete("BackendPolicy", "strange").await;

    let tls = json!({"hostname": "a.example", "caCertificateRefs": [{"kind": "ClusterTrustBundle", "name": "ca"}]});
    let newer = policy("newer", "a", json!({"loadBalancing": {"strategy": "Fastest"}, "tls": tls}));
    scene.apply(newer).await;
    pierhead.answers(&host, "/", "503").await;
    has_condition(&scene, "newer", "a Accepted=True/Accepted").await;
    has_condition(&scene, "newer", "a PartiallyInvalid=True/InvalidValue").await;
    scene.apply(policy("newer", "a", json!({"loadBalancing": {"strategy": "Fastest"}}))).await;
    pierhead.answers(&host, "/", "a").await;
    has_condition(&scene, "newer", "a PartiallyInvalid=True/InvalidValue").await;
    scene.apply(policy("newer", "a", json!({"loadBalancing": {"strategy": "Random"}}))).await;
    eventually("the condition goes with its reason", async || {
        let shown = scene.get("BackendPolicy", "newer").await["status"].to_string();
        if shown.contains("PartiallyInvalid") { Err(shown) } else { Ok(()) }
    })
    .await;
    scene.delete("BackendPolicy", "newer").await;
    let spec = json!({"spec": {"versions": before["spec"]["versions"]}});
    cluster.merge("", "CustomResourceDefinition", crd, spec).await;
}

async fn restart(cluster: &mut Cluster, pierhead: &Pierhead) {
    let host = {
        let mut scene = cluster.scene().await;
        scene.backends(&["a", "b"]).await;
        let host = scene.host("restart");
        scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
        pierhead.answers(&host, "/", "a").await;
        let traffic = Traffic::start(pierhead.ports.http, &host, "/");
        let (namespace, backends) = scene.into_parts();
        cluster.control_plane.stop_api_server().await;
        eventually("traffic goes on without API server", async || {
            let count = traffic.seen().answered.get("a").copied().unwrap_or_default();
            if count > 500 { Ok(()) } else { Err(count) }
        })
        .await;
        assert_eq!(pierhead.readiness().await, Ok(200), "ready without API server");
        cluster.control_plane.start_api_server().await;
        cluster.apply(&namespace, ingress("front").host(&host).prefix("/", "b:80")).await;
        pierhead.answers(&host, "/", "b").await;
        let seen = traffic.stop().await;
        assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
        drop(backends);
        host
    };
    pierhead.answers(&host, "/", "502").await;
}

async fn freeze(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "b"]).await;
    let host = scene.host("freeze");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    let traffic = Traffic::start(pierhead.ports.http, &host, "/");
    cluster.control_plane.signal_api_server("STOP").await;
    eventually("traffic goes on while the API server hangs", async || {
        let count = traffic.seen().answered.get("a").copied().unwrap_or_default();
        if count > 500 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(pierhead.readiness().await, Ok(200), "ready while the API server hangs");
    cluster.control_plane.signal_api_server("CONT").await;
    scene.apply(ingress("front").host(&host).prefix("/", "b:80")).await;
    pierhead.answers(&host, "/", "b").await;
    let seen = traffic.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
}

async fn late_api_server(cluster: &mut Cluster) {
    cluster.control_plane.stop_api_server().await;
    let pierhead = cluster.spawn("late", 2, &[]);
    eventually("it lives, but is not ready", async || match pierhead.readiness().await {
        Ok(503) => Ok(()),
        other => Err(other),
    })
    .await;
    cluster.control_plane.start_api_server().await;
    pierhead.ready().await;
}

async fn without_policies(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("www");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    cluster.control_plane.kubectl(&["delete", "-f", crds]).await;
    let pierhead = cluster.pierhead("no-policies", 2, &[]).await;
    pierhead.answers(&host, "/", "a").await;
    assert!(pierhead.log().contains("apply crds/"), "{}", pierhead.log());
    cluster.control_plane.kubectl(&["apply", "-f", crds]).await;
    eventually("the kind is watched once it is there", async || {
        let log = pierhead.log();
        if log.contains("watch works again") { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn missing_rights(cluster: &Cluster) {
    let too_little = json!({"rules": [
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "ingressclasses"], "verbs": ["list", "watch"]},
    ]});
    let role = cluster.get("", "ClusterRole", "pierhead").await["rules"].clone();
    cluster.merge("", "ClusterRole", "pierhead", too_little).await;
    let pierhead = cluster.spawn("no-rights", 2, &[]);
    eventually("the log names the kind and the remedy", async || {
        let log = pierhead.log();
        let lines = |kind: &str| log.lines().any(|line| line.contains(kind) && line.contains("apply deploy/rbac.yaml"));
        if lines("EndpointSlice") && lines("Service") && lines("Secret") { Ok(()) } else { Err(log.clone()) }
    })
    .await;
    assert_eq!(pierhead.readiness().await, Ok(503));
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": role})).await;
    pierhead.ready().await;
}

/// Where the kind is there, a policy may ask for TLS: to serve without seeing it could be to serve in clear text.
async fn without_policy_rights(cluster: &Cluster) {
    let role = cluster.get("", "ClusterRole", "pierhead").await["rules"].clone();
    let mut without = role.clone();
    without.as_array_mut().expect("a list").retain(|rule| rule["apiGroups"] != json!(["pierhead.dev"]));
    assert_ne!(without, role, "the role lists policies");
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": without})).await;
    let pierhead = cluster.spawn("no-policy-rights", 2, &[]);
    eventually("the log names the kind and the remedy", async || {
        let log = pierhead.log();
        let named = |line: &str| line.contains("BackendPolicy") && line.contains("apply deploy/rbac.yaml");
        if log.lines().any(named) { Ok(()) } else { Err(log.clone()) }
    })
    .await;
    assert_eq!(pierhead.readiness().await, Ok(503));
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": role})).await;
    pierhead.ready().await;
}

async fn without_config_maps(cluster: &Cluster) {
    let role = cluster.get("", "ClusterRole", "pierhead").await["rules"].clone();
    let mut without = role.clone();
    for rule in without.as_array_mut().expect("a list") {
        rule["resources"].as_array_mut().expect("a list").retain(|resource| resource != "configmaps");
    }
    assert_ne!(without, role, "the role lists ConfigMaps");
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": without})).await;
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "b"]).await;
    let host = scene.host("www");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80").prefix("/b", "b:80")).await;
    let tls = json!({"tls": {"hostname": "b.example", "caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}]}});
    scene.apply(policy("b", "b", tls)).await;
    let pierhead = cluster.pierhead("no-config-maps", 2, &[]).await;
    pierhead.answers(&host, "/", "a").await;
    assert_eq!(pierhead.get(&host, "/b").await.map(|reply| reply.status), Ok(503));
    assert!(pierhead.log().contains("ConfigMap"), "{}", pierhead.log());
    pierhead.stop().await;
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": role})).await;
}
