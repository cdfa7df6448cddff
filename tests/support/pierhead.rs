//! The real binary, with manifests in a folder of its own and ports that the kernel chose.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
};

use super::{client, eventually, soon};

/// How a process is started.
#[derive(Default)]
pub struct Setup {
    flags: Vec<String>,
    variables: Vec<(&'static str, PathBuf)>,
    manifests: Vec<String>,
    backends_only: bool,
    flawed: bool,
    stdout: Stdout,
}

/// What becomes of standard output.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdout {
    /// The test reads it.
    #[default]
    Read,
    /// It is a pipe that nobody reads.
    Unread,
    /// Its reader has gone.
    Closed,
}

/// What every process is started with unless the test says otherwise.
const DEFAULTS: [&str; 6] = [
    "--http=127.0.0.1:0",
    "--https=127.0.0.1:0",
    "--admin=127.0.0.1:0",
    "--threads=2",
    "--log-format=json",
    "--drain-delay=0s",
];

/// A running `pierhead serve`. It is killed when dropped.
///
/// A `BackendPolicy` of which it refuses anything fails the test, which else would see it serve without: see
/// [`Setup::flawed`].
pub struct Pierhead {
    child: Child,
    flawed: bool,
    folder: tempfile::TempDir,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// TLS.
    pub https: SocketAddr,
    /// Health, metrics, debugging.
    pub admin: SocketAddr,
    log: Lines,
    access_log: Lines,
    _unread: Option<tokio::process::ChildStdout>,
}

/// JSON lines that a process has written so far.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    fn read(&self, from: impl AsyncRead + Unpin + Send + 'static) {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.0.lock().unwrap().push(value);
            }
        });
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }
}

impl Setup {
    /// One more flag.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// One more variable of its environment.
    pub fn variable(mut self, name: &'static str, value: impl Into<PathBuf>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Manifests to start with.
    pub fn manifests(mut self, manifests: impl Into<String>) -> Self {
        self.manifests.push(manifests.into());
        self
    }

    /// No manifests: flags name the source.
    pub fn backends_only(mut self) -> Self {
        self.backends_only = true;
        self
    }

    /// Its policies have flaws, and the test is about them.
    pub fn flawed(mut self) -> Self {
        self.flawed = true;
        self
    }

    /// What becomes of its standard output.
    pub fn stdout(mut self, stdout: Stdout) -> Self {
        self.stdout = stdout;
        self
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(self) -> Pierhead {
        let pierhead = self.start_unready().await;
        eventually("readiness", async || (pierhead.ready().await == 200).then_some(())).await;
        pierhead
    }

    /// Starts the process and waits until it has bound its ports.
    pub async fn start_unready(self) -> Pierhead {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("manifests.yaml"), self.manifests.join("\n---\n")).unwrap();
        let mut command = command();
        let given = |flag: &&str| self.flags.iter().any(|given| given.split('=').next() == flag.split('=').next());
        command.args(DEFAULTS.iter().filter(|flag| !given(flag)));
        if !self.backends_only {
            command.arg("--manifests").arg(folder.path());
        }
        let mut child = command.args(&self.flags).envs(self.variables).spawn().unwrap();
        let (log, access_log) = (Lines::default(), Lines::default());
        log.read(child.stderr.take().unwrap());
        let mut stdout = child.stdout.take();
        match self.stdout {
            Stdout::Read => access_log.read(stdout.take().unwrap()),
            Stdout::Unread => {}
            Stdout::Closed => drop(stdout.take()),
        }
        let mut address = async |listener: &str| {
            eventually(listener, async || {
                if let Ok(Some(status)) = child.try_wait() {
                    panic!("ended with {status}: {:?}", log.all());
                }
                let of =
                    |line: &Value| (line["message"] == "bound" && line["listener"] == listener).then(|| line.clone());
                Some(log.all().iter().find_map(of)?["address"].as_str()?.parse().unwrap())
            })
            .await
        };
        let (http, https, admin) = (address("http").await, address("https").await, address("admin").await);
        Pierhead { child, flawed: self.flawed, folder, http, https, admin, log, access_log, _unread: stdout }
    }
}

impl Drop for Pierhead {
    fn drop(&mut self) {
        if self.flawed || std::thread::panicking() {
            return;
        }
        let refused = |line: &Value| line["origin"].as_str().is_some_and(|of| of.starts_with("BackendPolicy "));
        let told: Vec<_> = self.log.all().into_iter().filter(refused).collect();
        assert!(told.is_empty(), "a policy is not in force as written: {told:?}");
    }
}

/// `pierhead serve` with captured output and no variables that would change it.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pierhead"));
    command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let own = name.starts_with("PIERHEAD_");
        if own || ["KUBERNETES_SERVICE_HOST", "KUBECONFIG", "SSL_CERT_DIR", "SSL_CERT_FILE"].contains(&&*name) {
            command.env_remove(&*name);
        }
    }
    command
}

impl Pierhead {
    /// A process that serves these manifests.
    pub async fn serving(manifests: impl Into<String>) -> Self {
        Setup::default().manifests(manifests).start().await
    }

    /// The folder its manifests are in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces its manifests as an editor does: written aside, then renamed.
    pub fn write(&self, manifests: impl AsRef<str>) {
        let aside: PathBuf = self.folder.path().join(".aside");
        std::fs::write(&aside, manifests.as_ref()).unwrap();
        std::fs::rename(aside, self.folder.path().join("manifests.yaml")).unwrap();
    }

    /// Status of `/readyz`; zero when the admin port does not answer.
    pub async fn ready(&self) -> u16 {
        client::try_get(self.admin, "admin", "/readyz").await.map_or(0, |answer| answer.status)
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        client::get(self.admin, "admin", "/metrics").await.text()
    }

    /// Waits for the access log line that `wanted` takes.
    pub async fn logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = async || self.access_log.all().into_iter().find(|line| wanted(line));
        eventually(&format!("access log line: {what}"), found).await
    }

    /// Waits for the access log line of a path.
    pub async fn logged_path(&self, path: &str) -> Value {
        self.logged(path, |line| line["path"] == path).await
    }

    /// Waits for a line of the process log.
    pub async fn told(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = async || self.log.all().into_iter().find(|line| wanted(line));
        eventually(&format!("log line: {what}"), found).await
    }

    /// Lines of the access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        self.access_log.all()
    }

    /// Lines of the process log so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.all()
    }

    /// Memory it holds now.
    pub fn resident_bytes(&self) -> usize {
        let id = self.child.id().expect("the process has not been waited for");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Sends a signal, `TERM` for example.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the process has not been waited for").to_string();
        let sent = Command::new("kill").arg(format!("-{name}")).arg(id).status().await.unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("end of the process", self.child.wait()).await.unwrap()
    }
}
