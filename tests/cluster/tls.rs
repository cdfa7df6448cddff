//! Certificates: which one a handshake shows, and what happens to it when Secrets change.

use crate::support::{Cases, Cluster, Pierhead, Traffic, certificate, eventually, ingress, tls_secret};

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    let pierhead = cluster.pierhead("tls", 2, &[]).await;
    cases.run("secret_created_rotated_deleted", secret_lives(cluster, &pierhead)).await;
    cases.run("broken_secret_keeps_the_last_good_certificate", broken_secret(cluster, &pierhead)).await;
    cases.run("rotation_under_load", rotation_under_load(cluster, &pierhead)).await;
    cases.run("wildcard_certificate", wildcard(cluster, &pierhead)).await;
    cases.run("plain_http_is_redirected", redirect(cluster, &pierhead)).await;
    cases.run("default_certificate", default_certificate(cluster)).await;
}

async fn shows(pierhead: &Pierhead, host: &str, want: &[u8]) {
    eventually(&format!("{host} shows the certificate"), async || match pierhead.get_tls(host, "/").await {
        Ok((reply, shown)) if shown == want && reply.status == 200 => Ok(()),
        Ok((reply, _)) => Err(format!("{reply:?} with another certificate")),
        Err(error) => Err(error),
    })
    .await;
}

async fn secret_lives(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("tls");
    scene.apply(ingress("front").host(&host).prefix("/", "a:80").tls(&[&host], "pair")).await;
    scene.has_event("Ingress", "front", &["NotFound", "pair"]).await;
    let (pem, key, first) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    shows(pierhead, &host, &first).await;
    let (pem, key, second) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    shows(pierhead, &host, &second).await;
    scene.delete("Secret", "pair").await;
    eventually("the deleted certificate is no longer shown", async || match pierhead.get_tls(&host, "/").await {
        Ok((_, shown)) if shown == second => Err("still shown"),
        _ => Ok(()),
    })
    .await;
}

async fn broken_secret(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let (host, other) = (scene.host("tls"), scene.host("other"));
    let (pem, key, good) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    scene.apply(ingress("front").host(&host).prefix("/", "a:80").tls(&[&host], "pair")).await;
    shows(pierhead, &host, &good).await;
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    scene.apply(tls_secret("pair", garbage, &key)).await;
    scene.has_event("Ingress", "front", &["InvalidCertificate", "pair"]).await;
    // A later change is live, so the broken Secret has been seen, and the old certificate is still shown.
    let (pem, key, another) = certificate(&[&other]);
    scene.apply(tls_secret("other", &pem, &key)).await;
    scene.apply(ingress("other").host(&other).prefix("/", "a:80").tls(&[&other], "other")).await;
    shows(pierhead, &other, &another).await;
    shows(pierhead, &host, &good).await;
    // Certificate and key of different pairs are broken too.
    let (pem, _, _) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    let (pem, key, repaired) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    shows(pierhead, &host, &repaired).await;
}

async fn rotation_under_load(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("rotate");
    let (pem, key, first) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    scene.apply(ingress("front").host(&host).prefix("/", "a:80").tls(&[&host], "pair")).await;
    shows(pierhead, &host, &first).await;
    let traffic = Traffic::start_tls(pierhead.ports.https, &host, "/");
    for _ in 0..10 {
        let (pem, key, next) = certificate(&[&host]);
        scene.apply(tls_secret("pair", &pem, &key)).await;
        shows(pierhead, &host, &next).await;
    }
    let seen = traffic.stop().await;
    assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(5)]);
    assert!(seen.answered.contains_key("a"), "{seen:?}");
}

async fn wildcard(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let (pattern, host) = (scene.host("*"), scene.host("any"));
    let (pem, key, wild) = certificate(&[&pattern]);
    scene.apply(tls_secret("wild", &pem, &key)).await;
    scene.apply(ingress("front").host(&pattern).prefix("/", "a:80").tls(&[&pattern], "wild")).await;
    shows(pierhead, &host, &wild).await;
}

async fn redirect(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("redirect");
    let (pem, key, _) = certificate(&[&host]);
    scene.apply(tls_secret("pair", &pem, &key)).await;
    scene.apply(ingress("front").host(&host).prefix("/", "a:80").tls(&[&host], "pair")).await;
    pierhead.answers(&host, "/x?y=1", "308").await;
    let reply = pierhead.get(&host, "/x?y=1").await.expect("an answer");
    assert_eq!(reply.location, format!("https://{host}/x?y=1"));
    pierhead.table(&[(&host, "/.well-known/acme-challenge/token", "a")]).await;
}

async fn default_certificate(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("fallback");
    let (pem, key, fallback) = certificate(&[&host]);
    scene.apply(tls_secret("fallback", &pem, &key)).await;
    scene.apply(ingress("front").host(&host).prefix("/", "a:80")).await;
    let fallback_is = format!("--default-certificate={}/fallback", scene.namespace);
    let pierhead = cluster.pierhead("default-certificate", 3, &[&fallback_is]).await;
    shows(&pierhead, &host, &fallback).await;
    // Also when the Secret lies outside the namespaces that are watched.
    let elsewhere = cluster.scene().await;
    let watch = format!("--watch-namespace={}", elsewhere.namespace);
    drop(pierhead);
    let pierhead = cluster.pierhead("default-elsewhere", 3, &[&fallback_is, &watch]).await;
    eventually("the default certificate is shown", async || match pierhead.get_tls(&host, "/").await {
        Ok((_, shown)) if shown == fallback => Ok(()),
        other => Err(other.map(|(reply, _)| reply)),
    })
    .await;
}
