//! What a policy acts on: the Services, or the ports of them, that it targets.

use crate::support::{
    backend::Backend,
    client::get,
    manifests::{backend_policy, ingress, service},
    pierhead::{Pierhead, Setup},
};

/// `/one` and `/two` go to Services of these names, `/admin` to another port of the first; each fails with 500.
async fn manifests() -> (Backend, String) {
    let failing = Backend::start("failing").await;
    failing.set_failure(Some(500));
    let address = failing.address;
    let rules =
        ingress("main").host("a.example").prefix("/one", "one").prefix("/admin", "one:81").prefix("/two", "two");
    let ports = |text: String| {
        let named = text
            .replace("ports: [{port: 80, protocol: TCP}]", "ports: [{name: web, port: 80}, {name: admin, port: 81}]");
        let port = address.port();
        named.replace(
            &format!("ports: [{{port: {port}, protocol: TCP}}]"),
            &format!(
                "ports: [{{name: web, port: {port}, protocol: TCP}}, {{name: admin, port: {port}, protocol: TCP}}]"
            ),
        )
    };
    let services = ports(service("one", &[address])) + &service("two", &[address]);
    (failing, rules.to_string() + &services)
}

/// Statuses of `/one`, `/admin` and `/two`; 502 where the policy acts.
async fn statuses(pierhead: &Pierhead) -> [u16; 3] {
    let mut statuses = [0; 3];
    for (status, path) in statuses.iter_mut().zip(["/one", "/admin", "/two"]) {
        *status = get(pierhead.http, "a.example", path).await.status;
    }
    statuses
}

#[tokio::test]
async fn a_policy_acts_on_the_service_that_it_names() {
    let (_failing, manifests) = manifests().await;
    for (service, expected) in [("one", [502, 502, 500]), ("two", [500, 500, 502])] {
        let pierhead =
            Pierhead::serving(manifests.clone() + &backend_policy(service, "serverErrors: BadGateway")).await;
        assert_eq!(statuses(&pierhead).await, expected, "{service}");
    }
}

#[tokio::test]
async fn a_policy_of_a_port_acts_on_that_port_only() {
    let (_failing, manifests) = manifests().await;
    for (port, expected) in [("web", [502, 500, 500]), ("admin", [500, 502, 500])] {
        let policy = backend_policy("one", "serverErrors: BadGateway")
            .replace("name: one}]", &format!("name: one, sectionName: {port}}}]"));
        let pierhead = Pierhead::serving(manifests.clone() + &policy).await;
        assert_eq!(statuses(&pierhead).await, expected, "{port}");
    }
}

#[tokio::test]
async fn a_target_of_another_kind_or_group_is_told_and_changes_nothing() {
    let (_failing, manifests) = manifests().await;
    let policy = backend_policy("one", "serverErrors: BadGateway");
    for (field, other) in [
        ("group", policy.replace("group: \"\"", "group: example.org")),
        ("kind", policy.replace("kind: Service", "kind: Pod")),
    ] {
        let pierhead = Setup::default().manifests(manifests.clone() + &other).flawed().start().await;
        assert_eq!(statuses(&pierhead).await, [500; 3], "{field}");
        pierhead.told(field, |line| line["origin"] == "BackendPolicy default/one").await;
    }
}
