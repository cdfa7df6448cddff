//! Applies planned status changes, at a pace that an argument with another writer cannot raise.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::networking::v1::Ingress;
use kube::{
    Api, Client,
    api::{self, PatchParams},
};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::Patch;
use crate::{
    model::Origin,
    sources::kubernetes::{api::BackendPolicy, leader::Leadership},
};

/// Writes under way at the same time.
const CONCURRENT: usize = 8;
/// Time allowed for one write.
const REQUEST: Duration = Duration::from_secs(10);
/// Pause after a write until the same object may be written again; it doubles with each write, and is forgotten when
/// the object is left alone for the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_mins(1));

/// Writes what [`super::plan`] asks for.
pub struct Writer {
    client: Client,
    leadership: Leadership,
    params: PatchParams,
    pace: HashMap<Origin, Pace>,
}

impl Writer {
    /// Writes as `field_manager`, only while `leadership` holds.
    pub fn new(client: Client, field_manager: &str, leadership: Leadership) -> Self {
        let params = PatchParams::apply(field_manager).force();
        Self { client, leadership, params, pace: HashMap::new() }
    }

    /// Applies what is due now; gives the time at which the earliest of the rest is.
    ///
    /// A write that succeeded comes back as a change of the object, and so does the next plan.
    pub async fn apply(&mut self, patches: Vec<Patch>) -> Option<Instant> {
        let now = Instant::now();
        self.pace.retain(|_, pace| now < pace.next + PAUSES.1);
        let mut wake: Option<Instant> = None;
        let mut due = Vec::new();
        for patch in patches {
            let pace = self.pace.entry(patch.target.clone()).or_insert(Pace { next: now, pause: Duration::ZERO });
            if pace.next <= now {
                pace.advance(now);
                due.push(patch);
            }
            // Also for what is written now: if that fails nothing else would come back to it.
            wake = Some(wake.map_or(pace.next, |wake| wake.min(pace.next)));
        }
        let writer = &*self;
        stream::iter(due).for_each_concurrent(CONCURRENT, |patch| writer.write(patch)).await;
        wake
    }

    async fn write(&self, patch: Patch) {
        let Self { client, leadership, params, .. } = self;
        let origin = &patch.target;
        let body = api::Patch::Apply(&patch.body);
        // Asked again for each write: the ones before may have taken long.
        if !leadership.holds() {
            return;
        }
        let written = if origin.kind == "Ingress" {
            let api: Api<Ingress> = Api::namespaced(client.clone(), &origin.namespace);
            timeout(REQUEST, api.patch_status(&origin.name, params, &body)).await.map(|done| done.map(drop))
        } else {
            let api: Api<BackendPolicy> = Api::namespaced(client.clone(), &origin.namespace);
            timeout(REQUEST, api.patch_status(&origin.name, params, &body)).await.map(|done| done.map(drop))
        };
        match written {
            Ok(Ok(())) => debug!(%origin, "status written"),
            // Changed or gone since it was looked at: the next plan knows better.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                debug!(%origin, "status overtaken");
            }
            Ok(Err(error)) => warn!(%origin, %error, "status not written, trying again"),
            Err(_) => warn!(%origin, "status not written in time, trying again"),
        }
    }
}

/// When an object may be written next.
struct Pace {
    next: Instant,
    pause: Duration,
}

impl Pace {
    fn advance(&mut self, now: Instant) {
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        self.next = now + self.pause;
    }
}
