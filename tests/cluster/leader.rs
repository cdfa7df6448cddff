//! Which replica writes, and that only one does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cases, Cluster, Pierhead, Scene, eventually, get, ingress, within};

/// Longest time until a follower takes over: the Lease, the follower's pause, the confirmation, and a busy machine.
const HANDOVER: Duration = Duration::from_secs(40);

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    cases.run("clean_stop_hands_over_at_once", clean_stop(cluster)).await;
    cases.run("killed_leader_is_replaced", killed(cluster)).await;
    cases.run("frozen_leader_writes_nothing_when_it_wakes", frozen(cluster)).await;
}

/// Two replicas of an installation, the first of which leads. Each publishes an address of its own.
async fn replicas(cluster: &Cluster, name: &str) -> (Pierhead, Pierhead) {
    let first = cluster.pierhead(&format!("{name}-1"), 4, &["--publish-address=192.0.2.1"]).await;
    holder_is(cluster, &format!("{name}-1"), HANDOVER).await;
    let second = cluster.pierhead(&format!("{name}-2"), 5, &["--publish-address=192.0.2.2"]).await;
    (first, second)
}

async fn holder_is(cluster: &Cluster, want: &str, time: Duration) {
    within(time, &format!("{want} holds the Lease"), async || {
        let leases = cluster.client();
        let api: kube::Api<k8s_openapi::api::coordination::v1::Lease> = kube::Api::namespaced(leases, "pierhead");
        let holder = api.get("pierhead").await.ok().and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
        if holder.as_deref() == Some(want) { Ok(()) } else { Err(holder) }
    })
    .await;
}

async fn shown(scene: &Scene<'_>, name: &str) -> Value {
    scene.get("Ingress", name).await["status"]["loadBalancer"]["ingress"][0]["ip"].clone()
}

async fn shows(scene: &Scene<'_>, name: &str, want: &str, time: Duration) {
    within(time, &format!("Ingress {name} shows {want}"), async || {
        let shown = shown(scene, name).await;
        if shown == want { Ok(()) } else { Err(shown) }
    })
    .await;
}

async fn scene_with<'a>(cluster: &'a Cluster, name: &str) -> Scene<'a> {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(ingress(name).host(&scene.host(name)).prefix("/", "a:80")).await;
    scene
}

async fn clean_stop(cluster: &Cluster) {
    let (mut first, second) = replicas(cluster, "clean").await;
    let scene = scene_with(cluster, "front").await;
    shows(&scene, "front", "192.0.2.1", HANDOVER).await;
    first.signal("TERM").await;
    assert!(first.ended().await, "{}", first.log());
    // Well below the 15 s for which a Lease is valid.
    holder_is(cluster, "clean-2", Duration::from_secs(10)).await;
    shows(&scene, "front", "192.0.2.2", HANDOVER).await;
    second.stop().await;
}

async fn killed(cluster: &Cluster) {
    let (mut first, second) = replicas(cluster, "killed").await;
    let scene = scene_with(cluster, "front").await;
    shows(&scene, "front", "192.0.2.1", HANDOVER).await;
    first.signal("KILL").await;
    first.ended().await;
    holder_is(cluster, "killed-2", HANDOVER).await;
    shows(&scene, "front", "192.0.2.2", HANDOVER).await;
    eventually("the metrics tell of the leader, of watches and of changes", async || metrics(&second).await).await;
    // The follower serves traffic like the leader did.
    second.answers(&scene.host("front"), "/", "a").await;
    second.stop().await;
}

/// Whether the replica tells that it leads, and all that only a source of Kubernetes objects has.
async fn metrics(replica: &Pierhead) -> Result<(), String> {
    let metrics = get(replica.ports.admin, "localhost", "/metrics").await?.body;
    let told = [
        "\npierhead_leader 1\n",
        "\npierhead_watch_synced{kind=\"ingresses\"} 1\n",
        "\npierhead_watch_objects{kind=\"ingresses\"} ",
        "\npierhead_watch_restarts_total{kind=\"services\"} ",
        "\npierhead_watch_last_event_timestamp_seconds{kind=\"services\"} ",
        "\npierhead_config_pending_event_age_seconds ",
        "\npierhead_config_propagation_duration_seconds_count ",
    ];
    let missing: Vec<_> = told.iter().filter(|line| !metrics.contains(**line)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} in\n{metrics}")) }
}

async fn frozen(cluster: &Cluster) {
    let (first, second) = replicas(cluster, "frozen").await;
    let scene = scene_with(cluster, "front").await;
    shows(&scene, "front", "192.0.2.1", HANDOVER).await;
    first.signal("STOP").await;
    // What the frozen leader will find to do when it wakes.
    scene.apply(ingress("later").host(&scene.host("later")).prefix("/", "a:80")).await;
    holder_is(cluster, "frozen-2", HANDOVER).await;
    shows(&scene, "later", "192.0.2.2", HANDOVER).await;
    shows(&scene, "front", "192.0.2.2", HANDOVER).await;
    let before = [revision(&scene, "front").await, revision(&scene, "later").await];
    // It wakes where nobody tells it that its time is over: only its own clock does.
    let rules = cluster.get("pierhead", "Role", "pierhead").await["rules"].clone();
    cluster.merge("pierhead", "Role", "pierhead", json!({"rules": []})).await;
    logs(&second, "leader election failed").await;
    first.signal("CONT").await;
    // Awake: it serves a change that was made after, and has asked for the Lease in vain.
    scene.apply(ingress("awake").host(&scene.host("awake")).prefix("/", "a:80")).await;
    first.answers(&scene.host("awake"), "/", "a").await;
    logs(&first, "leader election failed").await;
    assert_ne!(shown(&scene, "awake").await, "192.0.2.1");
    cluster.merge("pierhead", "Role", "pierhead", json!({"rules": rules})).await;
    logs(&first, "\"leader\":false").await;
    shows(&scene, "awake", "192.0.2.2", HANDOVER).await;
    let after = [revision(&scene, "front").await, revision(&scene, "later").await];
    assert_eq!(before, after, "nobody wrote in between");
    holder_is(cluster, "frozen-2", HANDOVER).await;
    second.stop().await;
}

async fn logs(pierhead: &Pierhead, text: &str) {
    eventually(&format!("the log says {text}"), async || {
        let log = pierhead.log();
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn revision(scene: &Scene<'_>, name: &str) -> Value {
    scene.get("Ingress", name).await["metadata"]["resourceVersion"].clone()
}
