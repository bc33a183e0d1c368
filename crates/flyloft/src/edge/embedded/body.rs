//! Bodies on their way through the edge: never gathered, moved at the pace of the slower side.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::AbortHandle;

use super::line::Line;
use super::routes::Pass;

/// The body of a request, on its way to an upstream.
#[derive(Debug)]
pub struct Upload {
    body: Option<Incoming>,
    /// Shared with the one who asked, who learns from the count that this is gone.
    _open: Option<Arc<()>>,
}

/// Tells whether an [`Upload`] is still under way.
pub struct UploadWatch(Option<Arc<()>>);

/// The body of an answer: one of the edge's own pages, or what an upstream says.
pub enum Answer {
    Page(Full<Bytes>),
    Relayed(Relayed),
}

/// What an upstream says. Whoever polls it drives the connection that it comes from.
pub struct Relayed {
    body: Incoming,
    carrier: Carrier,
    /// The last of the body has been seen.
    finished: bool,
    pass: Pass,
    thread: usize,
}

enum Carrier {
    /// The usual case: the whole request has been sent, and the connection can be kept after the answer.
    Line(Box<Line>),
    /// The answer began before the upload ended. The two go on side by side, so a task drives the connection.
    Task(AbortHandle),
    Gone,
}

impl Upload {
    pub fn empty() -> Self {
        Self { body: None, _open: None }
    }

    pub fn new(body: Incoming) -> (Self, UploadWatch) {
        let open = (!body.is_end_stream()).then(|| Arc::new(()));
        (Self { body: Some(body), _open: open.clone() }, UploadWatch(open))
    }
}

impl UploadWatch {
    pub fn is_under_way(&self) -> bool {
        self.0.as_ref().is_some_and(|open| Arc::strong_count(open) > 1)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Relayed {
    pub fn new(body: Incoming, mut line: Box<Line>, upload: &UploadWatch, pass: Pass, thread: usize) -> Self {
        let carrier = if upload.is_under_way() {
            Carrier::Task(tokio::spawn(async move { line.run().await }).abort_handle())
        } else {
            Carrier::Line(line)
        };
        Self { finished: body.is_end_stream(), body, carrier, pass, thread }
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let poll = match &mut self.carrier {
            Carrier::Line(line) => line.poll_body(&mut self.body, cx),
            Carrier::Task(_) | Carrier::Gone => Pin::new(&mut self.body).poll_frame(cx),
        };
        if let Poll::Ready(frame) = &poll {
            self.finished = frame.is_none() || self.body.is_end_stream();
        }
        poll
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.carrier, Carrier::Gone) {
            Carrier::Line(line) if self.finished => self.pass.upstream().pools[self.thread].give_back(line),
            Carrier::Line(_) | Carrier::Gone => {}
            Carrier::Task(task) => task.abort(),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Answer::Page(page) => Pin::new(page).poll_frame(cx).map_err(|never: Infallible| match never {}),
            Answer::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Page(page) => page.is_end_stream(),
            Answer::Relayed(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Page(page) => page.size_hint(),
            Answer::Relayed(relayed) => relayed.body.size_hint(),
        }
    }
}
