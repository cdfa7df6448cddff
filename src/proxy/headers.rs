//! Header fields on their way through: what is removed, what is believed, what is set.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::Error;

/// Fields that are ours to set.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// CGI programs take it for the proxy they should use (CVE-2016-5385).
const PROXY: &str = "proxy";

/// RFC 9110 §7.6.1: fields that concern one connection only.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// Longest request id that is kept.
const MAX_REQUEST_ID: usize = 128;

/// What a connection says of its requests; the values are made once a connection.
#[derive(Clone, Debug)]
pub(super) struct Forwarded {
    /// Address of the peer.
    pub(super) address: HeaderValue,
    /// `http` or `https`.
    pub(super) proto: HeaderValue,
    /// Whether the peer's own `X-Forwarded-*` fields are believed.
    pub(super) trusted: bool,
}

/// Whether a request asks for the connection to become something else, and for what (RFC 9110 §7.8).
///
/// `h2c` is never passed on (RFC 9113 §3.1).
pub(super) fn upgrade(headers: &HeaderMap, version: http::Version) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let asked = version == http::Version::HTTP_11
        && connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
        && !protocol.to_str().is_ok_and(|p| p.split(',').any(|p| p.trim().eq_ignore_ascii_case("h2c")));
    asked.then(|| protocol.clone())
}

/// Removes what concerns the client's connection and what only we may say, then says it.
///
/// `client` is the address of the client itself, behind the trusted peers.
pub(super) fn prepare_request(headers: &mut HeaderMap, host: &HeaderValue, forwarded: &Forwarded, client: IpAddr) {
    let takes_trailers = takes_trailers(headers);
    remove_hop_by_hop(headers);
    remove(headers, |name| name == PROXY || is_spoofed(name, forwarded.trusted));
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if forwarded.trusted {
        let chain = forwarded_for(headers, &forwarded.address);
        headers.insert(X_FORWARDED_FOR, chain);
        headers.entry(X_FORWARDED_PROTO).or_insert_with(|| forwarded.proto.clone());
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
        headers.entry(X_FORWARDED_PORT).or_insert_with(|| port(host, forwarded));
        let client = || HeaderValue::try_from(client.to_string()).unwrap_or_else(|_| forwarded.address.clone());
        headers.entry(X_REAL_IP).or_insert_with(client);
    } else {
        headers.insert(X_FORWARDED_FOR, forwarded.address.clone());
        headers.insert(X_FORWARDED_PROTO, forwarded.proto.clone());
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(X_FORWARDED_PORT, port(host, forwarded));
        headers.insert(X_REAL_IP, forwarded.address.clone());
    }
}

/// RFC 9113 §8.2.3: cookies may come in several fields on HTTP/2 and are one on HTTP/1.1.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(_)) = (crumbs.next(), crumbs.next()) {
        let mut joined = first.as_bytes().to_vec();
        for crumb in headers.get_all(header::COOKIE).iter().skip(1) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// Names the protocol that the connection shall become, or becomes.
pub(super) fn ask_upgrade(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

/// The port that the client asked: what `Host` says, else the default of its scheme. Ours may be mapped to another.
fn port(host: &HeaderValue, forwarded: &Forwarded) -> HeaderValue {
    let text = host.to_str().unwrap_or_default();
    match text.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            HeaderValue::from_str(port).unwrap_or_else(|_| HeaderValue::from_static("80"))
        }
        _ if forwarded.proto == "https" => HeaderValue::from_static("443"),
        _ => HeaderValue::from_static("80"),
    }
}

/// Removes what concerns the endpoint's connection, and settles how long the response is.
///
/// # Errors
/// [`Error::UpstreamMalformed`] when its framing can be read in more than one way.
pub(super) fn prepare_response(headers: &mut HeaderMap, status: StatusCode) -> Result<(), Error> {
    if let Some(coding) = headers.get(header::TRANSFER_ENCODING) {
        // RFC 9112 §6.1: any other coding would be taken off the fields but stay on the content.
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            || headers.get_all(header::TRANSFER_ENCODING).iter().count() > 1
        {
            return Err(Error::UpstreamMalformed);
        }
        headers.remove(header::CONTENT_LENGTH); // RFC 9112 §6.3: it is overridden
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let is_valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let repeated = lengths.next();
        if !is_valid || repeated.into_iter().chain(lengths).any(|other| other != length) {
            return Err(Error::UpstreamMalformed);
        }
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH); // RFC 9110 §8.6: must not be sent
        } else if repeated.is_some() {
            let length = length.clone();
            headers.insert(header::CONTENT_LENGTH, length);
        }
    }
    remove_hop_by_hop(headers);
    Ok(())
}

/// Whether a response says its length twice: its connection is not used again (RFC 9112 §6.3).
pub(super) fn is_doubtful(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH)
}

/// The request's id: its own if it is a token of at most 128 characters, else a new UUID.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None)
            if !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(|b| is_token(*b)) =>
        {
            id.clone()
        }
        _ => new_request_id(),
    }
}

/// A random UUID (RFC 9562 §5.4).
pub(super) fn new_request_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..);
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *byte = HEX[usize::try_from((bits >> shift) & 0xf).unwrap_or_default()];
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter_map(|option| option.parse().ok())
            .filter(|name: &HeaderName| {
                !is_managed(name.as_str()) && name != header::HOST && name != header::CONTENT_LENGTH
            })
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    remove(headers, is_hop_by_hop);
}

/// Removes fields by name. Nearly always there are none, so looking comes first and costs no hashing.
fn remove(headers: &mut HeaderMap, is_unwanted: impl Fn(&str) -> bool) {
    if headers.keys().any(|name| is_unwanted(name.as_str())) {
        let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name.as_str())).cloned().collect();
        for name in unwanted {
            headers.remove(name);
        }
    }
}

/// RFC 9110 §10.1.4: whether the sender takes trailers.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::TE).iter().filter_map(|te| te.to_str().ok());
    accepted.flat_map(|te| te.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Fields that speak for the client in front of backends.
fn is_managed(name: &str) -> bool {
    let name = name.as_bytes();
    let starts = |prefix: &[u8]| name.len() >= prefix.len() && alike(&name[..prefix.len()], prefix);
    starts(b"x-forwarded-") || starts(b"x-original-") || alike(name, b"x-real-ip") || alike(name, b"forwarded")
}

/// Equal where an underscore stands for a hyphen, as CGI and WSGI read names.
fn alike(name: &[u8], managed: &[u8]) -> bool {
    name.len() == managed.len() && name.iter().zip(managed).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
}

/// Managed fields of a peer that is not trusted, and their aliases with underscores from anybody.
fn is_spoofed(name: &str, trusted: bool) -> bool {
    // Nearly every name ends here: managed names start with x or f.
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f')) {
        return false;
    }
    let is_alias = name.contains('_');
    is_managed(name) && (!trusted || is_alias) || is_alias && alike(name.as_bytes(), b"x-request-id")
}

/// The chain of a trusted peer with the peer appended; the peer alone when there is none left.
fn forwarded_for(headers: &HeaderMap, address: &HeaderValue) -> HeaderValue {
    let mut chain = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    if chain.is_empty() {
        return address.clone();
    }
    chain.extend_from_slice(address.as_bytes());
    HeaderValue::from_bytes(&chain).unwrap_or_else(|_| address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(trusted: bool) -> Forwarded {
        Forwarded { address: HeaderValue::from_static("192.0.2.7"), proto: HeaderValue::from_static("http"), trusted }
    }

    fn prepared(fields: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let client = IpAddr::from([2, 2, 2, 2]);
        prepare_request(&mut headers, &HeaderValue::from_static("a.example"), &forwarded(trusted), client);
        headers
    }

    fn get<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn hop_by_hop_fields_and_those_connection_names_are_removed() {
        let headers = prepared(
            &[
                ("connection", "keep-alive, x-private"),
                ("connection", "X-Real-IP, X-Forwarded-For, Host"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("x-private", "1"),
                ("host", "a.example"),
                ("te", "gzip"),
                ("upgrade", "websocket"),
                ("http2-settings", "AA"),
                ("proxy", "http://evil"),
                ("trailer", "x-sum"),
                ("accept", "*/*"),
            ],
            false,
        );
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept",
                "host",
                "trailer",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-port",
                "x-forwarded-proto",
                "x-real-ip"
            ]
        );
    }

    #[test]
    fn strangers_cannot_speak_for_the_client() {
        let spoofed = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-forwarded_for", "1.1.1.1"),
            ("x-forwarded-prefix", "/admin"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x_real_ip", "1.1.1.1"),
            ("x-original-url", "/admin"),
            ("x-forwarded-proto", "https"),
            ("x_request_id", "spoofed"),
        ];
        let headers = prepared(&spoofed, false);
        assert_eq!(headers.len(), 5);
        assert_eq!(get(&headers, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(get(&headers, "x-real-ip"), ["192.0.2.7"]);
        assert_eq!(get(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(get(&headers, "x-forwarded-host"), ["a.example"]);
        assert_eq!(get(&headers, "x-forwarded-port"), ["80"]);
    }

    #[test]
    fn a_trusted_peer_is_believed_and_extended() {
        let told = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/p"),
            ("x-real-ip", "1.1.1.1"),
            ("x_real_ip", "3.3.3.3"),
            ("connection", "x-forwarded-proto"),
        ];
        let headers = prepared(&told, true);
        assert_eq!(get(&headers, "x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 192.0.2.7"]);
        assert_eq!(get(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(get(&headers, "x-forwarded-prefix"), ["/p"]);
        assert_eq!(get(&headers, "x-forwarded-host"), ["a.example"]);
        assert_eq!(get(&headers, "x-real-ip"), ["1.1.1.1"]);
        assert!(get(&headers, "x_real_ip").is_empty());
    }

    #[test]
    fn behind_a_trusted_peer_the_real_address_is_the_clients() {
        assert_eq!(get(&prepared(&[("x-forwarded-for", "2.2.2.2")], true), "x-real-ip"), ["2.2.2.2"]);
    }

    #[test]
    fn the_port_is_the_one_the_client_asked() {
        let of = |host, proto| {
            let mut forwarded = forwarded(false);
            forwarded.proto = HeaderValue::from_static(proto);
            port(&HeaderValue::from_static(host), &forwarded).to_str().unwrap().to_owned()
        };
        let cases = [("a.example", "http", "80"), ("a.example", "https", "443"), ("a.example:8443", "https", "8443")];
        for (host, proto, expected) in cases.into_iter().chain([("[::1]", "http", "80"), ("[::1]:81", "http", "81")]) {
            assert_eq!(of(host, proto), expected, "{host} {proto}");
        }
    }

    #[test]
    fn a_wish_for_trailers_is_passed_on() {
        assert_eq!(get(&prepared(&[("te", "gzip, Trailers")], false), "te"), ["trailers"]);
    }

    #[test]
    fn request_ids_are_kept_when_they_are_tokens() {
        let id = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(X_REQUEST_ID, HeaderValue::from_str(value).unwrap());
            }
            request_id(&headers).to_str().unwrap().to_owned()
        };
        let (long, longest) = ("a".repeat(129), "a".repeat(128));
        for kept in ["abc-123", "a", longest.as_str()] {
            assert_eq!(id(&[kept]), kept);
        }
        for replaced in [&[][..], &[""], &["a b"], &["a\"b"], &["a,b"], &[&long], &["a", "b"]] {
            let new = id(replaced);
            assert!(new.len() == 36 && &new[14..15] == "4" && "89ab".contains(&new[19..20]), "{replaced:?}: {new}");
        }
        assert_ne!(id(&[]), id(&[]));
    }

    #[test]
    fn cookie_crumbs_become_one_field() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(get(&headers, "cookie"), ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn a_response_has_one_length() {
        let settled = |fields: &[(&'static str, &'static str)], status: u16| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let doubtful = is_doubtful(&headers);
            prepare_response(&mut headers, StatusCode::from_u16(status).unwrap())
                .map(|()| (get(&headers, "content-length").join("|"), doubtful))
        };
        let (length, coding) = ("content-length", "transfer-encoding");
        let malformed = Err(Error::UpstreamMalformed);
        assert_eq!(settled(&[(length, "5")], 200), Ok(("5".into(), false)));
        assert_eq!(settled(&[(length, "5"), (length, "5")], 200), Ok(("5".into(), false)));
        assert_eq!(settled(&[(length, "5"), (coding, "chunked")], 200), Ok((String::new(), true)));
        assert_eq!(settled(&[(length, "4")], 204), Ok((String::new(), false)));
        assert_eq!(settled(&[(length, "4")], 304), Ok(("4".into(), false)));
        for fields in [
            &[(length, "1"), (length, "2")][..],
            &[(length, "abc")],
            &[(length, "")],
            &[(length, "+5")],
            &[(coding, "gzip, chunked")],
            &[(coding, "gzip")],
            &[(coding, "chunked"), (coding, "chunked")],
        ] {
            assert_eq!(settled(fields, 200), malformed, "{fields:?}");
        }
    }

    #[test]
    fn only_a_real_upgrade_is_one() {
        let asked = |connection: &'static str, protocol: &'static str, version| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
            upgrade(&headers, version).is_some()
        };
        let http11 = http::Version::HTTP_11;
        assert!(asked("keep-alive, Upgrade", "websocket", http11));
        assert!(!asked("keep-alive", "websocket", http11), "not named by Connection");
        assert!(!asked("upgrade", "h2c", http11), "RFC 9113 §3.1");
        assert!(!asked("upgrade", "websocket, h2c", http11));
        assert!(!asked("upgrade", "websocket", http::Version::HTTP_10));
    }
}
