//! The configuration in force and the live state of backends, as JSON.
//!
//! Private keys cannot appear: the model does not serialise them.

use std::sync::Arc;

use axum::{
    Json,
    extract::State as Shared,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{State, aside};
use crate::{
    model::{Address, Backend, BackendId, Endpoint, Policy},
    routing::{EndpointState, Pool, Unfit},
};

/// The model in force and the problems found on the way to it.
pub(super) async fn snapshot(Shared(state): Shared<State>) -> Response {
    aside(move || Json(&*state.live.load().compiled).into_response()).await
}

/// A backend and what is known of its endpoints now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendView<'a> {
    id: &'a BackendId,
    in_flight: u32,
    /// Requests that wait for their turn.
    pending: usize,
    /// Requests that may be in flight, by the policy or by what an adaptive limit has found; null for no limit.
    limit: Option<u32>,
    endpoints: Vec<EndpointView<'a>>,
    settings: &'a Backend,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView<'a> {
    address: &'a Address,
    weight: u16,
    near: bool,
    in_flight: u32,
    /// Decayed peak latency.
    latency_milliseconds: f32,
    fit: bool,
    /// Why it is not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfit: Option<&'static str>,
    /// Until it comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_milliseconds: Option<u128>,
    /// The part of its weight that it gets: less than 1 in slow start.
    ramp: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_failure: Option<Arc<String>>,
}

impl<'a> BackendView<'a> {
    fn of(id: &'a BackendId, pool: &'a Pool, now: u64) -> Self {
        let Pool { backend, .. } = pool;
        let view = |state| Some(EndpointView::of(pool.declared(state)?, state, &backend.policy, now));
        let endpoints = pool.endpoints().iter().filter_map(|state| view(state));
        Self {
            id,
            in_flight: pool.in_flight(),
            pending: pool.pending(),
            limit: pool.limit(),
            endpoints: endpoints.collect(),
            settings: backend,
        }
    }
}

impl<'a> EndpointView<'a> {
    fn of(endpoint: &'a Endpoint, state: &EndpointState, policy: &Policy, now: u64) -> Self {
        let unfit = state.unfit(policy, now);
        Self {
            address: &endpoint.address,
            weight: endpoint.weight,
            near: endpoint.is_near,
            in_flight: state.in_flight(),
            latency_milliseconds: state.latency(now),
            fit: unfit.is_none(),
            unfit: unfit.map(Unfit::reason),
            ejected_milliseconds: unfit.and_then(Unfit::rest).map(|rest| rest.as_millis()),
            ramp: state.ramp(policy.load_balancing.slow_start, now),
            probe_failure: state.probe_failure().filter(|_| !state.passes_probes()),
        }
    }
}

pub(super) async fn backends(Shared(state): Shared<State>) -> Response {
    aside(move || {
        let (snapshot, now) = (state.live.load(), state.live.now());
        let views: Vec<_> = snapshot.pools().iter().map(|(id, pool)| BackendView::of(id, pool, now)).collect();
        Json(views).into_response()
    })
    .await
}
