//! Problems as Events on the objects that have to change: what `kubectl describe` shows.
//!
//! Each problem is told once while it lasts. Events are best effort; the log, the metrics and `pierhead check` hold
//! every problem.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{Cluster, cluster, leader::Leadership};
use crate::model::{Origin, Problem};

/// Events that may be written at once, and how long it takes until another one may.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(500);
/// Time allowed for one write.
const REQUEST: Duration = Duration::from_secs(5);
/// A follower takes it that a problem of this age has been told by the leader.
const TOLD_BY_OTHERS: Duration = Duration::from_mins(1);
/// Largest note the API takes is 1 kB.
const NOTE: usize = 1_000;

/// Tells problems as Events.
pub struct Teller {
    client: Client,
    reporter: Reporter,
    leadership: Leadership,
    /// Problems of now, and when each was seen first; None once it was told.
    known: BTreeMap<Problem, Option<Instant>>,
    tokens: u32,
    refilled: Instant,
}

impl Teller {
    /// Speaks for `controller`, from the replica `identity`, while `leadership` holds.
    pub fn new(client: Client, controller: &str, identity: &str, leadership: Leadership) -> Self {
        let reporter = Reporter { controller: controller.to_owned(), instance: Some(identity.to_owned()) };
        Self { client, reporter, leadership, known: BTreeMap::new(), tokens: BURST, refilled: Instant::now() }
    }

    /// Takes note of the problems of now; tells the new ones if we lead. Gives the time to come back at, if some are left.
    pub async fn tell(&mut self, cluster: &Cluster, problems: &[Problem]) -> Option<Instant> {
        let now = Instant::now();
        self.note(problems, now);
        if !self.leadership.holds() {
            self.known.values_mut().filter(|seen| is_old(**seen, now)).for_each(|seen| *seen = None);
            return None;
        }
        self.refill(now);
        let mut uids = None;
        for problem in problems {
            let Some(seen @ Some(_)) = self.known.get(problem).copied() else { continue };
            if self.tokens == 0 {
                return Some(self.refilled + REFILL);
            }
            if !self.leadership.holds() {
                return None;
            }
            self.tokens -= 1;
            let uid = uids.get_or_insert_with(|| uids_of(cluster, problems)).get(&problem.origin).cloned();
            let told = self.publish(problem, uid).await;
            self.known.insert(problem.clone(), if told { None } else { seen });
            if !told {
                // The API server has trouble; the rest would fare no better now.
                return Some(Instant::now() + REQUEST);
            }
        }
        None
    }

    fn note(&mut self, problems: &[Problem], now: Instant) {
        let current: BTreeSet<&Problem> = problems.iter().collect();
        self.known.retain(|problem, _| current.contains(problem));
        for problem in problems {
            if !self.known.contains_key(problem) {
                self.known.insert(problem.clone(), Some(now));
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        let earned = u32::try_from(earned).unwrap_or(BURST).min(BURST);
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(BURST);
            self.refilled = now;
        }
    }

    /// Whether the problem need not be told again.
    async fn publish(&self, problem: &Problem, uid: Option<String>) -> bool {
        let Some(reference) = reference(&problem.origin, uid) else { return true };
        let event = Event {
            type_: EventType::Warning,
            reason: problem.kind.reason().to_owned(),
            note: Some(note(problem)),
            action: "Configure".to_owned(),
            secondary: None,
        };
        // A recorder of its own: one that is kept takes a second problem with the same reason for a repetition of the
        // first and drops its text.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        match timeout(REQUEST, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => true,
            // Refused for good: trying again would not help, and the log has the problem anyway.
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                warn!(origin = %problem.origin, error = %status, "event refused");
                true
            }
            Ok(Err(error)) => {
                debug!(origin = %problem.origin, %error, "event not written, trying again");
                false
            }
            Err(_) => false,
        }
    }
}

fn is_old(seen: Option<Instant>, now: Instant) -> bool {
    seen.is_some_and(|seen| now.duration_since(seen) >= TOLD_BY_OTHERS)
}

fn note(problem: &Problem) -> String {
    let text = if problem.field.is_empty() {
        problem.kind.to_string()
    } else {
        format!("{}: {}", problem.field, problem.kind)
    };
    match text.char_indices().find(|(at, letter)| at + letter.len_utf8() > NOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The object an Event is about; None for what is no object of the cluster, such as a flag.
fn reference(origin: &Origin, uid: Option<String>) -> Option<ObjectReference> {
    let version = match origin.kind {
        "Ingress" | "IngressClass" => "networking.k8s.io/v1",
        "Service" | "Secret" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "BackendPolicy" => "pierhead.dev/v1alpha1",
        _ => return None,
    };
    Some(ObjectReference {
        api_version: Some(version.to_owned()),
        kind: Some(origin.kind.to_owned()),
        namespace: Some(origin.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
        name: Some(origin.name.to_string()),
        uid,
        ..ObjectReference::default()
    })
}

/// The uids of the objects that have problems.
fn uids_of(cluster: &Cluster, problems: &[Problem]) -> HashMap<Origin, String> {
    let wanted: HashSet<&Origin> = problems.iter().map(|problem| &problem.origin).collect();
    let mut uids = HashMap::new();
    let mut add = |kind, object: &dyn Fn() -> (super::ObjectKey, Option<String>)| {
        let ((namespace, name), uid) = object();
        let origin = Origin::new(kind, namespace, name);
        if let Some(uid) = uid
            && wanted.contains(&origin)
        {
            uids.insert(origin, uid);
        }
    };
    cluster.ingresses.iter().for_each(|object| add("Ingress", &|| identity(&**object)));
    cluster.classes.iter().for_each(|object| add("IngressClass", &|| identity(&**object)));
    cluster.services.values().for_each(|object| add("Service", &|| identity(&**object)));
    cluster.slices.values().flatten().for_each(|object| add("EndpointSlice", &|| identity(&**object)));
    cluster.secrets.values().for_each(|object| add("Secret", &|| identity(&**object)));
    cluster.policies.iter().for_each(|object| add("BackendPolicy", &|| identity(&**object)));
    uids
}

fn identity(object: &impl Resource) -> (super::ObjectKey, Option<String>) {
    (cluster::key(object), object.meta().uid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProblemKind;

    #[test]
    fn a_note_names_the_field_and_fits_the_api() {
        let origin = Origin::new("Ingress", "shop", "front");
        let mut problem = Problem { origin, field: "spec.tls[0]".into(), kind: ProblemKind::Unsupported("é".into()) };
        assert_eq!(note(&problem), "spec.tls[0]: not supported: é");
        problem.kind = ProblemKind::Unsupported("é".repeat(2_000));
        let long = note(&problem);
        assert!(long.len() <= 1_024 && long.ends_with('…'), "{}", long.len());
    }

    #[test]
    fn only_objects_of_the_cluster_can_be_told() {
        let of = |kind| reference(&Origin::new(kind, "", "pierhead"), None);
        assert!(of("Flag").is_none());
        let class = of("IngressClass").unwrap();
        assert_eq!((class.namespace, class.api_version.as_deref()), (None, Some("networking.k8s.io/v1")));
    }
}
