//! A connection that goes on in another protocol, for as long as both sides like.
//!
//! Nobody waits for its end, and that it is open is no use of its environment. What its client says is: a message over
//! a WebSocket, or anything over another protocol. So it is listened to on its way, and wakes what has fallen asleep
//! meanwhile. What is said to somebody asleep stays in the sockets, and is bounded by them. Where it could not wake, for
//! want of memory, nobody is there who would be told so: it is asked again, until it has heard or the client is gone.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;

use super::crowd::Visit;
use super::exchange::Client;
use super::hold;
use super::host::{Aim, Pass, Place, Sleep};
use super::line::Line;
use super::standing::Standing;
use super::websocket::Frames;
use super::worker::Worker;

/// A client that asks to go on in another protocol.
pub struct Switch {
    client_side: OnUpgrade,
    /// Where it is a WebSocket.
    frames: Option<Frames>,
    /// In words for people.
    by: String,
    standing: Standing,
    worker: Arc<Worker>,
}

impl Switch {
    pub fn of(client: &Client, request: &mut Request<Incoming>, host: &str, protocol: &HeaderValue) -> Self {
        Self {
            client_side: hyper::upgrade::on(&mut *request),
            frames: protocol.as_bytes().eq_ignore_ascii_case(b"websocket").then(Frames::new),
            by: format!("a message over {}", hold::told(client, request)),
            standing: Standing::of(client, host, request),
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
        let Self { client_side, frames, by, standing, worker } = self;
        let (mut upstream_side, early, _permit) = line.switched().ok_or(io::ErrorKind::NotConnected)?;
        let client_side = TokioIo::new(client_side.await.map_err(io::Error::other)?);
        let said = Said { by, worker, pass, unheard: Notify::new(), is_over: AtomicBool::new(false) };
        let mut client_side = Overheard { stream: client_side, frames, said: &said };
        client_side.write_all(&early).await?;
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut client_side, &mut upstream_side) => copied.map(drop),
            never = said.again_and_again() => match never {},
            () = standing.ended() => Ok(()),
        }
    }
}

/// What is said over a connection to somebody who may be asleep.
struct Said {
    by: String,
    worker: Arc<Worker>,
    pass: Pass,
    /// Something was, to somebody who was.
    unheard: Notify,
    /// Nothing more is said: its client is gone.
    is_over: AtomicBool,
}

impl Said {
    fn something(&self) {
        let place = self.pass.place();
        place.touch();
        place.note(|| self.by.clone());
        if let Some(now) = place.now()
            && let Aim::Held(sleep) = &now.aim
        {
            self.tell(&now, sleep);
            self.unheard.notify_one();
        }
    }

    fn tell(&self, place: &Place, sleep: &Sleep) {
        self.worker.tell(&place.env, sleep, false, || self.by.clone());
    }

    /// Tells of what was not heard once more, wherever a wake has come to nothing.
    async fn again_and_again(&self) -> Infallible {
        loop {
            self.unheard.notified().await;
            loop {
                tokio::time::sleep(self.worker.shared.limits.unheard).await;
                let Some(now) = self.pass.place().now().filter(|_| !self.is_over.load(Ordering::Relaxed)) else {
                    break;
                };
                match &now.aim {
                    Aim::Held(sleep) if sleep.has_failed() => self.tell(&now, sleep),
                    Aim::Held(sleep) if sleep.is_told() => {}
                    // It has been awake meanwhile, or never will be.
                    Aim::Held(_) | Aim::Upstream(_) | Aim::Unavailable { .. } | Aim::Gone => break,
                }
            }
        }
    }
}

/// The client's side. Whatever is read from it is listened to.
struct Overheard<'a, S> {
    stream: S,
    frames: Option<Frames>,
    said: &'a Said,
}

impl<S> Overheard<'_, S> {
    fn hear(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.said.pass.is_quiet() {
            return;
        }
        if self.frames.as_mut().is_none_or(|frames| frames.take(bytes)) {
            self.said.something();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let heard = &buffer.filled()[before..];
        if heard.is_empty() && buffer.remaining() > 0 {
            self.said.is_over.store(true, Ordering::Relaxed);
        }
        self.hear(heard);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<'_, S> {
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
