//! The real binary as a process.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{
    client::{self, Reply},
    eventually,
};

/// The ports of one replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Plain HTTP.
    pub(crate) http: u16,
    /// TLS.
    pub(crate) https: u16,
    /// Probes and metrics.
    pub(crate) admin: u16,
}

impl Ports {
    /// The ports of the replica with this number.
    pub(crate) fn of(replica: u16) -> Self {
        Self { http: 18080 + replica, https: 18443 + replica, admin: 19090 + replica }
    }
}

/// A replica; it is killed with this value, and has ended when that is gone: the next one may want its ports.
pub(crate) struct Pierhead {
    /// Where it listens.
    pub(crate) ports: Ports,
    process: Child,
    log: PathBuf,
}

impl Drop for Pierhead {
    fn drop(&mut self) {
        // It may have ended before.
        let _ended = self.process.start_kill();
        while matches!(self.process.try_wait(), Ok(None)) {
            std::thread::yield_now();
        }
    }
}

impl Pierhead {
    /// Starts a replica; does not wait until it is ready.
    pub(crate) fn spawn(dir: &Path, kubeconfig: &Path, name: &str, ports: Ports, args: &[&str]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).expect("a log file");
        let err = out.try_clone().expect("the same log file");
        let process = Command::new(env!("CARGO_BIN_EXE_pierhead"))
            .args(["serve", "--kubernetes", "--drain-delay=0s", "--drain-timeout=5s"])
            .arg(format!("--http=127.0.0.1:{}", ports.http))
            .arg(format!("--https=127.0.0.1:{}", ports.https))
            .arg(format!("--admin=127.0.0.1:{}", ports.admin))
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .env("PIERHEAD_IDENTITY", name)
            .env("PIERHEAD_LEASE_NAMESPACE", "pierhead")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        Self { ports, process, log }
    }

    /// Waits until it is ready for traffic.
    pub(crate) async fn ready(&self) {
        eventually("pierhead is ready", async || match self.readiness().await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.log_tail())),
        })
        .await;
    }

    /// Status of `/readyz`.
    pub(crate) async fn readiness(&self) -> Result<u16, String> {
        client::get(self.ports.admin, "localhost", "/readyz").await.map(|reply| reply.status)
    }

    /// What `/readyz?verbose` says.
    pub(crate) async fn verbose(&self) -> Result<String, String> {
        client::get(self.ports.admin, "localhost", "/readyz?verbose").await.map(|reply| reply.body)
    }

    /// Sends `GET path` for `host`.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Result<Reply, String> {
        client::get(self.ports.http, host, path).await
    }

    /// Sends the same over TLS; gives the certificate of the server as well.
    pub(crate) async fn get_tls(&self, host: &str, path: &str) -> Result<(Reply, Vec<u8>), String> {
        client::get_tls(self.ports.https, host, path).await
    }

    /// Waits until the request is answered by the backend, or with the status when `want` is a number.
    pub(crate) async fn answers(&self, host: &str, path: &str, want: &str) {
        eventually(&format!("{host}{path} goes to {want}"), async || match self.get(host, path).await {
            Ok(reply) if is(&reply, want) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// Checks the rows: host, path, and the backend or status.
    pub(crate) async fn table(&self, rows: &[(&str, &str, &str)]) {
        for (host, path, want) in rows {
            let reply = self.get(host, path).await.expect("an answer");
            assert!(is(&reply, want), "{host}{path}: want {want}, got {reply:?}");
        }
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().expect("it still runs").to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await.expect("kill runs");
        assert!(status.success(), "kill -s {name}: {status}");
    }

    /// Stops it cleanly: it gives back the Lease, so that the next one need not wait for its end.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM").await;
        assert!(self.ended().await, "{}", self.log_tail());
    }

    /// Waits for its end; says whether it ended well.
    pub(crate) async fn ended(&mut self) -> bool {
        self.process.wait().await.expect("it can be waited for").success()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

fn is(reply: &Reply, want: &str) -> bool {
    match want.parse::<u16>() {
        Ok(status) => reply.status == status,
        Err(_) => reply.status == 200 && reply.backend == want,
    }
}
