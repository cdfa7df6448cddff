//! The table of annotations: one row says what a key does, reads it and describes it.
//!
//! Nothing that is written is dropped in silence: a key that would protect the route makes it answer 503 until it is
//! supported, any other that has no effect is told.

use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;

use crate::model::{BackendTarget, ProblemKind, Protocol};

/// What the annotations of an Ingress ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Redirect plain HTTP where the host has TLS; None for the setting.
    pub(super) ssl_redirect: Option<bool>,
    /// Redirect plain HTTP even where the host has no certificate.
    pub(super) force_ssl_redirect: bool,
    /// Protocol of the backend; None for the Service's own.
    pub(super) protocol: Option<Protocol>,
    /// Which addresses of the Service are used.
    pub(super) target: BackendTarget,
    /// Whether something that protects the routes cannot be honoured.
    pub(super) protection: Protection,
    /// Whether the Ingress only adds to the routes of another one.
    pub(super) role: Role,
}

/// Whether all that is asked to protect the routes is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protection {
    /// It is, or nothing is asked.
    #[default]
    Complete,
    /// It is not: the routes must not be served.
    Missing,
}

/// What an Ingress is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// Its rules are routes.
    #[default]
    Main,
    /// Its rules are a share of the routes of another Ingress.
    Canary,
}

/// One row of the table.
struct Annotation {
    /// Key below a prefix.
    name: &'static str,
    /// Who has this key.
    prefixes: Prefixes,
    /// What it does.
    effect: Effect,
    /// What it is for, in one line.
    doc: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefixes {
    /// `pierhead.dev/` and `nginx.ingress.kubernetes.io/`.
    Both,
    /// `nginx.ingress.kubernetes.io/` only.
    Nginx,
}

enum Effect {
    /// Sets an option; the error says what was expected.
    Sets(fn(&mut Options, &str) -> Result<(), &'static str>),
    /// Protects the route when the function says so of the value; that cannot be honoured.
    Protects(fn(&str) -> bool),
}

const NGINX: &str = "nginx.ingress.kubernetes.io/";
const OWN: &str = "pierhead.dev/";
const BOOL: &str = "true or false";

const fn sets(
    name: &'static str,
    doc: &'static str,
    set: fn(&mut Options, &str) -> Result<(), &'static str>,
) -> Annotation {
    Annotation { name, prefixes: Prefixes::Both, effect: Effect::Sets(set), doc }
}

const fn protects(name: &'static str, doc: &'static str, when: fn(&str) -> bool) -> Annotation {
    // Under our own prefix too: whoever moves manifests over by their prefix must not lose the protection.
    Annotation { name, prefixes: Prefixes::Both, effect: Effect::Protects(when), doc }
}

/// The rows with an effect. What stands in [`IGNORED`] has none.
const TABLE: &[Annotation] = &[
    sets("ssl-redirect", "Redirects plain HTTP with 308 where the host has TLS.", |options, value| {
        options.ssl_redirect = Some(boolean(value).ok_or(BOOL)?);
        Ok(())
    }),
    sets(
        "force-ssl-redirect",
        "Redirects plain HTTP with 308 even where the host has no TLS here.",
        |options, value| {
            options.force_ssl_redirect = boolean(value).ok_or(BOOL)?;
            Ok(())
        },
    ),
    sets("backend-protocol", "Protocol of the backend: HTTP, HTTPS, GRPC, GRPCS or H2C.", |options, value| {
        options.protocol = Some(protocol(value).ok_or("HTTP, HTTPS, GRPC, GRPCS or H2C")?);
        Ok(())
    }),
    sets(
        "service-upstream",
        "Sends to the cluster IP of the Service rather than to its endpoints.",
        |options, value| {
            options.target =
                if boolean(value).ok_or(BOOL)? { BackendTarget::ClusterIp } else { BackendTarget::Endpoints };
            Ok(())
        },
    ),
    Annotation {
        name: "canary",
        prefixes: Prefixes::Nginx,
        effect: Effect::Sets(|options, value| {
            options.role = if boolean(value).ok_or(BOOL)? { Role::Canary } else { Role::Main };
            Ok(())
        }),
        doc: "Marks the Ingress as a share of another one's routes. Not supported: its routes are left out.",
    },
    protects("auth-url", "Asks another service whether the request may pass.", given),
    protects("auth-type", "Basic or digest authentication.", given),
    protects("auth-secret", "Secret with users and passwords.", given),
    protects("auth-secret-type", "Shape of that Secret.", given),
    protects("auth-realm", "Realm of the authentication.", given),
    protects("auth-method", "Method of the authentication request.", given),
    protects("auth-signin", "Where to go to sign in.", given),
    protects("auth-signin-redirect-param", "Parameter with the way back from there.", given),
    protects("auth-response-headers", "Fields of the authentication response to pass on.", given),
    protects("auth-request-redirect", "Value of X-Auth-Request-Redirect.", given),
    protects("auth-proxy-set-headers", "ConfigMap of fields for the authentication request.", given),
    protects("auth-always-set-cookie", "Sets the authentication's cookie on every status.", given),
    protects("auth-cache-key", "Key under which authentication responses are kept.", given),
    protects("auth-cache-duration", "How long authentication responses are kept.", given),
    protects("auth-keepalive", "Idle connections to the authentication service.", given),
    protects("auth-keepalive-requests", "Requests for each of them.", given),
    protects("auth-keepalive-timeout", "How long they stay idle.", given),
    protects("auth-keepalive-share-vars", "Shares variables with the authentication request.", given),
    protects("auth-snippet", "Raw configuration of the authentication request.", given),
    protects("auth-tls-secret", "Certificate authority of client certificates.", given),
    protects("auth-tls-verify-client", "Whether a client certificate is required.", on),
    protects("auth-tls-verify-depth", "Length of the client's certificate chain.", given),
    protects("auth-tls-error-page", "Where to go without a client certificate.", given),
    protects("auth-tls-match-cn", "Common name that a client certificate must have.", given),
    protects("auth-tls-pass-certificate-to-upstream", "Passes the client certificate to the backend.", on),
    protects("whitelist-source-range", "Addresses that may pass (older name).", given),
    protects("allowlist-source-range", "Addresses that may pass.", given),
    protects("denylist-source-range", "Addresses that may not pass.", given),
    protects("satisfy", "Whether all or any of the checks must pass.", given),
    protects("limit-rps", "Requests a second of one client.", positive),
    protects("limit-rpm", "Requests a minute of one client.", positive),
    protects("limit-connections", "Connections of one client.", positive),
    protects("limit-rate", "Bytes a second of one response.", positive),
    protects("enable-modsecurity", "Web application firewall.", on),
    protects("enable-owasp-core-rules", "Its rule set.", on),
    protects("modsecurity-snippet", "Raw configuration of the firewall.", given),
    protects("proxy-ssl-verify", "Verifies the certificate of the backend.", on),
    protects("configuration-snippet", "Raw configuration of the location.", restricts),
    protects("server-snippet", "Raw configuration of the host.", restricts),
];

/// Keys of ingress-nginx that protect nothing and have no effect here, in alphabetical order.
const IGNORED: &[&str] = &[
    "affinity",
    "affinity-canary-behavior",
    "affinity-mode",
    "app-root",
    "canary-by-cookie",
    "canary-by-header",
    "canary-by-header-pattern",
    "canary-by-header-value",
    "canary-weight",
    "canary-weight-total",
    "client-body-buffer-size",
    "connection-proxy-header",
    "cors-allow-credentials",
    "cors-allow-headers",
    "cors-allow-methods",
    "cors-allow-origin",
    "cors-expose-headers",
    "cors-max-age",
    "custom-headers",
    "custom-http-errors",
    "default-backend",
    "disable-proxy-intercept-errors",
    "enable-access-log",
    "enable-cors",
    "enable-global-auth",
    "enable-opentelemetry",
    "enable-rewrite-log",
    "fastcgi-index",
    "fastcgi-params-configmap",
    "from-to-www-redirect",
    "http2-push-preload",
    "limit-allowlist",
    "limit-burst-multiplier",
    "limit-rate-after",
    "limit-whitelist",
    "load-balance",
    "mirror-host",
    "mirror-request-body",
    "mirror-target",
    "modsecurity-transaction-id",
    "opentelemetry-operation-name",
    "opentelemetry-trust-incoming-span",
    "permanent-redirect",
    "permanent-redirect-code",
    "preserve-trailing-slash",
    "proxy-body-size",
    "proxy-buffer-size",
    "proxy-buffering",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-connect-timeout",
    "proxy-cookie-domain",
    "proxy-cookie-path",
    "proxy-http-version",
    "proxy-max-temp-file-size",
    "proxy-next-upstream",
    "proxy-next-upstream-timeout",
    "proxy-next-upstream-tries",
    "proxy-read-timeout",
    "proxy-redirect-from",
    "proxy-redirect-to",
    "proxy-request-buffering",
    "proxy-send-timeout",
    "proxy-ssl-ciphers",
    "proxy-ssl-name",
    "proxy-ssl-protocols",
    "proxy-ssl-secret",
    "proxy-ssl-server-name",
    "proxy-ssl-verify-depth",
    "relative-redirects",
    "rewrite-target",
    "server-alias",
    "session-cookie-change-on-failure",
    "session-cookie-conditional-samesite-none",
    "session-cookie-domain",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-name",
    "session-cookie-path",
    "session-cookie-samesite",
    "session-cookie-secure",
    "ssl-ciphers",
    "ssl-passthrough",
    "ssl-prefer-server-ciphers",
    "stream-snippet",
    "temporal-redirect",
    "temporal-redirect-code",
    "upstream-hash-by",
    "upstream-hash-by-subset",
    "upstream-hash-by-subset-size",
    "upstream-vhost",
    "use-port-in-redirects",
    "use-regex",
    "x-forwarded-prefix",
];

/// Reads the annotations of an Ingress: what they ask for, and the fields that are wrong.
pub(super) fn read(ingress: &Ingress) -> (Options, Vec<(String, ProblemKind)>) {
    let mut options = Options::default();
    let mut problems = Vec::new();
    // In the order of their keys, so that `pierhead.dev/` comes last and wins.
    for (key, value) in ingress.annotations() {
        let problem = match row(key) {
            Row::NotOurs => None,
            Row::Unknown => Some(ProblemKind::UnknownAnnotation),
            Row::Ignored => Some(ProblemKind::IgnoredAnnotation),
            Row::Known(annotation) => apply(annotation, &mut options, value),
        };
        if let Some(kind) = problem {
            problems.push((format!("metadata.annotations[{key}]"), kind));
        }
    }
    (options, problems)
}

/// What an annotation does, for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Documented {
    /// Key below the prefix.
    pub name: &'static str,
    /// It is read under `pierhead.dev/` too, not under `nginx.ingress.kubernetes.io/` alone.
    pub has_own_prefix: bool,
    /// It protects the route, which answers 503 because that is not supported.
    pub protects: bool,
    /// What it is for, in one line.
    pub doc: &'static str,
}

/// Every annotation with an effect, in the order of the table.
pub fn documentation() -> impl Iterator<Item = Documented> {
    TABLE.iter().map(|annotation| Documented {
        name: annotation.name,
        has_own_prefix: annotation.prefixes == Prefixes::Both,
        protects: matches!(annotation.effect, Effect::Protects(_)),
        doc: annotation.doc,
    })
}

/// The keys of ingress-nginx that protect nothing and have no effect here, in alphabetical order.
pub fn ignored() -> &'static [&'static str] {
    IGNORED
}

enum Row {
    NotOurs,
    Unknown,
    Ignored,
    Known(&'static Annotation),
}

fn row(key: &str) -> Row {
    let (name, own) = match (key.strip_prefix(NGINX), key.strip_prefix(OWN)) {
        (Some(name), _) => (name, false),
        (None, Some(name)) => (name, true),
        (None, None) => return Row::NotOurs,
    };
    match TABLE.iter().find(|annotation| annotation.name == name) {
        Some(annotation) if !own || annotation.prefixes == Prefixes::Both => Row::Known(annotation),
        None if !own && IGNORED.contains(&name) => Row::Ignored,
        _ => Row::Unknown,
    }
}

fn apply(annotation: &Annotation, options: &mut Options, value: &str) -> Option<ProblemKind> {
    match annotation.effect {
        Effect::Sets(set) => {
            let expected = set(options, value).err()?;
            Some(ProblemKind::InvalidValue { found: value.to_owned(), expected: expected.to_owned() })
        }
        Effect::Protects(when) if when(value) => {
            options.protection = Protection::Missing;
            Some(ProblemKind::Unprotected)
        }
        Effect::Protects(_) => None,
    }
}

/// What Go's `strconv.ParseBool` takes, because manifests hold whatever ingress-nginx took.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

fn protocol(value: &str) -> Option<Protocol> {
    match value.trim().to_ascii_uppercase().as_str() {
        "HTTP" => Some(Protocol::Http1),
        "HTTPS" => Some(Protocol::Https),
        "GRPC" | "H2C" => Some(Protocol::H2c),
        "GRPCS" => Some(Protocol::H2),
        _ => None,
    }
}

fn given(value: &str) -> bool {
    !value.trim().is_empty()
}

/// Anything that is not clearly off: an unreadable value of a protective key must not take the protection away.
fn on(value: &str) -> bool {
    let value = value.trim();
    !value.eq_ignore_ascii_case("off") && boolean(value) != Some(false)
}

/// Zero switches a limit off.
fn positive(value: &str) -> bool {
    given(value) && value.trim().parse::<i64>() != Ok(0)
}

/// Whether raw configuration may keep somebody out, by the directives that it could do it with.
fn restricts(value: &str) -> bool {
    let words = value.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let directives = ["deny", "return", "satisfy", "if", "internal", "include", "valid_referers"];
    let families = ["auth_", "limit_", "modsecurity", "access_by_", "rewrite_by_", "ssl_verify", "ssl_client"];
    words.into_iter().any(|word| directives.contains(&word) || families.iter().any(|family| word.starts_with(family)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_row_only() {
        assert!(IGNORED.is_sorted());
        let mut all: Vec<&str> = TABLE.iter().map(|row| row.name).chain(IGNORED.iter().copied()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn protective_values_are_told_from_harmless_ones() {
        let cases: [(&str, &str, bool); 14] = [
            ("auth-url", "http://auth.example", true),
            ("auth-url", "", false),
            ("auth-tls-verify-client", "off", false),
            ("auth-tls-verify-client", "optional", true),
            ("limit-rps", "0", false),
            ("limit-rps", "10", true),
            ("limit-rps", "ten", true),
            ("enable-modsecurity", "false", false),
            ("enable-modsecurity", "true", true),
            ("proxy-ssl-verify", "off", false),
            ("proxy-ssl-verify", "on", true),
            ("configuration-snippet", "more_set_headers \"X: 1\";", false),
            ("configuration-snippet", "deny all;", true),
            ("server-snippet", "auth_request /check;", true),
        ];
        for (name, value, protective) in cases {
            let Row::Known(annotation) = row(&format!("{NGINX}{name}")) else { panic!("{name} is unknown") };
            let mut options = Options::default();
            apply(annotation, &mut options, value);
            assert_eq!(options.protection == Protection::Missing, protective, "{name}: {value}");
        }
    }
}
