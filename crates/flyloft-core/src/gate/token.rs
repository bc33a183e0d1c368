//! What opens a gate: a time and a signature over it, for one environment and one purpose.
//!
//! ```text
//!   daemon's secret ─► key of an environment ─► token: until when (5 bytes), HMAC-SHA256 (its first 16 bytes), what it says
//!                      id, host, generation            purpose, until when, what it says
//! ```
//!
//! Most say nothing. What one says is for everybody to read who has it, and for nobody to change.
//!
//! An environment's key is made from the daemon's secret by HMAC, so that the key of one says nothing of another's.
//! Half of the output of HMAC-SHA256 is as hard to guess as a key of 128 bits (RFC 2104 section 5).

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const TIME: usize = 5;
const TAG: usize = 16;
const TOKEN: usize = TIME + TAG;

/// A token that says more is none of ours.
const SAID_MAX: usize = 320;

/// For good: a time after which nothing is signed.
pub const NEVER: u64 = (1 << (8 * TIME)) - 1;

/// What a token is for. None is good for another's purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is in a link that people are given.
    Link,
    /// It is the cookie of somebody who came by a link.
    Visit,
    /// The same over TLS, where nobody has read it on its way.
    SecureVisit,
    /// An automated test says it.
    Bypass,
    /// It is the cookie of a browser that has said such a one in its query, and the same over TLS.
    Passed,
    SecurePassed,
    /// It is the cookie of somebody who was sent to log in, and the same over TLS.
    Departure,
    SecureDeparture,
    /// It is what somebody comes back with who has logged in.
    Ticket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Until then, in seconds since the Unix epoch.
    Good {
        until: u64,
    },
    Expired,
    Wrong,
}

/// With which the tokens of one environment are signed.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// `env` is the environment's id, which no other has had. With another `generation` no token of before is good.
    pub fn new(secret: &[u8; 32], env: i64, host: &str, generation: u32) -> Self {
        let mut mac = hmac(secret);
        mac.update(b"environment\0");
        mac.update(&env.to_be_bytes());
        mac.update(&generation.to_be_bytes());
        mac.update(host.as_bytes());
        Self(hmac(&mac.finalize().into_bytes()))
    }

    /// A token that is good until then, in seconds since the Unix epoch.
    pub fn sign(&self, purpose: Purpose, until: u64) -> String {
        self.sign_saying(purpose, until, b"")
    }

    /// The same, and it says something: 320 bytes at most.
    pub fn sign_saying(&self, purpose: Purpose, until: u64, said: &[u8]) -> String {
        let time = time(until);
        let tag = self.mac(purpose, &time, said).finalize().into_bytes();
        Base64UrlUnpadded::encode_string(&[&time[..], &tag[..TAG], said].concat())
    }

    pub fn check(&self, purpose: Purpose, text: &[u8], now: u64) -> Check {
        match self.open(purpose, text, &mut [0; TOKEN + SAID_MAX]) {
            None => Check::Wrong,
            Some((until, _)) if now < until => Check::Good { until },
            Some(_) => Check::Expired,
        }
    }

    /// What a good one says.
    pub fn said(&self, purpose: Purpose, text: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut room = [0; TOKEN + SAID_MAX];
        let (until, said) = self.open(purpose, text, &mut room)?;
        (now < until).then(|| said.to_vec())
    }

    /// Until when it is good, if it is of this key, and what it says.
    fn open<'a>(&self, purpose: Purpose, text: &[u8], room: &'a mut [u8]) -> Option<(u64, &'a [u8])> {
        let token = Base64UrlUnpadded::decode(text, room).ok()?;
        let (time, rest) = token.split_first_chunk::<TIME>()?;
        let (tag, said) = rest.split_first_chunk::<TAG>()?;
        // It compares in constant time.
        self.mac(purpose, time, said).verify_truncated_left(tag).ok()?;
        Some((time.iter().fold(0, |until, byte| (until << 8) | u64::from(*byte)), said))
    }

    pub fn is_good(&self, purpose: Purpose, text: &[u8], now: u64) -> bool {
        matches!(self.check(purpose, text, now), Check::Good { .. })
    }

    /// A key under this one, for something that is not on record with the environment alone.
    pub(super) fn under(&self, purpose: &[u8], what: &[u8]) -> Key {
        // No purpose of a token has the letter of this, or of what follows.
        Key(hmac(&self.signed(&[b"under\0", purpose, b"\0", what]).finalize().into_bytes()))
    }

    /// By which something that is said can be known again without being kept.
    pub(super) fn signature(&self, what: &[u8]) -> Vec<u8> {
        self.signed(&[b"known\0\0", what]).finalize().into_bytes().to_vec()
    }

    /// Whether it is one of this, in constant time.
    pub(super) fn is_signature(&self, signature: &[u8], what: &[u8]) -> bool {
        self.signed(&[b"known\0\0", what]).verify_slice(signature).is_ok()
    }

    fn signed(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    fn mac(&self, purpose: Purpose, time: &[u8; TIME], said: &[u8]) -> Hmac<Sha256> {
        self.signed(&[&[purpose.byte()], time, said])
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn time(until: u64) -> [u8; TIME] {
    let [_, _, _, time @ ..] = until.min(NEVER).to_be_bytes();
    time
}

impl Purpose {
    fn byte(self) -> u8 {
        match self {
            Purpose::Link => b'l',
            Purpose::Visit => b'v',
            Purpose::SecureVisit => b's',
            Purpose::Bypass => b'b',
            Purpose::Passed => b'p',
            Purpose::SecurePassed => b'q',
            Purpose::Departure => b'd',
            Purpose::SecureDeparture => b'e',
            Purpose::Ticket => b't',
        }
    }
}
