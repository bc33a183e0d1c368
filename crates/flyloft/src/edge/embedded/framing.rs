//! Where a body of HTTP/1.1 begins and ends in the bytes of a connection (RFC 9112 sections 6 and 7). Pure.
//!
//! What must hold: what is not clear is an error. Nobody may read a body's end at another place than whoever sent it.

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Frame;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// The line of a chunk's size, with extensions that nobody uses.
const SIZE_LINE_MAX: usize = 1 << 10;

const TRAILERS_MAX: usize = 16 << 10;

/// Up to here it is cheaper to copy than to give the buffer away and get a new one.
const COPY_MAX: usize = 4 << 10;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// It ends with its connection. Answers alone may do that.
    ToEnd,
}

/// It is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Takes a body out of a connection's bytes.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are left.
    Length(u64),
    ToEnd,
    Size,
    /// So many bytes of the chunk are left.
    Chunk(u64),
    /// The end of line behind a chunk.
    Break,
    Trailers,
    Over,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty | Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::ToEnd => State::ToEnd,
        })
    }

    pub fn is_over(&self) -> bool {
        self.0 == State::Over
    }

    /// How many bytes of the body are left, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.0 {
            State::Over => Some(0),
            State::Length(left) => Some(left),
            State::ToEnd | State::Size | State::Chunk(_) | State::Break | State::Trailers => None,
        }
    }

    /// The next frame, or none before more bytes have come or after the end.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        loop {
            match self.0 {
                State::Over => return Ok(None),
                State::Length(_) | State::Chunk(_) | State::ToEnd if buffer.is_empty() => return Ok(None),
                State::ToEnd => return Ok(Some(Frame::data(take(buffer, u64::MAX)))),
                State::Length(left) => {
                    let data = take(buffer, left);
                    self.0 = match left - data.len() as u64 {
                        0 => State::Over,
                        left => State::Length(left),
                    };
                    return Ok(Some(Frame::data(data)));
                }
                State::Chunk(left) => {
                    let data = take(buffer, left);
                    self.0 = match left - data.len() as u64 {
                        0 => State::Break,
                        left => State::Chunk(left),
                    };
                    return Ok(Some(Frame::data(data)));
                }
                State::Size => match size(buffer)? {
                    Some(0) => self.0 = State::Trailers,
                    Some(size) => self.0 = State::Chunk(size),
                    None => return Ok(None),
                },
                State::Break if buffer.len() < 2 => return Ok(None),
                State::Break if buffer.starts_with(b"\r\n") => {
                    buffer.advance(2);
                    self.0 = State::Size;
                }
                State::Break => return Err(Malformed("a chunk is longer than it says")),
                State::Trailers => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(None) };
                    self.0 = State::Over;
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
            }
        }
    }

    /// The connection has ended.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.0 {
            State::ToEnd | State::Over => {
                self.0 = State::Over;
                Ok(())
            }
            _ => Err(Malformed("the connection ended within a body")),
        }
    }
}

fn take(buffer: &mut BytesMut, most: u64) -> Bytes {
    let count = most.min(buffer.len() as u64) as usize;
    if count > COPY_MAX {
        return buffer.split_to(count).freeze();
    }
    let data = Bytes::copy_from_slice(&buffer[..count]);
    buffer.advance(count);
    data
}

/// Takes the line with a chunk's size.
fn size(buffer: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    const BAD: Malformed = Malformed("a chunk does not say how long it is");
    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
        return if buffer.len() > SIZE_LINE_MAX { Err(BAD) } else { Ok(None) };
    };
    let line = buffer[..end].strip_suffix(b"\r").ok_or(BAD)?;
    if line.len() > SIZE_LINE_MAX || line.contains(&b'\r') {
        return Err(BAD);
    }
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if !(1..=15).contains(&digits) || !(rest.is_empty() || rest.starts_with(b";")) {
        return Err(BAD);
    }
    let digits = std::str::from_utf8(&line[..digits]).expect("digits are ASCII");
    let size = u64::from_str_radix(digits, 16).map_err(|_| BAD)?;
    buffer.advance(end + 1);
    Ok(Some(size))
}

fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    const BAD: Malformed = Malformed("the trailers are no headers");
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let (length, fields) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(complete)) => complete,
        Ok(httparse::Status::Partial) if buffer.len() <= TRAILERS_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(BAD),
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD)?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| BAD)?);
    }
    buffer.advance(length);
    Ok(Some(trailers))
}

/// Puts a body into the bytes of a connection.
#[derive(Debug)]
pub enum Encoder {
    /// So many bytes are left.
    Length(u64),
    /// The head declares these trailers.
    Chunked(Vec<HeaderName>),
}

/// A piece as it is sent: what stands before the data, the data, and what stands behind.
pub type Piece = [Bytes; 3];

const BREAK: Bytes = Bytes::from_static(b"\r\n");

impl Encoder {
    pub fn frame(&mut self, frame: Frame<Bytes>) -> Result<Piece, Malformed> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return Ok(self.last(&trailers));
            }
        };
        match self {
            Encoder::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Malformed("a body is longer than it says"))?;
                Ok([Bytes::new(), data, Bytes::new()])
            }
            // An empty chunk would be the last one.
            Encoder::Chunked(_) if data.is_empty() => Ok(Piece::default()),
            Encoder::Chunked(_) => Ok([format!("{:x}\r\n", data.len()).into(), data, BREAK]),
        }
    }

    /// The end of a body that had no trailers.
    pub fn end(&mut self) -> Result<Piece, Malformed> {
        match self {
            Encoder::Length(0) => Ok(Piece::default()),
            Encoder::Length(_) => Err(Malformed("a body is shorter than it says")),
            Encoder::Chunked(_) => Ok(self.last(&HeaderMap::new())),
        }
    }

    /// The last chunk, with those trailers that were declared. A body of a known length has no room for any.
    fn last(&self, trailers: &HeaderMap) -> Piece {
        let Encoder::Chunked(declared) = self else { return Piece::default() };
        let mut last = b"0\r\n".to_vec();
        for (name, value) in trailers.iter().filter(|(name, _)| declared.contains(name)) {
            super::headers::write(&mut last, name, value.as_bytes());
        }
        last.extend_from_slice(b"\r\n");
        [last.into(), Bytes::new(), Bytes::new()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read where the bytes come in pieces of this size: data, trailers, and what is left behind the end.
    fn read(framing: Framing, bytes: &str, piece: usize) -> Result<(String, String, String), Malformed> {
        let (mut decoder, mut buffer) = (Decoder::new(framing), BytesMut::new());
        let (mut data, mut trailers) = (String::new(), String::new());
        for piece in bytes.as_bytes().chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut buffer)? {
                match frame.into_data() {
                    Ok(bytes) => data += std::str::from_utf8(&bytes).unwrap(),
                    Err(frame) => trailers += &format!("{:?}", frame.into_trailers().unwrap()),
                }
            }
        }
        decoder.end()?;
        Ok((data, trailers, String::from_utf8(buffer.to_vec()).unwrap()))
    }

    #[test]
    fn a_body_is_read_to_its_end_and_no_further_however_it_comes() {
        let cases = [
            (Framing::Empty, "next", "", "", "next"),
            (Framing::Length(5), "hellonext", "hello", "", "next"),
            (Framing::ToEnd, "hello", "hello", "", ""),
            (Framing::Chunked, "5\r\nhello\r\n0\r\n\r\nnext", "hello", "", "next"),
            (Framing::Chunked, "2;a=b\r\nhe\r\n03 ;c\r\nllo\r\n000\r\n\r\n", "hello", "", ""),
            (Framing::Chunked, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\nnext", "hello", "{\"x-sum\": \"1\"}", "next"),
        ];
        for (framing, bytes, data, trailers, rest) in cases {
            for piece in [1, 3, 1000] {
                let expected = (data.to_owned(), trailers.to_owned(), rest.to_owned());
                assert_eq!(read(framing, bytes, piece), Ok(expected), "{bytes:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_is_not_clear_is_an_error() {
        let long = format!("{}\r\n", "1".repeat(2000));
        for bytes in [
            "5\nhello\n0\n\n",
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5;\rx\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nno header\r\n\r\n",
            "5\r\nhello\r\n",
            "5\r\nhel",
            &long,
        ] {
            for piece in [1, 1000] {
                assert!(read(Framing::Chunked, bytes, piece).is_err(), "{bytes:?} in pieces of {piece}");
            }
        }
        assert!(read(Framing::Length(5), "hell", 10).is_err());
    }

    #[test]
    fn a_body_is_sent_with_the_length_that_was_announced_or_not_at_all() {
        let mut encoder = Encoder::Length(5);
        assert_eq!(encoder.frame(Frame::data("hel".into())).unwrap().concat(), b"hel");
        assert!(encoder.end().is_err());
        assert!(encoder.frame(Frame::data("lo!".into())).is_err());
        assert_eq!(encoder.frame(Frame::data("lo".into())).unwrap().concat(), b"lo");
        assert_eq!(encoder.end().unwrap().concat(), b"");
    }

    #[test]
    fn a_chunked_body_ends_once_and_with_declared_trailers_alone() {
        let mut encoder = Encoder::Chunked(vec![HeaderName::from_static("x-sum")]);
        let sent = |piece: Piece| String::from_utf8(piece.concat()).unwrap();
        assert_eq!(sent(encoder.frame(Frame::data(Bytes::new())).unwrap()), "");
        assert_eq!(sent(encoder.frame(Frame::data("x".repeat(17).into())).unwrap()), "11\r\nxxxxxxxxxxxxxxxxx\r\n");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        assert_eq!(sent(encoder.frame(Frame::trailers(trailers)).unwrap()), "0\r\nx-sum: 1\r\n\r\n");
        assert_eq!(sent(Encoder::Chunked(Vec::new()).end().unwrap()), "0\r\n\r\n");
    }
}
