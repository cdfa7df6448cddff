//! The status of a `BackendPolicy`: one entry per target, as Gateway API's policies have it (GEP-713).

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{Patch, patch};
use crate::{
    model::{Origin, Problem, ProblemKind, Severity},
    sources::kubernetes::{api::BackendPolicy, cluster, compile::Settings},
};

/// The change of status that the policy needs, if any.
pub(super) fn plan(policy: &BackendPolicy, problems: &[Problem], settings: &Settings, now: Timestamp) -> Option<Patch> {
    let (namespace, name) = cluster::key(policy);
    let origin = Origin::new("BackendPolicy", namespace.clone(), name);
    let about: Vec<&Problem> = problems.iter().filter(|problem| problem.origin == origin).collect();
    let shown = shown_ancestors(policy);
    let is_ours = |ancestor: &Value| ancestor["controllerName"] == settings.controller_name.as_str();

    let mut wanted: Vec<Value> = shown.iter().filter(|ancestor| !is_ours(ancestor)).cloned().collect();
    for (at, target) in policy.spec.target_refs.iter().enumerate() {
        let reference = ancestor_ref(target, &namespace);
        let before = shown.iter().find(|shown| is_ours(shown) && shown["ancestorRef"] == reference);
        let conditions: Vec<Condition> = verdicts(at, &about)
            .into_iter()
            .map(|verdict| verdict.condition(before, policy.metadata.generation, now))
            .collect();
        wanted.push(json!({
            "ancestorRef": reference, "controllerName": settings.controller_name, "conditions": conditions,
        }));
    }
    (wanted != shown)
        .then(|| patch(policy, "BackendPolicy", "pierhead.dev/v1alpha1", Some(json!({ "ancestors": wanted }))))
}

/// The entries as JSON: those of other controllers are handed back unread.
fn shown_ancestors(policy: &BackendPolicy) -> Vec<Value> {
    let ancestors = policy.status.as_ref().map(|status| &status.ancestors);
    ancestors.into_iter().flatten().filter_map(|ancestor| serde_json::to_value(ancestor).ok()).collect()
}

fn ancestor_ref(target: &impl serde::Serialize, namespace: &str) -> Value {
    let mut reference = serde_json::to_value(target).unwrap_or_default();
    if let Some(fields) = reference.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        fields.insert("namespace".to_owned(), namespace.into());
    }
    reference
}

/// What one condition should say.
struct Verdict {
    type_: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    /// The condition, with the time of the last transition kept for as long as it says the same.
    fn condition(self, before: Option<&Value>, generation: Option<i64>, now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let conditions = before.and_then(|before| before["conditions"].as_array());
        let before = conditions.into_iter().flatten().find(|before| before["type"] == self.type_);
        let since = before
            .filter(|before| before["status"] == status)
            .and_then(|before| serde_json::from_value(before["lastTransitionTime"].clone()).ok());
        Condition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message,
            observed_generation: generation,
            last_transition_time: since.unwrap_or(Time(now)),
        }
    }
}

/// Accepted, `ResolvedRefs` and Conflicted for the target at this place in the list, and `PartiallyInvalid` where
/// something written is not in force (as Gateway API has it for routes).
fn verdicts(at: usize, problems: &[&Problem]) -> Vec<Verdict> {
    let of_target = format!("spec.targetRefs[{at}]");
    let told = |which: &dyn Fn(&Problem) -> bool| {
        let sentences: Vec<String> = problems
            .iter()
            .filter(|problem| which(problem))
            .map(|problem| format!("{}: {}", problem.field, problem.kind))
            .collect();
        // The schema of conditions allows 32 KiB.
        sentences.join("; ").chars().take(8_000).collect::<String>()
    };
    let is_target = |problem: &Problem| in_field(&problem.field, &of_target);
    let is_elsewhere = |problem: &Problem| !problem.field.starts_with("spec.targetRefs[");
    let missing = told(&|problem| is_target(problem) && is_unresolved(&problem.kind));
    let conflicted = told(&|problem| is_target(problem) && is_conflict(&problem.kind));
    let refused = told(&|problem| is_target(problem) && !is_unresolved(&problem.kind) && !is_conflict(&problem.kind));
    let references = told(&|problem| is_elsewhere(problem) && is_unresolved(&problem.kind));
    let invalid = told(&|problem| {
        is_elsewhere(problem) && problem.kind.severity() == Severity::Error && !is_unresolved(&problem.kind)
    });
    let (reason, message) = match (&*conflicted, &*missing, &*refused) {
        ("", "", "") if invalid.is_empty() => ("Accepted", "the policy is in force".to_owned()),
        ("", "", "") => ("Accepted", "the policy is in force but for what PartiallyInvalid tells".to_owned()),
        ("", "", refused) => ("Invalid", refused.to_owned()),
        ("", missing, _) => ("TargetNotFound", missing.to_owned()),
        (conflicted, ..) => ("Conflicted", conflicted.to_owned()),
    };
    let (unresolved, why) =
        if missing.is_empty() { (references, "InvalidCertificateRef") } else { (missing, "TargetNotFound") };
    let mut verdicts = vec![
        Verdict { type_: "Accepted", holds: reason == "Accepted", reason, message },
        either("ResolvedRefs", unresolved, true, ("ResolvedRefs", "all that the policy names exists"), why),
        either("Conflicted", conflicted, false, ("NoConflict", "no other policy has the target"), "Conflicted"),
    ];
    if !invalid.is_empty() {
        let (type_, reason) = ("PartiallyInvalid", "InvalidValue");
        verdicts.push(Verdict { type_, holds: true, reason, message: invalid });
    }
    verdicts
}

/// A condition that `holds_without` the trouble and turns over with it.
fn either(
    type_: &'static str,
    trouble: String,
    holds_without: bool,
    (reason, message): (&'static str, &str),
    reason_with: &'static str,
) -> Verdict {
    if trouble.is_empty() {
        Verdict { type_, holds: holds_without, reason, message: message.to_owned() }
    } else {
        Verdict { type_, holds: !holds_without, reason: reason_with, message: trouble }
    }
}

fn in_field(field: &str, parent: &str) -> bool {
    field.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn is_unresolved(kind: &ProblemKind) -> bool {
    matches!(
        kind,
        ProblemKind::NotFound(_)
            | ProblemKind::PortNotFound { .. }
            | ProblemKind::SecretNotFound(_)
            | ProblemKind::InvalidCertificate { .. }
    )
}

fn is_conflict(kind: &ProblemKind) -> bool {
    matches!(kind, ProblemKind::Conflict { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(status: &Value) -> BackendPolicy {
        serde_json::from_value(json!({
            "apiVersion": "pierhead.dev/v1alpha1", "kind": "BackendPolicy",
            "metadata": {"name": "cart", "namespace": "shop", "generation": 3, "resourceVersion": "9"},
            "spec": {"targetRefs": [
                {"group": "", "kind": "Service", "name": "cart"},
                {"group": "", "kind": "Service", "name": "gone"},
            ]},
            "status": status,
        }))
        .unwrap()
    }

    fn problem(field: &str, kind: ProblemKind) -> Problem {
        Problem { origin: Origin::new("BackendPolicy", "shop", "cart"), field: field.to_owned(), kind }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `type=status/reason` of each condition, by target.
    fn summary(patch: &Patch) -> Vec<String> {
        let ancestors = patch.body["status"]["ancestors"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let each = |condition: &Value| {
            format!("{}={}/{}", text(&condition["type"]), text(&condition["status"]), text(&condition["reason"]))
        };
        let conditions = |ancestor: &Value| {
            let conditions = ancestor["conditions"].as_array().into_iter().flatten();
            conditions.map(each).collect::<Vec<_>>().join(" ")
        };
        ancestors
            .iter()
            .map(|ancestor| format!("{}: {}", text(&ancestor["ancestorRef"]["name"]), conditions(ancestor)))
            .collect()
    }

    const FINE: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Conflicted=False/NoConflict";

    #[test]
    fn each_target_is_told_its_own_fate() {
        let missing = problem("spec.targetRefs[1].name", ProblemKind::NotFound(Origin::new("Service", "shop", "gone")));
        let planned = plan(&policy(&Value::Null), &[missing], &Settings::default(), at(1)).unwrap();
        assert_eq!(
            summary(&planned),
            [
                format!("cart: {FINE}"),
                "gone: Accepted=False/TargetNotFound ResolvedRefs=False/TargetNotFound Conflicted=False/NoConflict"
                    .to_owned(),
            ]
        );
        let first = &planned.body["status"]["ancestors"][0];
        assert_eq!(first["conditions"][0]["observedGeneration"], 3);
        assert_eq!(first["ancestorRef"]["namespace"], "shop");
    }

    #[test]
    fn a_conflict_and_an_invalid_value_are_told_apart() {
        let winner = Origin::new("BackendPolicy", "shop", "older");
        let conflict = problem("spec.targetRefs[0]", ProblemKind::Conflict { what: "Service cart".into(), winner });
        let invalid = problem(
            "spec.timeouts.connect",
            ProblemKind::InvalidValue { found: "-1s".into(), expected: "a duration".into() },
        );
        let planned = plan(&policy(&Value::Null), &[conflict, invalid], &Settings::default(), at(1)).unwrap();
        assert_eq!(
            summary(&planned),
            [
                "cart: Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs Conflicted=True/Conflicted \
                 PartiallyInvalid=True/InvalidValue"
                    .to_owned(),
                format!("gone: {FINE} PartiallyInvalid=True/InvalidValue"),
            ]
        );
    }

    #[test]
    fn a_missing_reference_is_told_of_every_target() {
        let missing = ProblemKind::NotFound(Origin::new("ConfigMap", "shop", "ca"));
        let problems = [problem("spec.tls.caCertificateRefs[0].name", missing)];
        let planned = plan(&policy(&Value::Null), &problems, &Settings::default(), at(1)).unwrap();
        let told = "Accepted=True/Accepted ResolvedRefs=False/InvalidCertificateRef Conflicted=False/NoConflict";
        assert_eq!(summary(&planned), [format!("cart: {told}"), format!("gone: {told}")]);
        let message = planned.body["status"]["ancestors"][0]["conditions"][1]["message"].as_str().unwrap();
        assert_eq!(message, "spec.tls.caCertificateRefs[0].name: ConfigMap shop/ca not found");
    }

    #[test]
    fn nothing_changes_when_the_status_says_it_already() {
        let planned = plan(&policy(&Value::Null), &[], &Settings::default(), at(1)).unwrap();
        let settled = policy(&planned.body["status"]);
        assert_eq!(plan(&settled, &[], &Settings::default(), at(500)), None);
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status_and_foreign_entries_stay() {
        let planned = plan(&policy(&Value::Null), &[], &Settings::default(), at(1)).unwrap();
        let mut status = planned.body["status"].clone();
        let foreign = json!({
            "ancestorRef": {"name": "cart"}, "controllerName": "example.net/other", "conditions": [],
        });
        status["ancestors"].as_array_mut().unwrap().push(foreign.clone());
        let missing = problem("spec.targetRefs[1]", ProblemKind::NotFound(Origin::new("Service", "shop", "gone")));
        let planned = plan(&policy(&status), &[missing], &Settings::default(), at(500)).unwrap();
        let ancestors = planned.body["status"]["ancestors"].as_array().unwrap();
        assert_eq!(ancestors[0]["controllerName"], foreign["controllerName"]);
        let time = |ancestor: usize, condition: usize| {
            ancestors[ancestor]["conditions"][condition]["lastTransitionTime"].as_str().unwrap().to_owned()
        };
        assert_eq!(time(1, 0), "1970-01-01T00:00:01Z");
        assert_eq!(time(2, 0), "1970-01-01T00:08:20Z");
        assert_eq!(time(2, 2), "1970-01-01T00:00:01Z", "Conflicted said the same before");
    }
}
