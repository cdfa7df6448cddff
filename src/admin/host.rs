//! Whose name the admin port answers to: what it shows is for the operator, not for pages of others in their browser.
//!
//! By DNS rebinding a page of a stranger reaches ports of the machine that shows it, under the stranger's own name. Names
//! that strangers can have are refused; addresses and local names, which kubectl and probes use, are not.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State as Shared},
    http::{HeaderValue, StatusCode, header::HOST, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Answers 421 to names that are not ours.
pub(super) async fn check(Shared(names): Shared<Arc<[String]>>, request: Request, next: Next) -> Response {
    // The name in an absolute target, and that of the header; without either it is no browser.
    let target = request.uri().authority().is_none_or(|authority| is_ours(authority.as_str(), &names));
    let is_of_us = |host: &HeaderValue| host.to_str().is_ok_and(|host| is_ours(host, &names));
    if target && request.headers().get_all(HOST).iter().all(is_of_us) {
        return next.run(request).await;
    }
    let told = "this is no name of the admin port: use an address or localhost, or start with --admin-host NAME\n";
    (StatusCode::MISDIRECTED_REQUEST, told).into_response()
}

/// An address, a name that nobody outside can register, or one of `names`.
fn is_ours(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let local =
        !name.contains('.') || [".localhost", ".svc", ".svc.cluster.local"].iter().any(|end| name.ends_with(end));
    local || address.parse::<IpAddr>().is_ok() || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_strangers_can_have_are_refused() {
        let names = ["ops.example".to_owned()];
        let cases = [
            ("127.0.0.1:9090", true),
            ("10.1.2.3", true),
            ("[::1]:9090", true),
            ("localhost:8080", true),
            ("LOCALHOST", true),
            ("pierhead.localhost", true),
            ("pierhead-admin", true),
            ("pierhead-admin.edge.svc:9090", true),
            ("pierhead-admin.edge.svc.cluster.local.", true),
            ("ops.example", true),
            ("OPS.example:9090", true),
            ("evil.example", false),
            ("x.svc.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("not a host", false),
        ];
        for (host, expected) in cases {
            assert_eq!(is_ours(host, &names), expected, "{host}");
        }
    }
}
