//! Hedging (Dean and Barroso, "The Tail at Scale"): a second try beside a first that is slow to answer.
//!
//! Only for what is idempotent and can be sent again without the client. The first response that the policy would not
//! try again wins; the other try is dropped with its connection or stream, and its endpoint is not blamed.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Answer, Attempts, Outcome, Plan, Spare, Try, discard, ending};
use crate::{
    proxy::{record::Record, upstream::Reuse},
    routing::Lease,
    telemetry::metrics,
};

/// Which of two tries.
enum Which {
    First,
    Second,
}

impl Attempts<'_> {
    /// One try, and another at another endpoint once the first has been silent for `after`.
    ///
    /// The lease of the try whose outcome this is ends up in the record.
    pub(super) async fn hedged(
        &self,
        one: Try<'_>,
        spare: &Spare,
        after: Duration,
        plan: &mut Plan<'_>,
        record: &mut Record,
    ) -> Outcome {
        plan.tried.push(one.endpoint.id);
        let first_begun = Instant::now();
        let mut first = pin!(self.attempt(one));
        tokio::select! {
            biased;
            outcome = &mut first => return outcome,
            () = tokio::time::sleep(after) => {}
        }
        let Some(mut lease) = self.beside(&plan.tried) else { return first.await };
        plan.count();
        metrics::count(&self.pool.metrics.hedges);
        record.attempts += 1;
        record.retried("hedge");
        let endpoint = Arc::clone(lease.endpoint());
        plan.tried.push(endpoint.id);
        let until = self.until(record.expires);
        let mut request = spare.request(self.body());
        let span = self.span(&mut request, &endpoint, record);
        let again = Try { endpoint: &endpoint, request, reuse: Reuse::Idle, until, span };
        let second_begun = Instant::now();
        let mut second = pin!(self.attempt(again));
        let (which, outcome) = tokio::select! {
            biased;
            outcome = &mut first => (Which::First, outcome),
            outcome = &mut second => (Which::Second, outcome),
        };
        if outcome.is_err() || plan.would_repeat(ending(&outcome)) {
            // It has lost: the other may still do better.
            let lost = match which {
                Which::First => record.lease.replace(lease),
                Which::Second => Some(lease),
            };
            if let Some(lost) = lost {
                self.tell(&lost, &outcome);
            }
            if let Ok(Answer { response, checkout, .. }) = outcome {
                discard(response, checkout);
            }
            return match which {
                Which::First => second.await,
                Which::Second => first.await,
            };
        }
        let (slower, begun) = match which {
            Which::First => (Some(lease), second_begun),
            Which::Second => {
                // Slow once is no reason to move a session away from its endpoint.
                lease.session =
                    lease.session.filter(|_| record.lease.as_ref().is_some_and(|first| first.session.is_some()));
                (record.lease.replace(lease), first_begun)
            }
        };
        if let Some(slower) = slower {
            let (worker, waited) = (&self.client.worker, self.waited(begun));
            slower.abandoned(waited, worker.clock.now());
            self.pool.metrics.attempted(worker.thread, metrics::Outcome::Abandoned, waited);
        }
        outcome
    }

    /// An endpoint for a second try, if there is another, the budget has room, and the body is there.
    fn beside(&self, tried: &[u64]) -> Option<Lease> {
        let whole = self.upload.as_ref().is_none_or(|upload| upload.is_kept_whole());
        let lease = (whole && self.has_untried(tried)).then(|| self.pool.pick(&self.selection(tried)).ok())??;
        let other = !tried.contains(&lease.endpoint().id); // the rest may be unfit
        (other && self.may_retry()).then_some(lease)
    }
}
