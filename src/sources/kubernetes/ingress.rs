//! The rules of an Ingress into routes, its `tls` into certificates.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressSpec, IngressTLS,
};
use kube::ResourceExt;

use super::{
    Certificates,
    annotations::{self, Options, Protection, Role},
    services::{self, Backends, Fault},
};
use crate::{
    filters::{Filter, HttpsRedirect},
    matching::{HostPattern, NormalPath, PathPattern},
    model::{Action, Builder, Certificate, Loss, Lost, Origin, Problem, ProblemKind, Route, Unavailable},
};

/// Adds the routes and certificates of an Ingress that is ours.
pub(super) fn compile(builder: &mut Builder, ingress: &Ingress, backends: &Backends<'_>, certificates: &Certificates) {
    let namespace = ingress.namespace().unwrap_or_default();
    let origin = Origin::new("Ingress", namespace.as_str(), ingress.name_any());
    let (options, problems) = annotations::read(ingress);
    for (field, kind) in problems {
        builder.problem(Problem { origin: origin.clone(), field, kind });
    }
    created(builder, &origin, ingress);
    if options.role == Role::Canary {
        lose(builder, ingress, &Loss::Canary);
        let kind = ProblemKind::Unsupported("canary: the routes of this Ingress are left out".into());
        let field = "metadata.annotations[nginx.ingress.kubernetes.io/canary]".into();
        builder.problem(Problem { origin, field, kind });
        return;
    }
    let Some(spec) = &ingress.spec else { return };
    let filters = redirects(&options, backends);
    let mut compiler = Compiler { builder, namespace, origin, options, filters, backends, certificates };
    let hosts = compiler.rules(spec);
    compiler.default_backend(spec, &hosts);
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        compiler.tls(&format!("spec.tls[{i}]"), tls, &hosts);
    }
}

/// Takes the rules of an Ingress down that become no routes.
pub(super) fn lose(builder: &mut Builder, ingress: &Ingress, why: &Loss) {
    let origin = Origin::new("Ingress", ingress.namespace().unwrap_or_default(), ingress.name_any());
    created(builder, &origin, ingress);
    let mut lose = |field: String, host: &str, path: Option<PathPattern>| {
        if let Ok(host) = host.parse() {
            builder.lost(Lost { origin: origin.clone(), field, host, path, why: why.clone() });
        }
    };
    let Some(spec) = &ingress.spec else { return };
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        let host = rule.host.as_deref().unwrap_or_default();
        for (j, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            if let Ok(pattern) = pattern(path) {
                lose(format!("spec.rules[{i}].http.paths[{j}]"), host, Some(pattern));
            }
        }
        if spec.default_backend.is_some() {
            lose("spec.defaultBackend".to_owned(), host, None);
        }
    }
    if spec.rules.as_ref().is_none_or(Vec::is_empty) && spec.default_backend.is_some() {
        lose("spec.defaultBackend".to_owned(), "", None);
    }
}

fn created(builder: &mut Builder, origin: &Origin, ingress: &Ingress) {
    if let Some(time) = &ingress.metadata.creation_timestamp {
        builder.created(origin.clone(), time.0.as_second());
    }
}

fn redirects(options: &Options, backends: &Backends<'_>) -> Vec<Filter> {
    let port = backends.settings.https_port;
    if options.force_ssl_redirect {
        return vec![Filter::HttpsRedirect(HttpsRedirect { only_with_tls: false, port })];
    }
    if options.ssl_redirect.unwrap_or(backends.settings.ssl_redirect) {
        return vec![Filter::HttpsRedirect(HttpsRedirect { only_with_tls: true, port })];
    }
    Vec::new()
}

/// One Ingress on its way into the builder.
struct Compiler<'a> {
    builder: &'a mut Builder,
    namespace: String,
    origin: Origin,
    options: Options,
    filters: Vec<Filter>,
    backends: &'a Backends<'a>,
    certificates: &'a Certificates,
}

impl Compiler<'_> {
    fn problem(&mut self, field: impl Into<String>, kind: ProblemKind) {
        self.builder.problem(Problem { origin: self.origin.clone(), field: field.into(), kind });
    }

    /// Adds the routes of all rules; gives the hosts that the rules name.
    fn rules(&mut self, spec: &IngressSpec) -> BTreeSet<HostPattern> {
        let mut hosts = BTreeSet::new();
        for (i, rule) in spec.rules.iter().flatten().enumerate() {
            let field = format!("spec.rules[{i}]");
            let host = self.host(&format!("{field}.host"), rule.host.as_deref().unwrap_or_default());
            if let Some(host) = &host {
                // Even without a valid path: a host that is named never falls through to a wildcard.
                self.builder.host(host.clone());
                hosts.insert(host.clone());
            }
            self.paths(&field, rule, host.as_ref());
        }
        hosts
    }

    fn host(&mut self, field: &str, text: &str) -> Option<HostPattern> {
        match text.parse() {
            Ok(host) => Some(host),
            Err(error) => {
                let expected = expected(&error);
                self.problem(field, ProblemKind::InvalidValue { found: text.to_owned(), expected });
                None
            }
        }
    }

    /// Adds the routes of a rule; without a valid host only tells what is wrong with them.
    fn paths(&mut self, field: &str, rule: &IngressRule, host: Option<&HostPattern>) {
        for (j, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let field = format!("{field}.http.paths[{j}]");
            let action = self.action(&format!("{field}.backend"), &path.backend);
            let pattern = match pattern(path) {
                Ok(pattern) => pattern,
                Err((below, kind)) => {
                    self.problem(format!("{field}.{below}"), kind);
                    continue;
                }
            };
            if let Some(host) = host {
                let route = self.route(field, host.clone(), Some(pattern), action);
                self.builder.route(route);
            }
        }
    }

    /// `spec.defaultBackend`: of each host that the rules name, or without rules of the whole class.
    fn default_backend(&mut self, spec: &IngressSpec, hosts: &BTreeSet<HostPattern>) {
        let Some(backend) = &spec.default_backend else { return };
        let field = "spec.defaultBackend";
        let action = self.action(field, backend);
        if spec.rules.as_ref().is_none_or(Vec::is_empty) {
            let route = self.route(field.to_owned(), HostPattern::Any, None, action);
            self.builder.default_route(route);
            return;
        }
        for host in hosts {
            let route = self.route(field.to_owned(), host.clone(), None, action.clone());
            self.builder.route(route);
        }
    }

    fn route(&self, field: String, host: HostPattern, path: Option<PathPattern>, action: Action) -> Route {
        Route { origin: self.origin.clone(), field, host, path, filters: self.filters.clone(), action }
    }

    fn action(&mut self, field: &str, backend: &IngressBackend) -> Action {
        let resolved = self.resolve(backend);
        let action = match resolved {
            Ok(id) => Action::Forward(id),
            Err((below, kind)) => {
                let field = if below.is_empty() { field.to_owned() } else { format!("{field}.{below}") };
                let unavailable = services::unavailable(&kind);
                self.problem(field, kind);
                unavailable
            }
        };
        // Fail closed: a route that asks for protection we cannot give is not served at all.
        match self.options.protection {
            Protection::Complete => action,
            Protection::Missing => Action::Unavailable(Unavailable::Unprotected),
        }
    }

    fn resolve(&mut self, backend: &IngressBackend) -> Result<crate::model::BackendId, Fault> {
        let Some(service) = &backend.service else {
            return Err(match &backend.resource {
                Some(resource) => {
                    ("resource", ProblemKind::Unsupported(format!("a backend of kind {}", resource.kind)))
                }
                None => ("", ProblemKind::InvalidValue { found: String::new(), expected: "a service".into() }),
            });
        };
        let key = (self.namespace.clone(), service.name.clone());
        self.backends.resolve(self.builder, &key, service.port.as_ref(), &self.options)
    }

    /// Hosts of a `tls` entry, or of the rules where it names none, with the certificate of its Secret.
    fn tls(&mut self, field: &str, tls: &IngressTLS, of_rules: &BTreeSet<HostPattern>) {
        let secret_field = format!("{field}.secretName");
        let certificates = self.certificates;
        let certificate = match tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => {
                let (certificate, kinds) = certificates.judge(&(self.namespace.clone(), name.to_owned()));
                for kind in kinds {
                    self.problem(secret_field.as_str(), kind);
                }
                certificate
            }
        };
        let named = tls.hosts.as_deref().unwrap_or_default();
        if named.is_empty() {
            let any = BTreeSet::from([HostPattern::Any]);
            for host in if of_rules.is_empty() { &any } else { of_rules } {
                self.serve_tls(&secret_field, host, certificate);
            }
        }
        for (j, text) in named.iter().enumerate() {
            let field = format!("{field}.hosts[{j}]");
            if let Some(host) = self.host(&field, text) {
                self.serve_tls(&field, &host, certificate);
            }
        }
    }

    fn serve_tls(&mut self, field: &str, host: &HostPattern, certificate: Option<&Arc<Certificate>>) {
        if let Some(certificate) = certificate.filter(|certificate| !covers(certificate, host)) {
            let (secret, names) = (certificate.origin.clone(), certificate.names.join(", "));
            self.problem(field, ProblemKind::CertificateMismatch { secret, host: host.to_string(), names });
        }
        self.builder.tls(&self.origin, field, host.clone(), certificate.cloned());
    }
}

/// RFC 6125 §6.4.3: a wildcard name covers exactly one label. Any host at all is beyond every certificate.
fn covers(certificate: &Certificate, host: &HostPattern) -> bool {
    let of_name = |name: &String| name.parse::<HostPattern>().is_ok_and(|name| name.covers(host));
    *host == HostPattern::Any || certificate.names.iter().any(of_name)
}

fn pattern(path: &HTTPIngressPath) -> Result<PathPattern, (&'static str, ProblemKind)> {
    let text = path.path.as_deref().unwrap_or_default();
    let pattern = match path.path_type.as_str() {
        "Exact" => PathPattern::exact,
        "Prefix" => PathPattern::prefix,
        "ImplementationSpecific" => PathPattern::implementation_specific,
        other => {
            let expected = "Exact, Prefix or ImplementationSpecific".into();
            return Err(("pathType", ProblemKind::InvalidValue { found: other.to_owned(), expected }));
        }
    };
    // The API lets only ImplementationSpecific go without a path; it then takes all.
    if text.is_empty() && path.path_type == "ImplementationSpecific" {
        return Ok(pattern("/"));
    }
    match NormalPath::parse(text) {
        Ok(normal) => Ok(pattern(&normal.matching)),
        Err(error) => {
            let expected = format!("an absolute path, but {error}");
            Err(("path", ProblemKind::InvalidValue { found: text.to_owned(), expected }))
        }
    }
}

/// Errors of parsers say what they expected; the problem says "expected" itself.
fn expected(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.strip_prefix("expected ").map_or(text.clone(), ToOwned::to_owned)
}
