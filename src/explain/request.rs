//! A request that is asked about: as it would come over the wire, without one.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, Uri, Version, header, request::Parts};

/// A request that is asked about.
#[derive(Debug)]
pub struct Request {
    /// What would stand in its head.
    pub head: Parts,
    /// It comes over TLS.
    pub secure: bool,
    /// Host and port of the URL: what a client would name in the handshake.
    pub url_authority: String,
    /// The URL as it was given.
    pub url: String,
    /// Address of the client.
    pub client: IpAddr,
}

/// The request makes no sense as a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a method.
    #[error("{0:?} is not a method such as GET")]
    Method(String),
    /// Not a URL.
    #[error("{0:?} is not a URL such as https://shop.example/cart")]
    Url(String),
    /// Not a field.
    #[error("{0:?} is not a header field such as 'Name: value'")]
    Header(String),
}

impl Request {
    /// Reads what a user gives. A URL without a scheme is one of plain HTTP; fields are `Name: value`, and a `Host` among
    /// them takes the place of the URL's.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn parse(method: &str, url: &str, headers: &[String], client: IpAddr) -> Result<Self, RequestError> {
        let no_url = || RequestError::Url(url.to_owned());
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| no_url())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(no_url()),
        };
        let authority = uri.authority().ok_or_else(no_url)?.as_str().to_owned();
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| RequestError::Method(method.to_owned()))?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target: Uri = target.parse().map_err(|_| no_url())?;
        let (mut head, ()) = http::Request::new(()).into_parts();
        (head.method, head.uri, head.version) = (method, target, Version::HTTP_11);
        for header in headers {
            let field = || {
                let (name, value) = header.split_once(':')?;
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            };
            let (name, value) = field().ok_or_else(|| RequestError::Header(header.clone()))?;
            head.headers.append(name, value);
        }
        if !head.headers.contains_key(header::HOST) {
            head.headers.insert(header::HOST, HeaderValue::from_str(&authority).map_err(|_| no_url())?);
        }
        Ok(Self { head, secure, url_authority: authority, url: full, client })
    }
}
