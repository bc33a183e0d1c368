//! The body of an answer, on its way to the client at the client's pace.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::crowd::Visit;
use super::host::Pass;
use super::line::Line;
use super::lines;
use super::pace::Pace;
use super::standing::Standing;

/// One of the edge's own pages, or what an upstream says.
pub enum Answer {
    Page(Full<Bytes>),
    Relayed(Relayed),
}

pub struct Relayed {
    /// Until it is given back.
    line: Option<Box<Line>>,
    /// What is left of the request's body goes on beside the answer, and ends with it.
    upload: Option<AbortHandle>,
    pass: Pass,
    thread: usize,
    over: Over,
    /// Of one that has no end: its client may stay until this is over.
    standing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What an answer goes over to its client. The request is under way until this has gone.
pub enum Over {
    Connection(#[allow(dead_code, reason = "it is held, not looked at")] Visit),
    Stream(Box<Stream>),
}

/// The stream of HTTP/2 that an answer goes over, and how it moves there: it stands still when its client opens no
/// window for it, while others of the same connection may go on.
pub struct Stream {
    end: CancellationToken,
    pace: Pace,
    /// How many bytes were given last.
    given: usize,
    visit: Arc<Visit>,
}

impl Stream {
    pub fn new(end: CancellationToken, pace: Pace, visit: Visit) -> Self {
        Self { end, pace, given: 0, visit: Arc::new(visit) }
    }
}

impl Relayed {
    pub fn new(line: Box<Line>, upload: Option<AbortHandle>, pass: Pass, thread: usize, over: Over) -> Self {
        Self { line: Some(line), upload, pass, thread, over, standing: None }
    }

    /// It breaks off where its client may not stay.
    pub fn while_good(mut self, standing: Option<Standing>) -> Self {
        self.standing = standing.map(|standing| Box::pin(standing.ended()) as Pin<Box<dyn Future<Output = ()> + Send>>);
        self
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(line) = &mut self.line else { return Poll::Ready(None) };
        if let Some(standing) = &mut self.standing
            && standing.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(io::Error::other("its client may not look any more"))));
        }
        let Over::Stream(stream) = &mut self.over else { return line.poll_frame(cx) };
        let Stream { end, pace, given, visit } = &mut **stream;
        // hyper asks for more when there is room for it.
        pace.moved(std::mem::take(given));
        let frame = ready!(line.poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            *given = frame.data_ref().map_or(0, Bytes::len);
        }
        pace.wait_or_cancel(end);
        // What has been given may lie in the stream for long, and the request is not over before that is gone.
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| lines::held(data, visit.clone())))))
    }

    fn left(&self) -> Option<u64> {
        self.line.as_deref().map_or(Some(0), Line::left)
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
        if let Some(line) = self.line.take() {
            self.pass.upstream().pools[self.thread].give_back(line);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Answer::Page(page) => Pin::new(page).poll_frame(cx).map_err(|never: Infallible| match never {}),
            Answer::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Page(page) => page.is_end_stream(),
            Answer::Relayed(relayed) => relayed.left() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Page(page) => page.size_hint(),
            Answer::Relayed(relayed) => relayed.left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
