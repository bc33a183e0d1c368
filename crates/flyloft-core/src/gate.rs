//! The gate: who may look at an environment.
//!
//! ```text
//!                        ┌─ a bypass token ──────────────────────────► pass
//!   request ─► guard ────┼─ link:  its cookie ───────────────────────► pass
//!                        │         a link ───────────────────────────► enter: a cookie, and the address without the link
//!                        │         neither ──────────────────────────► refused
//!                        └─ ip:    an address of the list ───────────► pass, else refused
//! ```
//!
//! What must hold: nothing opens a gate but what this daemon has signed for that environment, its host name, that
//! purpose and that time, or the address that a request has come from; and an app sees nothing of that ([`is_ours`],
//! [`without_ours`]).

mod prefix;
mod token;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

pub use self::prefix::{Prefix, PrefixError};
pub use self::token::{Check, Key, NEVER, Purpose};
use crate::name::excerpt;

/// Who may look, as people set it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Everybody.
    Public,
    /// Whoever has been given a link that has not expired.
    #[default]
    Link,
    /// Whoever comes from one of these addresses.
    Ip(Vec<Prefix>),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GateError {
    #[error("`{0}` is no gate; there are `public`, `link` and `ip:PREFIX,…`")]
    NoSuchGate(String),
    #[error("it is said of no address that it may look; write `ip:203.0.113.0/24,2001:db8::/32`")]
    NoAddress,
    #[error("these are more than {PREFIXES_MAX} ranges of addresses")]
    TooMany,
    #[error(transparent)]
    Prefix(#[from] PrefixError),
}

/// Each request is compared with all of them.
const PREFIXES_MAX: usize = 64;

impl Gate {
    pub fn parse(text: &str) -> Result<Self, GateError> {
        let list = match text {
            "public" => return Ok(Gate::Public),
            "link" => return Ok(Gate::Link),
            _ => text.strip_prefix("ip:").ok_or_else(|| GateError::NoSuchGate(excerpt(text)))?,
        };
        let prefixes = list.split(',').filter(|prefix| !prefix.is_empty());
        let prefixes = prefixes.map(Prefix::parse).collect::<Result<Vec<_>, _>>()?;
        match prefixes.len() {
            0 => Err(GateError::NoAddress),
            1..=PREFIXES_MAX => Ok(Gate::Ip(prefixes)),
            _ => Err(GateError::TooMany),
        }
    }
}

/// As it is written.
impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gate::Public => f.write_str("public"),
            Gate::Link => f.write_str("link"),
            Gate::Ip(prefixes) => {
                for (index, prefix) in prefixes.iter().enumerate() {
                    write!(f, "{}{prefix}", if index == 0 { "ip:" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// The cookie of who may look. Browsers take a name with `__Host-` only over TLS, for one host alone, and from nobody
/// else, such as a sibling host.
pub const COOKIE: &str = "flyloft-gate";
pub const SECURE_COOKIE: &str = "__Host-flyloft";

/// What a link has in its query, and what a test may have there instead of the header.
pub const LINK: &str = "flyloft-link";
pub const BYPASS: &str = "flyloft-bypass";

/// The header with which automated tests pass. In lower case.
pub const BYPASS_HEADER: &str = "x-flyloft-bypass";

/// Of cookies with our name so many are looked at. More than one come from a sibling host that has set it for all.
const COOKIES_MAX: usize = 4;

/// Keeps the gate of one environment that is not public.
pub struct Guard {
    gate: Gate,
    key: Key,
}

/// What a request says that counts at a gate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub address: IpAddr,
    /// It came over TLS.
    pub secure: bool,
    /// It only reads, and whoever sent it would follow to another address.
    pub follows: bool,
    /// Path and query.
    pub target: &'a str,
    /// The value of [`BYPASS_HEADER`].
    pub bypass: Option<&'a [u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// It comes with a link. Its answer is to set this cookie, and to send it to the same address without the link.
    Enter {
        cookie: String,
        to: String,
    },
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no link, or one that is none.
    NoLink,
    /// The time of its link is over.
    Expired,
    /// It comes from elsewhere.
    Address,
}

impl Guard {
    /// None where everybody may look.
    pub fn new(gate: Gate, key: Key) -> Option<Self> {
        (gate != Gate::Public).then_some(Self { gate, key })
    }

    /// `cookies` are the values of the request's `Cookie` headers, `now` is in seconds since the Unix epoch.
    pub fn judge<'a>(&self, request: &Request<'_>, cookies: impl IntoIterator<Item = &'a [u8]>, now: u64) -> Verdict {
        let is_good = |purpose, token: &[u8]| matches!(self.key.check(purpose, token, now), Check::Good { .. });
        let bypass = || value_of(request.target, BYPASS).map(str::as_bytes);
        if request.bypass.or_else(bypass).is_some_and(|token| is_good(Purpose::Bypass, token)) {
            return Verdict::Pass;
        }
        if let Gate::Ip(prefixes) = &self.gate {
            return match prefixes.iter().any(|prefix| prefix.contains(request.address)) {
                true => Verdict::Pass,
                false => Verdict::Refused(Refusal::Address),
            };
        }
        let link = value_of(request.target, LINK).map(|link| self.key.check(Purpose::Link, link.as_bytes(), now));
        match link {
            Some(Check::Good { until }) if request.follows => return self.enter(request, until, now),
            Some(Check::Good { .. }) => return Verdict::Pass,
            _ => {}
        }
        let (name, purpose) = cookie_of(request.secure);
        let mut ours = cookies.into_iter().flat_map(pairs).filter_map(|pair| named(pair, name)).take(COOKIES_MAX);
        match ours.any(|token| is_good(purpose, token)) {
            true => Verdict::Pass,
            false if link == Some(Check::Expired) => Verdict::Refused(Refusal::Expired),
            false => Verdict::Refused(Refusal::NoLink),
        }
    }

    fn enter(&self, request: &Request<'_>, until: u64, now: u64) -> Verdict {
        let (name, purpose) = cookie_of(request.secure);
        let (token, age) = (self.key.sign(purpose, until), until.saturating_sub(now));
        let secure = if request.secure { "; Secure" } else { "" };
        let cookie = format!("{name}={token}; Path=/; Max-Age={age}; HttpOnly{secure}; SameSite=Lax");
        Verdict::Enter { cookie, to: local(&without_ours(request.target)) }
    }
}

fn cookie_of(secure: bool) -> (&'static str, Purpose) {
    if secure { (SECURE_COOKIE, Purpose::SecureVisit) } else { (COOKIE, Purpose::Visit) }
}

/// The pairs of a `Cookie` header.
pub fn pairs(cookies: &[u8]) -> impl Iterator<Item = &[u8]> {
    cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Whether a pair of a `Cookie` header is for the gate alone.
pub fn is_ours(pair: &[u8]) -> bool {
    named(pair, COOKIE).or_else(|| named(pair, SECURE_COOKIE)).is_some()
}

/// What the query of a target says for a name.
fn value_of<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A target without what is for the gate alone. The rest is as it was.
pub fn without_ours(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?').filter(|(_, query)| query.contains("flyloft-")) else {
        return Cow::Borrowed(target);
    };
    let is_ours = |pair: &&str| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        name == LINK || name == BYPASS
    };
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_ours(pair)).collect();
    match rest.as_slice() {
        [] => Cow::Borrowed(path),
        rest => Cow::Owned(format!("{path}?{}", rest.join("&"))),
    }
}

/// A target as the place where a redirect leads. `//other.example` would be another host to a browser, and so would
/// `/\other.example`.
fn local(target: &str) -> String {
    match target.as_bytes() {
        [b'/', b'/' | b'\\', ..] => format!("/.{target}"),
        [b'/', ..] => target.to_owned(),
        _ => format!("/{target}"),
    }
}

/// Keys are nobody's to see.
impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("gate", &self.gate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
