//! The schema of `BackendPolicy`: what it refuses, how it reads, what its table and its conditions show.

use serde_json::{Value, json};

use crate::{
    status::has_condition,
    support::{Cases, Cluster, certificate, policy},
};

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    cases.run("schema_refuses_nonsense", nonsense(cluster)).await;
    cases.run("schema_takes_every_field", every_field(cluster)).await;
    cases.run("explain_reads_as_documentation", explain(cluster)).await;
    let pierhead = cluster.pierhead("policy", 0, &[]).await;
    cases.run("table_shows_strategy_targets_accepted_and_age", table(cluster)).await;
    cases.run("a_missing_authority_is_told_until_it_is_there", missing_authority(cluster)).await;
    pierhead.stop().await;
}

/// What stands in `spec`, and what the refusal says.
const NONSENSE: &[(&str, &str)] = &[
    ("loadBalancing: {strategy: Fastest}", "spec.loadBalancing.strategy: Unsupported value"),
    ("loadBalancing: {choices: 3}", "choices is for strategies LeastRequest and PeakEwma only"),
    ("loadBalancing: {strategy: PeakEwma, choices: 17}", "spec.loadBalancing.choices"),
    ("loadBalancing: {hash: {type: Path}}", "hash is for strategies ConsistentHash and Maglev only"),
    ("loadBalancing: {strategy: Maglev}", "strategies ConsistentHash and Maglev need a hash"),
    ("loadBalancing: {strategy: Maglev, hash: {type: Body}}", "spec.loadBalancing.hash.type: Unsupported value"),
    ("loadBalancing: {strategy: Maglev, hash: {type: Header}}", "name is needed with type Header, Cookie or Query"),
    ("loadBalancing: {strategy: Maglev, hash: {type: Path, name: x}}", "and refused with Path and SourceIP"),
    ("loadBalancing: {strategy: Maglev, hash: {type: Cookie, name: a;b}}", "name must be a token"),
    (
        "loadBalancing: {strategy: Maglev, hash: {type: Path, boundedLoad: 125}}",
        "boundedLoad is for strategy ConsistentHash only",
    ),
    (
        "loadBalancing: {strategy: ConsistentHash, hash: {type: Path, boundedLoad: 100}}",
        "spec.loadBalancing.hash.boundedLoad",
    ),
    (
        "loadBalancing: {strategy: Maglev, hash: {type: Path}, slowStart: 30s}",
        "slowStart has no effect with strategies that hash",
    ),
    ("loadBalancing: {zone: Far}", "spec.loadBalancing.zone: Unsupported value"),
    ("loadBalancing: {subset: {size: 0}}", "spec.loadBalancing.subset.size"),
    ("sessionAffinity: {cookie: {name: a;b}}", "spec.sessionAffinity.cookie.name"),
    ("sessionAffinity: {cookie: {ttl: 500ms}}", "must be at least 1s"),
    ("sessionAffinity: {cookie: {name: __Secure-a}}", "__Host- or __Secure- needs secure: true"),
    ("sessionAffinity: {cookie: {name: __Host-a, secure: true, path: /x}}", "and with __Host- the path /"),
    ("sessionAffinity: {cookie: {path: x}}", "spec.sessionAffinity.cookie.path"),
    ("sessionAffinity: {cookie: {sameSite: None}}", "sameSite None needs secure: true"),
    ("sessionAffinity: {cookie: {secure: maybe}}", "spec.sessionAffinity.cookie.secure"),
    ("sessionAffinity: {cookie: {mode: Loose}}", "spec.sessionAffinity.cookie.mode: Unsupported value"),
    (
        "{loadBalancing: {strategy: Maglev, hash: {type: Path}}, sessionAffinity: {cookie: {}}}",
        "sessionAffinity has no place beside the strategies ConsistentHash and Maglev",
    ),
    ("protocol: HTTP3", "spec.protocol: Unsupported value"),
    ("tls: {hostname: 10.0.0.1}", "must be a DNS name, not an IP address"),
    ("tls: {hostname: a.example, subjectAltNames: [a.example, 10.0.0.1]}", "must be a DNS name, not an IP address"),
    ("{protocol: H2C, tls: {hostname: a.example}}", "protocol H2C is clear text"),
    ("connections: {maxPerEndpoint: 0}", "spec.connections.maxPerEndpoint"),
    ("connections: {maxPerEndpoint: 5, maxIdlePerEndpoint: 6}", "maxIdlePerEndpoint must not be above maxPerEndpoint"),
    ("connections: {idleTimeout: 1d}", "spec.connections.idleTimeout"),
    ("connections: {maxRequests: -1}", "spec.connections.maxRequests"),
    ("connections: {maxAge: -1s}", "spec.connections.maxAge"),
    ("connections: {tcpKeepalive: x}", "spec.connections.tcpKeepalive"),
    ("limits: {maxConcurrentRequests: 0}", "spec.limits.maxConcurrentRequests"),
    ("limits: {maxPending: 5}", "maxPending needs a limit"),
    ("limits: {maxConcurrentRequests: 5, pendingTimeout: 1s}", "pendingTimeout needs maxPending above zero"),
    ("limits: {adaptive: 1}", "spec.limits.adaptive"),
    ("timeouts: {connect: -1s}", "spec.timeouts.connect"),
    ("timeouts: {connect: 0s}", "must be more than zero"),
    ("timeouts: {responseHead: 1.5s}", "spec.timeouts.responseHead"),
    ("timeouts: {idle: 5}", "spec.timeouts.idle"),
    ("timeouts: {perTry: 3s, request: 2s}", "perTry must not be above request"),
    ("timeouts: {request: 100000s}", "spec.timeouts.request"),
    ("retries: {attempts: 11}", "spec.retries.attempts"),
    ("retries: {retryOn: [Always]}", "spec.retries.retryOn[0]: Unsupported value"),
    ("retries: {retryOn: [StatusCodes]}", "statusCodes is needed with StatusCodes in retryOn"),
    ("retries: {statusCodes: [503]}", "and refused without"),
    ("retries: {retryOn: [StatusCodes], statusCodes: [399]}", "spec.retries.statusCodes[0]"),
    ("retries: {methods: [get]}", "spec.retries.methods[0]"),
    ("retries: {replayBody: 17Mi}", "must be a number of bytes from 0 to 16Mi"),
    ("retries: {replayBody: -1}", "must be a number of bytes from 0 to 16Mi"),
    ("retries: {backoff: {base: 1s}}", "base must not be above max"),
    ("retries: {backoff: {max: x}}", "spec.retries.backoff.max"),
    ("retries: {budget: {percent: 101}}", "spec.retries.budget.percent"),
    ("retries: {budget: {minPerSecond: -1}}", "spec.retries.budget.minPerSecond"),
    ("retries: {hedge: {after: 0s}}", "must be more than zero"),
    ("serverErrors: Hide", "spec.serverErrors: Unsupported value"),
    ("health: {active: {interval: 3s}}", "exactly one of http, tcp and grpc must be given"),
    ("health: {active: {tcp: {}, grpc: {}}}", "exactly one of http, tcp and grpc must be given"),
    ("health: {active: {http: {path: x}}}", "spec.health.active.http.path"),
    ("health: {active: {http: {host: a b}}}", "spec.health.active.http.host"),
    ("health: {active: {http: {expect: [300-200]}}}", "a range must not end below its begin"),
    ("health: {active: {grpc: {service: a b}}}", "spec.health.active.grpc.service"),
    ("health: {active: {tcp: {}, interval: 0s}}", "must be more than zero"),
    ("health: {active: {tcp: {}, timeout: 6s}}", "timeout must not be above interval"),
    ("health: {active: {tcp: {}, healthy: 0}}", "spec.health.active.healthy"),
    ("health: {active: {tcp: {}, unhealthy: 101}}", "spec.health.active.unhealthy"),
    ("health: {active: {tcp: {}, port: 70000}}", "spec.health.active.port"),
    ("health: {outlier: {consecutiveErrors: 0}}", "consecutiveErrors or errorRatio must be above zero"),
    ("health: {outlier: {errorRatio: 101}}", "spec.health.outlier.errorRatio"),
    ("health: {outlier: {minRequests: 0}}", "spec.health.outlier.minRequests"),
    ("health: {outlier: {interval: 0s}}", "must be more than zero"),
    ("health: {outlier: {baseEjection: 10m}}", "baseEjection must not be above maxEjection"),
    ("health: {outlier: {maxEjection: x}}", "spec.health.outlier.maxEjection"),
    ("health: {outlier: {maxEjectedPercent: 101}}", "spec.health.outlier.maxEjectedPercent"),
    ("health: {panicThreshold: 101}", "spec.health.panicThreshold"),
    ("tls: {hostname: '*.example'}", "spec.tls.hostname"),
    ("tls: {hostname: a.example, subjectAltNames: [a_b]}", "spec.tls.subjectAltNames[0]"),
    (
        "tls: {hostname: a.example, caCertificateRefs: [{group: apps, kind: Secret, name: a}]}",
        "spec.tls.caCertificateRefs[0].group",
    ),
    (
        "tls: {hostname: a.example, caCertificateRefs: [{kind: Pod, name: a}]}",
        "spec.tls.caCertificateRefs[0].kind: Unsupported value",
    ),
    ("tls: {hostname: a.example, caCertificateRefs: [{kind: Secret, name: ''}]}", "spec.tls.caCertificateRefs[0].name"),
    ("tls: {hostname: a.example, clientCertificateRef: {group: apps, name: a}}", "spec.tls.clientCertificateRef.group"),
    (
        "tls: {hostname: a.example, clientCertificateRef: {kind: ConfigMap, name: a}}",
        "spec.tls.clientCertificateRef.kind: Unsupported value",
    ),
    ("tls: {hostname: a.example, clientCertificateRef: {name: ''}}", "spec.tls.clientCertificateRef.name"),
    ("proxyProtocol: V3", "spec.proxyProtocol: Unsupported value"),
    ("targetRefs: []", "spec.targetRefs"),
    ("targetRefs: [{kind: Pod, name: a}]", "only kind Service of group \"\" is supported"),
    ("targetRefs: [{group: apps, kind: Service, name: a}]", "only kind Service of group \"\" is supported"),
    ("targetRefs: [{kind: Service, name: ''}]", "spec.targetRefs[0].name"),
    ("targetRefs: [{kind: Service, name: a, sectionName: ''}]", "spec.targetRefs[0].sectionName"),
];

fn read(spec: &str) -> Value {
    serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{spec}: {error}"))
}

async fn nonsense(cluster: &Cluster) {
    let scene = cluster.scene().await;
    let mut wrong = Vec::new();
    for (spec, want) in NONSENSE {
        let spec = read(spec);
        let mut object = policy("wrong", "a", spec.clone());
        if let Some(targets) = spec.get("targetRefs") {
            object["spec"]["targetRefs"] = targets.clone();
        }
        match cluster.try_apply(&scene.namespace, object).await {
            Err(refusal) if refusal.to_string().contains(want) => {}
            Err(refusal) => wrong.push(format!("{spec}: not {want:?} but {refusal}")),
            Ok(_) => wrong.push(format!("{spec} was taken")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Through kubectl, whose YAML is 1.1: a name such as `on` would not get here.
async fn every_field(cluster: &Cluster) {
    let scene = cluster.scene().await;
    let file = cluster.control_plane.dir().join("every-field.yaml");
    std::fs::write(&file, include_str!("every_field.yaml")).expect("a file");
    let path = file.display().to_string();
    cluster.control_plane.kubectl(&["apply", "--validate=strict", "-n", &scene.namespace, "-f", &path]).await;
    let shown = scene.get("BackendPolicy", "full").await;
    assert_eq!(shown["spec"]["retries"]["retryOn"], json!(["Reset", "StatusCodes"]));
    assert_eq!(shown["spec"]["timeouts"]["connect"], "5s", "a default");
}

async fn explain(cluster: &Cluster) {
    let of_spec = cluster.control_plane.kubectl(&["explain", "bp.spec"]).await;
    for part in ["loadBalancing", "How an endpoint is chosen for a request", "When a request is tried again"] {
        assert!(of_spec.contains(part), "{part}: {of_spec}");
    }
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let nested = cluster.control_plane.kubectl(&["explain", "bp.spec.health.outlier.baseEjection"]).await;
    let nested = words(&nested);
    assert!(nested.contains("Time of a first ejection; the n-th in a row lasts n times as long"), "{nested}");
}

async fn table(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(policy("one", "a", json!({"loadBalancing": {"strategy": "PeakEwma"}}))).await;
    scene.apply(policy("two", "gone", json!({}))).await;
    has_condition(&scene, "one", "a Accepted=True/Accepted").await;
    has_condition(&scene, "two", "gone Accepted=False/TargetNotFound").await;
    let table = cluster.control_plane.kubectl(&["get", "bp", "-n", &scene.namespace]).await;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STRATEGY", "TARGETS", "ACCEPTED", "AGE"], "{table}");
    assert_eq!(rows[1][..4], ["one", "PeakEwma", "a", "True"], "{table}");
    assert_eq!(rows[2][..4], ["two", "RoundRobin", "gone", "False"], "{table}");
    assert_eq!(rows[1].len(), 5, "{table}");
}

async fn missing_authority(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let tls = json!({"tls": {"hostname": "a.example", "caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}]}});
    scene.apply(policy("tls", "a", tls)).await;
    has_condition(&scene, "tls", "a Accepted=True/Accepted").await;
    has_condition(&scene, "tls", "a ResolvedRefs=False/InvalidCertificateRef").await;
    let (pem, ..) = certificate(&["ca.example"]);
    let authorities =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": pem}});
    scene.apply(authorities).await;
    has_condition(&scene, "tls", "a ResolvedRefs=True/ResolvedRefs").await;
    scene.delete("ConfigMap", "ca").await;
    has_condition(&scene, "tls", "a ResolvedRefs=False/InvalidCertificateRef").await;
}
