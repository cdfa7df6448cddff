//! A kind that may not be read, and one that is not installed: it is told, the rest is served, nothing unprotected is.

use pierhead::sources::kubernetes::rights::{self, Place, Right};
use serde_json::{Value, json};

use crate::{
    status::has_addresses,
    support::{Cases, Cluster, Pierhead, Scene, certificate, eventually, ingress, policy, tls_secret},
};

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    let shipped = cluster.get("", "ClusterRole", "pierhead").await["rules"].clone();
    cases.run("without_secrets_hosts_show_the_default_certificate", without_secrets(cluster, &shipped)).await;
    cases.run("without_config_maps_only_who_verifies_by_one_is_closed", without_config_maps(cluster, &shipped)).await;
    for resource in ["endpointslices", "services"] {
        let name = format!("without_{resource}_routes_answer_503_and_redirects_work");
        cases.run(&name, without_backends(cluster, &shipped, resource)).await;
    }
    cases.run("without_policies_nothing_is_sent_that_one_may_protect", without_policies(cluster, &shipped)).await;
    cases.run("a_policy_kind_that_is_not_installed_needs_no_right", no_kind_no_right(cluster, &shipped)).await;
    cases.run("policies_act_once_their_kind_is_installed", installed_later(cluster)).await;
    cases.run("without_classes_their_names_count", without_classes(cluster, &shipped)).await;
    cases.run("without_ingresses_there_is_nothing_to_be_ready_for", without_ingresses(cluster, &shipped)).await;
    cases.run("without_namespaces_none_is_selected", without_namespaces(cluster, &shipped)).await;
    cases.run("roles_in_namespaces_suffice", roles_alone(cluster)).await;
    cases.run("a_namespace_without_a_role_takes_nothing_from_the_others", one_role_missing(cluster)).await;
}

/// Two hosts, the second of them with TLS, to one backend.
struct Site<'a> {
    scene: Scene<'a>,
    plain: String,
    secure: String,
    certificate: Vec<u8>,
}

impl<'a> Site<'a> {
    async fn new(cluster: &'a Cluster) -> Self {
        let mut scene = cluster.scene().await;
        scene.backends(&["a", "b"]).await;
        let (plain, secure) = (scene.host("www"), scene.host("tls"));
        let (chain, key, certificate) = certificate(&[&secure]);
        scene.apply(tls_secret("pair", &chain, &key)).await;
        scene.apply(ingress("plain").host(&plain).prefix("/", "a:80").prefix("/b", "b:80")).await;
        scene.apply(ingress("secure").host(&secure).prefix("/", "a:80").tls(&[&secure], "pair")).await;
        Self { scene, plain, secure, certificate }
    }

    /// The certificate shown is that of the Secret, or it is not.
    async fn shows_own(&self, pierhead: &Pierhead, own: bool) {
        eventually(&format!("it shows the certificate of the Secret: {own}"), async || {
            let (reply, shown) = pierhead.get_tls(&self.secure, "/").await?;
            let as_wanted = reply.backend == "a" && (shown == self.certificate) == own;
            if as_wanted { Ok(()) } else { Err(format!("{reply:?}")) }
        })
        .await;
    }
}

/// Takes a resource out of the shipped rights.
async fn take_away(cluster: &Cluster, shipped: &Value, resource: &str) {
    let mut rules = shipped.clone();
    for rule in rules.as_array_mut().expect("a list") {
        rule["resources"].as_array_mut().expect("a list").retain(|granted| granted != resource);
    }
    rules.as_array_mut().expect("a list").retain(|rule| rule["resources"] != json!([]));
    assert_ne!(rules, *shipped, "{resource} is in the shipped rights");
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": rules})).await;
}

async fn grant(cluster: &Cluster, shipped: &Value) {
    cluster.merge("", "ClusterRole", "pierhead", json!({"rules": shipped})).await;
}

/// The log and `/readyz?verbose` name verb, resource and remedy; the log once.
async fn told(pierhead: &Pierhead, right: &Right) {
    let Right { resource, kind, without, .. } = right;
    let grant = format!("grant list and watch on {resource}");
    let refused = format!("cannot list resource \\\"{resource}\\\"");
    let line = eventually("the log names the kind and the remedy", async || {
        let log = pierhead.log();
        let named = |line: &&str| line.contains(&grant) && line.contains(&refused) && line.contains(without);
        log.lines().find(named).map(ToOwned::to_owned).ok_or(log)
    })
    .await;
    assert!(line.contains(&format!("\"kind\":\"{kind}\"")), "{line}");
    eventually("/readyz?verbose names the kind", async || {
        let verbose = pierhead.verbose().await?;
        let failing = format!("[!]watch/{resource} failing since 20");
        let named = |line: &&str| line.starts_with(&failing) && line.contains(&grant);
        if verbose.lines().any(|line| named(&line)) { Ok(()) } else { Err(verbose) }
    })
    .await;
    let count = pierhead.log().lines().filter(|line| line.contains(&grant)).count();
    assert_eq!(count, 1, "it is told once:\n{}", pierhead.log());
}

async fn synced(pierhead: &Pierhead, resource: &str) {
    eventually(&format!("{resource} are followed"), async || {
        let verbose = pierhead.verbose().await?;
        if verbose.contains(&format!("[+]watch/{resource} synced")) { Ok(()) } else { Err(verbose) }
    })
    .await;
}

async fn without_secrets(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    take_away(cluster, shipped, "secrets").await;
    let pierhead = cluster.pierhead("no-secrets", 0, &[]).await;
    told(&pierhead, &rights::SECRETS).await;
    pierhead.answers(&site.plain, "/", "a").await;
    site.shows_own(&pierhead, false).await;
    site.scene.has_event("Ingress", "secure", &["Forbidden", "kind Secret"]).await;
    grant(cluster, shipped).await;
    site.shows_own(&pierhead, true).await;
    synced(&pierhead, "secrets").await;
    pierhead.stop().await;
}

async fn without_config_maps(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    let tls = json!({"tls": {"hostname": "b.example", "caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}]}});
    site.scene.apply(policy("b", "b", tls)).await;
    take_away(cluster, shipped, "configmaps").await;
    let pierhead = cluster.pierhead("no-config-maps", 0, &[]).await;
    told(&pierhead, &rights::CONFIG_MAPS).await;
    pierhead.answers(&site.plain, "/", "a").await;
    pierhead.table(&[(&site.plain, "/b", "503")]).await;
    site.scene.has_event("BackendPolicy", "b", &["Forbidden", "kind ConfigMap"]).await;
    grant(cluster, shipped).await;
    synced(&pierhead, "configmaps").await;
    pierhead.stop().await;
}

async fn without_backends(cluster: &Cluster, shipped: &Value, resource: &str) {
    let site = Site::new(cluster).await;
    take_away(cluster, shipped, resource).await;
    let pierhead = cluster.pierhead(&format!("no-{resource}"), 0, &[]).await;
    let right = if resource == "services" { &rights::SERVICES } else { &rights::ENDPOINT_SLICES };
    told(&pierhead, right).await;
    pierhead.answers(&site.plain, "/", "503").await;
    pierhead.table(&[(&site.secure, "/", "308"), ("nobody.example", "/", "404")]).await;
    site.scene.has_event("Ingress", "plain", &["Forbidden", &format!("kind {}", right.kind)]).await;
    grant(cluster, shipped).await;
    pierhead.answers(&site.plain, "/", "a").await;
    synced(&pierhead, resource).await;
    pierhead.stop().await;
}

async fn without_policies(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    take_away(cluster, shipped, "backendpolicies").await;
    let pierhead = cluster.pierhead("no-policies", 0, &[]).await;
    told(&pierhead, &rights::BACKEND_POLICIES).await;
    pierhead.answers(&site.plain, "/", "503").await;
    pierhead.table(&[(&site.secure, "/", "308"), ("nobody.example", "/", "404")]).await;
    site.scene.has_event("Ingress", "plain", &["Forbidden", "kind BackendPolicy"]).await;
    grant(cluster, shipped).await;
    pierhead.answers(&site.plain, "/", "a").await;
    pierhead.stop().await;
}

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");

async fn no_kind_no_right(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    take_away(cluster, shipped, "backendpolicies").await;
    cluster.control_plane.kubectl(&["delete", "-f", CRDS]).await;
    let pierhead = cluster.pierhead("no-kind-no-right", 0, &[]).await;
    pierhead.answers(&site.plain, "/", "a").await;
    let verbose = pierhead.verbose().await.expect("an answer");
    assert!(verbose.contains("[!]watch/backendpolicies") && verbose.contains("kubectl apply -f crds/"), "{verbose}");
    // Once the kind is there, what may be protected by it is closed.
    cluster.control_plane.kubectl(&["apply", "-f", CRDS]).await;
    pierhead.answers(&site.plain, "/", "503").await;
    grant(cluster, shipped).await;
    pierhead.answers(&site.plain, "/", "a").await;
    pierhead.stop().await;
}

async fn installed_later(cluster: &Cluster) {
    let site = Site::new(cluster).await;
    let closed = policy("closed", "a", json!({"tls": {"hostname": "a.example"}}));
    cluster.control_plane.kubectl(&["delete", "-f", CRDS]).await;
    let pierhead = cluster.pierhead("installed-later", 0, &[]).await;
    pierhead.answers(&site.plain, "/", "a").await;
    let told = || pierhead.log().lines().filter(|line| line.contains("kubectl apply -f crds/")).count();
    assert_eq!(told(), 1, "{}", pierhead.log());
    for _ in 0..2 {
        cluster.control_plane.kubectl(&["apply", "-f", CRDS]).await;
        eventually("the kind is there", async || {
            cluster.try_apply(&site.scene.namespace, closed.clone()).await.map(drop)
        })
        .await;
        // The backend speaks no TLS.
        pierhead.answers(&site.plain, "/", "502").await;
        synced(&pierhead, "backendpolicies").await;
        // The policies go with their kind.
        cluster.control_plane.kubectl(&["delete", "-f", CRDS]).await;
        pierhead.answers(&site.plain, "/", "a").await;
    }
    cluster.control_plane.kubectl(&["apply", "-f", CRDS]).await;
    let wait = ["wait", "--for=condition=Established", "crd/backendpolicies.pierhead.dev", "--timeout=60s"];
    cluster.control_plane.kubectl(&wait).await;
    pierhead.stop().await;
}

async fn without_classes(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    let other = site.scene.host("other");
    site.scene.apply(ingress("other").class(Some("another")).host(&other).prefix("/", "a:80")).await;
    take_away(cluster, shipped, "ingressclasses").await;
    let pierhead = cluster.pierhead("no-classes", 0, &[]).await;
    told(&pierhead, &rights::INGRESS_CLASSES).await;
    pierhead.answers(&site.plain, "/", "a").await;
    pierhead.table(&[(&other, "/", "404")]).await;
    grant(cluster, shipped).await;
    synced(&pierhead, "ingressclasses").await;
    pierhead.table(&[(&site.plain, "/", "a")]).await;
    pierhead.stop().await;
}

async fn without_ingresses(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    take_away(cluster, shipped, "ingresses").await;
    let pierhead = cluster.spawn("no-ingresses", 0, &[]);
    told(&pierhead, &rights::INGRESSES).await;
    assert_eq!(pierhead.readiness().await, Ok(503));
    grant(cluster, shipped).await;
    pierhead.ready().await;
    pierhead.answers(&site.plain, "/", "a").await;
    pierhead.stop().await;
}

async fn without_namespaces(cluster: &Cluster, shipped: &Value) {
    let site = Site::new(cluster).await;
    let label = json!({"metadata": {"labels": {"edge": "here"}}});
    cluster.merge("", "Namespace", &site.scene.namespace, label).await;
    let flags = ["--watch-namespace-selector=edge=here", "--publish-address=192.0.2.9"];
    let pierhead = cluster.spawn("no-namespaces", 0, &flags);
    told(&pierhead, &rights::NAMESPACES).await;
    assert_eq!(pierhead.readiness().await, Ok(503));
    let mut rules = shipped.clone();
    rules.as_array_mut().expect("a list").push(rule(&rights::NAMESPACES, None));
    grant(cluster, &rules).await;
    pierhead.ready().await;
    pierhead.answers(&site.plain, "/", "a").await;
    has_addresses(&site.scene, "plain", "192.0.2.9").await;
    // What we wrote goes with the namespace that leaves the selection.
    let no_label = json!({"metadata": {"labels": {"edge": null}}});
    cluster.merge("", "Namespace", &site.scene.namespace, no_label).await;
    pierhead.answers(&site.plain, "/", "404").await;
    has_addresses(&site.scene, "plain", "").await;
    pierhead.stop().await;
    grant(cluster, shipped).await;
}

fn rule(right: &Right, name: Option<&str>) -> Value {
    let mut rule = json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": right.verbs});
    if let Some(name) = name {
        rule["resourceNames"] = json!([name]);
    }
    rule
}

/// A Role with these rules, bound to the account `pierhead` of the namespace `edge`.
async fn bind(cluster: &Cluster, namespace: &str, rules: Vec<Value>) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "edge"}, "rules": rules,
    });
    cluster.apply(namespace, role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "edge"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "edge"},
        "subjects": [{"kind": "ServiceAccount", "name": "pierhead", "namespace": "edge"}],
    });
    cluster.apply(namespace, binding).await;
}

/// The namespace `edge`: an account of our own, its Lease, and the Service that is published.
async fn edge(cluster: &Cluster) -> std::path::PathBuf {
    cluster.apply("", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edge"}})).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pierhead"}});
    cluster.apply("edge", account).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.7"], "type": "LoadBalancer"},
    });
    cluster.apply("edge", service).await;
    let of_lease = rights::ALL.iter().filter_map(|right| match right.place {
        Place::Lease => Some(rule(right, None)),
        Place::LeaseByName => Some(rule(right, Some("pierhead"))),
        _ => None,
    });
    bind(cluster, "edge", of_lease.chain([rule(&rights::SERVICES, Some("lb"))]).collect()).await;
    cluster.account("edge").await
}

fn of_namespace() -> Vec<Value> {
    rights::ALL.iter().filter(|right| right.place == Place::Watched).map(|right| rule(right, None)).collect()
}

async fn roles_alone(cluster: &Cluster) {
    let account = edge(cluster).await;
    let (one, two, outside) = (Site::new(cluster).await, Site::new(cluster).await, Site::new(cluster).await);
    let (field, annotated) = (one.scene.host("field"), two.scene.host("annotated"));
    one.scene
        .apply(ingress("field").class(Some("team")).host(&field).prefix("/", "a:80").prefix("/no", "gone:80"))
        .await;
    let old = ingress("annotated").class(None).annotation("kubernetes.io/ingress.class", "team");
    two.scene.apply(old.host(&annotated).prefix("/", "b:80")).await;
    let classless = two.scene.host("classless");
    two.scene.apply(ingress("classless").class(None).host(&classless).prefix("/", "a:80")).await;
    bind(cluster, &one.scene.namespace, of_namespace()).await;
    bind(cluster, &two.scene.namespace, of_namespace()).await;
    let watched = format!("--watch-namespace={},{}", one.scene.namespace, two.scene.namespace);
    let flags = ["--ingress-class=team", "--lease-namespace=edge", "--publish-service=edge/lb", &watched];
    let more = [&flags[..], &["--watch-ingress-without-class"]].concat();
    let pierhead = cluster.spawn_as(&account, "roles", 0, &more);
    pierhead.ready().await;
    pierhead.answers(&field, "/", "a").await;
    pierhead.answers(&annotated, "/", "b").await;
    pierhead.answers(&classless, "/", "a").await;
    pierhead.table(&[(&one.plain, "/", "404"), (&outside.plain, "/", "404")]).await;
    has_addresses(&one.scene, "field", "192.0.2.7").await;
    has_addresses(&two.scene, "annotated", "192.0.2.7").await;
    one.scene.has_event("Ingress", "field", &["NotFound", "gone"]).await;
    let verbose = pierhead.verbose().await.expect("an answer");
    assert!(!verbose.contains("[!]") && !verbose.contains("ingressclasses"), "a class is not looked up:\n{verbose}");
    let log = pierhead.log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("optional here")).count(), 1, "{log}");
    pierhead.stop().await;
}

async fn one_role_missing(cluster: &Cluster) {
    let account = edge(cluster).await;
    let (with, without) = (Site::new(cluster).await, Site::new(cluster).await);
    bind(cluster, &with.scene.namespace, of_namespace()).await;
    let watched = format!("--watch-namespace={},{}", with.scene.namespace, without.scene.namespace);
    with.scene.apply(ingress("told").host(&with.scene.host("told")).prefix("/", "gone:80")).await;
    let flags = ["--lease-namespace=edge", "--publish-service=edge/lb", "--update-status=false", &watched];
    let pierhead = cluster.spawn_as(&account, "one-role", 0, &flags);
    pierhead.ready().await;
    pierhead.answers(&with.plain, "/", "a").await;
    pierhead.table(&[(&without.plain, "/", "404")]).await;
    let place = format!("by a Role in namespace {}", without.scene.namespace);
    let verbose = pierhead.verbose().await.expect("an answer");
    let named = |line: &str| line.starts_with("[!]watch/ingresses failing") && line.contains(&place);
    assert!(verbose.lines().any(named), "{verbose}");
    // Status would have been written before the Event.
    with.scene.has_event("Ingress", "told", &["NotFound", "gone"]).await;
    has_addresses(&with.scene, "plain", "").await;
    bind(cluster, &without.scene.namespace, of_namespace()).await;
    pierhead.answers(&without.plain, "/", "a").await;
    pierhead.stop().await;
}
