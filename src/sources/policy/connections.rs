//! Connections to endpoints.

use std::num::NonZeroU32;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{Refusals, Time};
use crate::model;

/// Connections to endpoints.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Connections::default")]
#[x_kube(validation = Rule::new("!has(self.maxPerEndpoint) || !has(self.maxIdlePerEndpoint) || \
    self.maxIdlePerEndpoint <= self.maxPerEndpoint")
    .message("maxIdlePerEndpoint must not be above maxPerEndpoint").field_path(".maxIdlePerEndpoint"))]
pub struct Connections {
    /// Most connections to one endpoint, counted by each replica of the controller for itself; a request that would need
    /// one more goes to another endpoint, or waits for as long as `timeouts.connect` allows and is then answered 503.
    /// For endpoints that serve few at a time. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1))]
    pub max_per_endpoint: Option<i32>,
    /// Most idle HTTP/1.1 connections that are kept for one endpoint; 0 keeps none. Default: 128, or `maxPerEndpoint`
    /// where that is lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0))]
    pub max_idle_per_endpoint: Option<i32>,
    /// How long an idle connection is kept; 0s keeps none. It should be less than what endpoints allow, or they close
    /// connections that are just being used. Default: as `--upstream-keep-alive-timeout` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub idle_timeout: Option<Time>,
    /// Requests after which a connection is closed; 0 for no limit. For endpoints that leak with each connection.
    #[schemars(range(min = 0))]
    pub max_requests: i32,
    /// Age from which a connection serves no new request; 0s for no limit. So that long-lived HTTP/2 connections spread
    /// anew. Connections to a name (`ExternalName`) follow its addresses: they serve none from an age of 5m in any case.
    pub max_age: Time,
    /// Silence after which the kernel asks whether the endpoint is still there (TCP keepalive); 0s never asks.
    pub tcp_keepalive: Time,
}

impl Default for Connections {
    fn default() -> Self {
        let model = model::Connections::default();
        Self {
            max_per_endpoint: None,
            max_idle_per_endpoint: None,
            idle_timeout: None,
            max_requests: 0,
            max_age: model.max_age.unwrap_or_default().into(),
            tcp_keepalive: model.tcp_keepalive.unwrap_or_default().into(),
        }
    }
}

impl Connections {
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::Connections {
        let default = model::Connections::default();
        let max = self.max_per_endpoint;
        let max = max.and_then(|max| refusals.nonzero("connections.maxPerEndpoint", max, 1..=i32::MAX));
        let most_idle = max.map_or(u32::MAX, NonZeroU32::get);
        let max_idle = self.max_idle_per_endpoint.and_then(|idle| {
            let field = "connections.maxIdlePerEndpoint";
            let number = refusals.number(field, idle, 0..=i32::MAX)?;
            if number > most_idle {
                refusals.refuse(field, idle, format!("at most maxPerEndpoint, {most_idle}"));
                return None;
            }
            Some(number)
        });
        let requests = refusals.number("connections.maxRequests", self.max_requests, 0..=i32::MAX);
        let max_age = refusals.time("connections.maxAge", &self.max_age);
        let keepalive = refusals.time("connections.tcpKeepalive", &self.tcp_keepalive);
        model::Connections {
            max_per_endpoint: max,
            max_idle_per_endpoint: max_idle.unwrap_or(default.max_idle_per_endpoint.min(most_idle)),
            idle_timeout: self.idle_timeout.as_ref().and_then(|time| refusals.time("connections.idleTimeout", time)),
            max_requests: requests.and_then(NonZeroU32::new),
            max_age: max_age.filter(|time| !time.is_zero()),
            tcp_keepalive: keepalive.map_or(default.tcp_keepalive, |time| Some(time).filter(|time| !time.is_zero())),
        }
    }
}
