//! What a policy allows after a try: stop, or another one, at what cost and after which pause.
//!
//! It knows nothing of connections; whether a request can still be repeated is for its owner to see.

use std::time::Duration;

use http::Method;

use crate::{
    model::{Backoff, Retries, RetryOn},
    proxy::Error,
};

/// Most endpoints that one request passes over because they refuse connections: the largest number of tries that a policy
/// can ask for, so that a backend whose every endpoint is down does not cost a connection to each.
const PASSED_OVER: u32 = 10;

/// The tries of one request, as its backend's policy has them.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    retries: &'a Retries,
    /// Whether the method may reach a backend twice.
    repeats: bool,
    /// Whether a stream may be refused unseen.
    streams: bool,
    /// Tries made besides the first.
    made: u32,
    /// Endpoints that refused, for another one was there.
    passed_over: u32,
    /// Identifiers of the endpoints tried.
    pub(super) tried: Vec<u64>,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a response of this status.
    Answered(u16),
    /// Without one, and the endpoint may have seen the request.
    Failed(Error),
    /// Before a byte of the request was sent.
    Unsent(Error),
}

/// What one more try costs the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// Nothing: it has not seen the request yet (docs/adr/0002).
    Nothing,
    /// A place in its budget.
    Budget,
}

impl<'a> Plan<'a> {
    /// The plan for a request of this method; `http2` says how the backend is spoken to.
    pub(super) fn of(retries: &'a Retries, method: &Method, http2: bool) -> Self {
        let repeats = retries.methods.contains(method.as_str());
        let streams = http2 && retries.on.contains(&RetryOn::RefusedStream);
        Self { retries, repeats, streams, made: 0, passed_over: 0, tried: Vec::new() }
    }

    /// Whether a try that was sent may be followed by another.
    pub(super) fn repeats(&self) -> bool {
        self.is_left() && (self.repeats || self.streams)
    }

    /// Whether another try may run beside the first.
    pub(super) fn hedges(&self) -> bool {
        self.is_left() && self.repeats
    }

    /// Counts one more try.
    pub(super) fn count(&mut self) {
        self.made += 1;
    }

    /// Passes over an endpoint that refused the connection, when the policy tries again at all: as long as another is left,
    /// that is no try. Pods that end together refuse together, until news of them arrives.
    pub(super) fn passes_over(&mut self, ending: Ending) -> bool {
        let passes = ending == Ending::Unsent(Error::ConnectFailed)
            && self.wanted(ending).is_some()
            && self.is_left()
            && self.passed_over < PASSED_OVER;
        self.passed_over += u32::from(passes);
        passes
    }

    /// What another try costs after this end of one; None when none may follow.
    pub(super) fn cost(&self, ending: Ending) -> Option<Cost> {
        self.wanted(ending).filter(|_| self.is_left())
    }

    fn wanted(&self, ending: Ending) -> Option<Cost> {
        let on = |condition| self.retries.on.contains(&condition);
        let budget = self.repeats.then_some(Cost::Budget);
        match ending {
            Ending::Answered(status) => {
                let wanted = (on(RetryOn::GatewayError) && matches!(status, 502..=504))
                    || (on(RetryOn::ServerError) && matches!(status, 500..=599))
                    || (on(RetryOn::StatusCodes) && self.retries.status_codes.contains(&status));
                budget.filter(|_| wanted)
            }
            Ending::Unsent(error) => error.retried_on().filter(|reason| on(*reason)).map(|_| Cost::Nothing),
            Ending::Failed(error) => match error.retried_on().filter(|reason| on(*reason)) {
                Some(RetryOn::ConnectFailure | RetryOn::RefusedStream) => Some(Cost::Nothing),
                Some(_) => budget,
                None => None,
            },
        }
    }

    /// Whether the policy wants another try after this end, whether or not one is left.
    pub(super) fn would_repeat(&self, ending: Ending) -> bool {
        self.wanted(ending).is_some()
    }

    /// The pause before the next try, drawn anew each time.
    pub(super) fn pause(&self) -> Duration {
        pause(self.retries.backoff, self.made)
    }

    fn is_left(&self) -> bool {
        self.made < self.retries.attempts
    }
}

/// Full jitter (Brooker, "Exponential Backoff And Jitter"): clients that failed together do not come back together.
fn pause(backoff: Backoff, retry: u32) -> Duration {
    let bound = backoff.base.saturating_mul(2_u32.saturating_pow(retry)).min(backoff.max);
    Duration::from_micros(fastrand::u64(0..=u64::try_from(bound.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_may_follow_depends_on_the_end_the_method_and_the_conditions() {
        use Cost::{Budget, Nothing};
        use Ending::{Answered, Failed, Unsent};
        use RetryOn::{ConnectFailure, GatewayError, RefusedStream, Reset, ServerError, StatusCodes};
        let rows: &[(&[RetryOn], &Method, Ending, Option<Cost>)] = &[
            (&[ConnectFailure], &Method::POST, Unsent(Error::ConnectFailed), Some(Nothing)),
            (&[ConnectFailure], &Method::POST, Unsent(Error::ConnectTimeout), Some(Nothing)),
            (&[Reset], &Method::POST, Unsent(Error::ConnectFailed), None),
            (&[Reset], &Method::POST, Unsent(Error::AttemptTimeout), Some(Nothing)),
            (&[Reset], &Method::POST, Failed(Error::UpstreamReset), None),
            (&[Reset], &Method::PUT, Failed(Error::UpstreamReset), Some(Budget)),
            (&[Reset], &Method::GET, Failed(Error::ResponseTimeout), Some(Budget)),
            (&[ConnectFailure], &Method::GET, Failed(Error::UpstreamReset), None),
            (&[RefusedStream], &Method::POST, Failed(Error::StreamRefused), Some(Nothing)),
            (&[Reset], &Method::GET, Failed(Error::StreamRefused), None),
            (&[Reset], &Method::GET, Failed(Error::ClientGone), None),
            (&[Reset], &Method::GET, Failed(Error::RequestTimeout), None),
            (&[GatewayError], &Method::GET, Answered(503), Some(Budget)),
            (&[GatewayError], &Method::GET, Answered(500), None),
            (&[GatewayError], &Method::POST, Answered(503), None),
            (&[ServerError], &Method::GET, Answered(599), Some(Budget)),
            (&[ServerError], &Method::GET, Answered(429), None),
            (&[StatusCodes], &Method::GET, Answered(429), Some(Budget)),
            (&[StatusCodes], &Method::GET, Answered(503), None),
        ];
        for (on, method, ending, cost) in rows {
            let retries = Retries {
                on: on.iter().copied().collect(),
                status_codes: BTreeSet::from([429]),
                attempts: 1,
                ..Retries::default()
            };
            let mut plan = Plan::of(&retries, method, false);
            assert_eq!(plan.cost(*ending), *cost, "{method} {ending:?} with {on:?}");
            plan.count();
            assert_eq!(plan.cost(*ending), None, "none is left: {method} {ending:?} with {on:?}");
            assert_eq!(plan.would_repeat(*ending), cost.is_some());
        }
    }

    #[test]
    fn endpoints_that_refuse_are_passed_over_up_to_a_bound_where_the_policy_tries_again() {
        let refused = Ending::Unsent(Error::ConnectFailed);
        let retries = Retries::default();
        let mut plan = Plan::of(&retries, &Method::POST, false);
        assert!(!plan.passes_over(Ending::Unsent(Error::ConnectTimeout)), "that took its time");
        assert_eq!((0..100).filter(|_| plan.passes_over(refused)).count(), 10);
        assert_eq!(plan.cost(refused), Some(Cost::Nothing), "none of them was a try");
        let none = Retries { attempts: 0, ..retries };
        assert!(!Plan::of(&none, &Method::GET, false).passes_over(refused));
    }

    #[test]
    fn a_head_is_kept_back_only_where_a_try_that_was_sent_may_be_followed() {
        let retries = Retries::default();
        assert!(Plan::of(&retries, &Method::GET, false).repeats());
        assert!(!Plan::of(&retries, &Method::POST, false).repeats());
        assert!(Plan::of(&retries, &Method::POST, true).repeats(), "its stream may be refused");
        assert!(!Plan::of(&retries, &Method::POST, true).hedges());
        let none = Retries { attempts: 0, ..retries };
        assert!(!Plan::of(&none, &Method::GET, true).repeats());
    }

    #[test]
    fn pauses_are_drawn_from_a_bound_that_doubles_up_to_the_largest() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        for (retry, bound) in [(0, 25), (1, 50), (3, 200), (4, 250), (40, 250), (u32::MAX, 250)] {
            let drawn: Vec<_> = (0..1000).map(|_| pause(backoff, retry)).collect();
            let bound = Duration::from_millis(bound);
            assert!(drawn.iter().all(|pause| *pause <= bound), "retry {retry}");
            // Of 1,000 draws the largest is below nine tenths of the bound once in 10^45 runs.
            assert!(drawn.iter().max() > Some(&(bound * 9 / 10)) && drawn.iter().min() < Some(&(bound / 10)));
        }
        assert_eq!(pause(Backoff { base: Duration::ZERO, max: Duration::ZERO }, 3), Duration::ZERO);
    }
}
