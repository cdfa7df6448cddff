//! Which replica writes: the holder of a Lease. Serving traffic needs no leader.
//!
//! `kube_leader_election` takes and renews the Lease; it writes without a condition, so two candidates that saw the same
//! expired Lease can both be told that they got it. Three things make up for this: we lead only from the second renewal
//! on, the answer of the API server must name us as the holder, and every status write carries the resource version it
//! was decided on (see [`super::status`]).

use std::time::Duration;

use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How long the Lease is valid unless renewed: others may take it afterwards.
const LEASE: Duration = Duration::from_secs(15);
/// How long after the start of the last successful renewal we still write. The rest of [`LEASE`] is for clocks that
/// differ between nodes.
const FENCE: Duration = Duration::from_secs(10);
/// Between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Between taking the Lease and looking whether it was really us who got it.
const CONFIRM: Duration = Duration::from_secs(1);
/// Time allowed for one request about the Lease.
const REQUEST: Duration = Duration::from_secs(5);

/// Tells whether this replica leads.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Term>);

impl Leadership {
    /// Whether a write that is sent now is still covered by the Lease.
    pub fn holds(&self) -> bool {
        self.0.borrow().leads(Instant::now())
    }

    /// Waits for the next renewal or loss. Never returns once the election has ended.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Stands for election. The second half drives the first and must be run.
pub fn elect(client: Client, namespace: &str, name: &str, identity: &str) -> (Leadership, Election) {
    let params = LeaseLockParams { holder_id: identity.to_owned(), lease_name: name.to_owned(), lease_ttl: LEASE };
    let lock = LeaseLock::new(client, namespace, params);
    let (term, watch) = watch::channel(Term::default());
    (Leadership(watch), Election { lock, identity: identity.to_owned(), term })
}

/// Takes and renews the Lease.
pub struct Election {
    lock: LeaseLock,
    identity: String,
    term: watch::Sender<Term>,
}

impl Election {
    /// Stands for election until `stop`, then gives the Lease back so that another replica need not wait for its end.
    pub async fn run(self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let pause = self.round(&mut failing).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        let led = self.term.send_replace(Term::default()).held();
        if led {
            match timeout(REQUEST, self.lock.step_down()).await {
                Ok(Ok(())) => info!("leadership given back"),
                Ok(Err(error)) => warn!(%error, "leadership not given back, it ends by itself"),
                Err(_) => warn!("leadership not given back in time, it ends by itself"),
            }
        }
    }

    /// Tries once to take or renew the Lease; gives the time to wait before the next try.
    async fn round(&self, failing: &mut bool) -> Duration {
        // The Lease runs from a moment after this one, so counting from here errs on the safe side.
        let asked = Instant::now();
        let held = match timeout(REQUEST, self.lock.try_acquire_or_renew()).await {
            Ok(Ok(LeaseLockResult::Acquired(lease))) => {
                // A renewal that was overtaken by another holder reports success, but not our name.
                lease.spec.and_then(|spec| spec.holder_identity).as_deref() == Some(self.identity.as_str())
            }
            Ok(Ok(LeaseLockResult::NotAcquired(_))) => false,
            Ok(Err(error)) => {
                if std::mem::replace(failing, true) {
                    debug!(%error, "leader election failed, trying again");
                } else {
                    warn!(%error, "leader election failed, trying again");
                }
                return jittered(CONFIRM);
            }
            Err(_) => return jittered(CONFIRM),
        };
        *failing = false;
        let mut pause = RENEW;
        self.term.send_modify(|term| {
            // By name, not by time: a term that lapsed unnoticed ends here.
            let led = matches!(term, Term::Leader(_));
            *term = term.renewed(asked, held);
            let leads = matches!(term, Term::Leader(_));
            if led != leads {
                info!(leader = leads, "leadership changed");
            }
            if held && !leads {
                pause = CONFIRM;
            }
        });
        if held { pause } else { jittered(pause) }
    }
}

/// Keeps replicas from asking in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// How far our hold on the Lease is proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Term {
    /// Somebody else has it, or nobody.
    #[default]
    Follower,
    /// We took it, but another replica may have done so at the same time.
    Taken(Instant),
    /// It was still ours at a later look. Counted from the start of that request.
    Leader(Instant),
}

impl Term {
    fn renewed(self, asked: Instant, held: bool) -> Self {
        match self {
            _ if !held => Self::Follower,
            Self::Follower => Self::Taken(asked),
            // A hold that lapsed in between proves nothing about this one.
            Self::Taken(at) | Self::Leader(at) if asked.duration_since(at) >= FENCE => Self::Taken(asked),
            Self::Taken(_) | Self::Leader(_) => Self::Leader(asked),
        }
    }

    fn leads(self, now: Instant) -> bool {
        matches!(self, Self::Leader(at) if now.duration_since(at) < FENCE)
    }

    fn held(self) -> bool {
        self != Self::Follower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn leads_from_the_second_renewal_on() {
        let start = Instant::now();
        let taken = Term::default().renewed(start, true);
        assert!(!taken.leads(start));
        let leader = taken.renewed(start + seconds(1), true);
        assert!(leader.leads(start + seconds(1)));
    }

    #[test]
    fn nothing_is_written_once_the_lease_could_have_lapsed() {
        let start = Instant::now();
        let leader = Term::Leader(start);
        assert!(leader.leads(start + seconds(9)));
        assert!(!leader.leads(start + FENCE), "frozen until the lease could be another's");
        let woken = leader.renewed(start + seconds(20), true);
        assert!(!woken.leads(start + seconds(20)), "must be confirmed again");
    }

    #[test]
    fn another_holder_ends_the_term() {
        let start = Instant::now();
        assert_eq!(Term::Leader(start).renewed(start + seconds(5), false), Term::Follower);
    }
}
