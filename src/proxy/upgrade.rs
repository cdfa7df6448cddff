//! Connections that stop speaking HTTP (RFC 9110 §7.8).
//!
//! A tunnel opens only on a 101 that matches what the client asked for; nothing else ever makes one.

use std::{
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::{HeaderValue, Response, Version, header};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Error,
    clock::millis,
    connection::Client,
    headers,
    record::Record,
    response::{ResponseBody, finish_head},
    upstream::Checkout,
};

/// Bytes in flight in each direction of a tunnel.
const TUNNEL_BUFFER: usize = 16 * 1024;

/// Passes a 101 to the client and opens the tunnel.
///
/// # Errors
/// [`Error::UpstreamMalformed`] for a 101 that nobody asked for, or for something else: it puts the connection in doubt.
pub(super) fn open(
    client: &Rc<Client>,
    mut response: Response<Incoming>,
    checkout: Checkout,
    record: &mut Option<Box<Record>>,
    upgrade: Option<(HeaderValue, OnUpgrade)>,
) -> Result<Response<ResponseBody>, Error> {
    let (asked, downstream) = upgrade.ok_or(Error::UpstreamMalformed)?;
    let agreed = response.headers().get(header::UPGRADE).cloned();
    let agreed = agreed
        .filter(|agreed| agreed.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        .ok_or(Error::UpstreamMalformed)?;
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    headers::prepare_response(&mut head.headers, head.status)?;
    headers::ask_upgrade(&mut head.headers, &agreed);
    finish_head(client, &mut head.headers, head.version);
    head.version = Version::HTTP_11;
    checkout.detach();
    let mut record = record.take().ok_or(Error::ClientGone)?;
    record.responds(head.status, &head.headers);
    tokio::task::spawn_local(tunnel(Rc::clone(client), downstream, upstream, record));
    Ok(Response::from_parts(head, ResponseBody::none()))
}

/// Copies both ways until both sides have ended, nothing moves for too long, or the process ends.
async fn tunnel(client: Rc<Client>, downstream: OnUpgrade, upstream: OnUpgrade, mut record: Box<Record>) {
    let _present = client.worker.drain.join();
    let (Ok(downstream), Ok(upstream)) = (downstream.await, upstream.await) else { return };
    let clock = &client.worker.clock;
    let moved = Arc::new(AtomicU64::new(clock.now()));
    let stamped = |io: Upgraded| Stamped { io: TokioIo::new(io), now: clock.hand(), moved: Arc::clone(&moved) };
    let (mut downstream, mut upstream) = (stamped(downstream), stamped(upstream));
    let copy = tokio::io::copy_bidirectional_with_sizes(&mut downstream, &mut upstream, TUNNEL_BUFFER, TUNNEL_BUFFER);
    let mut copy = std::pin::pin!(copy);
    let limit = client.worker.settings.timeouts.tunnel;
    let deadline = clock.deadline(limit);
    let copied = std::future::poll_fn(|cx| {
        if let Poll::Ready(copied) = copy.as_mut().poll(cx) {
            return Poll::Ready(copied.ok());
        }
        while deadline.poll_expired(cx).is_ready() {
            let due = moved.load(Ordering::Relaxed).saturating_add(millis(limit));
            if due <= clock.now() {
                return Poll::Ready(None);
            }
            deadline.reset_at(due);
        }
        Poll::Pending
    })
    .await;
    if let Some((_, to_client)) = copied {
        record.sent(to_client);
    }
    record.complete();
}

/// Notes when bytes last moved.
struct Stamped {
    io: TokioIo<Upgraded>,
    now: Arc<AtomicU64>,
    moved: Arc<AtomicU64>,
}

impl Stamped {
    fn stamp(&self) {
        self.moved.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl AsyncRead for Stamped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.stamp();
        }
        read
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if written.is_ready() {
            self.stamp();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
