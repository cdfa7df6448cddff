//! What a request head must be, whatever its route.

use http::{HeaderValue, Method, Uri, Version, header, request::Parts};

use super::Error;
use crate::matching::{NormalPath, RequestHost};

/// Largest request target in bytes.
const MAX_TARGET: usize = 16 * 1024;
/// Most fields of a request head; hyper holds HTTP/1.1 to it, this does HTTP/2.
const MAX_FIELDS: usize = 100;

const INVALID_HOST: Error = Error::BadRequest("its host is not valid");

/// What is refused whatever the route.
pub fn check(head: &Parts) -> Result<(), Error> {
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(Error::MethodNotAllowed);
    }
    if head.uri.path_and_query().map_or(0, |target| target.as_str().len()) > MAX_TARGET {
        return Err(Error::TargetTooLong);
    }
    if head.headers.len() > MAX_FIELDS {
        return Err(Error::HeadTooLarge);
    }
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Error::BadRequest("only OPTIONS may ask for *"));
    }
    Ok(())
}

/// The authority the request is for, which came to the address `local`.
///
/// RFC 9112 §3.2: exactly one `Host`, and the target's authority instead of it when the target has one. RFC 9113 §8.3.1:
/// `:authority` and `Host` must not differ. RFC 9110 §7.1: HTTP/1.0 without `Host` means the address it came to.
pub fn authority(head: &Parts, local: &HeaderValue) -> Result<HeaderValue, Error> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Error::BadRequest("it names more than one host"));
    }
    let is_http2 = head.version == Version::HTTP_2;
    match (head.uri.authority(), host) {
        (None, None) if head.version == Version::HTTP_10 => Ok(local.clone()),
        (_, None) if head.version == Version::HTTP_11 => Err(Error::BadRequest("it names no host")),
        (Some(authority), host) => {
            let authority = authority.as_str();
            if authority.contains('@') {
                return Err(Error::BadRequest("its target carries user information"));
            }
            if is_http2 && host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())) {
                return Err(Error::BadRequest("its host and authority differ"));
            }
            HeaderValue::from_str(authority).map_err(|_| INVALID_HOST)
        }
        (None, Some(host)) => Ok(host.clone()),
        (None, None) => Err(Error::BadRequest("it names no host")),
    }
}

/// The host that an authority names, in its normal form.
pub fn host(authority: &HeaderValue) -> Result<RequestHost<'_>, Error> {
    let text = authority.to_str().map_err(|_| INVALID_HOST)?;
    RequestHost::parse(text).map_err(|_| INVALID_HOST)
}

/// The path of a target in its normal form.
pub fn path(target: &Uri) -> Result<NormalPath<'_>, Error> {
    NormalPath::parse(target.path()).map_err(|_| Error::BadRequest("its path is ambiguous or not valid"))
}
