//! Bodies on their way through the edge: never gathered, moved at the pace of the slower side.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::AbortHandle;

use super::line::Line;
use super::routes::Pass;

/// The body of a request, on its way to an upstream.
#[derive(Debug)]
pub struct Upload {
    body: Option<Incoming>,
    progress: Progress,
    /// Shared with the one who asked, who learns from the count that this is gone.
    _open: Option<Arc<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody has asked for any of it, and so the client may not have been told to send it.
    Waiting,
    UnderWay,
    Over,
}

/// How much of a body is taken in only to be thrown away, and for how long.
const DISCARD_MAX: usize = 1 << 20;
const DISCARD_LIMIT: Duration = Duration::from_secs(2);

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
        Self { body: None, progress: Progress::Over, _open: None }
    }

    pub fn new(body: Incoming) -> (Self, UploadWatch) {
        let open = (!body.is_end_stream()).then(|| Arc::new(()));
        (Self { body: Some(body), progress: Progress::Waiting, _open: open.clone() }, UploadWatch(open))
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
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        let over = matches!(frame, Poll::Ready(None | Some(Err(_))));
        this.progress = if over { Progress::Over } else { Progress::UnderWay };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
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
