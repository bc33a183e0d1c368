//! The gate: who may look at an environment.
//!
//! ```text
//!                        ┌─ a bypass token ──────────────────────────► pass
//!                        │         a browser says it in its query ───► enter: a cookie, and the address without it
//!   request ─► guard ────┼─ link:  its cookie ───────────────────────► pass
//!                        │         a link ───────────────────────────► enter: a cookie, and the address without the link
//!                        │         neither ──────────────────────────► refused
//!                        ├─ password: its cookie ────────────────────► pass
//!                        │         one in a header ──────────────────► to be found out, which takes time
//!                        │         neither ──────────────────────────► refused, with a form
//!                        ├─ sso: its cookie ─────────────────────────► pass
//!                        │         none ─────────────────────────────► refused, and sent to log in
//!                        └─ ip:    an address of the list ───────────► pass, else refused
//! ```
//!
//! What must hold: nothing opens a gate but what this daemon has signed for that environment, its host name, that
//! purpose and that time, or the address that a request has come from; and an app sees nothing of that ([`is_ours`],
//! [`without_ours`]).

mod attempts;
mod login;
mod password;
mod prefix;
mod token;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use base64ct::{Base64, Encoding};
use thiserror::Error;

pub use self::attempts::{Attempts, source};
use self::login::Logins;
pub use self::login::{ARRIVAL, Arrival, Bound, Departure};
pub use self::password::Hashed;
use self::password::Password;
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
    /// Whoever knows the password of the app.
    Password,
    /// Whoever logs in with the provider of the server, and may look by what it says of them.
    Sso,
    /// Whoever comes from one of these addresses.
    Ip(Vec<Prefix>),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GateError {
    #[error("`{0}` is no gate; there are `public`, `link`, `password`, `sso` and `ip:PREFIX,…`")]
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
            "password" => return Ok(Gate::Password),
            "sso" => return Ok(Gate::Sso),
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
            Gate::Password => f.write_str("password"),
            Gate::Sso => f.write_str("sso"),
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

/// How names begin that are ours, and over TLS with [`SECURE_COOKIE`].
const OURS: &str = "flyloft-";

/// What a link has in its query, and what a test may have there instead of the header.
pub const LINK: &str = "flyloft-link";
pub const BYPASS: &str = "flyloft-bypass";

/// The header with which automated tests pass. In lower case.
pub const BYPASS_HEADER: &str = "x-flyloft-bypass";

/// Where a browser sends the password that somebody has typed.
pub const FORM: &str = "/.flyloft/gate";

/// How long a browser may look for which somebody has typed the password, or that has come with a bypass token, in
/// seconds. It knows better than the cookie, so that this is a matter of how long a lost laptop may.
const TYPED: u64 = 7 * 86_400;

/// Of cookies with our name so many are looked at. More than one come from a sibling host that has set it for all.
const COOKIES_MAX: usize = 4;

/// Keeps the gate of one environment that is not public.
pub struct Guard {
    gate: Gate,
    key: Key,
    /// None was set, if there is none.
    password: Option<Password>,
    /// Nobody can log in, if there are none.
    logins: Option<Logins>,
}

/// What a request says that counts at a gate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub address: IpAddr,
    /// It came over TLS.
    pub secure: bool,
    /// It only reads, and whoever sent it would follow to another address.
    pub follows: bool,
    /// A browser shows it to somebody, and would follow with a cookie.
    pub navigates: bool,
    /// Path and query.
    pub target: &'a str,
    /// The value of [`BYPASS_HEADER`].
    pub bypass: Option<&'a [u8]>,
    pub authorization: Option<&'a [u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// It comes with a link or a token. Its answer is to set this cookie, and to send it to the same address without that.
    Enter {
        cookie: String,
        to: String,
    },
    /// It passes if this is the password: see [`Guard::knows`] and [`Guard::finds`].
    Password(Vec<u8>),
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
    /// It does not say the password.
    NoPassword,
    /// There is none that it could say.
    NoneSet,
    /// Whoever sent it has not logged in.
    NoLogin,
    /// There is nobody with whom one could.
    NoProvider,
}

impl Guard {
    /// None where everybody may look.
    pub fn new(gate: Gate, key: Key, password: Option<Hashed>) -> Option<Self> {
        let password = password.map(|hashed| Password::new(hashed, &key));
        (gate != Gate::Public).then_some(Self { gate, key, password, logins: None })
    }

    /// Whether it judges as another one does. One that stays knows the password that it has found out.
    pub fn is_like(&self, other: &Guard) -> bool {
        let keys = |guard: &Guard| {
            let (own, password, logins) = (&guard.key, &guard.password, &guard.logins);
            [Some(own), password.as_ref().map(|own| &own.key), logins.as_ref().map(|logins| &logins.key)]
                .map(|key| key.map(|key| key.sign(Purpose::Visit, 0)))
        };
        self.gate == other.gate && keys(self) == keys(other)
    }

    /// Whether a form for the password is its.
    pub fn asks_for_a_password(&self) -> bool {
        self.gate == Gate::Password
    }

    /// Whether it is the password, where that takes no work: once it has been found.
    pub fn knows(&self, password: &[u8]) -> Option<bool> {
        self.password.as_ref().and_then(|own| own.knows(password))
    }

    /// Whether it is the password. That takes memory and time.
    pub fn finds(&self, password: &[u8]) -> bool {
        self.password.as_ref().is_some_and(|own| own.finds(password))
    }

    /// What a browser gets for which somebody has typed the password.
    pub fn enter_by_password(&self, secure: bool, to: &str, now: u64) -> Option<Verdict> {
        let own = self.password.as_ref()?;
        Some(entered(&own.key, cookie_of(secure).1, (secure, to), now + TYPED, now))
    }

    /// `cookies` are the values of the request's `Cookie` headers, `now` is in seconds since the Unix epoch.
    pub fn judge<'a>(&self, request: &Request<'_>, cookies: impl IntoIterator<Item = &'a [u8]>, now: u64) -> Verdict {
        let asked = value_of(request.target, BYPASS).map(str::as_bytes);
        if let Some(Check::Good { until }) =
            request.bypass.or(asked).map(|token| self.key.check(Purpose::Bypass, token, now))
        {
            // Where a browser shows it, what it says in its query would be told to whoever the page leads to.
            return match asked.is_some() && request.navigates {
                true => {
                    let passed = passed(request.secure);
                    entered(&self.key, passed, (request.secure, request.target), until.min(now + TYPED), now)
                }
                false => Verdict::Pass,
            };
        }
        let ((name, purpose), passed) = (cookie_of(request.secure), passed(request.secure));
        let has_cookie = |key: Option<&Key>| {
            let is_good = |token: &[u8]| {
                key.is_some_and(|key| key.is_good(purpose, token, now)) || self.key.is_good(passed, token, now)
            };
            values(cookies, name).any(is_good)
        };
        match &self.gate {
            Gate::Public => Verdict::Pass,
            Gate::Link => self.judge_link(request, has_cookie, now),
            Gate::Password => self.judge_password(request, has_cookie),
            Gate::Sso => self.judge_login(has_cookie),
            Gate::Ip(prefixes) => {
                match prefixes.iter().any(|prefix| prefix.contains(request.address)) || has_cookie(None) {
                    true => Verdict::Pass,
                    false => Verdict::Refused(Refusal::Address),
                }
            }
        }
    }

    fn judge_link(&self, request: &Request<'_>, has_cookie: impl FnOnce(Option<&Key>) -> bool, now: u64) -> Verdict {
        let link = value_of(request.target, LINK).map(|link| self.key.check(Purpose::Link, link.as_bytes(), now));
        match link {
            Some(Check::Good { until }) if request.follows => {
                entered(&self.key, cookie_of(request.secure).1, (request.secure, request.target), until, now)
            }
            Some(Check::Good { .. }) => Verdict::Pass,
            _ if has_cookie(Some(&self.key)) => Verdict::Pass,
            Some(Check::Expired) => Verdict::Refused(Refusal::Expired),
            Some(Check::Wrong) | None => Verdict::Refused(Refusal::NoLink),
        }
    }

    fn judge_password(&self, request: &Request<'_>, has_cookie: impl FnOnce(Option<&Key>) -> bool) -> Verdict {
        if has_cookie(self.password.as_ref().map(|own| &own.key)) {
            return Verdict::Pass;
        }
        if self.password.is_none() {
            return Verdict::Refused(Refusal::NoneSet);
        }
        let said = request.authorization.and_then(basic);
        said.map_or(Verdict::Refused(Refusal::NoPassword), Verdict::Password)
    }

    fn judge_login(&self, has_cookie: impl FnOnce(Option<&Key>) -> bool) -> Verdict {
        if has_cookie(self.logins.as_ref().map(|logins| &logins.key)) {
            return Verdict::Pass;
        }
        Verdict::Refused(if self.logins.is_some() { Refusal::NoLogin } else { Refusal::NoProvider })
    }
}

fn entered(key: &Key, purpose: Purpose, (secure, target): (bool, &str), until: u64, now: u64) -> Verdict {
    let name = cookie_of(secure).0;
    let cookie = cookie(name, &key.sign(purpose, until), secure, until.saturating_sub(now));
    Verdict::Enter { cookie, to: local(&without_ours(target)) }
}

/// As it is set, for so many seconds.
pub fn cookie(name: &str, value: &str, secure: bool, age: u64) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly{secure}; SameSite=Lax")
}

/// The password of basic authentication (RFC 7617), whoever says it.
fn basic(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, credentials) = authorization.split_at_checked(6)?;
    let credentials = std::str::from_utf8(credentials).ok()?.trim();
    let pair = scheme.eq_ignore_ascii_case(b"basic ").then(|| Base64::decode_vec(credentials).ok())??;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

fn cookie_of(secure: bool) -> (&'static str, Purpose) {
    if secure { (SECURE_COOKIE, Purpose::SecureVisit) } else { (COOKIE, Purpose::Visit) }
}

/// Of the cookie of a browser that has come with a bypass token. It is called as the others are.
fn passed(secure: bool) -> Purpose {
    if secure { Purpose::SecurePassed } else { Purpose::Passed }
}

/// The pairs of a `Cookie` header.
pub fn pairs(cookies: &[u8]) -> impl Iterator<Item = &[u8]> {
    cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// The values of a cookie, as far as they are looked at.
pub fn values<'a>(cookies: impl IntoIterator<Item = &'a [u8]>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    cookies.into_iter().flat_map(pairs).filter_map(move |pair| named(pair, name)).take(COOKIES_MAX)
}

/// Whether a pair of a `Cookie` header is for the gate alone.
pub fn is_ours(pair: &[u8]) -> bool {
    [COOKIE, SECURE_COOKIE, login::COOKIE, login::SECURE_COOKIE].iter().any(|name| named(pair, name).is_some())
}

/// Whether a `Set-Cookie` header sets a cookie with a name of ours, which is no app's to set. A browser sends one without a
/// name as if its value were the whole pair.
pub fn sets_ours(cookie: &[u8]) -> bool {
    let pair = cookie.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let named = pair.strip_prefix(b"=").map_or(pair, <[u8]>::trim_ascii_start);
    [OURS, SECURE_COOKIE].iter().any(|name| named.starts_with(name.as_bytes()))
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
/// `/\other.example`. It leaves out tabs and ends of lines, so nothing with such is a place.
pub fn local(target: &str) -> String {
    match target.as_bytes() {
        _ if target.contains(char::is_control) => "/".to_owned(),
        [b'/', b'/' | b'\\', ..] => format!("/.{target}"),
        [b'/', ..] => target.to_owned(),
        [b'\\', ..] => format!("/./{target}"),
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
