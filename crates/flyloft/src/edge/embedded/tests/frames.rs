//! HTTP/2 byte for byte: what the standards have a server refuse (RFC 9113, RFC 7541), and what is sent to wear one out.

use super::doors::{Stream, doors};
use super::*;

pub(in crate::edge) const DATA: u8 = 0;
pub(in crate::edge) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(in crate::edge) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
pub(in crate::edge) const END_STREAM: u8 = 1;
pub(in crate::edge) const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `:method GET`, `:scheme http`, `:path /`, out of HPACK's static table, and `:authority shop.test`.
const GET: &[u8] = b"\x82\x86\x84\x01\x09shop.test";

/// A frame as it goes over the wire.
pub(in crate::edge) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that no table has, whose name and value have less than 127 octets (RFC 7541 section 6.2.2).
pub(in crate::edge) fn literal(name: &str, value: &str) -> Vec<u8> {
    let [name, value] = [name, value].map(|text| [&[text.len() as u8][..], text.as_bytes()].concat());
    [&[0][..], &name, &value].concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

/// What a server says to a wrong frame.
#[derive(Debug, PartialEq)]
pub(in crate::edge) enum Said {
    /// That the connection ends, for this reason.
    GoAway(u32),
    /// That a stream ends, for this reason.
    Reset(u32, u32),
    /// An answer, of which the first octet of the head says the status: 0x88 is 200, 0x8c is 400.
    Answer(u32, u8),
    Pong(Vec<u8>),
    /// Nothing more.
    Closed,
}

/// A client that has introduced itself.
pub(in crate::edge) struct Speaker(Box<dyn Stream>);

impl Speaker {
    async fn new(stage: &Stage) -> Self {
        Self::over(Box::new(stage.connect().await.stream)).await
    }

    pub(in crate::edge) async fn over(mut stream: Box<dyn Stream>) -> Self {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    pub(in crate::edge) async fn say(&mut self, frames: &[u8]) {
        // Whoever is hung up on while it speaks is told why all the same.
        let _ = self.0.write_all(frames).await;
        let _ = self.0.flush().await;
    }

    pub(in crate::edge) async fn hear(&mut self) -> Said {
        loop {
            let mut head = [0; 9];
            if in_time(self.0.read_exact(&mut head)).await.is_err() {
                return Said::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            if in_time(self.0.read_exact(&mut payload)).await.is_err() {
                return Said::Closed;
            }
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match (head[3], head[4] & ACK != 0) {
                (GOAWAY, _) => return Said::GoAway(number(4)),
                (RST_STREAM, _) => return Said::Reset(stream, number(0)),
                (HEADERS, _) => return Said::Answer(stream, payload[0]),
                (PING, true) => return Said::Pong(payload),
                _ => {}
            }
        }
    }
}

/// What comes of these frames, on a connection of their own.
async fn said_to(stage: &Stage, frames: &[u8]) -> Said {
    let mut speaker = Speaker::new(stage).await;
    speaker.say(frames).await;
    speaker.hear().await
}

#[tokio::test]
async fn a_connection_that_breaks_the_rules_of_http_2_is_told_which_and_ends() {
    let stage = Stage::new().app(echo_head).await;
    let settings =
        |name: u16, value: u32| frame(SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
    let open = frame(HEADERS, END_HEADERS, 1, GET);
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("data without a stream", frame(DATA, END_STREAM, 0, b"x"), PROTOCOL_ERROR),
        ("data on a stream that nobody opened", frame(DATA, END_STREAM, 1, b"x"), PROTOCOL_ERROR),
        ("headers without a stream", frame(HEADERS, END_STREAM | END_HEADERS, 0, GET), PROTOCOL_ERROR),
        ("a stream of the server's number", get(2), PROTOCOL_ERROR),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385]), FRAME_SIZE_ERROR),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("settings that are cut short", frame(SETTINGS, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        ("an acknowledgement that says something", frame(SETTINGS, ACK, 0, &[0; 6]), FRAME_SIZE_ERROR),
        ("a window that is too large", settings(4, 0x8000_0000), FLOW_CONTROL_ERROR),
        ("frames that are too small", settings(5, 16_383), PROTOCOL_ERROR),
        ("a push that is neither on nor off", settings(2, 2), PROTOCOL_ERROR),
        ("a ping that is too long", frame(PING, 0, 0, &[0; 9]), FRAME_SIZE_ERROR),
        ("a ping of a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("a client that pushes", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        (
            "a window that grows too large",
            [frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())].concat(),
            FLOW_CONTROL_ERROR,
        ),
        ("a window that is cut short", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), FRAME_SIZE_ERROR),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, GET), PROTOCOL_ERROR),
        (
            "something else between headers and their continuation",
            [frame(HEADERS, END_STREAM, 1, &GET[..3]), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        ("a priority that is cut short", frame(PRIORITY, 0, 1, &[0; 4]), FRAME_SIZE_ERROR),
        ("a reset of a stream that nobody opened", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        ("a reset without a stream", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("padding that is longer than its frame", [open, frame(DATA, 8, 1, &[200, 0])].concat(), PROTOCOL_ERROR),
        (
            "a header that no table has",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x0f]),
            COMPRESSION_ERROR,
        ),
        ("a table that is larger than it may be", frame(HEADERS, 5, 1, &[0x3f, 0xe2, 0x1f]), COMPRESSION_ERROR),
        ("a stream that was opened before", [get(3), get(1)].concat(), PROTOCOL_ERROR),
    ];
    for (what, frames, reason) in cases {
        let mut speaker = Speaker::new(&stage).await;
        speaker.say(&frames).await;
        // What was right before it is answered.
        let said = loop {
            match speaker.hear().await {
                Said::Answer(..) => {}
                said => break said,
            }
        };
        // The general reason stands for any (section 5.4.1).
        assert!(said == Said::GoAway(reason) || said == Said::GoAway(PROTOCOL_ERROR), "{what}: {said:?}");
    }
}

#[tokio::test]
async fn a_request_of_http_2_that_is_none_is_refused() {
    let stage = Stage::new().app(echo_head).await;
    let with = |name: &str, value: &str| [GET, &literal(name, value)].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a name in capitals", with("X-Shop", "1")),
        ("a header about the connection", with("connection", "close")),
        ("a coding of HTTP/1", with("transfer-encoding", "chunked")),
        ("`te` that asks for more than trailers", with("te", "gzip")),
        ("a pseudo header after others", [&literal("x", "1")[..], GET].concat()),
        ("a pseudo header that there is not", with(":shop", "1")),
        ("a pseudo header of answers", with(":status", "200")),
        ("the method twice", [b"\x82", GET].concat()),
        ("no path", GET[..2].iter().chain(&GET[3..]).copied().collect()),
        ("no method", GET[1..].to_vec()),
        ("no scheme", [&GET[..1], &GET[2..]].concat()),
        ("an end of line in a value", with("x-shop", "1\r\nx-other: 2")),
    ];
    for (what, head) in cases {
        let said = said_to(&stage, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await;
        // A server may end the connection for what concerns one stream alone (section 5.4.2).
        let refusals = [Said::Reset(1, PROTOCOL_ERROR), Said::Answer(1, 0x8c), Said::GoAway(PROTOCOL_ERROR)];
        assert!(refusals.contains(&said), "{what}: {said:?}");
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_was_said_is_no_request() {
    let stage = Stage::new()
        .app(async |mut peer: Peer| {
            peer.read_until("\r\n\r\n").await;
            peer.read_to_end().await;
        })
        .await;
    // `:method POST`, and `content-length: 2`, with three octets.
    let head = [b"\x83", &GET[1..], b"\x0f\x0d\x012"].concat();
    let frames = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, b"abc")].concat();
    let said = said_to(&stage, &frames).await;
    assert_eq!(said, Said::Reset(1, PROTOCOL_ERROR));
}

#[tokio::test]
async fn what_http_2_has_for_later_is_passed_over_and_pings_are_answered() {
    let stage = Stage::new().app(echo_head).await;
    let later = [frame(0x42, 0xff, 0, b"what is this"), frame(0x42, 0, 7, b""), frame(PING, 0, 0, b"01234567")];
    assert_eq!(said_to(&stage, &later.concat()).await, Said::Pong(b"01234567".to_vec()));
    // Settings that nobody knows, and a priority, which means nothing any more.
    let frames = [frame(SETTINGS, 0, 0, &[0xff, 0xff, 0, 0, 0, 1]), frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), get(1)];
    assert_eq!(said_to(&stage, &frames.concat()).await, Said::Answer(1, 0x88));
}

#[tokio::test]
async fn who_opens_streams_and_takes_them_back_wears_out_neither_edge_nor_app() {
    let (asked, mut asks) = mpsc::unbounded_channel();
    let serve = move |mut peer: Peer| {
        let asked = asked.clone();
        async move {
            while !peer.read_head().await.is_empty() {
                asked.send(()).unwrap();
                peer.reply("hello").await;
            }
        }
    };
    let reset = |stream: u32| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let rapid: Vec<u8> = (0..20_000).flat_map(|number| [get(2 * number + 1), reset(2 * number + 1)].concat()).collect();
    for door in doors(|_| {}, serve).await {
        let mut speaker = Speaker::over(door.connect().await.stream).await;
        speaker.say(&rapid).await;
        let said = loop {
            match speaker.hear().await {
                Said::Answer(..) => {}
                said => break said,
            }
        };
        assert!(matches!(said, Said::GoAway(ENHANCE_YOUR_CALM) | Said::Closed), "{}: {said:?}", door.name());
        let mut count = 0;
        while asks.try_recv().is_ok() {
            count += 1;
        }
        assert!(count < 2_000, "{}: the app was asked {count} times", door.name());
        let mut other = Speaker::over(door.connect().await.stream).await;
        other.say(&get(1)).await;
        assert_eq!(other.hear().await, Said::Answer(1, 0x88), "{}: others are served", door.name());
    }
}

#[tokio::test]
async fn a_head_that_goes_on_and_on_ends() {
    let mut frames = frame(HEADERS, END_STREAM, 1, GET);
    // A cookie of 100 octets in each, which is far more than a head may have.
    let cookie = [&b"\x00\x06cookie\x64"[..], &[b'c'; 100]].concat();
    for _ in 0..2_000 {
        frames.extend_from_slice(&frame(CONTINUATION, 0, 1, &cookie));
    }
    let ended = [Said::GoAway(ENHANCE_YOUR_CALM), Said::GoAway(PROTOCOL_ERROR), Said::GoAway(COMPRESSION_ERROR)];
    for door in doors(|_| {}, echo_head).await {
        let mut speaker = Speaker::over(door.connect().await.stream).await;
        speaker.say(&frames).await;
        let said = speaker.hear().await;
        assert!(ended.contains(&said) || said == Said::Closed, "{}: {said:?}", door.name());
    }
}

#[tokio::test]
async fn data_for_a_stream_that_has_ended_is_not_taken() {
    let stage = Stage::new().app(echo_head).await;
    let mut speaker = Speaker::new(&stage).await;
    speaker.say(&[get(1), frame(DATA, END_STREAM, 1, b"x")].concat()).await;
    let said = loop {
        match speaker.hear().await {
            Said::Answer(..) => {}
            said => break said,
        }
    };
    let refusals = [Said::Reset(1, STREAM_CLOSED), Said::GoAway(STREAM_CLOSED), Said::GoAway(PROTOCOL_ERROR)];
    assert!(refusals.contains(&said), "{said:?}");
}
