//! Plain HTTP to HTTPS, by 308 so that method and body survive (RFC 9110 §15.4.9).

use serde::Serialize;

use super::{Head, Redirect};

/// HTTP-01 challenges must be answered on port 80 (RFC 8555 §8.3).
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";

/// Redirects requests that did not come over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpsRedirect {
    /// Drop the redirect on hosts that no certificate was named for.
    pub only_with_tls: bool,
    /// Port to name in `Location`; None for 443.
    pub port: Option<u16>,
}

impl HttpsRedirect {
    /// The redirect, unless the request is secure or an ACME challenge.
    pub fn apply(&self, head: &Head<'_>) -> Option<Redirect> {
        if head.secure || head.path.starts_with(ACME_CHALLENGE) {
            return None;
        }
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let query = head.query.map_or(String::new(), |query| format!("?{query}"));
        let location = format!("https://{}{port}{}{query}", head.host, head.path);
        Some(Redirect { status: 308, location })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(secure: bool, path: &str) -> Head<'_> {
        Head { secure, host: "a.example", path, query: Some("q=1") }
    }

    #[test]
    fn plain_requests_are_sent_to_https_with_path_and_query() {
        let redirect = HttpsRedirect { only_with_tls: true, port: None };
        let location = redirect.apply(&head(false, "/x")).map(|r| (r.status, r.location));
        assert_eq!(location, Some((308, "https://a.example/x?q=1".to_owned())));
    }

    #[test]
    fn a_port_other_than_443_is_named() {
        let redirect = HttpsRedirect { only_with_tls: true, port: Some(8443) };
        assert_eq!(redirect.apply(&head(false, "/")).unwrap().location, "https://a.example:8443/?q=1");
    }

    #[test]
    fn secure_requests_and_acme_challenges_pass() {
        let redirect = HttpsRedirect { only_with_tls: true, port: None };
        assert_eq!(redirect.apply(&head(true, "/x")), None);
        assert_eq!(redirect.apply(&head(false, "/.well-known/acme-challenge/token")), None);
    }
}
