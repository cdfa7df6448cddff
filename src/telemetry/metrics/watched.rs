//! The watches of the Kubernetes source, as a scrape finds them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::table;
use crate::telemetry::watches::{State, Watches};

impl Collector for Watches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kinds = self.snapshot();
        if kinds.is_empty() {
            return Ok(()); // there is no such source
        }
        let mut objects = table::WATCHED_OBJECTS.family();
        let mut synced = table::WATCH_SYNCED.family();
        let mut restarts = table::WATCH_RESTARTS.family();
        let mut last_event = table::WATCH_LAST_EVENT.family();
        for watch in &kinds {
            objects.integer(&[watch.kind], watch.objects as u64);
            synced.integer(&[watch.kind], u64::from(watch.state == State::Synced));
            restarts.integer(&[watch.kind], watch.restarts);
            if let Some(at) = watch.last_event {
                let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
                last_event.number(&[watch.kind], since.as_secs_f64());
            }
        }
        let mut age = table::PENDING_AGE.family();
        age.number(&[], self.lag().as_secs_f64());
        let mut leader = table::LEADER.family();
        if let Some(leads) = self.leads() {
            leader.integer(&[], leads.into());
        }
        [objects, synced, restarts, last_event, age, leader].iter().try_for_each(|family| family.encode(&mut encoder))
    }
}
