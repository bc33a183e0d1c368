//! Connections to upstreams: one at a time is asked one thing, and kept for the next one when it is done.
//!
//! A line is driven by whoever uses it. hyper's usual way, a task for every connection, costs two changes of task a
//! request; here the request's own task moves the bytes, and a client that stops reading stops the upstream too.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::Upload;

/// Idle connections that one thread keeps for one upstream.
const IDLE_MAX: usize = 128;

/// How long a new connection may take. Upstreams are on this machine or next to it.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection to an upstream.
pub struct Line {
    sender: SendRequest<Upload>,
    wire: Connection<TokioIo<Wire>, Upload>,
    /// Whether any byte has come back since the last request was sent.
    heard: Arc<AtomicBool>,
    /// The connection has ended, and `wire` must not be polled again.
    ended: bool,
    /// It has been used for an earlier request.
    pub used: bool,
    idle_since: Instant,
    bell: Arc<Bell>,
    /// The bell's rope.
    waker: Waker,
}

type FrameResult = Result<Frame<Bytes>, hyper::Error>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("failed to connect")]
    Connect(#[source] io::Error),
    #[error("failed to connect within {} s", CONNECT_LIMIT.as_secs())]
    ConnectLimit,
    #[error("it switches to a protocol that nobody asked for")]
    Unasked,
    #[error("the connection ended before an answer")]
    Lost {
        source: hyper::Error,
        /// The request, where none of it was written.
        unsent: Option<Box<Request<Upload>>>,
        /// Not a byte of an answer has come.
        unheard: bool,
    },
}

impl Line {
    pub async fn connect(address: SocketAddr) -> Result<Box<Self>, LineError> {
        let stream = match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(LineError::Connect)?,
            Err(_) => return Err(LineError::ConnectLimit),
        };
        stream.set_nodelay(true).map_err(LineError::Connect)?;
        let heard = Arc::new(AtomicBool::new(false));
        let wire = TokioIo::new(Wire { stream, heard: heard.clone(), deaf: false });
        let (sender, wire) = http1::Builder::new().handshake(wire).await.map_err(|source| LineError::Lost {
            source,
            unsent: None,
            unheard: true,
        })?;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let idle_since = Instant::now();
        Ok(Box::new(Self { sender, wire, heard, ended: false, used: false, idle_since, bell, waker }))
    }

    /// Sends a request and gives the head of its answer. The body of the answer moves only while [`Line::drive`] is
    /// called.
    pub async fn ask(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, LineError> {
        self.heard.store(false, Ordering::Relaxed);
        // Without `unconstrained` tokio may put the answer off to a later turn, for which nobody would be woken.
        let asked = tokio::task::unconstrained(self.sender.try_send_request(request));
        let mut asked = std::pin::pin!(asked);
        let answer = std::future::poll_fn(|cx| {
            self.drive(cx);
            // The answer comes from the line above and nowhere else, so nobody need be woken for it.
            asked.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        answer.await.map_err(|mut error| LineError::Lost {
            unsent: error.take_message().map(Box::new),
            source: error.into_error(),
            unheard: !self.heard.load(Ordering::Relaxed),
        })
    }

    /// Moves what can be moved, and asks to be woken when more can be.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.bell.task.register(cx.waker());
        self.advance();
    }

    /// Gives the next frame of `body`, the body of this line's answer.
    pub fn poll_body(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<FrameResult>> {
        self.drive(cx);
        // The line has just been driven, so it need not be woken because the frame has been taken from it; and frames
        // come from it alone, so nobody need be woken for them.
        self.bell.mute();
        let frame = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        if self.bell.unmute() && frame.is_pending() {
            cx.waker().wake_by_ref();
        }
        frame
    }

    fn advance(&mut self) {
        if !self.ended {
            self.ended = self.wire.poll_without_shutdown(&mut Context::from_waker(&self.waker)).is_ready();
        }
    }

    /// Runs until the connection has ended.
    pub async fn run(&mut self) {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if self.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The bare connection after an answer of 101, and what has come over it since.
    pub async fn switched(mut self: Box<Self>) -> (TcpStream, Bytes) {
        self.run().await;
        let parts = self.wire.into_parts();
        (parts.io.into_inner().stream, parts.read_buf)
    }

    /// Whether it is open, with nothing under way. Whoever used it last is not woken for it any more.
    fn is_idle(&mut self) -> bool {
        self.bell.task.take();
        self.advance();
        !self.ended && self.sender.is_ready()
    }
}

/// What a connection rings when it can go on. It outlives the tasks that use the connection one after the other, so
/// that the connection need not be told of each, and it can be kept still while its user is at it anyway.
#[derive(Default)]
struct Bell {
    task: AtomicWaker,
    muted: AtomicBool,
    /// It would have rung.
    missed: AtomicBool,
}

impl Bell {
    fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    /// Says whether it would have rung.
    fn unmute(&self) -> bool {
        self.muted.store(false, Ordering::Relaxed);
        self.missed.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.muted.load(Ordering::Relaxed) {
            self.missed.store(true, Ordering::Relaxed);
        } else {
            self.task.wake();
        }
    }
}

/// The idle connections of one thread to one upstream, the one used last on top.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "a line is large, and goes in and out with every request")]
pub struct Pool(Mutex<Vec<Box<Line>>>);

impl Pool {
    /// A connection that was used within the last `age`.
    pub fn take(&self, age: Duration) -> Option<Box<Line>> {
        loop {
            let mut line = {
                let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.last()?.idle_since.elapsed() > age {
                    return None;
                }
                lines.pop()?
            };
            if line.is_idle() {
                return Some(line);
            }
        }
    }

    /// Keeps a connection for the next request if it can take one; closes it otherwise.
    pub fn give_back(&self, mut line: Box<Line>) {
        if !line.is_idle() {
            return;
        }
        line.used = true;
        line.idle_since = Instant::now();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < IDLE_MAX {
            lines.push(line);
        }
    }

    pub fn sweep(&self, limit: Duration) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain_mut(|line| line.idle_since.elapsed() < limit && line.is_idle());
    }
}

/// The socket to an upstream. It notes when something comes back.
///
/// An app may answer and close before it has read all that it was sent, so that it cannot be written does not end the
/// exchange: what it said counts, and if it said nothing the reading side will tell.
struct Wire {
    stream: TcpStream,
    heard: Arc<AtomicBool>,
    /// The app has closed; what is written goes nowhere.
    deaf: bool,
}

impl Wire {
    fn or_deaf(&mut self, written: Poll<io::Result<usize>>, all: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(_)) => {
                self.deaf = true;
                Poll::Ready(Ok(all))
            }
            written => written,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        poll
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_deaf(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.or_deaf(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
