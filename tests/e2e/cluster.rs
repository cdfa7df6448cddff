//! Releases of the chart and an app behind them, by way of `helm` and `kubectl`.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::support::{client, eventually};

/// How long one call of helm or kubectl may take; both wait for rollouts.
const CALL: Duration = Duration::from_secs(150);

/// The chart of this checkout.
pub(crate) fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/pierhead").display().to_string()
}

/// Output of a program that must succeed.
pub(crate) async fn run(program: &str, arguments: &str, input: &str) -> String {
    try_run(program, arguments, input).await.unwrap_or_else(|error| panic!("{program} {arguments}: {error}"))
}

/// Output of a program, or what it says on failure. Arguments are separated by spaces.
pub(crate) async fn try_run(program: &str, arguments: &str, input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = timeout(CALL, async {
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        child.wait_with_output().await.unwrap()
    });
    let output = ended.await.map_err(|_| format!("not done after {CALL:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

/// Output of kubectl, which must succeed.
pub(crate) async fn kubectl(arguments: &str) -> String {
    run("kubectl", arguments, "").await
}

/// A namespace with a release of the chart and an app, all of the same name.
pub(crate) struct Release {
    pub(crate) name: &'static str,
}

impl Release {
    /// Makes the namespace, which takes none but restricted pods, and installs the chart in it.
    pub(crate) async fn install(name: &'static str, values: &str) -> Self {
        let this = Self { name };
        kubectl(&format!("create namespace {name}")).await;
        kubectl(&format!("label namespace {name} pod-security.kubernetes.io/enforce=restricted")).await;
        this.helm("install", &chart(), values).await.unwrap_or_else(|error| panic!("helm install: {error}"));
        this
    }

    /// Installs or upgrades from a chart, and waits until it serves.
    pub(crate) async fn helm(&self, verb: &str, chart: &str, values: &str) -> Result<String, String> {
        let Self { name } = self;
        // A definition that an earlier release left behind is this one's from now on.
        let flags = format!("--namespace {name} --wait --timeout 120s --take-ownership");
        let images = "--set controller.image.repository=pierhead.test/pierhead --set controller.image.tag=e2e";
        let class = format!(
            "--set controller.ingressClassResource.name={name} --set fullnameOverride={name} \
             --set controller.ingressClassResource.controllerValue=pierhead.dev/{name}"
        );
        let service = "--set controller.service.type=NodePort";
        try_run("helm", &format!("{verb} {name} {chart} {flags} {images} {class} {service} {values}"), "").await
    }

    /// Runs an app of so many pods behind an Ingress for the host `NAME.example`, and waits until it answers.
    pub(crate) async fn app(&self, replicas: usize) -> SocketAddr {
        let Self { name } = self;
        let app = include_str!("app.yaml").replace("NAME", name).replace("REPLICAS", &replicas.to_string());
        run("kubectl", &format!("apply --namespace {name} -f -"), &app).await;
        self.rolled_out("app").await;
        let address = self.address().await;
        eventually("an answer of the app", async || {
            let answer = client::try_get(address, &self.host(), "/").await?;
            (answer.status == client::OK).then_some(())
        })
        .await;
        address
    }

    /// The host of the app.
    pub(crate) fn host(&self) -> String {
        format!("{}.example", self.name)
    }

    /// Where the Service of the release takes plain HTTP: a port of the node.
    pub(crate) async fn address(&self) -> SocketAddr {
        let port = self.get(&format!("service {}", self.name), r"{.spec.ports[?(@.name=='http')].nodePort}").await;
        let node = "get nodes -o jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}";
        format!("{}:{port}", kubectl(node).await).parse().unwrap()
    }

    /// Fields of an object of the namespace.
    pub(crate) async fn get(&self, object: &str, path: &str) -> String {
        self.kubectl(&format!("get {object} -o jsonpath={path}")).await
    }

    /// Output of kubectl in the namespace.
    pub(crate) async fn kubectl(&self, arguments: &str) -> String {
        kubectl(&format!("--namespace {} {arguments}", self.name)).await
    }

    /// Waits until a Deployment has its new pods, and no others that are ready.
    pub(crate) async fn rolled_out(&self, deployment: &str) {
        self.kubectl(&format!("rollout status deployment/{deployment} --timeout 120s")).await;
    }

    /// Waits until pods of these labels are as many as that, those that terminate included.
    pub(crate) async fn has_pods(&self, labels: &str, count: usize) {
        let end = tokio::time::Instant::now() + CALL;
        loop {
            let pods = self.kubectl(&format!("get pods -l {labels} -o name")).await;
            if pods.lines().count() == count {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{count} pods of {labels}, but there are\n{pods}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Takes the release and its namespace away.
    pub(crate) async fn uninstall(self) {
        let Self { name } = self;
        run("helm", &format!("uninstall {name} --namespace {name} --wait --timeout 120s"), "").await;
        kubectl(&format!("delete namespace {name} --wait=false")).await;
    }
}
