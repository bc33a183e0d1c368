//! What travels over the unix socket: frames of a tag and a payload.
//!
//! ```text
//! client → daemon   H hello (JSON), the first frame
//!                   I invocation (JSON), the second   or U upgrade   or V which version are you
//!                   i stdin   e end of stdin   w window's new size (JSON)
//! daemon → client   o stdout   x stderr   c exit code (one byte), the last frame
//!                   H hello, to who asked for the version
//! ```
//!
//! The hello, `U`, `V`, `x` and `c` never change: by them a client and a daemon of different versions tell each other
//! so, before either reads what only its own version understands, and a newer one takes over.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::command::Invocation;

/// Payloads of streams are cut to this size; the largest frame is an invocation.
pub const PIECE: usize = 32 << 10;
const LARGEST: usize = 4 << 20;

/// The first frame: who speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Of the frames that follow.
    pub protocol: u32,
    /// The program's version, for people.
    pub version: String,
    /// What kept another version from taking over, if the daemon that speaks has just given way to it and is back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Raised by every change of what a frame holds: of a command's arguments, too.
const PROTOCOL: u32 = 3;

impl Hello {
    /// This program's.
    pub fn own() -> Self {
        Self { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned(), failure: None }
    }
}

/// The second frame: what is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub invocation: Invocation,
    pub terminal: Option<Size>,
}

/// A terminal's size in characters, and its kind as `TERM` names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
    #[serde(default)]
    pub term: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tag {
    Hello = b'H' as isize,
    Invocation = b'I' as isize,
    Upgrade = b'U' as isize,
    Version = b'V' as isize,
    Stdin = b'i' as isize,
    EndOfStdin = b'e' as isize,
    Window = b'w' as isize,
    Stdout = b'o' as isize,
    Stderr = b'x' as isize,
    Exit = b'c' as isize,
}

impl Tag {
    const ALL: [Tag; 10] = [
        Tag::Hello,
        Tag::Invocation,
        Tag::Upgrade,
        Tag::Version,
        Tag::Stdin,
        Tag::EndOfStdin,
        Tag::Window,
        Tag::Stdout,
        Tag::Stderr,
        Tag::Exit,
    ];
}

pub fn encode(tag: Tag, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + payload.len());
    frame.put_u8(tag as u8);
    frame.put_slice(payload);
    frame.freeze()
}

/// None if there is no such tag.
pub fn decode(mut frame: BytesMut) -> Option<(Tag, Bytes)> {
    let byte = *frame.first()?;
    let tag = Tag::ALL.into_iter().find(|tag| *tag as u8 == byte)?;
    Some((tag, frame.split_off(1).freeze()))
}

pub fn reader<R: AsyncRead>(inner: R) -> FramedRead<R, LengthDelimitedCodec> {
    FramedRead::new(inner, codec())
}

pub fn writer<W: AsyncWrite>(inner: W) -> FramedWrite<W, LengthDelimitedCodec> {
    FramedWrite::new(inner, codec())
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(LARGEST).new_codec()
}
