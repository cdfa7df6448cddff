//! What changes under load costs no request.

use crate::{cluster::Release, load::Load};

#[tokio::test(flavor = "multi_thread")]
async fn scaling_and_rolling_an_app_loses_no_request() {
    let release = Release::install("rolls-app", "").await;
    let address = release.app(2).await;
    let load = Load::start(address, &release.host());
    load.answers(200).await;
    for replicas in [5, 1, 3] {
        release.kubectl(&format!("scale deployment/app --replicas {replicas}")).await;
        release.rolled_out("app").await;
        release.has_pods("app=app", replicas).await;
        load.answers(200).await;
    }
    for _ in 0..2 {
        release.kubectl("rollout restart deployment/app").await;
        release.rolled_out("app").await;
        release.has_pods("app=app", 3).await;
        load.answers(200).await;
    }
    let tally = load.no_request_failed("an app that scales and rolls").await;
    assert!(tally.pods.len() >= 9, "{tally:?}");
    release.uninstall().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_pierhead_loses_no_request() {
    let release = Release::install("rolls-itself", "").await;
    let address = release.app(2).await;
    let load = Load::start(address, &release.host());
    load.answers(200).await;
    for _ in 0..2 {
        release.kubectl("rollout restart deployment/rolls-itself").await;
        release.rolled_out("rolls-itself").await;
        release.has_pods("app.kubernetes.io/name=pierhead", 2).await;
        load.answers(200).await;
    }
    load.no_request_failed("Pierhead that rolls").await;
    release.uninstall().await;
}
