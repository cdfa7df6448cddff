//! Named cases that share one control plane: each is reported, and one that fails does not hide the rest.

use std::{panic::AssertUnwindSafe, time::Instant};

use futures_util::FutureExt;

/// Runs cases and counts them.
#[derive(Default)]
pub(crate) struct Cases {
    ran: usize,
    failed: Vec<String>,
}

impl Cases {
    /// Runs one case. A panic fails the case, not the run.
    pub(crate) async fn run(&mut self, name: &str, case: impl Future<Output = ()>) {
        let started = Instant::now();
        let passed = AssertUnwindSafe(case).catch_unwind().await.is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("case {name} ... {verdict} ({:.1} s)", started.elapsed().as_secs_f64());
        self.ran += 1;
        if !passed {
            self.failed.push(name.to_owned());
        }
    }

    /// Says how many ran, and fails if any did.
    pub(crate) fn finish(self, group: &str) {
        let failed = self.failed.len();
        println!("{group}: {} cases ran against a real kube-apiserver, {failed} failed", self.ran);
        assert!(self.failed.is_empty(), "{group}: failed: {}", self.failed.join(", "));
    }
}
