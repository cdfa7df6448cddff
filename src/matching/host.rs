//! Host names: patterns of rules and the host of a request in its normal form.

use std::{borrow::Cow, fmt, net::Ipv6Addr, str::FromStr};

use serde::{Serialize, Serializer};

/// Hosts a rule applies to. Ordered strongest first: exact, then wildcard, then any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// One name, lower-case, without a trailing dot.
    Exact(Box<str>),
    /// `*.suffix`: exactly one label before the suffix, which is kept without its leading dot.
    Wildcard(Box<str>),
    /// Every host that no other pattern takes.
    Any,
}

/// Why a host name is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Not a DNS-1123 subdomain, nor `*.` and one.
    #[error("expected a DNS name of lower-case letters, digits, '-' and '.', optionally with a leading \"*.\"")]
    NotADnsName,
    /// Not `uri-host [ ":" port ]` (RFC 9110 §7.2).
    #[error("expected a host name or address with an optional port")]
    NotAnAuthority,
}

impl HostPattern {
    /// The wildcard that takes this name too; only exact names have one.
    pub fn wildcard(&self) -> Option<Self> {
        match self {
            Self::Exact(name) => one_label_above(name).map(|suffix| Self::Wildcard(suffix.into())),
            Self::Wildcard(_) | Self::Any => None,
        }
    }

    /// Whether the pattern takes every host that `other` takes.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Wildcard(suffix), Self::Exact(name)) => one_label_above(name).is_some_and(|rest| rest == &**suffix),
            _ => self == other,
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostError;

    /// Reads `a.example` or `*.example`; empty means any host. Upper case is folded.
    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (text.as_str(), false),
        };
        if !is_dns_name(name) {
            return Err(HostError::NotADnsName);
        }
        Ok(if wildcard { Self::Wildcard(name.into()) } else { Self::Exact(name.into()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// DNS-1123 subdomain: labels of 1 to 63 letters, digits and inner hyphens, 253 characters in all.
fn is_dns_name(name: &str) -> bool {
    let label_is_valid = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label_is_valid)
}

/// What follows the first label, `b.c` for `a.b.c`.
fn one_label_above(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}

/// The host of a request in its normal form: lower-case, without port and without one trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHost<'a>(Cow<'a, str>);

impl<'a> RequestHost<'a> {
    /// Reads the `Host` field or `:authority` (RFC 9110 §7.2, RFC 3986 §3.2).
    ///
    /// # Errors
    /// [`HostError::NotAnAuthority`] when it is empty, carries user information, a bad port or a forbidden character.
    pub fn parse(authority: &'a str) -> Result<Self, HostError> {
        let (host, port) = split_port(authority)?;
        if port.is_some_and(|port| {
            !port.bytes().all(|b| b.is_ascii_digit()) || (!port.is_empty() && port.parse::<u16>().is_err())
        }) {
            return Err(HostError::NotAnAuthority);
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err(HostError::NotAnAuthority);
        }
        // RFC 3986 §3.2.2: reg-name is unreserved, percent-encoded or sub-delims; nothing that ends an authority.
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b);
        if host.starts_with('[') {
            let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).ok_or(HostError::NotAnAuthority)?;
            inner.parse::<Ipv6Addr>().map_err(|_| HostError::NotAnAuthority)?;
        } else if !host.bytes().all(valid) {
            return Err(HostError::NotAnAuthority);
        }
        Ok(Self(if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }))
    }

    /// The same host, on its own.
    pub fn into_owned(self) -> RequestHost<'static> {
        RequestHost(Cow::Owned(self.0.into_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the first label: the key under which wildcard patterns are found.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        one_label_above(&self.0)
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), HostError> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(HostError::NotAnAuthority)?;
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(HostError::NotAnAuthority),
        };
    }
    Ok(match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_as_the_ingress_api_writes_them() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.into()));
        let cases = [
            ("a.example", exact("a.example")),
            ("A.Example", exact("a.example")),
            ("localhost", exact("localhost")),
            ("*.example", Ok(HostPattern::Wildcard("example".into()))),
            ("", Ok(HostPattern::Any)),
            ("*", Err(HostError::NotADnsName)),
            ("*.*.example", Err(HostError::NotADnsName)),
            ("a.*.example", Err(HostError::NotADnsName)),
            ("a..example", Err(HostError::NotADnsName)),
            ("-a.example", Err(HostError::NotADnsName)),
            ("a.example:80", Err(HostError::NotADnsName)),
            ("a_b.example", Err(HostError::NotADnsName)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<HostPattern>(), expected, "{text}");
        }
    }

    #[test]
    fn patterns_are_ordered_strongest_first() {
        let mut patterns: Vec<HostPattern> = ["", "*.b.example", "a.example"].map(|p| p.parse().unwrap()).to_vec();
        patterns.sort();
        assert_eq!(patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.example", "*.b.example", "*"]);
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let wildcard: HostPattern = "*.foo.com".parse().unwrap();
        for (host, covered) in [("bar.foo.com", true), ("foo.com", false), ("a.b.foo.com", false), ("*.foo.com", true)]
        {
            assert_eq!(wildcard.covers(&host.parse().unwrap()), covered, "{host}");
        }
    }

    #[test]
    fn request_hosts_lose_case_port_and_one_trailing_dot() {
        let cases = [
            ("a.example", Some("a.example")),
            ("A.Example:8080", Some("a.example")),
            ("a.example.", Some("a.example")),
            ("a.example.:443", Some("a.example")),
            ("a.example:", Some("a.example")),
            ("a.example..", Some("a.example.")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("", None),
            (":80", None),
            ("a b", None),
            ("a@b", None),
            ("a/b", None),
            ("a:99999", None),
            ("a:8x", None),
            ("a:+80", None),
            ("a:1:2", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[zz]", None),
        ];
        for (text, expected) in cases {
            assert_eq!(RequestHost::parse(text).ok().as_ref().map(RequestHost::as_str), expected, "{text}");
        }
    }
}
