//! Keeping the requests of one client on one endpoint.

use std::{sync::Arc, time::Duration};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Refusals, Time, load_balancing::is_token};
use crate::model::{self, BackendId};

/// Cookies live for whole seconds, and `Max-Age=0` deletes one.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Keeps the requests of one client on one endpoint.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinity {
    /// Does so by a cookie of our own. Affinity by the address of the client is written in the Service:
    /// `sessionAffinity: ClientIP`.
    pub cookie: Cookie,
}

/// The cookie that keeps a client on an endpoint. It holds a hash of the address of the endpoint, which is no secret: who
/// knows the network can guess the address.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default = "Cookie::default")]
#[x_kube(validation = Rule::new("self.sameSite != 'None' || self.secure")
    .message("sameSite None needs secure: true, or browsers refuse the cookie").field_path(".sameSite"))]
#[x_kube(validation = Rule::new("!has(self.name) || (!self.name.lowerAscii().startsWith('__secure-') || self.secure) && \
    (!self.name.lowerAscii().startsWith('__host-') || self.secure && self.path == '/')")
    .message("a name that begins with __Host- or __Secure- needs secure: true, and with __Host- the path /")
    .field_path(".name"))]
pub struct Cookie {
    /// Name of the cookie, a token (RFC 6265). Default: `pierhead-` and six digits that each port of each Service has
    /// of its own, so that the Services of one host keep apart. One that begins with `__Secure-` needs `secure`, and with
    /// `__Host-` the path / besides, or browsers refuse the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 128), extend("pattern" = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: Option<String>,
    /// How long the client keeps it (`Max-Age`), at least 1s. Default: until the client ends its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time", extend("x-kubernetes-validations" = [{
        "rule": "duration(self) >= duration('1s')",
        "message": "must be at least 1s",
    }]))]
    pub ttl: Option<Time>,
    /// Paths for which the client sends it (`Path`).
    #[schemars(length(min = 1, max = 256), extend("pattern" = "^/[!-:<-~]*$"))]
    pub path: String,
    /// Whether other sites' requests carry it (`SameSite`). None needs `secure`.
    pub same_site: SameSiteName,
    /// Whether the client sends it over TLS only (`Secure`). Set it where the shop is served over HTTPS.
    pub secure: bool,
    /// `Persistent` keeps a client with its endpoint for as long as that is there and fit; `Balanced` lets new endpoints
    /// take over their share of the clients, which spreads load after a scale-up.
    pub mode: AffinityModeName,
}

/// Values of `SameSite`.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum SameSiteName {
    Strict,
    Lax,
    None,
}

/// What the cookie names.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum AffinityModeName {
    Persistent,
    Balanced,
}

impl Default for Cookie {
    fn default() -> Self {
        Self {
            name: None,
            ttl: None,
            path: "/".to_owned(),
            same_site: SameSiteName::Lax,
            secure: false,
            mode: AffinityModeName::Persistent,
        }
    }
}

impl SessionAffinity {
    /// The name is left empty where none is written: [`name_for`] has it.
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::CookieAffinity {
        self.cookie.convert(refusals)
    }
}

/// The cookie of a backend that is given no name, the same in every replica.
pub(super) fn name_for(backend: &BackendId) -> Arc<str> {
    format!("pierhead-{:06x}", xxh3_64(backend.to_string().as_bytes()) >> 40).into()
}

impl Cookie {
    fn convert(&self, refusals: &mut Refusals) -> model::CookieAffinity {
        let default = Self::default();
        let name = self.name.as_deref().filter(|name| {
            let is_name = is_token(name) && name.len() <= 128;
            if !is_name {
                refusals.refuse("sessionAffinity.cookie.name", name, "a token, as names of cookies are");
            }
            is_name
        });
        let is_path = self.path.starts_with('/')
            && self.path.len() <= 256
            && self.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
        let path = if is_path {
            &self.path
        } else {
            let expected = "a path of visible ASCII that begins with / and has no semicolon";
            refusals.refuse("sessionAffinity.cookie.path", &self.path, expected);
            &default.path
        };
        let name = name.filter(|name| {
            let begins =
                |prefix: &str| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
            let is_host = begins("__Host-");
            let is_kept = !(is_host || begins("__Secure-")) || self.secure && (!is_host || path == "/");
            if !is_kept {
                let expected = "secure: true beside __Secure- and __Host-, and the path / beside __Host-";
                refusals.refuse("sessionAffinity.cookie.name", name, expected);
            }
            is_kept
        });
        let same_site = match self.same_site {
            SameSiteName::None if !self.secure => {
                refusals.refuse("sessionAffinity.cookie.sameSite", "None", "secure: true beside it");
                model::SameSite::Lax
            }
            SameSiteName::None => model::SameSite::None,
            SameSiteName::Lax => model::SameSite::Lax,
            SameSiteName::Strict => model::SameSite::Strict,
        };
        let mode = match self.mode {
            AffinityModeName::Persistent => model::AffinityMode::Persistent,
            AffinityModeName::Balanced => model::AffinityMode::Balanced,
        };
        let ttl = self.ttl.as_ref().and_then(|text| {
            let ttl = text.parse().filter(|ttl| *ttl >= MIN_TTL);
            if ttl.is_none() {
                refusals.refuse("sessionAffinity.cookie.ttl", text, "a duration of at least 1s");
            }
            ttl
        });
        let (name, path) = (Arc::from(name.unwrap_or_default()), Arc::from(path.as_str()));
        model::CookieAffinity { name, ttl, path, same_site, secure: self.secure, mode }
    }
}
