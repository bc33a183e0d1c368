//! A client that has asked and shuts its sending side (shutdown(2), `SHUT_WR`) still listens for the answer.
//!
//! On the wire that looks just like a client that has closed its connection and gone: the difference shows when
//! something is sent to it. So where a whole request is under way, its end is kept to itself for a while. Whoever has
//! really gone is noticed then, or when the answer begins. hyper drops what it has not sent yet when a client ends, so
//! the end has to wait for that, too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Request;
use hyper::body::{Body, Incoming};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::crowd::Guest;
use super::headers;

/// What is known of the newest request. Clones are the same.
#[derive(Clone, Default)]
pub struct Asked(Arc<Newest>);

#[derive(Default)]
struct Newest {
    /// All of it has come, and no more is expected of the client until it is answered.
    whole: AtomicBool,
    /// It counts as a visit of the guest's, or has been refused.
    begun: AtomicBool,
}

impl Asked {
    /// A request has come. The end of the client may have come with it.
    pub fn note(&self, request: &Request<Incoming>) {
        self.0.begun.store(false, Ordering::Relaxed);
        self.0.whole.store(is_whole(request), Ordering::Relaxed);
    }

    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }
}

/// Whether nothing more of it is to come, and it does not ask to talk on in another protocol.
pub fn is_whole(request: &Request<Incoming>) -> bool {
    request.body().is_end_stream() && headers::upgrade(request.headers()).is_none()
}

/// A client's connection. Its end is told to whoever reads from it, as long as a whole request is under way, only after
/// `patience`.
pub struct HalfClosed<S> {
    stream: S,
    guest: Arc<Guest>,
    asked: Asked,
    patience: Duration,
    /// Something is written, and not all of it is sent.
    owes: bool,
    /// It has ended, and this is what is left of the patience.
    ended: Option<Pin<Box<Sleep>>>,
}

impl<S> HalfClosed<S> {
    pub fn new(stream: S, guest: Arc<Guest>, asked: Asked, patience: Duration) -> Self {
        Self { stream, guest, asked, patience, owes: false, ended: None }
    }

    fn is_asking(&self) -> bool {
        let Newest { whole, begun } = &*self.asked.0;
        let under_way = || !begun.load(Ordering::Relaxed) || self.guest.is_asking() || self.owes;
        whole.load(Ordering::Relaxed) && under_way()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClosed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() > before || !self.is_asking() {
                return Poll::Ready(Ok(()));
            }
            self.ended = Some(Box::pin(tokio::time::sleep(self.patience)));
        }
        let is_asking = self.is_asking();
        match &mut self.ended {
            Some(patience) if is_asking => patience.as_mut().poll(cx).map(Ok),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClosed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.owes = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.owes = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Whoever writes flushes when all of it is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.owes = false;
        if self.ended.is_some() && !self.is_asking() {
            // Nobody reads after an answer without a reason to.
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
