//! The body of a request on its way to an upstream: taken from the client when the upstream has room for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Duration;

use super::framing::{Encoder, Piece};
use super::pace::Pace;

/// How much of a body is taken in only to be thrown away, and for how long.
const DISCARD_MAX: usize = 1 << 20;
const DISCARD_LIMIT: Duration = Duration::from_secs(2);

pub struct Upload {
    body: Option<Incoming>,
    encoder: Encoder,
    /// What has been taken from the client and not been written yet.
    piece: Piece,
    progress: Progress,
    /// The client's, for as long as the app waits for the whole body.
    pace: Option<Pace>,
    /// How many bytes more there may be of it, where that is bounded.
    left: Option<u64>,
    /// The app has closed its end; what is written goes nowhere.
    deaf: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody has asked for any of it, and so the client may not have been told to send it.
    Waiting,
    UnderWay,
    /// The client has sent it all.
    Taken,
    Over,
}

impl Upload {
    /// Of `most` bytes at most.
    pub fn new(body: Incoming, encoder: Encoder, pace: Pace, most: Option<u64>) -> Self {
        let (piece, progress) = (Piece::default(), Progress::Waiting);
        Self { body: Some(body), encoder, piece, progress, pace: Some(pace), left: most, deaf: false }
    }

    pub fn is_over(&self) -> bool {
        self.progress == Progress::Over
    }

    /// An app may answer and close before it has read all that it was sent, so that it cannot be written does not end
    /// the exchange: what it said counts, and if it said nothing the reading side will tell.
    pub fn goes_nowhere(&mut self) {
        self.deaf = true;
    }

    /// The app has begun to answer, and so both sides may talk when they like.
    pub fn converses(&mut self) {
        self.pace = None;
    }

    /// Sends what can be sent now. Ready when all has been, or when the client has let go, is too slow, or sends more than
    /// it may: errors of the kinds `TimedOut` and `FileTooLarge`.
    pub fn poll_send(&mut self, to: &mut OwnedWriteHalf, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.deaf && self.piece.iter().any(Buf::has_remaining) {
                let slices = self.piece.each_ref().map(|part| IoSlice::new(part));
                match ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices)) {
                    Ok(written) => advance(&mut self.piece, written),
                    Err(_) => self.deaf = true,
                }
            }
            if self.progress == Progress::Taken {
                self.progress = Progress::Over;
            }
            let Some(body) = self.body.as_mut().filter(|_| self.progress != Progress::Over) else {
                return Poll::Ready(Ok(()));
            };
            self.progress = Progress::UnderWay;
            if self.pace.as_ref().is_some_and(Pace::is_late) {
                self.progress = Progress::Over;
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let next = Pin::new(body).poll_frame(cx);
            if let Some(pace) = &mut self.pace {
                match &next {
                    Poll::Pending => pace.wait(cx.waker()),
                    Poll::Ready(Some(Ok(frame))) => pace.moved(frame.data_ref().map_or(0, Bytes::len)),
                    Poll::Ready(_) => pace.moved(0),
                }
            }
            let piece = match ready!(next) {
                Some(Ok(frame)) => {
                    if let Some(left) = &mut self.left {
                        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) else {
                            self.progress = Progress::Over;
                            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
                        };
                        *left = rest;
                    }
                    if frame.is_trailers() {
                        self.progress = Progress::Taken;
                    }
                    self.encoder.frame(frame)
                }
                Some(Err(error)) => {
                    self.progress = Progress::Over;
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                None => {
                    self.progress = Progress::Taken;
                    self.encoder.end()
                }
            };
            self.piece = piece.map_err(io::Error::other)?;
        }
    }
}

impl Drop for Upload {
    /// The upstream has answered, or gone, without having taken it all.
    fn drop(&mut self) {
        if self.progress == Progress::UnderWay
            && let Some(body) = self.body.take()
            && !body.is_end_stream()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(discard(body));
        }
    }
}

fn advance(piece: &mut Piece, mut written: usize) {
    for part in piece {
        let count = written.min(part.len());
        part.advance(count);
        written -= count;
    }
}

/// Takes in what is left of a body that nobody wants, up to a bound. A connection that closes while its client still
/// sends can be reset before the client has read the answer (RFC 9112 section 9.6).
pub async fn discard(mut body: Incoming) {
    let mut left = DISCARD_MAX;
    let end = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_LIMIT, end).await;
}
