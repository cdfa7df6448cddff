//! Where configuration comes from. Each source compiles what it sees into a [`Compiled`] and sends it on; nothing here
//! serves traffic.

pub mod certificate;
#[cfg(feature = "kubernetes")]
pub mod file;
pub mod flags;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "kubernetes")]
pub mod policy;

use std::sync::Arc;

use futures_util::future::select_all;
use tokio::sync::watch;

use crate::model::{Builder, Compiled};

/// What a source sends: None until it has seen everything once. Latest wins, nothing queues.
pub type Updates = watch::Receiver<Option<Arc<Compiled>>>;

/// One model of several, by the rules of [`Builder`]: of two that claim the same thing the first part wins.
pub fn merge(parts: &[Arc<Compiled>]) -> Compiled {
    let mut builder = Builder::new();
    let mut default_certificate = None;
    for part in parts {
        builder.provenance(&part.provenance);
        for problem in &part.problems {
            builder.problem(problem.clone());
        }
        let model = &part.model;
        for (id, backend) in &model.backends {
            if !builder.has_backend(id) {
                builder.backend(backend.as_ref().clone());
            }
        }
        for (pattern, host) in &model.hosts {
            builder.host(pattern.clone());
            for route in host.routes.iter().chain(&host.default) {
                builder.route(route.as_ref().clone());
            }
        }
        if let Some(default) = &model.default {
            builder.default_route(default.as_ref().clone());
        }
        for (host, certificate) in &model.certificates {
            match certificate {
                Some(own) => builder.tls(&own.origin, "", host.clone(), Some(Arc::clone(own))),
                None => builder.host_with_tls(host.clone()),
            }
        }
        default_certificate = default_certificate.or(model.default_certificate.as_ref());
    }
    if let Some(certificate) = default_certificate {
        builder.default_certificate(Arc::clone(certificate));
    }
    let revision = parts.iter().map(|part| part.revision).max().unwrap_or_default();
    Compiled { revision, ..builder.finish() }
}

/// Merges several sources into one: sends once all have sent, then on each change, until all have gone.
///
/// A source that goes keeps what it sent last.
pub async fn merged(mut inputs: Vec<Updates>, output: watch::Sender<Option<Arc<Compiled>>>) {
    let mut gone = vec![false; inputs.len()];
    loop {
        let parts: Option<Vec<Arc<Compiled>>> =
            inputs.iter_mut().map(|input| input.borrow_and_update().clone()).collect();
        match parts.as_deref() {
            Some([only]) => drop(output.send_replace(Some(Arc::clone(only)))),
            Some(parts) => drop(output.send_replace(Some(Arc::new(merge(parts))))),
            None => {}
        }
        loop {
            let waiting = inputs.iter_mut().enumerate().filter(|(i, _)| !gone[*i]);
            let changes: Vec<_> =
                waiting.map(|(i, input)| Box::pin(async move { (i, input.changed().await) })).collect();
            if changes.is_empty() {
                return;
            }
            match select_all(changes).await.0 {
                (_, Ok(())) => break,
                (i, Err(_)) => gone[i] = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Certificate, Origin, ProblemKind};

    fn flags(url: &str) -> Arc<Compiled> {
        Arc::new(flags::compile(&[url.parse().unwrap()], None))
    }

    #[test]
    fn the_first_source_wins_and_the_other_is_told() {
        let (one, two) = (flags("http://10.0.0.1:80"), flags("http://10.0.0.2:80"));
        let merged = merge(&[Arc::clone(&one), two]);
        assert_eq!(merged.model, one.model);
        assert!(matches!(merged.problems[0].kind, ProblemKind::Conflict { .. }), "{:?}", merged.problems);
    }

    #[test]
    fn certificates_of_all_sources_are_kept() {
        let part = |name: &str| {
            let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&pair.signing_key.into()).unwrap();
            let certificate = Arc::new(Certificate {
                origin: Origin::new("Secret", "shop", name),
                names: vec![name.to_owned()],
                not_after: 0,
                key: Arc::new(rustls::sign::CertifiedKey::new(vec![pair.cert.into()], key)),
            });
            let mut builder = Builder::new();
            builder.default_certificate(Arc::clone(&certificate));
            builder.tls(&certificate.origin, "", name.parse().unwrap(), Some(Arc::clone(&certificate)));
            builder.host_with_tls("plain.example".parse().unwrap());
            Arc::new(builder.finish())
        };
        let model = merge(&[Arc::default(), part("a.example"), part("b.example")]).model;
        assert_eq!(model.default_certificate.unwrap().names, ["a.example"]);
        let own: Vec<_> = model.certificates.iter().map(|(host, own)| (host.to_string(), own.is_some())).collect();
        let expected = [("a.example", true), ("b.example", true), ("plain.example", false)];
        assert_eq!(own, expected.map(|(host, own)| (host.to_owned(), own)));
    }

    #[tokio::test]
    async fn sends_once_all_sources_have_sent_and_then_on_each_change() {
        let (first, first_updates) = watch::channel(None);
        let (second, second_updates) = watch::channel(None);
        let (output, mut merged_updates) = watch::channel(None);
        let task = tokio::spawn(merged(vec![first_updates, second_updates], output));
        first.send_replace(Some(flags("http://10.0.0.1:80")));
        tokio::task::yield_now().await;
        assert_eq!(*merged_updates.borrow(), None);
        second.send_replace(Some(Arc::default()));
        drop(second);
        merged_updates.changed().await.unwrap();
        let sent = merged_updates.borrow_and_update().clone().unwrap();
        assert_eq!(sent.model, flags("http://10.0.0.1:80").model);
        first.send_replace(Some(flags("http://10.0.0.3:80")));
        merged_updates.changed().await.unwrap();
        let sent = merged_updates.borrow_and_update().clone().unwrap();
        assert_eq!(sent.model, flags("http://10.0.0.3:80").model);
        drop(first);
        task.await.unwrap();
    }
}
