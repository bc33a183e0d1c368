//! What travels over the unix socket: frames of a tag and a payload.
//!
//! ```text
//! client → daemon   I invocation (JSON)   i stdin   e end of stdin   w window's new size (JSON)
//! daemon → client   o stdout   x stderr   c exit code (one byte), the last frame
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::command::Invocation;

/// Payloads of streams are cut to this size; the largest frame is an invocation.
pub const PIECE: usize = 32 << 10;
const LARGEST: usize = 4 << 20;

/// The first frame. `version` is the protocol's, so that a client says what is wrong when the daemon is another's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub invocation: Invocation,
    pub terminal: Option<Size>,
}

pub const VERSION: u32 = 1;

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
    Invocation = b'I' as isize,
    Stdin = b'i' as isize,
    EndOfStdin = b'e' as isize,
    Window = b'w' as isize,
    Stdout = b'o' as isize,
    Stderr = b'x' as isize,
    Exit = b'c' as isize,
}

impl Tag {
    const ALL: [Tag; 7] =
        [Tag::Invocation, Tag::Stdin, Tag::EndOfStdin, Tag::Window, Tag::Stdout, Tag::Stderr, Tag::Exit];
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
