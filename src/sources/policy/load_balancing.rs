//! How an endpoint is chosen for a request.

use std::{
    num::{NonZeroU8, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Refusals, Time};
use crate::{balance, model};

/// How an endpoint is chosen for a request.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.choices) || self.strategy in ['LeastRequest', 'PeakEwma']")
    .message("choices is for strategies LeastRequest and PeakEwma only").field_path(".choices"))]
#[x_kube(validation = Rule::new("!has(self.hash) || self.strategy in ['ConsistentHash', 'Maglev']")
    .message("hash is for strategies ConsistentHash and Maglev only").field_path(".hash"))]
#[x_kube(validation = Rule::new("has(self.hash) || !(self.strategy in ['ConsistentHash', 'Maglev'])")
    .message("strategies ConsistentHash and Maglev need a hash").field_path(".strategy"))]
#[x_kube(validation =
    Rule::new("!has(self.hash) || !has(self.hash.boundedLoad) || self.strategy == 'ConsistentHash'")
    .message("boundedLoad is for strategy ConsistentHash only").field_path(".hash.boundedLoad"))]
#[x_kube(validation = Rule::new("!has(self.slowStart) || duration(self.slowStart) == duration('0s') || \
    !(self.strategy in ['ConsistentHash', 'Maglev'])")
    .message("slowStart has no effect with strategies that hash").field_path(".slowStart"))]
pub struct LoadBalancing {
    /// The algorithm. `RoundRobin` gives each endpoint its turn; `Random` draws one; `LeastRequest` draws a few and takes
    /// the one with the fewest requests in flight; `PeakEwma` takes of a few the one with the lowest product of recent
    /// peak latency and requests in flight, which avoids slow endpoints; `ConsistentHash` and `Maglev` send equal keys
    /// to the same endpoint. All respect weights. Default: `RoundRobin`. For mixed or slow endpoints use `PeakEwma`; for
    /// caches `ConsistentHash`, which bounds the load of each, or `Maglev`, which spreads most evenly.
    #[serde(default)]
    pub strategy: StrategyName,
    /// How many endpoints `LeastRequest` and `PeakEwma` draw at random to take the best of. Default: 2, which is enough
    /// nearly always; more favours the best and makes replicas of the controller crowd on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 2, max = 16))]
    pub choices: Option<i32>,
    /// What `ConsistentHash` and `Maglev` hash. Needed with them, and refused without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Hash")]
    pub hash: Option<Hash>,
    /// An endpoint that is new or has recovered gets its share only gradually over this time, so that caches and pools
    /// warm up. Not with strategies that hash. Default: 0s, its full share at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub slow_start: Option<Time>,
    /// Which endpoints come first: `PreferClose` those of our own zone, `Any` none before others. Where no endpoint of
    /// the zone is fit, all are used. Default: as the hints of the `EndpointSlices` say (trafficDistribution of the
    /// Service). The zone is that of `--zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ZoneName")]
    pub zone: Option<ZoneName>,
    /// Each replica of the controller uses only some of the endpoints. For backends of hundreds of endpoints, to bound
    /// connections. Default: all endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Subset")]
    pub subset: Option<Subset>,
}

/// Names of the strategies.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum StrategyName {
    #[default]
    RoundRobin,
    Random,
    LeastRequest,
    PeakEwma,
    ConsistentHash,
    Maglev,
}

/// What requests are hashed by.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) == (self.type in ['Header', 'Cookie', 'Query'])")
    .message("name is needed with type Header, Cookie or Query, and refused with Path and SourceIP").field_path(".name"))]
#[x_kube(validation = Rule::new("!has(self.name) || self.type == 'Query' || \
    self.name.matches(\"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$\")")
    .message("name must be a token, as names of header fields and cookies are (RFC 9110)").field_path(".name"))]
pub struct Hash {
    /// What of a request is its key: the value of a `Header` field, a `Cookie` or a parameter of the `Query`, each by
    /// name; the `Path` without its query; or `SourceIP`, the address of the client. A request without the value goes to
    /// any endpoint.
    pub r#type: HashOnName,
    /// Name of the header field (in any case), cookie or parameter. Needed with `Header`, `Cookie` and `Query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 128))]
    pub name: Option<String>,
    /// Most requests in flight that an endpoint may have, in percent of the mean of all; keys beyond it go on to the
    /// next endpoint of the ring. With `ConsistentHash` only. 125 is a good value. Default: no bound, so that a hot key
    /// may overload its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 101, max = 1000))]
    pub bounded_load: Option<i32>,
}

/// Names of what can be hashed.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum HashOnName {
    Header,
    Cookie,
    Query,
    Path,
    SourceIP,
}

/// Names of the preferences of zones.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "a description of each variant would turn the schema's enum into a oneOf")]
pub enum ZoneName {
    PreferClose,
    Any,
}

/// How many of the endpoints a replica uses.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// Number of endpoints that a replica uses; the same ones for as long as they are there. Replicas take different
    /// ones, by the name of their pod.
    #[schemars(range(min = 1, max = 65535))]
    pub size: i32,
}

impl LoadBalancing {
    pub(super) fn convert(&self, refusals: &mut Refusals) -> model::LoadBalancing {
        let hash = self.hash(refusals);
        let bounded_load = hash.as_ref().and_then(|(_, bound)| *bound);
        let choices = self.choices(refusals);
        let strategy = match (self.strategy, &hash) {
            (StrategyName::Random, _) => balance::Strategy::Random,
            (StrategyName::LeastRequest, _) => balance::Strategy::LeastRequest { choices },
            (StrategyName::PeakEwma, _) => balance::Strategy::PeakEwma { choices },
            (StrategyName::ConsistentHash, Some(_)) => balance::Strategy::ConsistentHash { bounded_load },
            (StrategyName::Maglev, Some(_)) => balance::Strategy::Maglev,
            // A strategy that hashes, without a hash that is valid.
            (StrategyName::RoundRobin | StrategyName::ConsistentHash | StrategyName::Maglev, _) => {
                balance::Strategy::RoundRobin
            }
        };
        let zone = match self.zone {
            None => model::ZonePreference::Hints,
            Some(ZoneName::PreferClose) => model::ZonePreference::PreferClose,
            Some(ZoneName::Any) => model::ZonePreference::Any,
        };
        let subset = self.subset.as_ref();
        model::LoadBalancing {
            strategy,
            hash_on: hash.map(|(on, _)| on),
            slow_start: self.slow_start(refusals),
            zone,
            subset: subset.and_then(|subset| refusals.nonzero("loadBalancing.subset.size", subset.size, 1..=65535)),
        }
    }

    fn hashes(&self) -> bool {
        matches!(self.strategy, StrategyName::ConsistentHash | StrategyName::Maglev)
    }

    fn hash(&self, refusals: &mut Refusals) -> Option<(model::HashOn, Option<NonZeroU32>)> {
        match &self.hash {
            None if self.hashes() => {
                let expected = "a strategy that does not hash, or hash beside it";
                refusals.refuse("loadBalancing.strategy", format!("{:?}", self.strategy), expected);
                None
            }
            None => None,
            Some(hash) if !self.hashes() => {
                let expected = "strategy ConsistentHash or Maglev beside it";
                refusals.refuse("loadBalancing.hash", format!("{:?}", hash.r#type), expected);
                None
            }
            Some(hash) => {
                let on = hash.on(refusals)?;
                let bound = hash.bounded_load.and_then(|bound| {
                    if self.strategy != StrategyName::ConsistentHash {
                        let expected = "strategy ConsistentHash beside it";
                        refusals.refuse("loadBalancing.hash.boundedLoad", bound, expected);
                        return None;
                    }
                    refusals.nonzero("loadBalancing.hash.boundedLoad", bound, 101..=1000)
                });
                Some((on, bound))
            }
        }
    }

    fn choices(&self, refusals: &mut Refusals) -> NonZeroU8 {
        let draws = matches!(self.strategy, StrategyName::LeastRequest | StrategyName::PeakEwma);
        let choices = self.choices.and_then(|choices| {
            if draws {
                return refusals.number("loadBalancing.choices", choices, 2..=16);
            }
            refusals.refuse("loadBalancing.choices", choices, "strategy LeastRequest or PeakEwma beside it");
            None
        });
        let choices = choices.and_then(|choices| u8::try_from(choices).ok()).and_then(NonZeroU8::new);
        choices.unwrap_or(const { NonZeroU8::new(2).unwrap() })
    }

    fn slow_start(&self, refusals: &mut Refusals) -> Duration {
        let field = "loadBalancing.slowStart";
        let Some(text) = &self.slow_start else { return Duration::ZERO };
        match refusals.time(field, text) {
            Some(time) if !time.is_zero() && self.hashes() => {
                refusals.refuse(field, text, "a strategy that does not hash beside it");
                Duration::ZERO
            }
            time => time.unwrap_or_default(),
        }
    }
}

impl Hash {
    fn on(&self, refusals: &mut Refusals) -> Option<model::HashOn> {
        let name = self.name.as_deref().unwrap_or_default();
        let valid = match self.r#type {
            HashOnName::Header | HashOnName::Cookie => is_token(name) && name.len() <= 128,
            HashOnName::Query => (1..=128).contains(&name.chars().count()),
            HashOnName::Path | HashOnName::SourceIP => self.name.is_none(),
        };
        if !valid {
            let expected = match self.r#type {
                HashOnName::Header | HashOnName::Cookie => "a token, as names of header fields and cookies are",
                HashOnName::Query => "the name of a parameter",
                HashOnName::Path | HashOnName::SourceIP => "no name with type Path and SourceIP",
            };
            refusals.refuse("loadBalancing.hash.name", name, expected);
            return None;
        }
        Some(match self.r#type {
            HashOnName::Header => model::HashOn::Header(name.to_ascii_lowercase().into()),
            HashOnName::Cookie => model::HashOn::Cookie(Arc::from(name)),
            HashOnName::Query => model::HashOn::Query(Arc::from(name)),
            HashOnName::Path => model::HashOn::Path,
            HashOnName::SourceIP => model::HashOn::SourceIp,
        })
    }
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
