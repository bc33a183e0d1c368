//! The head of an upstream's answer: from bytes to what the client gets. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use flyloft_core::gate;
use hyper::ext::ReasonPhrase;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Response, StatusCode};

use super::framing::{Framing, Malformed};
use super::headers;

/// A head may have this many bytes, and this many headers.
pub const HEAD_MAX: usize = 256 << 10;
const HEADERS_MAX: usize = 100;

/// The head of an answer, and what it says of the rest.
pub struct Answered {
    /// With the headers that the client gets.
    pub response: Response<()>,
    pub framing: Framing,
    /// The connection can be used for another request after the body.
    pub keep: bool,
}

/// Takes the head of the answer to a request of `method` out of `buffer`, once all of it is there. The first `seen`
/// bytes were there before and not enough.
pub fn take(buffer: &mut BytesMut, seen: usize, method: &Method) -> Result<Option<Answered>, Malformed> {
    // An app that sends a long head byte by byte would otherwise have it parsed as often.
    if seen > 0 && buffer.len() < HEAD_MAX && !has_empty_line(&buffer[seen.saturating_sub(2)..]) {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, buffer, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() < HEAD_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Malformed("a head is too long")),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("a head has more than 100 headers")),
        Err(_) => return Err(Malformed("a head is not HTTP/1.1")),
    };
    // A copy of its own, so that the buffer stays in one piece for what comes next.
    let bytes = Bytes::copy_from_slice(&buffer[..length]);
    let start = buffer.as_ptr() as usize;
    let own = |part: &[u8]| {
        let from = part.as_ptr() as usize - start;
        bytes.slice(from..from + part.len())
    };

    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed("there is no status"))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(reason) = head.reason.filter(|reason| status.canonical_reason() != Some(reason))
        && let Ok(reason) = ReasonPhrase::try_from(own(reason.as_bytes()))
    {
        response.extensions_mut().insert(reason);
    }
    let mut notes = Notes::default();
    let headers = response.headers_mut();
    // With room for what the edge adds.
    headers.reserve(head.headers.len() + 3);
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("a header has no name"))?;
        if notes.take(&name, field.value)? {
            let value =
                HeaderValue::from_maybe_shared(own(field.value)).map_err(|_| Malformed("a header is no text"))?;
            headers.append(name, value);
        }
    }
    let old = head.version == Some(0);
    buffer.advance(length);

    let framing = notes.framing(status, method, old)?;
    notes.finish(headers, status);
    let keep = framing != Framing::ToEnd && if old { notes.keep_alive } else { !notes.close };
    Ok(Some(Answered { response, framing, keep }))
}

fn has_empty_line(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').skip(1).peekable();
    while let Some(line) = lines.next() {
        // What stands behind the last end of line is not a line yet.
        if lines.peek().is_some() && matches!(line, b"" | b"\r") {
            return true;
        }
    }
    false
}

/// What a head says for the edge, beside what it says for the client.
#[derive(Default)]
struct Notes {
    length: Option<(u64, HeaderValue)>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    /// What `Connection` names besides.
    named: Vec<HeaderName>,
    upgrade: Option<HeaderValue>,
}

impl Notes {
    /// Takes note of a header, and says whether it is for the client too.
    fn take(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Malformed> {
        match *name {
            CONNECTION => {
                for token in headers::members(value) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        self.keep_alive = true;
                    } else if let Ok(name) = HeaderName::from_bytes(token) {
                        self.named.push(name);
                    }
                }
            }
            CONTENT_LENGTH => {
                const BAD: Malformed = Malformed("a length is none, or there are two");
                let text = std::str::from_utf8(value).map_err(|_| BAD)?;
                let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())).ok_or(BAD)?;
                if self.length.as_ref().is_some_and(|(other, _)| *other != number) {
                    return Err(BAD);
                }
                self.length = Some((number, HeaderValue::from_bytes(value).map_err(|_| BAD)?));
            }
            // A coding that the edge does not take off would lose its label.
            TRANSFER_ENCODING if self.chunked || !value.eq_ignore_ascii_case(b"chunked") => {
                return Err(Malformed("the only transfer coding understood here is chunked"));
            }
            TRANSFER_ENCODING => self.chunked = true,
            UPGRADE => self.upgrade = HeaderValue::from_bytes(value).ok(),
            SET_COOKIE => return Ok(!gate::sets_ours(value)),
            _ => return Ok(!headers::is_about_one_connection(name) && *name != headers::X_ROBOTS_TAG),
        }
        Ok(false)
    }

    /// RFC 9112 section 6.3.
    fn framing(&self, status: StatusCode, method: &Method, old: bool) -> Result<Framing, Malformed> {
        let bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || status.is_informational();
        match &self.length {
            _ if bare || method == Method::HEAD => Ok(Framing::Empty),
            _ if self.chunked && old => Err(Malformed("HTTP/1.0 has no transfer codings")),
            _ if self.chunked => Ok(Framing::Chunked),
            Some((length, _)) => Ok(Framing::Length(*length)),
            None => Ok(Framing::ToEnd),
        }
    }

    /// Completes the headers that the client gets.
    fn finish(&mut self, headers: &mut HeaderMap, status: StatusCode) {
        for name in self.named.drain(..) {
            headers.remove(name);
        }
        // A length beside a coding is not to be believed, and 204 has none, whatever was asked (RFC 9110 section 8.6).
        let believed = !self.chunked && status != StatusCode::NO_CONTENT;
        if let Some((_, length)) = self.length.take().filter(|_| believed) {
            headers.append(CONTENT_LENGTH, length);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            headers.append(UPGRADE, self.upgrade.take().unwrap_or(HeaderValue::from_static("websocket")));
            headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        headers::forbid_indexing(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &str, method: Method) -> Result<Option<(u16, Framing, bool)>, Malformed> {
        let mut buffer = BytesMut::from(bytes.replace('\n', "\r\n").as_str());
        let answered = take(&mut buffer, 0, &method)?;
        Ok(answered.map(|answered| (answered.response.status().as_u16(), answered.framing, answered.keep)))
    }

    #[test]
    fn an_answer_without_content_has_no_length() {
        for method in [Method::GET, Method::HEAD] {
            let mut buffer = BytesMut::from("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n");
            let answered = take(&mut buffer, 0, &method).unwrap().unwrap();
            assert!(!answered.response.headers().contains_key(CONTENT_LENGTH), "{method}");
        }
    }

    #[test]
    fn an_app_sets_its_own_cookies_and_none_of_the_edge_s() {
        let mut head = String::from("HTTP/1.1 200 OK\r\n");
        for cookie in ["a=1; Path=/", "__Host-flyloft-login=planted; Secure; Path=/", "flyloft-gate=planted", "b=2"] {
            head += &format!("Set-Cookie: {cookie}\r\n");
        }
        let mut buffer = BytesMut::from(format!("{head}Content-Length: 0\r\n\r\n").as_str());
        let answered = take(&mut buffer, 0, &Method::GET).unwrap().unwrap();
        let cookies: Vec<_> = answered.response.headers().get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; Path=/", "b=2"]);
    }

    #[test]
    fn an_answer_says_where_it_ends_and_whether_another_may_follow() {
        use Framing::*;
        for (head, expected) in [
            ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", (200, Length(5), true)),
            ("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5\n\n", (200, Length(5), true)),
            ("HTTP/1.1 200 OK\nContent-Length: 5\nConnection: x, Close\n\n", (200, Length(5), false)),
            ("HTTP/1.0 200 OK\nContent-Length: 5\n\n", (200, Length(5), false)),
            ("HTTP/1.0 200 OK\nContent-Length: 5\nConnection: Keep-Alive\n\n", (200, Length(5), true)),
            ("HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: Chunked\n\n", (200, Chunked, true)),
            ("HTTP/1.1 200 OK\n\n", (200, ToEnd, false)),
            ("HTTP/1.1 204 No Content\n\n", (204, Empty, true)),
            ("HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n", (304, Empty, true)),
            ("HTTP/1.1 103 Early Hints\n\n", (103, Empty, true)),
        ] {
            assert_eq!(read(head, Method::GET), Ok(Some(expected)), "{head:?}");
        }
        let head = "HTTP/1.1 200 OK\nContent-Length: 5\n\n";
        assert_eq!(read(head, Method::HEAD), Ok(Some((200, Empty, true))));
    }

    #[test]
    fn an_answer_that_can_be_read_in_two_ways_is_an_error() {
        for head in [
            "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n\n",
            "HTTP/1.1 200 OK\nContent-Length: +5\n\n",
            "HTTP/1.1 200 OK\nContent-Length:\n\n",
            "HTTP/1.1 200 OK\nContent-Length: 99999999999999999999\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n",
            "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n",
            "HTTP/1.1 99 Low\n\n",
            "HTTP/1.1 200 OK\nName : value\n\n",
            "HTTP/1.1 200 OK\nA: b\n folded\n\n",
            "hello\n\n",
        ] {
            assert!(read(head, Method::GET).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_head_is_taken_whole_and_nothing_behind_it() {
        for piece in [1, 3, 1000] {
            let (mut buffer, mut seen, mut taken) = (BytesMut::new(), 0, None);
            for bytes in b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".chunks(piece) {
                buffer.extend_from_slice(bytes);
                if taken.is_none() {
                    taken = take(&mut buffer, seen, &Method::GET).unwrap();
                    seen = buffer.len();
                }
            }
            assert_eq!(taken.unwrap().framing, Framing::Length(5));
            assert_eq!(&buffer[..], b"hello", "in pieces of {piece}");
        }
        let mut endless = BytesMut::from(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_MAX)).as_str());
        assert!(take(&mut endless, HEAD_MAX, &Method::GET).is_err());
    }
}
