//! Text for a terminal in raw mode, where a line ends with a carriage return as well.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::door::Output;

/// Writes `\r\n` for each `\n`.
pub struct Cooked {
    inner: Output,
    /// Converted, and not yet written.
    pending: Vec<u8>,
}

impl Cooked {
    pub fn new(inner: Output) -> Self {
        Self { inner, pending: Vec::new() }
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.pending.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.pending))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

/// As [`Cooked`] does it, for text that is at hand.
pub fn cook(text: &str) -> String {
    text.replace('\n', "\r\n")
}

impl AsyncWrite for Cooked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        let taken = data.len().min(16 << 10);
        for byte in &data[..taken] {
            if *byte == b'\n' {
                self.pending.push(b'\r');
            }
            self.pending.push(*byte);
        }
        // What cannot be written yet waits; the data itself is taken.
        match self.poll_pending(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn every_line_ends_with_a_carriage_return_however_slowly_it_is_read() {
        let (inner, mut reader) = duplex(3);
        let mut cooked = Cooked::new(Box::new(inner));
        let write = async {
            cooked.write_all(b"one\ntwo\n\n").await.unwrap();
            cooked.shutdown().await.unwrap();
        };
        let mut text = String::new();
        let (_, read) = tokio::join!(write, reader.read_to_string(&mut text));
        read.unwrap();
        assert_eq!(text, "one\r\ntwo\r\n\r\n");
    }
}
