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
        follows(pierhead, false).await;
        cluster.control_plane.start_api_server().await;
        cluster.apply(&namespace, ingress("front").host(&host).prefix("/", "b:80")).await;
        pierhead.answers(&host, "/", "b").await;
        let seen = traffic.stop().await;
        assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
        // Kinds of which nothing changes are known to be followed again all the same.
        follows(pierhead, true).await;
        told_once(&pierhead.log());
        drop(backends);
        host
    };
    pierhead.answers(&host, "/", "502").await;
}

/// Each kind of failure of each watch is one line, however often it was tried again.
fn told_once(log: &str) {
    let failures = log.lines().filter(|line| line.contains("watch failed"));
    let mut told: Vec<&str> = failures.filter_map(|line| line.split_once("\"kind\"").map(|(_, told)| told)).collect();
    let all = told.len();
    told.sort_unstable();
    told.dedup();
    assert!(!told.is_empty() && told.len() == all, "{log}");
}

/// Waits until every watch is followed, or every one fails.
async fn follows(pierhead: &Pierhead, well: bool) {
    let mark = if well { "[+]watch/" } else { "[!]watch/" };
    eventually(&format!("every watch works: {well}"), async || {
        let verbose = pierhead.verbose().await?;
        let mut watches = verbose.lines().filter(|line| line.contains("]watch/")).peekable();
        let all = watches.peek().is_some() && watches.all(|line| line.starts_with(mark));
        if all { Ok(()) } else { Err(verbose) }
    })
    .await;
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
