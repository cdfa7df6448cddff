//! Which backend a request reaches: the tables of hosts, paths, classes and backends.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::{Backend, Cases, Cluster, Pierhead, eventually, ingress, service, slice};

/// A path table: rules as type, path and backend; requests as path and the backend or status.
struct Table {
    name: &'static str,
    rules: &'static [(&'static str, &'static str, &'static str)],
    requests: &'static [(&'static str, &'static str)],
}

const TABLES: &[Table] = &[
    Table {
        name: "exact_path",
        rules: &[("Exact", "/foo", "a")],
        requests: &[("/foo", "a"), ("/foo/", "404"), ("/FOO", "404"), ("/bar", "404"), ("/", "404")],
    },
    Table {
        name: "exact_path_with_trailing_slash",
        rules: &[("Exact", "/foo/", "a")],
        requests: &[("/foo/", "a"), ("/foo", "404")],
    },
    Table {
        name: "prefix_path",
        rules: &[("Prefix", "/foo", "a")],
        requests: &[("/foo", "a"), ("/foo/", "a"), ("/foo/x", "a"), ("/FOO", "404"), ("/foobar", "404")],
    },
    Table {
        name: "prefix_path_with_trailing_slash",
        rules: &[("Prefix", "/foo/", "a")],
        requests: &[("/foo", "a"), ("/foo/", "a"), ("/foo/x", "a"), ("/FOO", "404"), ("/foobar", "404")],
    },
    Table {
        name: "prefix_matches_whole_elements",
        rules: &[("Prefix", "/aaa/bbb", "a")],
        requests: &[("/aaa/bbb/ccc", "a"), ("/aaa/bbbxyz", "404")],
    },
    Table {
        name: "longest_prefix_wins",
        rules: &[("Prefix", "/", "a"), ("Prefix", "/aaa", "b"), ("Prefix", "/aaa/bbb", "c")],
        requests: &[("/aaa/ccc", "b"), ("/aaa/bbb", "c"), ("/ccc", "a")],
    },
    Table {
        name: "exact_beats_prefix",
        rules: &[("Prefix", "/foo", "a"), ("Exact", "/foo", "b")],
        requests: &[("/foo", "b"), ("/foo/", "a")],
    },
    Table {
        name: "exact_root_beats_prefix_root",
        rules: &[("Prefix", "/", "a"), ("Exact", "/", "b")],
        requests: &[("/", "b"), ("/x", "a")],
    },
    Table {
        name: "implementation_specific_is_a_weaker_prefix",
        rules: &[
            ("ImplementationSpecific", "/foo", "a"),
            ("Prefix", "/foo", "b"),
            ("ImplementationSpecific", "/i", "c"),
        ],
        requests: &[("/foo", "b"), ("/foo/x", "b"), ("/i/x", "c"), ("/ix", "404")],
    },
    Table {
        name: "path_in_normal_form",
        rules: &[("Prefix", "/a/b", "a"), ("Prefix", "/c", "b")],
        requests: &[
            ("/x/../a/b", "a"),
            ("/%61/b", "a"),
            ("/a//b", "a"),
            ("/c/../a/b?q=../..", "a"),
            ("/a%2Fb", "404"),
            ("/c/%2e%2e%2fa", "400"),
            ("/c/%00", "400"),
        ],
    },
];

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    let pierhead = cluster.pierhead("routing", 0, &[]).await;
    for table in TABLES {
        cases.run(table.name, path_table(cluster, &pierhead, table)).await;
    }
    cases.run("hosts", hosts(cluster, &pierhead)).await;
    cases.run("default_backends", default_backends(cluster, &pierhead)).await;
    cases.run("class_rules", class_rules(cluster, &pierhead)).await;
    cases.run("default_class", default_class(cluster, &pierhead)).await;
    cases.run("oldest_claim_wins_until_it_goes", conflicts(cluster, &pierhead)).await;
    cases.run("ports_by_name_and_number", ports(cluster, &pierhead)).await;
    cases.run("missing_backends_answer_503", missing(cluster, &pierhead)).await;
    cases.run("terminating_endpoints_are_the_last_resort", terminating(cluster, &pierhead)).await;
    cases.run("explain_reads_the_objects_once_and_says_why", explained(cluster, &pierhead)).await;
    cases
        .run("nothing_is_forbidden_to_us", async {
            assert!(!pierhead.log().to_lowercase().contains("forbidden"), "{}", pierhead.log());
        })
        .await;
}

async fn path_table(cluster: &Cluster, pierhead: &Pierhead, table: &Table) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "b", "c", "live"]).await;
    let host = scene.host("paths");
    let rules = table.rules.iter().fold(ingress("paths").host(&host), |ingress, (kind, path, backend)| {
        ingress.path(kind, path, &format!("{backend}:80"))
    });
    scene.apply(rules.exact("/is-live", "live:80")).await;
    pierhead.answers(&host, "/is-live", "live").await;
    let rows: Vec<_> = table.requests.iter().map(|(path, want)| (host.as_str(), *path, *want)).collect();
    pierhead.table(&rows).await;
}

async fn hosts(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["exact", "wild", "any"]).await;
    let (host, zone) = (scene.host("www"), scene.host("x").replacen("x.", "", 1));
    scene.apply(ingress("wild").host(&format!("*.{zone}")).prefix("/", "wild:80")).await;
    scene.apply(ingress("exact").host(&host).prefix("/only", "exact:80")).await;
    pierhead.answers(&host, "/only", "exact").await;
    pierhead.answers(&format!("bar.{zone}"), "/", "wild").await;
    pierhead
        .table(&[
            (&zone, "/", "404"),
            (&format!("a.b.{zone}"), "/", "404"),
            // The host is chosen before the path: no way from an exact host to a wildcard.
            (&host, "/other", "404"),
            (&host.to_uppercase(), "/only", "exact"),
            (&format!("{host}:8080"), "/only", "exact"),
            (&format!("{host}."), "/only", "exact"),
        ])
        .await;
    scene.apply(ingress("any").host("").prefix("/", "any:80")).await;
    pierhead.answers("unknown.example", "/", "any").await;
    pierhead.table(&[(&zone, "/", "any"), (&host, "/other", "404"), (&format!("bar.{zone}"), "/", "wild")]).await;
    scene.delete("Ingress", "any").await;
    pierhead.answers("unknown.example", "/", "404").await;
}

async fn default_backends(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "own", "all"]).await;
    let host = scene.host("default");
    scene.apply(ingress("with").host(&host).prefix("/a", "a:80").default_backend("own:80")).await;
    pierhead.answers(&host, "/a", "a").await;
    pierhead.table(&[(&host, "/b", "own"), ("unknown.example", "/", "404")]).await;
    scene.apply(ingress("all").default_backend("all:80")).await;
    pierhead.answers("unknown.example", "/", "all").await;
    pierhead.table(&[(&host, "/b", "own")]).await;
    scene.delete("Ingress", "all").await;
    pierhead.answers("unknown.example", "/", "404").await;
}

async fn class_rules(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = |name: &str| scene.host(name);
    let other = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "other"},
        "spec": {"controller": "example.net/other"},
    });
    cluster.apply("", other).await;
    let of = |name: &str| ingress(name).host(&host(name)).prefix("/", "a:80");
    scene.apply(of("other").class(Some("other"))).await;
    scene.apply(of("unknown").class(Some("unknown"))).await;
    scene.apply(of("none").class(None)).await;
    scene.apply(of("legacy-other").class(None).annotation("kubernetes.io/ingress.class", "other")).await;
    scene.apply(of("legacy").class(None).annotation("kubernetes.io/ingress.class", "pierhead")).await;
    scene.apply(of("ours")).await;
    pierhead.answers(&host("ours"), "/", "a").await;
    pierhead.answers(&host("legacy"), "/", "a").await;
    for not_ours in ["other", "unknown", "none", "legacy-other"] {
        pierhead.table(&[(&host(not_ours), "/", "404")]).await;
    }
    cluster.delete("", "IngressClass", "other").await;
}

async fn default_class(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("classless");
    // Admission fills in the default class, so the Ingress has to be there before the class is the default.
    scene.apply(ingress("classless").class(None).host(&host).prefix("/", "a:80")).await;
    let default = |value: serde_json::Value| json!({"metadata": {"annotations": {"ingressclass.kubernetes.io/is-default-class": value}}});
    cluster.merge("", "IngressClass", "pierhead", default("true".into())).await;
    pierhead.answers(&host, "/", "a").await;
    cluster.merge("", "IngressClass", "pierhead", default(serde_json::Value::Null)).await;
    pierhead.answers(&host, "/", "404").await;
}

async fn conflicts(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "b", "own"]).await;
    let host = scene.host("conflict");
    // The older one is last by name, so that age and name do not agree.
    scene.apply(ingress("z-older").host(&host).prefix("/", "a:80")).await;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    // Creation times are whole seconds.
    eventually("a second has passed", async || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        if now > created { Ok(()) } else { Err(now) }
    })
    .await;
    scene.apply(ingress("a-newer").host(&host).prefix("/", "b:80").prefix("/own", "own:80")).await;
    pierhead.answers(&host, "/own", "own").await;
    pierhead.table(&[(&host, "/", "a")]).await;
    scene.has_event("Ingress", "a-newer", &["Conflict", "z-older"]).await;
    scene.delete("Ingress", "z-older").await;
    pierhead.answers(&host, "/", "b").await;
}

async fn ports(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a", "headless"]).await;
    let host = scene.host("ports");
    // A Service cannot change to headless, so it is made anew.
    scene.delete("Service", "headless").await;
    let mut headless = service("headless");
    headless["spec"]["clusterIP"] = "None".into();
    scene.apply(headless).await;
    let paths = ingress("ports").host(&host).prefix("/number", "a:80").prefix("/name", "a:http");
    scene.apply(paths.prefix("/headless", "headless:80")).await;
    pierhead.answers(&host, "/number", "a").await;
    pierhead.answers(&host, "/name", "a").await;
    pierhead.answers(&host, "/headless", "headless").await;
}

async fn missing(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    scene.apply(service("empty")).await;
    let host = scene.host("missing");
    let paths = ingress("missing").host(&host).prefix("/", "a:80").prefix("/service", "gone:80");
    scene.apply(paths.prefix("/port", "a:81").prefix("/empty", "empty:80")).await;
    pierhead.answers(&host, "/", "a").await;
    pierhead.table(&[(&host, "/service", "503"), (&host, "/port", "503"), (&host, "/empty", "503")]).await;
    scene.has_event("Ingress", "missing", &["NotFound", "gone"]).await;
    scene.has_event("Ingress", "missing", &["PortNotFound", "81"]).await;
}

async fn terminating(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = scene.host("terminating");
    scene.apply(ingress("terminating").host(&host).prefix("/", "a:80")).await;
    pierhead.answers(&host, "/", "a").await;
    let leaving = Backend::start("leaving").await;
    let mut both = slice("a", &[&leaving, scene.backend("a")]);
    both["endpoints"][0]["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    both["endpoints"][1]["conditions"] = json!({"ready": false, "serving": false, "terminating": true});
    scene.apply(both.clone()).await;
    pierhead.answers(&host, "/", "leaving").await;
    both["endpoints"][1]["conditions"] = json!({"ready": true, "serving": true, "terminating": false});
    scene.apply(both.clone()).await;
    pierhead.answers(&host, "/", "a").await;
    both["endpoints"] = json!([]);
    scene.apply(both).await;
    pierhead.answers(&host, "/", "503").await;
}

/// `pierhead explain --kubernetes`, with the rights of the controller and no process asked.
async fn explained(cluster: &Cluster, pierhead: &Pierhead) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let (host, other) = (scene.host("explained"), scene.host("of-another"));
    scene.apply(ingress("other").class(Some("nobody")).host(&other).prefix("/", "a:80")).await;
    scene.apply(ingress("first").host(&host).prefix("/cart", "a:80")).await;
    pierhead.answers(&host, "/cart", "a").await;
    let explain = async |url: &str| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_pierhead"))
            .args(["explain", url, "--kubernetes", "-o", "json"])
            .env("KUBECONFIG", &cluster.kubeconfig)
            .output()
            .await
            .expect("the binary starts");
        let parsed = serde_json::from_slice(&output.stdout);
        let explained: serde_json::Value = parsed.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), explained)
    };
    let (code, explained) = explain(&format!("http://{host}/cart/x")).await;
    assert_eq!((code, &explained["answer"]["by"]), (Some(0), &"backend".into()), "{explained}");
    let route = &explained["route"];
    assert!(route["origin"].as_str().is_some_and(|origin| origin.ends_with("/first")), "{route}");
    assert!(route["created"].as_str().is_some_and(|created| created.ends_with('Z')), "{route}");
    let (code, explained) = explain(&format!("http://{host}/cartoon")).await;
    assert_eq!((code, &explained["answer"]["reason"]), (Some(1), &"no_route".into()), "{explained}");
    let (_, explained) = explain(&format!("http://{other}/")).await;
    assert!(explained["near"].to_string().contains("of class nobody"), "{explained}");
}
