//! The settings in force for a backend, each with its field and where its value comes from.
//!
//! Every field of the policy is taken apart by name, so that the compiler finds one that is missing here.

use std::{fmt::Display, time::Duration};

use serde::Serialize;

use super::view::Setting;
use crate::{
    balance::Strategy,
    model::{
        ActiveCheck, Backend, BackendTarget, Connections, CookieAffinity, EndpointTls, Health, Limits, LoadBalancing,
        Policy, Probe, Retries, Route, SettingsOrigin, Timeouts,
    },
};

/// Fields, named as in a `BackendPolicy` below `spec`, with their values.
type Rows = Vec<(&'static str, String)>;

/// The settings of a backend that a route leads to.
pub(super) fn settings(backend: &Backend, origin: &SettingsOrigin, route: &Route) -> Vec<Setting> {
    let service = format!("Service {}/{}", backend.id.namespace, backend.id.service);
    let policy = origin.policy.as_ref();
    let of_policy = |field: &str| match policy {
        Some(policy) if origin.fields.contains(field) => Some(format!("{policy} spec.{field}")),
        _ => None,
    };
    let mut settings = vec![Setting {
        field: "protocol".to_owned(),
        value: backend.protocol.name().to_owned(),
        from: protocol(backend, origin, route, of_policy("protocol")),
    }];
    if backend.id.variant.target == BackendTarget::ClusterIp {
        let from = format!("{} metadata.annotations: service-upstream", route.origin);
        settings.push(Setting { field: "endpoints".to_owned(), value: "the cluster IP".to_owned(), from });
    }
    if backend.client_ip_affinity {
        let from = format!("{service} spec.sessionAffinity");
        settings.push(Setting { field: "sessionAffinity".to_owned(), value: "ClientIP".to_owned(), from });
    }
    settings.extend(rows(&backend.policy).into_iter().map(|(field, value)| {
        let from = of_policy(field).unwrap_or_else(|| {
            match value.strip_prefix("as --").and_then(|rest| rest.strip_suffix(" says")) {
                Some(flag) => format!("--{flag}"),
                None if field == "tls" && backend.policy.tls == EndpointTls::Unavailable => {
                    "a BackendPolicy with tls whose target is refused".to_owned()
                }
                None => "default".to_owned(),
            }
        });
        Setting { field: field.to_owned(), value, from }
    }));
    settings
}

fn protocol(backend: &Backend, origin: &SettingsOrigin, route: &Route, of_policy: Option<String>) -> String {
    let base = if backend.id.variant.protocol.is_some() {
        format!("{} metadata.annotations: backend-protocol", route.origin)
    } else if backend.id.port == 0 {
        return route.origin.to_string();
    } else if let Some(policy) = of_policy {
        policy
    } else if let Some(app_protocol) = &origin.app_protocol {
        format!("Service {}/{} appProtocol {app_protocol}", backend.id.namespace, backend.id.service)
    } else {
        "default".to_owned()
    };
    if backend.policy.tls == EndpointTls::Unverified { base } else { format!("{base}, over TLS as tls says") }
}

fn rows(policy: &Policy) -> Rows {
    let Policy {
        load_balancing,
        cookie_affinity,
        connections,
        limits,
        timeouts,
        retries,
        server_errors,
        health,
        tls,
        proxy_protocol,
    } = policy;
    let mut rows = of_load_balancing(load_balancing);
    rows.extend(cookie_affinity.iter().flat_map(of_cookie));
    rows.extend(of_connections(connections));
    rows.extend(of_limits(limits));
    rows.extend(of_timeouts(timeouts));
    rows.extend(of_retries(retries));
    rows.push(("serverErrors", text(server_errors)));
    rows.extend(of_health(health));
    rows.push((
        "tls",
        match tls {
            EndpointTls::Unverified => "none: endpoints are not verified".to_owned(),
            EndpointTls::Verified(verification) => format!("verified as {}", verification.hostname.to_str()),
            EndpointTls::Unavailable => "cannot be had: requests are answered 503".to_owned(),
        },
    ));
    rows.push(("proxyProtocol", proxy_protocol.as_ref().map_or_else(none, text)));
    rows
}

fn of_load_balancing(block: &LoadBalancing) -> Rows {
    let LoadBalancing { strategy, hash_on, slow_start, zone, subset } = block;
    let name = text(strategy);
    let mut rows = vec![("loadBalancing.strategy", name.split(' ').next().unwrap_or_default().to_owned())];
    match strategy {
        Strategy::LeastRequest { choices } | Strategy::PeakEwma { choices } => {
            rows.push(("loadBalancing.choices", choices.to_string()));
        }
        Strategy::ConsistentHash { bounded_load } => {
            rows.push(("loadBalancing.hash.boundedLoad", bounded_load.map_or_else(none, |n| format!("{n} %"))));
        }
        Strategy::RoundRobin | Strategy::Random | Strategy::Maglev => {}
    }
    rows.extend(hash_on.as_ref().map(|on| ("loadBalancing.hash", text(on))));
    rows.push(("loadBalancing.slowStart", time(*slow_start)));
    rows.push(("loadBalancing.zone", text(zone)));
    rows.push(("loadBalancing.subset", subset.map_or("all endpoints".to_owned(), |size| size.to_string())));
    rows
}

fn of_cookie(block: &CookieAffinity) -> Rows {
    let CookieAffinity { name, ttl, path, same_site, secure, mode } = block;
    vec![
        ("sessionAffinity.cookie.name", name.to_string()),
        ("sessionAffinity.cookie.ttl", ttl.map_or("the session of the client".to_owned(), time)),
        ("sessionAffinity.cookie.path", path.to_string()),
        ("sessionAffinity.cookie.sameSite", text(same_site)),
        ("sessionAffinity.cookie.secure", secure.to_string()),
        ("sessionAffinity.cookie.mode", text(mode)),
    ]
}

fn of_connections(block: &Connections) -> Rows {
    let Connections { max_per_endpoint, max_idle_per_endpoint, idle_timeout, max_requests, max_age, tcp_keepalive } =
        block;
    vec![
        ("connections.maxPerEndpoint", max_per_endpoint.map_or_else(no_limit, |n| n.to_string())),
        ("connections.maxIdlePerEndpoint", max_idle_per_endpoint.to_string()),
        ("connections.idleTimeout", or_flag(*idle_timeout, "upstream-keep-alive-timeout")),
        ("connections.maxRequests", max_requests.map_or_else(no_limit, |n| n.to_string())),
        ("connections.maxAge", max_age.map_or_else(no_limit, time)),
        ("connections.tcpKeepalive", tcp_keepalive.map_or_else(none, time)),
    ]
}

fn of_limits(block: &Limits) -> Rows {
    let Limits { max_concurrent_requests, max_pending, pending_timeout, adaptive } = block;
    vec![
        ("limits.maxConcurrentRequests", max_concurrent_requests.map_or_else(no_limit, |n| n.to_string())),
        ("limits.maxPending", max_pending.to_string()),
        ("limits.pendingTimeout", time(*pending_timeout)),
        ("limits.adaptive", adaptive.to_string()),
    ]
}

fn of_timeouts(block: &Timeouts) -> Rows {
    let Timeouts { connect, response_head, idle, per_try, request } = block;
    vec![
        ("timeouts.connect", time(*connect)),
        ("timeouts.responseHead", or_flag(*response_head, "response-head-timeout")),
        ("timeouts.idle", or_flag(*idle, "idle-timeout")),
        ("timeouts.perTry", limit(*per_try)),
        ("timeouts.request", limit(*request)),
    ]
}

fn of_retries(block: &Retries) -> Rows {
    let Retries { attempts, on, status_codes, methods, replay_body, backoff, budget, hedge_after } = block;
    let mut rows = vec![
        ("retries.attempts", attempts.to_string()),
        ("retries.retryOn", list(on.iter().map(text))),
        ("retries.statusCodes", list(status_codes)),
        ("retries.methods", list(methods)),
        ("retries.replayBody", format!("{replay_body} bytes")),
        ("retries.backoff.base", time(backoff.base)),
        ("retries.backoff.max", time(backoff.max)),
        ("retries.budget.percent", budget.percent.to_string()),
        ("retries.budget.minPerSecond", budget.min_per_second.to_string()),
    ];
    rows.push(("retries.hedge.after", hedge_after.map_or_else(none, time)));
    rows
}

fn of_health(block: &Health) -> Rows {
    let Health { active, outlier, panic_threshold } = block;
    let mut rows = match active {
        None => vec![("health.active", none())],
        Some(active) => of_probe(active),
    };
    match outlier {
        None => rows.push(("health.outlier", none())),
        Some(outlier) => rows.extend([
            ("health.outlier.consecutiveErrors", outlier.consecutive_errors.map_or_else(none, |n| n.to_string())),
            ("health.outlier.errorRatio", outlier.error_ratio.map_or_else(none, |n| format!("{n} %"))),
            ("health.outlier.minRequests", outlier.min_requests.to_string()),
            ("health.outlier.interval", time(outlier.interval)),
            ("health.outlier.baseEjection", time(outlier.base_ejection)),
            ("health.outlier.maxEjection", time(outlier.max_ejection)),
            ("health.outlier.maxEjectedPercent", outlier.max_ejected_percent.to_string()),
        ]),
    }
    rows.push(("health.panicThreshold", format!("{panic_threshold} %")));
    rows
}

fn of_probe(block: &ActiveCheck) -> Rows {
    let ActiveCheck { probe, interval, timeout, healthy, unhealthy, port } = block;
    let mut rows = match probe {
        Probe::Http { path, host, expect } => vec![
            ("health.active.http.path", path.to_string()),
            ("health.active.http.host", host.as_ref().map_or("the address".to_owned(), ToString::to_string)),
            (
                "health.active.http.expect",
                list(expect.iter().map(|range| format!("{}-{}", range.start(), range.end()))),
            ),
        ],
        Probe::Tcp => vec![("health.active.tcp", "a connection opens".to_owned())],
        Probe::Grpc { service } => vec![("health.active.grpc.service", format!("{service:?}"))],
    };
    rows.extend([
        ("health.active.interval", time(*interval)),
        ("health.active.timeout", time(*timeout)),
        ("health.active.healthy", healthy.to_string()),
        ("health.active.unhealthy", unhealthy.to_string()),
        ("health.active.port", port.map_or("that of the endpoint".to_owned(), |port| port.to_string())),
    ]);
    rows
}

/// A name as the model serialises it, `Name (field value, …)` for one that holds more.
pub(super) fn text(value: &impl Serialize) -> String {
    fn plain(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "none".to_owned(),
            serde_json::Value::Object(fields) => {
                let field = |(name, value): (&String, &serde_json::Value)| format!("{name} {}", plain(value));
                fields.iter().map(field).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        }
    }
    plain(&serde_json::to_value(value).unwrap_or_default())
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { none() } else { items.join(", ") }
}

fn or_flag(value: Option<Duration>, flag: &str) -> String {
    value.map_or_else(|| format!("as --{flag} says"), limit)
}

fn limit(value: Duration) -> String {
    if value.is_zero() { no_limit() } else { time(value) }
}

fn time(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

fn none() -> String {
    "none".to_owned()
}

fn no_limit() -> String {
    "no limit".to_owned()
}
