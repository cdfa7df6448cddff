//! The client of the API server: the watcher resumes a watch without a word, so its requests are listened to.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, Uri};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{Service, layer::layer_fn};
use tracing::info;

use super::run::READ_TIMEOUT;
use crate::telemetry::watches::Watches;

/// A client that tells `watches` when a watch was resumed.
///
/// # Errors
/// When the configuration is not usable.
pub fn client(mut config: Config, watches: &Arc<Watches>) -> kube::Result<Client> {
    config.read_timeout = Some(READ_TIMEOUT);
    let watches = Arc::clone(watches);
    let listening = layer_fn(move |inner| Listening { inner, watches: Arc::clone(&watches) });
    Ok(ClientBuilder::try_from(config)?.with_layer(&listening).build())
}

/// Passes requests on and looks at the answers to those that watch.
#[derive(Clone)]
struct Listening<S> {
    inner: S,
    watches: Arc<Watches>,
}

impl<S, B> Service<Request<Body>> for Listening<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let of = watched(request.uri());
        let (answer, watches) = (self.inner.call(request), Arc::clone(&self.watches));
        Box::pin(async move {
            let answer = answer.await?;
            if let Some((resource, namespace)) = of.filter(|_| answer.status().is_success())
                && watches.reopened(&resource, &namespace) > 0
            {
                info!(resource, namespace, "watch works again");
            }
            Ok(answer)
        })
    }
}

/// Resource and namespace of a request that watches; the namespace is empty for all of them.
fn watched(uri: &Uri) -> Option<(String, String)> {
    uri.query()?.split('&').find(|pair| matches!(*pair, "watch=true" | "watch=1"))?;
    let mut segments = uri.path().rsplit('/');
    let resource = segments.next()?.to_owned();
    let namespace = segments.next().filter(|_| segments.next() == Some("namespaces")).unwrap_or_default();
    Some((resource, namespace.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_known_by_its_uri() {
        for (uri, want) in [
            ("/api/v1/services?&watch=true&timeoutSeconds=60", Some(("services", ""))),
            ("/api/v1/namespaces/shop/secrets?&watch=true&fieldSelector=type%3Dx", Some(("secrets", "shop"))),
            ("https://host/prefix/apis/networking.k8s.io/v1/ingresses?watch=true", Some(("ingresses", ""))),
            ("/api/v1/namespaces?watch=true", Some(("namespaces", ""))),
            ("/api/v1/services?limit=500", None),
            ("/api/v1/services", None),
        ] {
            let found = watched(&uri.parse().unwrap());
            assert_eq!(found, want.map(|(resource, namespace)| (resource.to_owned(), namespace.to_owned())), "{uri}");
        }
    }
}
