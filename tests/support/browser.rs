//! A headless Chromium, driven by the `DevTools` protocol over the WebSocket client that the tests have anyway.
//!
//! A crate for it would bring thousands of generated types for the dozen of commands that are used here; `WebDriver` has
//! no network events.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::oneshot,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{eventually, soon};

const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-dev-shm-usage", // containers have 64 MiB of it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// One page of a browser of its own. It is killed when dropped.
pub struct Browser {
    _child: Child,
    _profile: tempfile::TempDir,
    socket: tokio::sync::Mutex<SplitSink<WebSocketStream<TcpStream>, Message>>,
    answers: Answers,
    events: Arc<Mutex<Vec<Value>>>,
    next: AtomicU64,
    session: Option<String>,
}

impl Browser {
    /// Starts Chromium with an empty profile.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("chromium")
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium is installed: apt-get install chromium");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = soon("address of DevTools", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return address.to_owned();
                }
            }
            panic!("chromium ended");
        })
        .await;
        // It stops when nobody reads what it says.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let authority = address.strip_prefix("ws://").unwrap().split('/').next().unwrap();
        let stream = TcpStream::connect(authority).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(&address, stream).await.unwrap();
        let (socket, mut incoming) = socket.split();
        let (answers, events) = (Answers::default(), Arc::<Mutex<Vec<Value>>>::default());
        let (to_answers, to_events) = (Arc::clone(&answers), Arc::clone(&events));
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let Ok(value) = serde_json::from_slice::<Value>(&message.into_data()) else { continue };
                match value["id"].as_u64().and_then(|id| to_answers.lock().unwrap().remove(&id)) {
                    Some(answer) => drop(answer.send(value)),
                    None => to_events.lock().unwrap().push(value),
                }
            }
        });
        let socket = tokio::sync::Mutex::new(socket);
        let mut browser =
            Self { _child: child, _profile: profile, socket, answers, events, next: AtomicU64::new(1), session: None };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method of the protocol.
    pub async fn call(&self, method: &str, parameters: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.answers.lock().unwrap().insert(id, sender);
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.socket.lock().await.send(Message::text(message.to_string())).await.unwrap();
        let answer = soon(method, receiver).await.unwrap();
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Opens a page and waits until it has loaded.
    pub async fn open(&self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        let path = json!(url);
        self.until(&format!("location.href === {path} && document.readyState === 'complete'")).await;
    }

    /// The value of an expression, which may be a promise.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", parameters).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) {
        eventually(expression, async || (self.evaluate(expression).await == json!(true)).then_some(())).await;
    }

    /// Text of the page as it is shown.
    pub async fn text(&self) -> String {
        self.evaluate("document.body.innerText").await.as_str().unwrap().to_owned()
    }

    /// Waits until the page shows a text.
    pub async fn shows(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Types a text where the focus is.
    pub async fn write(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Presses a key that stands for a character.
    pub async fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key, "text": key})).await;
        }
    }

    /// Events of these methods so far.
    pub fn events(&self, methods: &[&str]) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| methods.iter().any(|method| event["method"] == *method)).cloned().collect()
    }

    /// Everything that a developer would see in red: exceptions, errors of the console, violations of the policy.
    pub fn complaints(&self) -> Vec<Value> {
        let mut all = self.events(&["Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"]);
        all.retain(|event| {
            let level = event["params"]["entry"]["level"].as_str().or(event["params"]["type"].as_str());
            level.is_none_or(|level| ["error", "warning", "assert"].contains(&level))
        });
        all
    }

    /// Addresses that the page asked for.
    pub fn requested(&self) -> Vec<String> {
        let url = |event: &Value| event["params"]["request"]["url"].as_str().unwrap().to_owned();
        self.events(&["Network.requestWillBeSent"]).iter().map(url).collect()
    }

    /// Shows the page as on a screen of this size, light or dark.
    pub async fn screen(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Writes what is shown into a PNG file.
    pub async fn picture(&self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        std::fs::write(path, BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}
