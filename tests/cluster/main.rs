//! Against a real kube-apiserver, with the real binary under the RBAC of `deploy/`.
//!
//! Each test is one control plane in a network namespace of its own, and runs many named cases. `make` builds etcd and
//! kube-apiserver first (tests/controlplane/build.sh); without them the tests fail and say so.

#![expect(clippy::print_stdout, reason = "each case is reported")]
#![expect(clippy::large_futures, reason = "a case is one future and runs once")]

mod chart;
mod faults;
mod leader;
mod lifecycle;
mod policy;
mod rights;
mod routing;
mod scale;
mod status;
mod support;
mod tls;
#[path = "../support/tools.rs"]
mod tools;

use support::{Cases, Cluster, ControlPlane, in_namespace};

#[test]
fn routing() {
    in_namespace("routing", async || {
        let cluster = Cluster::start().await;
        let mut cases = Cases::default();
        routing::cases(&cluster, &mut cases).await;
        cases.finish("routing");
    });
}

#[test]
fn changes() {
    in_namespace("changes", async || {
        let cluster = Cluster::start().await;
        let mut cases = Cases::default();
        lifecycle::cases(&cluster, &mut cases).await;
        tls::cases(&cluster, &mut cases).await;
        cases.finish("changes");
    });
}

#[test]
fn telling() {
    in_namespace("telling", async || {
        let cluster = Cluster::start().await;
        let mut cases = Cases::default();
        status::cases(&cluster, &mut cases).await;
        policy::cases(&cluster, &mut cases).await;
        leader::cases(&cluster, &mut cases).await;
        cases.finish("telling");
    });
}

#[test]
fn installation() {
    in_namespace("installation", async || {
        let control_plane = ControlPlane::start().await;
        let mut cases = Cases::default();
        chart::cases(&control_plane, &mut cases).await;
        cases.finish("installation");
    });
}

#[test]
fn rights() {
    in_namespace("rights", async || {
        let cluster = Cluster::start().await;
        let mut cases = Cases::default();
        rights::cases(&cluster, &mut cases).await;
        cases.finish("rights");
    });
}

#[test]
fn trouble() {
    in_namespace("trouble", async || {
        let mut cluster = Cluster::start().await;
        let mut cases = Cases::default();
        scale::cases(&cluster, &mut cases).await;
        faults::cases(&mut cluster, &mut cases).await;
        cases.finish("trouble");
    });
}
