//! The policy of a backend in a few words. Defaults are left out; `/debug/backends` has every value.

use std::time::Duration;

use crate::{
    balance::Strategy,
    model::{Backend, HashOn, Policy, Probe, ZonePreference},
};

/// What a policy says, each thing in a few words.
pub(super) fn summary(backend: &Backend) -> Vec<String> {
    let policy = &*backend.policy;
    let mut words = vec![backend.protocol.name().to_owned(), balancing(policy)];
    if backend.client_ip_affinity {
        words.push("sticky by client address".to_owned());
    }
    if let Some(cookie) = &policy.cookie_affinity {
        words.push(format!("sticky by cookie {}", cookie.name));
    }
    words.extend(limits(policy));
    words.extend(tries(policy));
    words.extend(health(policy));
    words
}

fn balancing(policy: &Policy) -> String {
    let balancing = &policy.load_balancing;
    let strategy = match balancing.strategy {
        Strategy::RoundRobin => "round robin",
        Strategy::Random => "random",
        Strategy::LeastRequest { .. } => "least request",
        Strategy::PeakEwma { .. } => "peak EWMA",
        Strategy::ConsistentHash { .. } => "consistent hash",
        Strategy::Maglev => "Maglev",
    };
    let mut words = vec![match &balancing.hash_on {
        None => strategy.to_owned(),
        Some(HashOn::Header(name)) => format!("{strategy} of field {name}"),
        Some(HashOn::Cookie(name)) => format!("{strategy} of cookie {name}"),
        Some(HashOn::Query(name)) => format!("{strategy} of parameter {name}"),
        Some(HashOn::Path) => format!("{strategy} of the path"),
        Some(HashOn::SourceIp) => format!("{strategy} of the client address"),
    }];
    if !balancing.slow_start.is_zero() {
        words.push(format!("slow start {}", written(balancing.slow_start)));
    }
    match balancing.zone {
        ZonePreference::Hints => {}
        ZonePreference::PreferClose => words.push("own zone first".to_owned()),
        ZonePreference::Any => words.push("any zone".to_owned()),
    }
    if let Some(size) = balancing.subset {
        words.push(format!("subset of {size}"));
    }
    words.join(", ")
}

fn limits(policy: &Policy) -> Vec<String> {
    let (limits, connections) = (&policy.limits, &policy.connections);
    let mut words = Vec::new();
    if let Some(most) = limits.max_concurrent_requests {
        words.push(format!("at most {most} requests, {} waiting", limits.max_pending));
    }
    if limits.adaptive {
        words.push("adaptive limit".to_owned());
    }
    if let Some(most) = connections.max_per_endpoint {
        words.push(format!("at most {most} connections an endpoint"));
    }
    words
}

fn tries(policy: &Policy) -> Vec<String> {
    let (timeouts, retries) = (&policy.timeouts, &policy.retries);
    let mut words = vec![match retries.attempts {
        0 => "no retry".to_owned(),
        1 => "1 retry".to_owned(),
        attempts => format!("{attempts} retries"),
    }];
    for (name, time) in [("per try", timeouts.per_try), ("per request", timeouts.request)] {
        if !time.is_zero() {
            words.push(format!("{} {name}", written(time)));
        }
    }
    if let Some(after) = retries.hedge_after {
        words.push(format!("hedged after {}", written(after)));
    }
    words
}

fn health(policy: &Policy) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(check) = &policy.health.active {
        let probe = match &check.probe {
            Probe::Http { path, .. } => format!("GET {path}"),
            Probe::Tcp => "TCP".to_owned(),
            Probe::Grpc { service } if service.is_empty() => "gRPC".to_owned(),
            Probe::Grpc { service } => format!("gRPC {service}"),
        };
        words.push(format!("probe {probe} each {}", written(check.interval)));
    }
    if policy.health.outlier.is_some() {
        words.push("ejects on errors".to_owned());
    }
    words
}

fn written(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
