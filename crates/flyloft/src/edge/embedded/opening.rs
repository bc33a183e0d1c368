//! The first bytes of a client, which tell HTTP/2 with prior knowledge from HTTP/1.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// A stream of which the first bytes have been read. Whoever reads it gets them first.
pub struct Opened<S> {
    first: [u8; PREFACE.len()],
    /// How many of them there are, and how many have been given out.
    filled: usize,
    given: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> Opened<S> {
    /// Reads until it is clear what the client speaks.
    pub async fn read(mut stream: S) -> io::Result<(Protocol, Self)> {
        let mut first = [0; PREFACE.len()];
        let mut filled = 0;
        while filled < PREFACE.len() && PREFACE.starts_with(&first[..filled]) {
            match stream.read(&mut first[filled..]).await? {
                0 => break,
                count => filled += count,
            }
        }
        let protocol = if first == *PREFACE { Protocol::Http2 } else { Protocol::Http1 };
        Ok((protocol, Self { first, filled, given: 0, stream }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given < self.filled {
            let end = self.filled.min(self.given + buffer.remaining());
            buffer.put_slice(&self.first[self.given..end]);
            self.given = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn nothing_of_what_was_read_is_lost_however_it_comes() {
        let preface = std::str::from_utf8(PREFACE).unwrap();
        let cases = [
            ("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(), Protocol::Http1),
            (format!("{preface}and more"), Protocol::Http2),
            (preface.to_owned(), Protocol::Http2),
            ("PRI * HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(), Protocol::Http1),
            ("PRI".to_owned(), Protocol::Http1),
            (String::new(), Protocol::Http1),
        ];
        for (sent, spoken) in cases {
            for piece in [1, 5, 1000] {
                let (mut client, server) = tokio::io::duplex(piece);
                let text = sent.clone();
                tokio::spawn(async move { client.write_all(text.as_bytes()).await });
                let (protocol, mut opened) = Opened::read(server).await.unwrap();
                let mut read = String::new();
                opened.read_to_string(&mut read).await.unwrap();
                assert_eq!((protocol, read), (spoken, sent.clone()));
            }
        }
    }
}
