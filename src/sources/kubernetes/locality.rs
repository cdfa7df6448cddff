//! How much each endpoint counts: its weight, and whether it is near.

use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use kube::ResourceExt;

use crate::model::{Endpoint, ProblemKind, ZonePreference};

/// Annotation of an `EndpointSlice`: the weight of each endpoint in it, from 0 to 65535.
pub(super) const WEIGHT: &str = "pierhead.dev/weight";

/// An endpoint as its slice tells of it.
pub(super) struct Found<'a> {
    endpoint: Endpoint,
    zone: Option<&'a str>,
    /// Zones that it is meant for; empty without hints.
    for_zones: Vec<&'a str>,
}

impl<'a> Found<'a> {
    /// An endpoint with the place that its slice gives it.
    pub(super) fn new(endpoint: Endpoint, told: &'a SliceEndpoint) -> Self {
        let hints = told.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        let for_zones = hints.into_iter().flatten().map(|zone| zone.name.as_str()).collect();
        Self { endpoint, zone: told.zone.as_deref(), for_zones }
    }
}

/// The endpoints, each marked whether it comes before those that are not near.
///
/// Hints count only where every endpoint has some, as kube-proxy has it. Where none would be near, all are.
pub(super) fn mark_near(found: Vec<Found<'_>>, preference: ZonePreference, ours: Option<&str>) -> Vec<Endpoint> {
    let hinted = found.iter().all(|found| !found.for_zones.is_empty());
    let is_near = |found: &Found<'_>| match (ours, preference) {
        (None, _) | (_, ZonePreference::Any) => true,
        (Some(ours), ZonePreference::PreferClose) => found.zone == Some(ours),
        (Some(ours), ZonePreference::Hints) => !hinted || found.for_zones.contains(&ours),
    };
    let near: Vec<bool> = found.iter().map(is_near).collect();
    let none = !near.contains(&true);
    found.into_iter().zip(near).map(|(found, near)| Endpoint { is_near: near || none, ..found.endpoint }).collect()
}

/// The weight that a slice asks for; one when it asks for none.
///
/// # Errors
/// When it is no weight.
pub(super) fn weight(slice: &EndpointSlice) -> Result<u16, ProblemKind> {
    let Some(text) = slice.annotations().get(WEIGHT) else { return Ok(1) };
    let expected = || "a number from 0 to 65535".to_owned();
    text.parse().map_err(|_| ProblemKind::InvalidValue { found: text.clone(), expected: expected() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Address;

    /// One row: preference, our zone, zone and hints of three endpoints, which of them are near.
    type Row = (ZonePreference, Option<&'static str>, [(&'static str, &'static [&'static str]); 3], [bool; 3]);

    #[test]
    fn near_are_those_of_the_zone_or_meant_for_it() {
        use ZonePreference::{Any, Hints, PreferClose};
        let zones: [(&str, &[&str]); 3] = [("a", &["a"]), ("b", &["b", "a"]), ("b", &["b"])];
        let partly: [(&str, &[&str]); 3] = [("a", &["a"]), ("b", &["b"]), ("b", &[])];
        let rows: [Row; 8] = [
            (PreferClose, Some("a"), zones, [true, false, false]),
            (PreferClose, Some("c"), zones, [true; 3]),
            (PreferClose, None, zones, [true; 3]),
            (Any, Some("a"), zones, [true; 3]),
            (Hints, Some("a"), zones, [true, true, false]),
            (Hints, Some("c"), zones, [true; 3]),
            (Hints, Some("a"), partly, [true; 3]),
            (Hints, None, zones, [true; 3]),
        ];
        for (i, (preference, ours, places, want)) in rows.into_iter().enumerate() {
            let told = places.map(|(zone, hints)| {
                let hints: Vec<_> = hints.iter().map(|name| json!({"name": name})).collect();
                let told = json!({"addresses": ["10.0.0.1"], "zone": zone, "hints": {"forZones": hints}});
                serde_json::from_value::<SliceEndpoint>(told).unwrap()
            });
            let endpoint = || Endpoint::new(Address::Socket(([10, 0, 0, 1], 80).into()));
            let found = told.iter().map(|told| Found::new(endpoint(), told)).collect();
            let near: Vec<bool> = mark_near(found, preference, ours).iter().map(|endpoint| endpoint.is_near).collect();
            assert_eq!(near, want, "row {i}");
        }
    }
}
