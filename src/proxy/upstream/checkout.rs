//! A connection for one request: sends it, judges what went wrong, and goes back where it came from.

use std::rc::Rc;

use hyper::{Request, Response, body::Incoming};
use rustls::AlertDescription;

use super::{
    super::{
        Error,
        body::{RequestBody, Upload},
    },
    Place, Upstreams,
    kept::Kind,
};

/// A connection for one request. Unless it is given back, it is closed (HTTP/1.1) or the stream is reset (HTTP/2).
#[derive(Debug)]
pub(in crate::proxy) struct Checkout {
    kind: Kind,
    upstreams: Rc<Upstreams>,
    place: Place,
    upload: Option<Rc<Upload>>,
    retired: bool,
}

/// A request that was not answered.
#[derive(Debug)]
pub(in crate::proxy) struct SendError {
    /// Why.
    pub(in crate::proxy) error: Error,
    /// The request, when no byte of it was written.
    pub(in crate::proxy) unsent: Option<Request<RequestBody>>,
}

impl Checkout {
    pub(super) fn new(kind: Kind, upstreams: Rc<Upstreams>, place: Place) -> Self {
        Self { kind, upstreams, place, upload: None, retired: false }
    }

    /// Sends the request and waits for the response head.
    pub(in crate::proxy) async fn send(
        &mut self,
        request: Request<RequestBody>,
        upload: Option<Rc<Upload>>,
    ) -> Result<Response<Incoming>, SendError> {
        self.upload = upload;
        let sent = match &mut self.kind {
            Kind::Exclusive(Some(connection)) => {
                connection.unanswered.asked();
                let sent = connection.sender.try_send_request(request).await;
                connection.unanswered.answered();
                sent
            }
            Kind::Shared(stream) => stream.0.sender.try_send_request(request).await,
            Kind::Exclusive(None) => return Err(SendError { error: Error::UpstreamReset, unsent: Some(request) }),
        };
        sent.map_err(|mut failed| {
            let unsent = failed.take_message();
            SendError { error: self.classify(failed.error()), unsent }
        })
    }

    fn classify(&self, error: &hyper::Error) -> Error {
        if let Some(failure) = self.upload.as_ref().and_then(|upload| upload.failure.get()) {
            return failure;
        }
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let tls = io.and_then(|io| io.get_ref()).and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) if is_of_certificate(*alert) => return Error::UpstreamTls,
            Some(_) => return Error::UpstreamReset,
            None => {}
        }
        let is_endless = io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData);
        if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() || is_endless {
            return Error::UpstreamMalformed;
        }
        let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>()).filter(|error| error.is_remote());
        match (h2, &self.kind) {
            // Streams up to the last that a GOAWAY names are answered, or end with the connection: this one is above.
            (Some(error), Kind::Shared(stream)) if error.is_go_away() => {
                stream.0.retire();
                Error::StreamRefused
            }
            // RFC 9113 §8.7: neither these nor those were processed.
            (Some(error), _) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Error::StreamRefused,
            _ => Error::UpstreamReset,
        }
    }

    /// The connection serves no other request, whatever becomes of this one.
    pub(in crate::proxy) fn retire(&mut self) {
        self.retired = true;
    }

    /// Decides now whether the request was sent to its end: another try is about to read the same body.
    pub(in crate::proxy) fn seal(&mut self) {
        self.retired |= self.upload.take().is_some_and(|upload| !upload.delivered.get());
    }

    /// The response is read to its end: the connection may serve the next request, if the request was sent to its end.
    pub(in crate::proxy) fn give_back(mut self) {
        let sent = self.upload.as_ref().is_none_or(|upload| upload.delivered.get());
        let Kind::Exclusive(connection) = &mut self.kind else { return };
        let Some(connection) = connection.take() else { return };
        if !sent || self.retired || connection.sender.is_closed() {
            return; // hyper neither closes nor reuses it by itself (hyper#4176)
        }
        let now = self.upstreams.clock.now();
        let _closed = self.upstreams.kept_still(&self.place, |kept| kept.take_back(connection, now));
    }

    /// The connection becomes a tunnel: it is neither given back nor closed.
    pub(in crate::proxy) fn detach(mut self) {
        if let Kind::Exclusive(Some(connection)) = &mut self.kind {
            connection.detach(); // it still has to hand the upgraded connection over
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Kind::Shared(stream) = std::mem::replace(&mut self.kind, Kind::Exclusive(None)) {
            let now = self.upstreams.clock.now();
            let _closed = self.upstreams.kept_still(&self.place, |kept| kept.vacated(stream, now));
        }
    }
}

/// Whether the endpoint refuses our certificate. RFC 8446 §4.4.2: in TLS 1.3 it says so after our side of the handshake has
/// ended, and reads nothing of the request.
fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}
