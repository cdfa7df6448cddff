//! The documents of one file and the objects in them.

use std::{path::Path, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use serde_json::Value;

use super::Place;
use crate::{
    model::{Origin, Problem, ProblemKind, Text},
    sources::kubernetes::{
        Objects,
        api::{BackendPolicy, lenient, parse, strict},
    },
};

/// Namespace of objects that name none, as in `kubectl`.
const DEFAULT_NAMESPACE: &str = "default";

/// One object of a file, readable or not.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its kind and name.
    pub(super) origin: Origin,
    /// Where it stands.
    pub(super) place: Place,
    /// The object; None when it is malformed.
    pub(super) object: Option<Object>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
}

/// An object of a kind that we serve.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Ingress(Arc<Ingress>),
    Class(Arc<IngressClass>),
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    Policy(Arc<BackendPolicy>),
}

impl Object {
    /// Adds the object to the others of its kind.
    pub(super) fn add_to(&self, objects: &mut Objects) {
        match self {
            Self::Ingress(object) => objects.ingresses.push(Arc::clone(object)),
            Self::Class(object) => objects.classes.push(Arc::clone(object)),
            Self::Service(object) => objects.services.push(Arc::clone(object)),
            Self::Slice(object) => objects.slices.push(Arc::clone(object)),
            Self::Secret(object) => objects.secrets.push(Arc::clone(object)),
            Self::ConfigMap(object) => objects.config_maps.push(Arc::clone(object)),
            Self::Policy(object) => objects.policies.push(Arc::clone(object)),
        }
    }
}

/// A kind that we serve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    BackendPolicy,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Ingress,
        Self::IngressClass,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::ConfigMap,
        Self::BackendPolicy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::BackendPolicy => "BackendPolicy",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::Ingress | Self::IngressClass => "networking.k8s.io/v1",
            Self::Service | Self::Secret | Self::ConfigMap => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::BackendPolicy => "pierhead.dev/v1alpha1",
        }
    }

    /// Whether a kind that is none of ours is a slip all the same: these groups hold few others.
    fn is_mistaken(api_version: &str, kind: &str) -> bool {
        let group = api_version.split('/').next().unwrap_or_default();
        matches!(group, "networking.k8s.io" | "discovery.k8s.io" | "pierhead.dev")
            && !matches!(kind, "NetworkPolicy" | "IPAddress" | "ServiceCIDR")
    }

    /// The kind of a document; None for kinds that are not ours to serve, such as Deployments or Knative's Ingress.
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
        let asked = group(api_version);
        Self::ALL.into_iter().find(|known| {
            // `extensions` is where Ingress lived before; it is ours, but of a version that is no more.
            known.name() == kind
                && (group(known.api_version()) == asked || (*known == Self::Ingress && asked == "extensions"))
        })
    }
}

/// The entries of a file.
///
/// # Errors
/// When one document is not YAML: nothing of the file is then sure to be what its author meant.
pub(super) fn read(file: &Path, text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (i, (line, text)) in split(text).into_iter().enumerate() {
        let text = Arc::new(Text::from(text));
        let place = Place { file: file.to_owned(), document: i + 1, line, text, path: String::new() };
        let value: Value = serde_saphyr::from_str(place.text.as_str()).map_err(|error| {
            let line = error.location().and_then(|at| usize::try_from(at.line()).ok()).map_or(line, |at| line + at - 1);
            let error = error.without_snippet().to_string();
            format!("document {}, line {line}: {error}", place.document)
        })?;
        match value {
            Value::Null => {}
            Value::Object(_) => collect(value, &place, &mut entries),
            _ => return Err(format!("document {}, line {line}: not an object", place.document)),
        }
    }
    Ok(entries)
}

/// Documents that hold more than comments, each with the number of its first line.
///
/// A line that begins with `---` ends a document wherever it stands, also inside a block of text (YAML 1.2 §9.1.2), so
/// that no parser is needed to find the ends.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = Vec::new();
    let mut current = (1, String::new());
    for (i, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        match line.strip_prefix("---") {
            Some(rest) if rest.is_empty() || rest.starts_with(char::is_whitespace) => {
                documents.push(std::mem::replace(&mut current, (i + 1, format!("{rest}\n"))));
            }
            _ => {
                current.1.push_str(line);
                current.1.push('\n');
            }
        }
    }
    documents.push(current);
    let has_content = |text: &str| text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'));
    documents.retain(|(_, text)| has_content(text));
    documents
}

fn collect(value: Value, place: &Place, entries: &mut Vec<Entry>) {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if let (Some(item_kind), Some(Value::Array(items))) = (kind.strip_suffix("List"), value.get("items")) {
        for (i, item) in items.iter().enumerate() {
            let mut item = item.clone();
            if let Some(fields) = item.as_object_mut().filter(|_| !item_kind.is_empty()) {
                // The API server leaves both out in the items of typed lists.
                fields.entry("apiVersion").or_insert_with(|| api_version.clone().into());
                fields.entry("kind").or_insert_with(|| item_kind.into());
            }
            let path = [&*place.path, &format!("items[{i}]")].join(if place.path.is_empty() { "" } else { "." });
            collect(item, &Place { path, ..place.clone() }, entries);
        }
        return;
    }
    match Kind::of(&api_version, &kind) {
        Some(kind) => entries.push(entry(kind, &api_version, value, place)),
        None if kind.is_empty() || Kind::is_mistaken(&api_version, &kind) => {
            entries.push(mistaken(&api_version, &kind, &value, place));
        }
        None => {}
    }
}

/// A document whose kind nobody knows.
fn mistaken(api_version: &str, kind: &str, value: &Value, place: &Place) -> Entry {
    let name = value.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    let origin = Origin::new("Document", "", name.map_or_else(|| place.to_string(), ToOwned::to_owned));
    let known: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
    let why = format!("found kind {kind:?} of {api_version:?}, expected one of {}", known.join(", "));
    let problem = Problem { origin: origin.clone(), field: "kind".to_owned(), kind: ProblemKind::Malformed(why) };
    Entry { origin, place: place.clone(), object: None, problems: vec![problem] }
}

fn entry(kind: Kind, api_version: &str, mut value: Value, place: &Place) -> Entry {
    let namespaced = kind != Kind::IngressClass;
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let (mut namespace, mut name) = (String::new(), String::new());
    if let Some(metadata) = metadata {
        if namespaced && metadata.get("namespace").is_none_or(|namespace| namespace.as_str().is_none_or(str::is_empty))
        {
            metadata.insert("namespace".into(), DEFAULT_NAMESPACE.into());
        }
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        (namespace, name) = (text("namespace"), text("name"));
    }
    let origin = Origin::new(kind.name(), if namespaced { namespace.as_str() } else { "" }, name.as_str());
    let place = place.clone();
    let refused = |field: &str, why: String| {
        let problem = Problem { origin: origin.clone(), field: field.to_owned(), kind: ProblemKind::Malformed(why) };
        Entry { origin: origin.clone(), place: place.clone(), object: None, problems: vec![problem] }
    };
    if name.is_empty() {
        return refused("metadata.name", "a name is required".into());
    }
    if api_version != kind.api_version() {
        return refused("apiVersion", format!("found {api_version}, expected {}", kind.api_version()));
    }
    let read = match kind {
        Kind::Ingress => strict(&value).map(|(object, unknown)| (Object::Ingress(object), unknown)),
        Kind::BackendPolicy => lenient(value).map(|(object, told)| (Object::Policy(object), told)),
        Kind::IngressClass => parse(&value).map(|object| (Object::Class(Arc::new(object)), Vec::new())),
        Kind::Service => parse(&value).map(|object| (Object::Service(Arc::new(object)), Vec::new())),
        Kind::EndpointSlice => parse(&value).map(|object| (Object::Slice(Arc::new(object)), Vec::new())),
        Kind::ConfigMap => parse(&value).map(|object| (Object::ConfigMap(Arc::new(object)), Vec::new())),
        Kind::Secret => parse(&value).map(|object| (Object::Secret(Arc::new(with_strings(object))), Vec::new())),
    };
    match read {
        Ok((object, told)) => {
            let problem = |(field, kind)| Problem { origin: origin.clone(), field, kind };
            let problems = told.into_iter().map(problem).collect();
            Entry { origin, place, object: Some(object), problems }
        }
        Err((field, why)) => refused(&field, why),
    }
}

/// `stringData` laid over `data`, as the API server does on write.
fn with_strings(mut secret: Secret) -> Secret {
    for (name, text) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(name, k8s_openapi::ByteString(text.into_bytes()));
    }
    secret
}
