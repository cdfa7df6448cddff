//! Which endpoint a request belongs to: by what its policy hashes, and by the cookie that an earlier response set.
//!
//! It reads and writes; the pool chooses. What a client says that cannot be read counts as not said.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Uri, header};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    model::{CookieAffinity, HashOn, Policy, SameSite},
    routing::client_hash,
};

/// What a request says of the endpoint that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Hash of what the policy hashes requests by.
    pub key: Option<u64>,
    /// Value of the policy's cookie.
    pub session: Option<u64>,
}

impl Affinity {
    /// Reads a request head as its client sent it.
    pub fn read(policy: &Policy, uri: &Uri, headers: &HeaderMap, client: IpAddr) -> Self {
        let key = policy.load_balancing.hash_on.as_ref().and_then(|on| match on {
            HashOn::Header(name) => headers.get(&**name).map(|value| xxh3_64(value.as_bytes())),
            HashOn::Cookie(name) => cookies(headers, name).next().map(xxh3_64),
            HashOn::Query(name) => parameter(uri.query()?, name).map(|value| xxh3_64(value.as_bytes())),
            HashOn::Path => Some(xxh3_64(uri.path().as_bytes())),
            HashOn::SourceIp => Some(client_hash(client)),
        });
        let session =
            policy.cookie_affinity.as_ref().and_then(|affinity| cookies(headers, &affinity.name).find_map(session));
        Self { key, session }
    }
}

/// `Set-Cookie` (RFC 6265 §4.1) that names the session from now on.
pub(super) fn set_cookie(affinity: &CookieAffinity, session: u64) -> Option<HeaderValue> {
    let CookieAffinity { name, path, .. } = affinity;
    let max_age = affinity.ttl.map_or(String::new(), |ttl| format!("; Max-Age={}", ttl.as_secs()));
    let same_site = match affinity.same_site {
        SameSite::Strict => "Strict",
        SameSite::Lax => "Lax",
        SameSite::None => "None",
    };
    let secure = if affinity.secure { "; Secure" } else { "" };
    let value = format!("{name}={session:016x}; Path={path}{max_age}; SameSite={same_site}{secure}; HttpOnly");
    HeaderValue::try_from(value).ok()
}

/// The values of the cookies of that name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The value of a parameter of a query, as it is written there; empty for one without a value.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))
}

/// The number that a cookie of ours holds.
fn session(value: &[u8]) -> Option<u64> {
    let is_ours = value.len() == 16 && value.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(value).ok().filter(|_| is_ours)?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::model::{AffinityMode, LoadBalancing};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn affinity(name: &str) -> CookieAffinity {
        CookieAffinity {
            name: name.into(),
            ttl: Some(Duration::from_hours(1)),
            path: "/cart".into(),
            same_site: SameSite::Lax,
            secure: true,
            mode: AffinityMode::Persistent,
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn key(on: HashOn, uri: &'static str, fields: &[(&'static str, &'static str)]) -> Option<u64> {
        let load_balancing = LoadBalancing { hash_on: Some(on), ..LoadBalancing::default() };
        let policy = Policy { load_balancing, ..Policy::default() };
        Affinity::read(&policy, &Uri::from_static(uri), &headers(fields), CLIENT).key
    }

    #[test]
    fn requests_are_hashed_by_what_the_policy_says() {
        let cookies = [("cookie", "a=1; user=ann;b = 2"), ("cookie", "late=x"), ("x-user", "ann")];
        let ann = Some(xxh3_64(b"ann"));
        let cases = [
            (HashOn::Header("x-user".into()), "/", ann),
            (HashOn::Header("x-other".into()), "/", None),
            (HashOn::Cookie("user".into()), "/", ann),
            (HashOn::Cookie("late".into()), "/", Some(xxh3_64(b"x"))),
            (HashOn::Cookie("use".into()), "/", None),
            (HashOn::Query("user".into()), "/?xuser=no&user=ann&user=eve", ann),
            (HashOn::Query("user".into()), "/?flag&user", Some(xxh3_64(b""))),
            (HashOn::Query("user".into()), "/?other=ann", None),
            (HashOn::Query("user".into()), "/", None),
            (HashOn::Path, "/ann?user=eve", Some(xxh3_64(b"/ann"))),
            (HashOn::SourceIp, "/", Some(client_hash(CLIENT))),
        ];
        for (on, uri, expected) in cases {
            assert_eq!(key(on.clone(), uri, &cookies), expected, "{on:?} of {uri}");
        }
    }

    #[test]
    fn the_cookie_of_affinity_is_read_and_anything_else_in_it_ignored() {
        let policy = Policy { cookie_affinity: Some(affinity("pier")), ..Policy::default() };
        let cases = [
            ("pier=00000000000000ff", Some(255)),
            ("x=1; pier=00000000000000FF; y=2", Some(255)),
            ("pier=nonsense; pier=00000000000000ff", Some(255)),
            ("pier=ff", None),
            ("pier=+0000000000000ff", None),
            ("pier=00000000000000fg", None),
            ("pier=00000000000000ff0", None),
            ("xpier=00000000000000ff", None),
            ("pier", None),
        ];
        for (value, expected) in cases {
            let read = Affinity::read(&policy, &Uri::from_static("/"), &headers(&[("cookie", value)]), CLIENT);
            assert_eq!(read.session, expected, "{value}");
        }
    }

    #[test]
    fn the_cookie_is_set_as_the_policy_says() {
        let set = |affinity: &CookieAffinity| set_cookie(affinity, 255).unwrap().to_str().unwrap().to_owned();
        let full = affinity("pier");
        let expected = "pier=00000000000000ff; Path=/cart; Max-Age=3600; SameSite=Lax; Secure; HttpOnly";
        assert_eq!(set(&full), expected);
        let plain = CookieAffinity { ttl: None, same_site: SameSite::Strict, secure: false, ..full };
        assert_eq!(set(&plain), "pier=00000000000000ff; Path=/cart; SameSite=Strict; HttpOnly");
    }
}
