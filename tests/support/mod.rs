//! What the feature tests share: the real binary on free ports, backends that tell what they saw, clients that see every
//! byte, and manifests that read as YAML does.
//!
//! Nothing here sleeps to let something happen: everything waits for a condition, and for [`DEADLINE`] at most.

#![allow(dead_code, reason = "each test uses a part")]

pub mod backend;
pub mod browser;
pub mod client;
pub mod manifests;
pub mod open_loop;
pub mod pierhead;
mod proxy_protocol;
pub mod spread;
pub mod tls;
pub mod tools;
mod unverified;

use std::time::Duration;

pub use proxy_protocol::proxy_header;

/// How long a test waits for what must come. Generous: it only costs time when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for a future, and fails the test when it does not come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(DEADLINE, future).await else {
        panic!("{what}: still not there after {DEADLINE:?}");
    };
    value
}

/// Asks again and again until `ask` gives something.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        loop {
            interval.tick().await;
            if let Some(value) = ask().await {
                return value;
            }
        }
    })
    .await
}
