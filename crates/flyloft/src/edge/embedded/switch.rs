//! A connection that goes on in another protocol, for as long as both sides like.
//!
//! Nobody waits for its end, and that it is open is no use of its environment. What its client says is: a message over
//! a WebSocket, or anything over another protocol. So it is listened to on its way, and wakes what has fallen asleep
//! meanwhile. What is said to somebody asleep stays in the sockets, and is bounded by them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::crowd::Visit;
use super::exchange::Client;
use super::hold;
use super::host::{Aim, Pass};
use super::line::Line;
use super::websocket::Frames;
use super::worker::Worker;

/// A client that asks to go on in another protocol.
pub struct Switch {
    client_side: OnUpgrade,
    /// Where it is a WebSocket.
    frames: Option<Frames>,
    /// In words for people.
    by: String,
    worker: Arc<Worker>,
}

impl Switch {
    pub fn of(client: &Client, request: &mut Request<Incoming>, protocol: &HeaderValue) -> Self {
        Self {
            client_side: hyper::upgrade::on(&mut *request),
            frames: protocol.as_bytes().eq_ignore_ascii_case(b"websocket").then(Frames::new),
            by: format!("a message over {}", hold::told(client, request)),
            worker: client.worker.clone(),
        }
    }

    /// The app agrees.
    pub fn go(self, line: Box<Line>, mut pass: Pass, visit: Visit) {
        pass.detach();
        line.keep_watch();
        // On the thread of the edge, with which it ends.
        tokio::spawn(async move {
            // That one side goes away is how such a connection ends.
            let _ = self.join(line, pass).await;
            drop(visit);
        });
    }

    async fn join(self, line: Box<Line>, pass: Pass) -> io::Result<()> {
        let Self { client_side, frames, by, worker } = self;
        let (mut upstream_side, early, _permit) = line.switched().ok_or(io::ErrorKind::NotConnected)?;
        let client_side = TokioIo::new(client_side.await.map_err(io::Error::other)?);
        let mut client_side = Overheard { stream: client_side, frames, by, worker, pass };
        client_side.write_all(&early).await?;
        tokio::io::copy_bidirectional(&mut client_side, &mut upstream_side).await?;
        Ok(())
    }
}

/// The client's side. Whatever is read from it is listened to.
struct Overheard<S> {
    stream: S,
    frames: Option<Frames>,
    by: String,
    worker: Arc<Worker>,
    pass: Pass,
}

impl<S> Overheard<S> {
    fn hear(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.pass.is_quiet() {
            return;
        }
        if self.frames.as_mut().is_some_and(|frames| !frames.take(bytes)) {
            return;
        }
        let place = self.pass.place();
        place.touch();
        if let Some(now) = place.now()
            && let Aim::Held(sleep) = &now.aim
        {
            self.worker.tell(&now.env, sleep, false, || self.by.clone());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.hear(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
