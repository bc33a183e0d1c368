//! The body of an answer, on its way to the client at the client's pace.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::crowd::Visit;
use super::host::Pass;
use super::line::Line;

/// One of the edge's own pages, or what an upstream says.
pub enum Answer {
    Page(Full<Bytes>),
    Relayed(Relayed),
}

pub struct Relayed {
    /// Until it is given back.
    line: Option<Line>,
    /// What is left of the request's body goes on beside the answer, and ends with it.
    upload: Option<AbortHandle>,
    pass: Pass,
    thread: usize,
    _visit: Visit,
}

impl Relayed {
    pub fn new(line: Line, upload: Option<AbortHandle>, pass: Pass, thread: usize, visit: Visit) -> Self {
        Self { line: Some(line), upload, pass, thread, _visit: visit }
    }

    fn left(&self) -> Option<u64> {
        self.line.as_ref().map_or(Some(0), Line::left)
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
            Answer::Relayed(relayed) => match &mut relayed.line {
                Some(line) => line.poll_frame(cx),
                None => Poll::Ready(None),
            },
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
