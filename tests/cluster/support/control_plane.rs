//! etcd and kube-apiserver as processes of the test.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::process::{Child, Command};

use super::eventually;
use crate::tools;

const ETCD: &str = "http://127.0.0.1:2379";
const PEER: &str = "http://127.0.0.1:2380";
const API: &str = "https://127.0.0.1:6443";
const ADMIN_TOKEN: &str = "admin-token";

/// A running control plane; it ends with this value.
pub(crate) struct ControlPlane {
    dir: tempfile::TempDir,
    binaries: PathBuf,
    api_server: Child,
    _etcd: Child,
    client: Client,
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready.
    pub(crate) async fn start() -> Self {
        let binaries = binaries();
        let dir = tempfile::tempdir().expect("a temporary folder");
        // Tokens of ServiceAccounts are signed with it.
        let key = rcgen::KeyPair::generate().expect("a key");
        fs::write(dir.path().join("sa.key"), key.serialize_pem()).expect("written");
        fs::write(dir.path().join("sa.pub"), key.public_key_pem()).expect("written");
        fs::write(dir.path().join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"))
            .expect("written");
        let etcd = start_etcd(&binaries, dir.path());
        let api_server = start_api_server(&binaries, dir.path());
        let certificate = dir.path().join("certs/apiserver.crt");
        eventually("the API server writes its certificate", async || fs::metadata(&certificate)).await;
        let admin = write_kubeconfig(dir.path(), "admin", ADMIN_TOKEN);
        let client = eventually("a client for the API server", async || client_of(&admin).await).await;
        let this = Self { dir, binaries, api_server, _etcd: etcd, client };
        this.ready().await;
        this
    }

    /// Cluster administrator.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits until the API server takes requests.
    pub(crate) async fn ready(&self) {
        eventually("the API server is ready", async || {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            match self.client.request_text(request).await {
                Ok(text) if text == "ok" => Ok(()),
                other => Err(format!("{other:?}\n{}", self.tail("kube-apiserver.log"))),
            }
        })
        .await;
    }

    /// Writes a kubeconfig that holds the token.
    pub(crate) fn kubeconfig(&self, user: &str, token: &str) -> PathBuf {
        write_kubeconfig(self.dir.path(), user, token)
    }

    /// A folder for files of the test; it goes away at the end.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the API server. etcd stays, so nothing is forgotten.
    pub(crate) async fn stop_api_server(&mut self) {
        self.api_server.kill().await.expect("killed");
    }

    /// Starts the API server again and waits until it is ready.
    pub(crate) async fn start_api_server(&mut self) {
        self.api_server = start_api_server(&self.binaries, self.dir.path());
        self.ready().await;
    }

    /// Sends a signal to the API server by name.
    pub(crate) async fn signal_api_server(&self, name: &str) {
        let id = self.api_server.id().expect("it still runs").to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await.expect("kill runs");
        assert!(status.success(), "kill -s {name}: {status}");
    }

    /// Runs kubectl as administrator; fails with its output.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).await.unwrap_or_else(|told| panic!("kubectl {args:?}: {told}"))
    }

    /// The same, when the API server may refuse.
    pub(crate) async fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let kubeconfig = self.dir.path().join("admin.kubeconfig");
        let mut command = Command::new(self.binaries.join("kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig).args(args).env("HOME", self.dir.path());
        let output = command.output().await.expect("kubectl runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{out}{err}")) }
    }

    fn tail(&self, log: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn start_etcd(binaries: &Path, dir: &Path) -> Child {
    let mut etcd = Command::new(binaries.join("etcd"));
    etcd.arg("--data-dir").arg(dir.join("etcd")).args([
        "--unsafe-no-fsync",
        "--log-level=error",
        &format!("--listen-client-urls={ETCD}"),
        &format!("--advertise-client-urls={ETCD}"),
        &format!("--listen-peer-urls={PEER}"),
        &format!("--initial-advertise-peer-urls={PEER}"),
        &format!("--initial-cluster=default={PEER}"),
    ]);
    spawn(etcd, &dir.join("etcd.log"))
}

fn start_api_server(binaries: &Path, dir: &Path) -> Child {
    let mut server = Command::new(binaries.join("kube-apiserver"));
    let flag = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
    server.args([
        &format!("--etcd-servers={ETCD}"),
        "--bind-address=127.0.0.1",
        "--advertise-address=10.99.0.1",
        "--secure-port=6443",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--service-account-issuer=https://kubernetes.default.svc",
        &flag("cert-dir", "certs"),
        &flag("token-auth-file", "tokens.csv"),
        &flag("service-account-signing-key-file", "sa.key"),
        &flag("service-account-key-file", "sa.pub"),
    ]);
    spawn(server, &dir.join("kube-apiserver.log"))
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = File::create(log).expect("a log file");
    let err = log.try_clone().expect("the same log file");
    command.stdin(Stdio::null()).stdout(log).stderr(err).kill_on_drop(true).spawn().expect("the program starts")
}

fn write_kubeconfig(dir: &Path, user: &str, token: &str) -> PathBuf {
    let path = dir.join(format!("{user}.kubeconfig"));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": API, "certificate-authority": dir.join("certs/apiserver.crt"),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": "default"}}],
    });
    fs::write(&path, config.to_string()).expect("written");
    path
}

async fn client_of(kubeconfig: &Path) -> Result<Client, String> {
    let config = Kubeconfig::read_from(kubeconfig).map_err(|error| error.to_string())?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    Client::try_from(config.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// Where etcd, kube-apiserver and kubectl are.
fn binaries() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let mut places: Vec<PathBuf> = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).into_iter().collect();
    if places.is_empty() {
        places.push(tools::target().join("controlplane"));
        let versions = cache.and_then(|cache| fs::read_dir(cache.join("pierhead/controlplane")).ok());
        places.extend(versions.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
    }
    let complete = |place: &PathBuf| ["etcd", "kube-apiserver", "kubectl"].iter().all(|p| place.join(p).is_file());
    let found = places.iter().find(|place| complete(place)).cloned();
    found.unwrap_or_else(|| {
        panic!("no control plane in {places:?}: run tests/controlplane/build.sh, or set KUBEBUILDER_ASSETS")
    })
}
