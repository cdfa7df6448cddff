//! The harness: a network namespace with a real control plane, echo backends and the real binary.

mod backend;
mod cases;
mod client;
mod cluster;
mod control_plane;
mod objects;
mod pierhead;
#[path = "../../support/unverified.rs"]
mod unverified;

use std::{
    env,
    fmt::Debug,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) use backend::Backend;
pub(crate) use cases::Cases;
pub(crate) use client::{Traffic, get};
pub(crate) use cluster::{Cluster, Scene};
pub(crate) use control_plane::ControlPlane;
pub(crate) use objects::{certificate, ingress, policy, service, slice, tls_secret};
pub(crate) use pierhead::{Pierhead, Ports};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "PIERHEAD_CLUSTER_TEST";

/// Time allowed for anything to come about. Generous: the machine may be busy, and success does not wait for it.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Runs the body of `test` in a network namespace of its own, by running this very test again under `unshare`.
pub(crate) fn in_namespace(test: &str, body: impl AsyncFnOnce()) {
    if env::var_os(INSIDE).is_some() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        shell("ip link set lo up");
        // On loopback the whole range is local: backends bind any address of it.
        shell("ip addr add 10.99.0.1/16 dev lo");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime starts").block_on(body());
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let this = env::current_exe().expect("the test knows its own binary");
    unshare.arg(this).args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, test);
    let status = unshare.stdin(Stdio::null()).status().expect("unshare (util-linux) is installed");
    assert!(status.success(), "{test}: see the output above");
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

fn shell(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("sh is installed");
    assert!(status.success(), "{command}: {status}");
}

/// Tries until it succeeds; fails with the last reason when [`DEADLINE`] is over.
pub(crate) async fn eventually<T, E: Debug>(what: &str, attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(DEADLINE, what, attempt).await
}

/// Tries until it succeeds; fails with the last reason when the time is over.
pub(crate) async fn within<T, E: Debug>(
    time: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(reason) if started.elapsed() > time => panic!("{what}: not within {time:?}: {reason:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
