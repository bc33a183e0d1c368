//! Connections to upstreams: one at a time is asked one thing, and kept for the next one when it is done.
//!
//! A line is driven by whoever uses it: the request's own task writes, reads and decodes. So a client that stops
//! reading stops the upstream too, and no task waits for another. hyper's client has a task and channels of its own for
//! each connection, which took half of the time that a small request spent outside the kernel.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use hyper::{Method, Response, StatusCode};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;
use tokio_util::io::poll_read_buf;

use super::answer;
use super::clock;
use super::framing::{Decoder, Framing, Malformed};
use super::lines::{self, Loan, Permit};
use super::upload::Upload;

/// Idle connections that one thread keeps for one upstream.
const IDLE_MAX: usize = 128;

/// How long a new connection may take. Upstreams are on this machine or next to it.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How much is read at a time: a head and a small body, or of a large body what is worth a call of the kernel, where
/// that much memory is lent.
const READ_MIN: usize = 8 << 10;
pub const READ_MAX: usize = 512 << 10;

/// A connection to an upstream. It is handed around boxed, since it goes through many hands for each request.
pub struct Line {
    read: OwnedReadHalf,
    /// Gone once an upload that outlasts the beginning of its answer has taken it.
    write: Option<OwnedWriteHalf>,
    /// What has come and has not been used yet.
    buffer: BytesMut,
    /// By which the buffer is larger than [`READ_MIN`]. It ends with the last of what was read into it.
    loan: Option<Arc<Loan>>,
    /// How much is read next where nobody has said how much comes.
    appetite: usize,
    /// How much may be read for the request that is under way.
    most: usize,
    /// The body of the answer.
    decoder: Decoder,
    /// Something has come since the last request.
    heard: bool,
    /// It can take another request when the answer has been read.
    keep: bool,
    /// It has been used for an earlier request.
    pub used: bool,
    /// By [`clock`].
    idle_since: u64,
    /// Of the connections that the edge may have.
    permit: Permit,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("there are too many connections to apps")]
    TooMany,
    #[error("failed to connect")]
    Connect(#[source] io::Error),
    #[error("failed to connect within {} s", CONNECT_LIMIT.as_secs())]
    ConnectLimit,
    #[error("it switches to a protocol that nobody asked for")]
    Unasked,
    #[error("it does not answer in HTTP/1.1")]
    Malformed(#[from] Malformed),
    #[error("the request broke off")]
    Request(#[source] io::Error),
    #[error("the connection ended before an answer")]
    Lost {
        source: io::Error,
        /// Not a byte of the request was sent.
        unsent: bool,
        /// Not a byte of an answer has come.
        unheard: bool,
    },
}

/// A request as it is sent.
pub struct Question {
    pub method: Method,
    pub head: Vec<u8>,
    pub upload: Option<Upload>,
    /// How much of the answer may be read at a time.
    pub most: usize,
}

impl Line {
    pub async fn connect(address: SocketAddr, permit: Permit) -> Result<Box<Self>, LineError> {
        let stream = match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(LineError::Connect)?,
            Err(_) => return Err(LineError::ConnectLimit),
        };
        stream.set_nodelay(true).map_err(LineError::Connect)?;
        let (read, write) = stream.into_split();
        Ok(Box::new(Self {
            read,
            write: Some(write),
            buffer: BytesMut::new(),
            loan: None,
            appetite: READ_MIN,
            most: READ_MAX,
            decoder: Decoder::new(Framing::Empty),
            heard: false,
            keep: true,
            used: false,
            idle_since: clock::now(),
            permit,
        }))
    }

    /// Sends a request and gives the head of its answer, which may come before all of the request has been sent.
    pub async fn ask(&mut self, question: &mut Question) -> Result<Response<()>, LineError> {
        (self.heard, self.appetite, self.most) = (false, READ_MIN, question.most);
        let mut sent = 0;
        let response = std::future::poll_fn(|cx| {
            self.poll_send(question, &mut sent, cx)?;
            self.poll_answer(&question.method, sent, cx)
        })
        .await?;
        if sent < question.head.len() {
            // What the body followed would not be a whole head.
            self.keep = false;
            question.upload = None;
        }
        self.keep &= question.upload.as_ref().is_none_or(Upload::is_over);
        Ok(response)
    }

    /// Writes what can be written now.
    fn poll_send(&mut self, question: &mut Question, sent: &mut usize, cx: &mut Context<'_>) -> Result<(), LineError> {
        let Some(write) = &mut self.write else { return Ok(()) };
        while *sent < question.head.len() {
            match Pin::new(&mut *write).poll_write(cx, &question.head[*sent..]) {
                Poll::Ready(Ok(count)) => *sent += count,
                Poll::Ready(Err(source)) if *sent == 0 && self.used => {
                    return Err(LineError::Lost { source, unsent: true, unheard: true });
                }
                Poll::Ready(Err(_)) => {
                    *sent = question.head.len();
                    self.keep = false;
                    question.upload.iter_mut().for_each(Upload::goes_nowhere);
                }
                Poll::Pending => return Ok(()),
            }
        }
        match &mut question.upload {
            Some(upload) => match upload.poll_send(write, cx) {
                Poll::Ready(Err(error)) => Err(LineError::Request(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Reads up to the end of the head that answers the request. What an app says before that is for the edge alone.
    fn poll_answer(
        &mut self,
        method: &Method,
        sent: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, LineError>> {
        loop {
            let seen = self.buffer.len();
            let lost = match ready!(self.poll_fill(cx)) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => {
                    if let Some(response) = self.answer(seen, method)? {
                        return Poll::Ready(Ok(response));
                    }
                    continue;
                }
                Err(error) => error,
            };
            return Poll::Ready(Err(LineError::Lost { source: lost, unsent: sent == 0, unheard: !self.heard }));
        }
    }

    /// The head that answers the request, where it is there. `seen` bytes of what is there were there before.
    fn answer(&mut self, mut seen: usize, method: &Method) -> Result<Option<Response<()>>, LineError> {
        while let Some(answered) = answer::take(&mut self.buffer, seen, method)? {
            let status = answered.response.status();
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                seen = 0;
                continue;
            }
            self.keep &= answered.keep;
            self.decoder = Decoder::new(answered.framing);
            return Ok(Some(answered.response));
        }
        Ok(None)
    }

    /// Lets what is left of an upload go on beside its answer, and gives what ends it.
    pub fn part(&mut self, mut upload: Upload) -> Option<AbortHandle> {
        let mut write = self.write.take()?;
        upload.converses();
        let rest = async move { std::future::poll_fn(|cx| upload.poll_send(&mut write, cx)).await };
        Some(tokio::spawn(rest).abort_handle())
    }

    /// The next frame of the answer's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match self.decoder.next(&mut self.buffer) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(self.lent(frame)))),
                Ok(None) if self.decoder.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Some(Err(io::Error::other(malformed)))),
            }
            let end = match ready!(self.poll_fill(cx)) {
                Ok(0) => self.decoder.end().map_err(io::Error::other),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = end {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// How many bytes of the body are left, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// A piece of the body, which keeps what was lent for it until it is gone.
    fn lent(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match &self.loan {
            Some(loan) => frame.map_data(|data| lines::held(data, loan.clone())),
            None => frame,
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wanted = self.decoder.left().map_or(self.appetite, |left| left.min(READ_MAX as u64) as usize);
        self.make_room(wanted.min(self.most).max(READ_MIN));
        let room = self.buffer.capacity() - self.buffer.len();
        let count = ready!(poll_read_buf(Pin::new(&mut self.read), cx, &mut self.buffer))?;
        self.heard |= count > 0;
        if count == room {
            self.appetite = READ_MAX.min(self.appetite * 4);
        }
        Poll::Ready(Ok(count))
    }

    /// It goes on for as long as both sides like. Where the other one is gone without a word, the kernel finds out; for a
    /// frozen one it is the kernel that answers.
    pub fn keep_watch(&self) {
        let alive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20));
        // Without it the line is only kept for longer than it is of use.
        let _ = SockRef::from(self.read.as_ref()).set_tcp_keepalive(&alive);
    }

    /// Sees to it that so many bytes can be read, or fewer where memory is scarce.
    fn make_room(&mut self, wanted: usize) {
        let room = self.buffer.capacity() - self.buffer.len();
        // The rest of a buffer that is given out in pieces would make for ever smaller reads.
        if room >= wanted / 2 || self.buffer.try_reclaim(wanted) {
            return;
        }
        let loan = if wanted > READ_MIN { self.permit.lend(wanted) } else { None };
        let size = match &loan {
            Some(loan) => loan.bytes,
            None if room >= READ_MIN / 2 => return,
            None => READ_MIN,
        };
        let mut buffer = BytesMut::with_capacity(self.buffer.len() + size);
        buffer.extend_from_slice(&self.buffer);
        (self.buffer, self.loan) = (buffer, loan.map(Arc::new));
    }

    /// The bare connection after an answer of 101, what has come over it since, and what it may be open with.
    pub fn switched(self) -> Option<(TcpStream, Bytes, Permit)> {
        let Self { read, write, buffer, permit, .. } = self;
        Some((read.reunite(write?).ok()?, buffer.freeze(), permit))
    }

    fn idle_for(&self) -> Duration {
        Duration::from_millis(clock::now().saturating_sub(self.idle_since))
    }

    /// Whether it is open, with nothing under way. It costs no call of the kernel unless something has come.
    fn is_idle(&self) -> bool {
        let quiet = || matches!(self.read.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.keep && self.decoder.is_over() && self.buffer.is_empty() && self.write.is_some() && quiet()
    }
}

/// The idle connections of one thread to one upstream, the one used last on top.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "a line stays where it is")]
pub struct Pool(Mutex<Vec<Box<Line>>>);

impl Pool {
    /// A connection that was used within the last `age`.
    pub fn take(&self, age: Duration) -> Option<Box<Line>> {
        let mut lines = self.lock();
        while lines.last()?.idle_for() <= age {
            let line = lines.pop()?;
            if line.is_idle() {
                return Some(line);
            }
        }
        None
    }

    /// Keeps a connection for the next request if it can take one; closes it otherwise.
    pub fn give_back(&self, mut line: Box<Line>) {
        if !line.is_idle() {
            return;
        }
        if line.loan.take().is_some() || line.buffer.capacity() > READ_MIN {
            line.buffer = BytesMut::new();
        }
        line.used = true;
        line.idle_since = clock::now();
        let mut lines = self.lock();
        if lines.len() < IDLE_MAX {
            lines.push(line);
        }
    }

    pub fn sweep(&self, limit: Duration) {
        self.lock().retain(|line| line.idle_for() < limit && line.is_idle());
    }

    #[allow(clippy::vec_box, reason = "a line stays where it is")]
    fn lock(&self) -> MutexGuard<'_, Vec<Box<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
