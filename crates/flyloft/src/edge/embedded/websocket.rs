//! Whether a client says something over a WebSocket, or only shows that it is still there. Pure.
//!
//! Browsers and libraries send pings and answer them by themselves, in a tab that nobody has looked at for days. So only
//! the headers of frames are read here (RFC 6455 section 5.2): which bytes belong to data, and which to control frames.
//! Extensions change payloads and bits that do not matter for that. What is no WebSocket at all does no harm either: it
//! is only ever taken for one or the other.

/// The frames that come from a client, however they are cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next byte begins a frame.
    Begin,
    /// The next byte says how long the payload is, or how that is told.
    Length { data: bool },
    /// `left` more bytes of the length, then the key that masks the payload where there is one.
    More { data: bool, left: u8, length: u64, masked: bool },
    /// `left` bytes of the key and the payload.
    Rest { data: bool, left: u64 },
}

const MASK: u8 = 0x80;
/// Opcodes from here on are of control frames: close, ping, pong, and three that nobody uses.
const CONTROL: u8 = 0x8;
const KEY: u64 = 4;

impl Frames {
    pub fn new() -> Self {
        Self(State::Begin)
    }

    /// Takes the next bytes, and says whether any of them belongs to a data frame.
    pub fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut any = false;
        while let Some((first, rest)) = bytes.split_first() {
            match self.0 {
                State::Begin => {
                    let data = first & 0x0f < CONTROL;
                    any |= data;
                    self.0 = State::Length { data };
                    bytes = rest;
                }
                State::Length { data } => {
                    let masked = first & MASK != 0;
                    any |= data;
                    self.0 = match first & !MASK {
                        126 => State::More { data, left: 2, length: 0, masked },
                        127 => State::More { data, left: 8, length: 0, masked },
                        length => State::payload(data, length.into(), masked),
                    };
                    bytes = rest;
                }
                State::More { data, left, length, masked } => {
                    any |= data;
                    let length = length << 8 | u64::from(*first);
                    self.0 = match left - 1 {
                        0 => State::payload(data, length, masked),
                        left => State::More { data, left, length, masked },
                    };
                    bytes = rest;
                }
                State::Rest { data, left } => {
                    any |= data;
                    let taken = left.min(bytes.len() as u64);
                    self.0 = State::rest(data, left - taken);
                    bytes = &bytes[taken as usize..];
                }
            }
        }
        any
    }
}

impl State {
    fn payload(data: bool, length: u64, masked: bool) -> Self {
        Self::rest(data, length.saturating_add(if masked { KEY } else { 0 }))
    }

    fn rest(data: bool, left: u64) -> Self {
        if left == 0 { State::Begin } else { State::Rest { data, left } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: u8 = 0x1;
    const PING: u8 = 0x9;
    const PONG: u8 = 0xa;

    fn frame(opcode: u8, fin: bool, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mask = if masked { MASK } else { 0 };
        let mut frame = vec![opcode | if fin { 0x80 } else { 0 }];
        match payload.len() {
            length @ 0..126 => frame.push(mask | length as u8),
            length @ 126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([0xa5; KEY as usize]);
        }
        frame.extend(payload);
        frame
    }

    #[test]
    fn pings_and_pongs_are_no_data_and_what_stands_between_them_is() {
        let mut frames = Frames::new();
        assert!(!frames.take(&frame(PING, true, true, b"still here")));
        assert!(!frames.take(&frame(PONG, true, true, b"")));
        assert!(frames.take(&frame(TEXT, true, true, b"hello")));
        assert!(!frames.take(&frame(0x8, true, true, &1001_u16.to_be_bytes())));
    }

    #[test]
    fn a_control_frame_within_a_message_is_none_of_it() {
        let mut frames = Frames::new();
        assert!(frames.take(&frame(TEXT, false, true, b"hel")));
        assert!(!frames.take(&frame(PING, true, true, b"")));
        assert!(frames.take(&frame(0x0, true, true, b"lo")));
    }

    #[test]
    fn a_payload_that_looks_like_frames_is_none() {
        let mut frames = Frames::new();
        // A ping's payload with a text frame in it, and half of it in the next piece.
        let ping = frame(PING, true, false, &frame(TEXT, true, true, b"hello"));
        let (one, two) = ping.split_at(5);
        assert!(!frames.take(one) && !frames.take(two));
    }

    prop_compose! {
        fn any_frame()(
            opcode in 0_u8..16,
            fin in any::<bool>(),
            masked in any::<bool>(),
            length in prop_oneof![Just(0), 1_usize..200, 65_000_usize..66_000],
            byte in any::<u8>(),
        ) -> (bool, Vec<u8>) {
            (opcode < CONTROL, frame(opcode, fin, masked, &vec![byte; length]))
        }
    }

    proptest! {
        /// Each piece is judged by the bytes in it, wherever the stream is cut.
        #[test]
        fn every_byte_is_of_the_frame_that_it_stands_in(
            sent in prop::collection::vec(any_frame(), 1..6),
            sizes in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..100_000], 1..8),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|(_, frame)| frame.clone()).collect();
            let is_data: Vec<bool> = sent.iter().flat_map(|(data, frame)| vec![*data; frame.len()]).collect();
            let (mut frames, mut at) = (Frames::new(), 0);
            for size in sizes.iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let end = bytes.len().min(at + size);
                prop_assert_eq!(frames.take(&bytes[at..end]), is_data[at..end].contains(&true), "{}..{}", at, end);
                at = end;
            }
            prop_assert_eq!(frames, Frames::new(), "it is not at the beginning of a frame");
        }

        #[test]
        fn anything_at_all_is_read_to_its_end(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut frames = Frames::new();
            for piece in pieces {
                prop_assert!(!frames.take(&piece) || !piece.is_empty());
            }
        }
    }
}
