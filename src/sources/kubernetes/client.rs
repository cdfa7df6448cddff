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
            if let Some((resource, place)) = of.filter(|_| answer.status().is_success())
                && watches.reopened(&resource, &place)
            {
                info!(resource, place, "watch works again");
            }
            Ok(answer)
        })
    }
}

/// Resource of a request that watches, and where: a namespace, `namespace/name` for a single object, empty for all.
fn watched(uri: &Uri) -> Option<(String, String)> {
    uri.query()?.split('&').find(|pair| matches!(*pair, "watch=true" | "watch=1"))?;
    let mut segments = uri.path().rsplit('/');
    let resource = segments.next()?.to_owned();
    let namespace = segments.next().filter(|_| segments.next() == Some("namespaces")).unwrap_or_default();
    let place = match name(uri.query()?) {
        Some(name) => format!("{namespace}/{name}"),
        None => namespace.to_owned(),
    };
    Some((resource, place))
}

/// The name that the field selector of a query asks for; names need no encoding.
fn name(query: &str) -> Option<&str> {
    let selector = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector="))?;
    let fields = selector.split("%2C").flat_map(|fields| fields.split(','));
    fields
        .filter_map(|field| field.strip_prefix("metadata.name"))
        .find_map(|value| value.strip_prefix("%3D").or_else(|| value.strip_prefix('=')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_known_by_its_uri() {
        for (uri, want) in [
            ("/api/v1/services?&watch=true&timeoutSeconds=60", Some(("services", ""))),
            ("/api/v1/namespaces/shop/secrets?&watch=true&fieldSelector=type%3Dx", Some(("secrets", "shop"))),
            (
                "/api/v1/namespaces/shop/secrets?&watch=true&fieldSelector=type%3Dx%2Cmetadata.name%3Dpair",
                Some(("secrets", "shop/pair")),
            ),
            (
                "/api/v1/namespaces/shop/services?&watch=1&fieldSelector=metadata.name%3Dweb&limit=1",
                Some(("services", "shop/web")),
            ),
            ("https://host/prefix/apis/networking.k8s.io/v1/ingresses?watch=true", Some(("ingresses", ""))),
            ("/api/v1/namespaces?watch=true", Some(("namespaces", ""))),
            ("/api/v1/services?limit=500", None),
            ("/api/v1/services", None),
        ] {
            let found = watched(&uri.parse().unwrap());
            assert_eq!(found, want.map(|(resource, place)| (resource.to_owned(), place.to_owned())), "{uri}");
        }
    }
}
