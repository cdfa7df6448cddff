//! A policy that changes while 500 requests a second flow.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{
    backend::{Backend, Speaks},
    client::get,
    eventually,
    manifests::governed,
    open_loop::{OpenLoop, Outcome},
    pierhead::Pierhead,
    spread::Spread,
    tls::{Authority, server},
};

/// Requests a second.
const RATE: usize = 500;
/// Answers in a row that tell how requests are spread.
const LAST: usize = 100;

fn backends(outcomes: &[Outcome]) -> BTreeSet<&str> {
    outcomes.iter().rev().take(LAST).map(|outcome| &*outcome.backend).collect()
}

fn none_failed(outcomes: &[Outcome]) {
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.status != 200).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), outcomes.len(), failed.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_takes_effect_with_no_failed_request() {
    let mut spread = Spread::new(3, "strategy: RoundRobin").await;
    let pierhead = spread.setup().start().await;
    let load = OpenLoop::start(pierhead.http, RATE, "/x");
    load.reaches(RATE / 2).await;
    let one = "loadBalancing: {strategy: Maglev, hash: {type: Path}}";
    let all = "loadBalancing: {strategy: RoundRobin}";
    for (spec, used) in [
        (one.to_owned(), 1),
        (format!("{all}\n  connections: {{maxRequests: 10, tcpKeepalive: 10s}}"), 3),
        (
            format!(
                "{one}\n  timeouts: {{request: 20s, perTry: 10s}}\n  retries: {{attempts: 5, hedge: {{after: 5s}}}}"
            ),
            1,
        ),
        (format!("{all}\n  sessionAffinity: {{cookie: {{name: seat, ttl: 1h}}}}\n  serverErrors: BadGateway"), 3),
    ] {
        spread.set_policy(&spec);
        pierhead.write(spread.manifests(0..3));
        let before = load.so_far(<[_]>::len);
        eventually(&format!("effect of {spec}"), async || {
            load.so_far(|outcomes| outcomes.len() > before + LAST && backends(outcomes).len() == used).then_some(())
        })
        .await;
    }
    none_failed(&load.stop().await);
}

/// Whether the policy in force acts, by what is known of the backend and the last request to each endpoint.
type Acts = fn(&Value, &[Value]) -> bool;

const TRUST: &str = "tls: {hostname: cart.internal, caCertificateRefs: [{kind: ConfigMap, name: ca}]}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_endpoints_outlives_every_change() {
    let authority = Authority::new();
    let tls = Some(server(&authority.issue(&["cart.internal"])));
    let speaks = Speaks { tls, anything: true, ..Speaks::default() };
    let mut backends = Vec::new();
    for name in ["0", "1", "2"] {
        backends.push(Backend::speaking(name, speaks.clone()).await);
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let manifests = |spec: &str| governed(&addresses, spec) + &authority.config_map("ca");
    let pierhead = Pierhead::serving(manifests("loadBalancing: {strategy: RoundRobin}")).await;
    let http = pierhead.http;
    let held = tokio::spawn(async move { get(http, "a.example", "/slow").await });
    let busy = async || backends.iter().position(|backend| backend.most_waiting() > 0);
    let busy = addresses[eventually("a request that stays", busy).await].to_string();
    let load = OpenLoop::start(http, RATE, "/x");
    let each: [(&str, Acts); 7] = [
        ("limits: {maxConcurrentRequests: 5000}", |known, _| known["limit"] == 5000),
        ("health: {outlier: {consecutiveErrors: 3}}", |known, _| known["settings"].to_string().contains("\"outlier\"")),
        ("loadBalancing: {subset: {size: 3}}", |known, _| known["settings"].to_string().contains("\"subset\"")),
        ("protocol: H2C", |_, last| last.iter().all(|seen| seen["version"] == "HTTP/2.0")),
        (TRUST, |_, last| last.iter().all(|seen| seen["serverName"] == "cart.internal")),
        ("proxyProtocol: V2", |_, last| last.iter().all(|seen| seen["proxied"].is_string())),
        ("protocol: HTTP1", |_, last| last.iter().all(|seen| seen["proxied"].is_null())),
    ];
    for (spec, acts) in each {
        pierhead.write(manifests(spec));
        eventually(&format!("effect of {spec}"), async || {
            let known = get(pierhead.admin, "admin", "/debug/backends").await.json()[0].clone();
            let mut endpoints = known["endpoints"].as_array().unwrap().iter();
            let of = endpoints.find(|endpoint| endpoint["address"] == busy).unwrap();
            assert!(of["inFlight"].as_u64() >= Some(1), "{spec}: what is in flight is forgotten: {known}");
            let last: Vec<Value> = backends.iter().map(Backend::last).collect();
            acts(&known, &last).then_some(())
        })
        .await;
        load.reaches(load.offered() + RATE / 2).await;
    }
    backends.iter().for_each(Backend::release);
    assert_eq!(held.await.unwrap().status, 200, "the request that was held all the time is answered");
    none_failed(&load.stop().await);
}
