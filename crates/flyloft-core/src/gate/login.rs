//! A gate that is opened by logging in elsewhere: who is sent off, and who comes back.
//!
//! ```text
//!   depart: a nonce in a cookie ────► its hash goes along ────► somebody logs in
//!   arrive: the nonce is there  ◄──── ticket: hash, who   ◄──── may look
//!           a cookie for the session
//! ```
//!
//! What must hold: a ticket is good for one host name, for a moment, and for the browser alone that was sent off from
//! there. So one that leaks is worth nothing, and neither is one that somebody gets for himself and has others visit.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};

use super::{Gate, Guard, Key, Purpose, cookie, cookie_of, values};

/// Where somebody comes back to.
pub const ARRIVAL: &str = "/.flyloft/login";

/// The cookie of whoever was sent off, as [`super::COOKIE`] and [`super::SECURE_COOKIE`] are.
pub const COOKIE: &str = "flyloft-login";
pub const SECURE_COOKIE: &str = "__Host-flyloft-login";

/// How long somebody may take to log in, in seconds.
const AWAY: u64 = 15 * 60;

/// How long a browser may take to come back with a ticket, in seconds.
const TICKET: u64 = 60;

const NONCE: usize = 16;
const HASH: usize = 32;

/// By what a guard knows those who have logged in.
pub(super) struct Logins {
    pub key: Key,
    /// How long somebody who has may look, in seconds.
    session: u64,
}

/// What a browser was sent off with: a hash of its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound([u8; HASH]);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    pub cookie: String,
    pub bound: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// With these cookies it may look.
    Entered {
        cookies: [String; 2],
        who: String,
    },
    /// Its ticket is no good, or not any more, and it may look already.
    There,
    Refused,
}

impl Bound {
    fn of(nonce: &[u8]) -> Self {
        Self(Sha256::digest(nonce).into())
    }

    /// As it is in a query.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; HASH];
        let decoded = Base64UrlUnpadded::decode(text, &mut hash).ok()?.len();
        (decoded == HASH).then_some(Self(hash))
    }

    pub fn text(&self) -> String {
        Base64UrlUnpadded::encode_string(&self.0)
    }
}

impl Guard {
    /// Lets in whoever has logged in, for so many seconds. `rules` is all that decides who may: under other ones, nobody
    /// is in any more.
    pub fn with_logins(mut self, rules: &[u8], session: u64) -> Self {
        self.logins = Some(Logins { key: self.key.under(b"sso", rules), session });
        self
    }

    /// Whether a login opens it.
    pub fn asks_for_a_login(&self) -> bool {
        self.logins().is_some()
    }

    fn logins(&self) -> Option<&Logins> {
        self.logins.as_ref().filter(|_| self.gate == Gate::Sso)
    }

    /// Sends a browser off to log in. One that has been sent off already, from another tab, keeps its nonce instead of
    /// the `fresh` one.
    pub fn depart<'a>(
        &self,
        secure: bool,
        cookies: impl IntoIterator<Item = &'a [u8]>,
        fresh: [u8; NONCE],
        now: u64,
    ) -> Option<Departure> {
        let key = &self.logins()?.key;
        let (name, purpose) = departure(secure);
        let nonce = nonces(key, secure, cookies, now).next().unwrap_or_else(|| fresh.to_vec());
        let token = key.sign_saying(purpose, now + AWAY, &nonce);
        Some(Departure { cookie: cookie(name, &token, secure, AWAY), bound: Bound::of(&nonce) })
    }

    /// For whoever has logged in after a browser was sent off.
    pub fn ticket(&self, bound: &Bound, who: &str, now: u64) -> Option<String> {
        let said = [&bound.0, who.as_bytes()].concat();
        Some(self.logins()?.key.sign_saying(Purpose::Ticket, now + TICKET, &said))
    }

    pub fn arrive<'a>(
        &self,
        secure: bool,
        ticket: &str,
        cookies: impl IntoIterator<Item = &'a [u8]> + Clone,
        now: u64,
    ) -> Arrival {
        let Some(Logins { key, session }) = self.logins() else { return Arrival::Refused };
        let said = key.said(Purpose::Ticket, ticket.as_bytes(), now).unwrap_or_default();
        let mut nonces = nonces(key, secure, cookies.clone(), now).map(|nonce| Bound::of(&nonce).0);
        let (name, purpose) = cookie_of(secure);
        match said.split_first_chunk::<HASH>() {
            Some((hash, who)) if nonces.any(|nonce| nonce == *hash) => {
                let token = key.sign_saying(purpose, now + session, who);
                let spent = cookie(departure(secure).0, "", secure, 0);
                let who = String::from_utf8_lossy(who).into_owned();
                Arrival::Entered { cookies: [cookie(name, &token, secure, *session), spent], who }
            }
            _ if values(cookies.clone(), name).any(|token| key.is_good(purpose, token, now)) => Arrival::There,
            _ => Arrival::Refused,
        }
    }
}

fn departure(secure: bool) -> (&'static str, Purpose) {
    if secure { (SECURE_COOKIE, Purpose::SecureDeparture) } else { (COOKIE, Purpose::Departure) }
}

/// With which a browser was sent off.
fn nonces<'a>(
    key: &Key,
    secure: bool,
    cookies: impl IntoIterator<Item = &'a [u8]>,
    now: u64,
) -> impl Iterator<Item = Vec<u8>> {
    let (name, purpose) = departure(secure);
    values(cookies, name).filter_map(move |token| key.said(purpose, token, now)).filter(|nonce| nonce.len() == NONCE)
}

#[cfg(test)]
mod tests {
    use super::super::{Hashed, Refusal, Request, Verdict};
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const SESSION: u64 = 3_600;
    const ANN: &str = "ann@example.org";

    fn key(host: &str, generation: u32) -> Key {
        Key::new(&[7; 32], 3, host, generation)
    }

    fn guard() -> Guard {
        with_key(key("shop-main.example.org", 0))
    }

    fn with_key(key: Key) -> Guard {
        Guard::new(Gate::Sso, key, None).unwrap().with_logins(b"rules", SESSION)
    }

    fn cookie_pair(cookie: &str) -> &str {
        cookie.split(';').next().unwrap()
    }

    fn judge(guard: &Guard, cookies: &str, now: u64) -> Verdict {
        let request = Request {
            address: "203.0.113.7".parse().unwrap(),
            secure: true,
            follows: true,
            navigates: true,
            target: "/",
            bypass: None,
            authorization: None,
        };
        guard.judge(&request, [cookies.as_bytes()], now)
    }

    /// A browser that was sent off: its cookie, and a ticket for it.
    fn sent_off(guard: &Guard) -> (String, String) {
        let Departure { cookie, bound } = guard.depart(true, [], [1; 16], NOW).unwrap();
        (cookie_pair(&cookie).to_owned(), guard.ticket(&bound, ANN, NOW).unwrap())
    }

    fn arrive(guard: &Guard, ticket: &str, cookies: &str, now: u64) -> Arrival {
        guard.arrive(true, ticket, [cookies.as_bytes()], now)
    }

    const NO_LOGIN: Verdict = Verdict::Refused(Refusal::NoLogin);

    #[test]
    fn whoever_comes_back_with_a_ticket_gets_a_cookie_for_the_session() {
        let guard = guard();
        assert_eq!(judge(&guard, "", NOW), NO_LOGIN);
        let (nonce, ticket) = sent_off(&guard);
        assert_eq!(judge(&guard, &nonce, NOW), NO_LOGIN);
        let Arrival::Entered { cookies: [cookie, spent], who } = arrive(&guard, &ticket, &nonce, NOW + 59) else {
            panic!("not let in")
        };
        assert_eq!(who, ANN);
        assert!(cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
        assert_eq!(spent, "__Host-flyloft-login=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax");
        let pair = cookie_pair(&cookie);
        assert_eq!(judge(&guard, pair, NOW + 59 + SESSION - 1), Verdict::Pass);
        assert_eq!(judge(&guard, pair, NOW + 59 + SESSION), NO_LOGIN, "its session is over");
        assert_eq!(arrive(&guard, &ticket, pair, NOW), Arrival::There, "the same browser comes once more");
    }

    #[test]
    fn a_ticket_is_good_for_the_browser_alone_that_was_sent_off_and_for_a_minute() {
        let guard = guard();
        let (nonce, ticket) = sent_off(&guard);
        let other = guard.depart(true, [], [2; 16], NOW).unwrap().cookie;
        for cookies in ["", cookie_pair(&other), "__Host-flyloft-login=AAAA", &nonce.replace("__Host-", "")] {
            assert_eq!(arrive(&guard, &ticket, cookies, NOW), Arrival::Refused, "{cookies}");
        }
        assert_eq!(arrive(&guard, &ticket, &nonce, NOW + 60), Arrival::Refused, "its time is over");
        assert_eq!(guard.arrive(false, &ticket, [nonce.as_bytes()], NOW), Arrival::Refused, "it came over TLS");
        for other in [
            with_key(key("shop-pr-1.example.org", 0)),
            with_key(key("shop-main.example.org", 1)),
            Guard::new(Gate::Sso, key("shop-main.example.org", 0), None).unwrap().with_logins(b"others", SESSION),
            Guard::new(Gate::Sso, key("shop-main.example.org", 0), None).unwrap(),
            Guard::new(Gate::Link, key("shop-main.example.org", 0), None).unwrap().with_logins(b"rules", SESSION),
        ] {
            let own = other.depart(true, [], [1; 16], NOW).map(|departure| cookie_pair(&departure.cookie).to_owned());
            let cookies = format!("{nonce}; {}", own.unwrap_or_default());
            assert_eq!(arrive(&other, &ticket, &cookies, NOW), Arrival::Refused, "{other:?}");
        }
    }

    #[test]
    fn no_letter_of_a_ticket_or_a_cookie_can_be_changed() {
        let guard = guard();
        let (nonce, ticket) = sent_off(&guard);
        let Arrival::Entered { cookies: [cookie, _], .. } = arrive(&guard, &ticket, &nonce, NOW) else {
            panic!("not let in")
        };
        let changed = |text: &str, at: usize| {
            let mut bad = text.as_bytes().to_vec();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bad).unwrap()
        };
        for at in 0..ticket.len() {
            assert_eq!(arrive(&guard, &changed(&ticket, at), &nonce, NOW), Arrival::Refused, "{at}");
        }
        let (pair, begin) = (cookie_pair(&cookie), "__Host-flyloft=".len());
        for at in begin..pair.len() {
            assert_eq!(judge(&guard, &changed(pair, at), NOW), NO_LOGIN, "{at}");
        }
        let as_cookie = format!("__Host-flyloft={ticket}");
        assert_eq!(judge(&guard, &as_cookie, NOW), NO_LOGIN, "a ticket is no cookie");
        assert_eq!(arrive(&guard, &pair[begin..], &nonce, NOW), Arrival::Refused, "and a cookie no ticket");
    }

    #[test]
    fn a_browser_that_is_sent_off_from_two_tabs_comes_back_to_both() {
        let guard = guard();
        let (first, ticket) = sent_off(&guard);
        let again = guard.depart(true, [first.as_bytes()], [2; 16], NOW + 5).unwrap();
        let Arrival::Entered { .. } = arrive(&guard, &ticket, cookie_pair(&again.cookie), NOW + 6) else {
            panic!("the first tab is not let in")
        };
        let late = guard.depart(true, [first.as_bytes()], [2; 16], NOW + AWAY).unwrap();
        assert_eq!(late.bound, Bound::of(&[2; 16]), "the first nonce is too old by now");
    }

    #[test]
    fn other_cookies_and_other_gates_are_no_login() {
        let guard = guard();
        let key = key("shop-main.example.org", 0);
        for cookie in [
            format!("__Host-flyloft={}", key.sign(Purpose::SecureVisit, NOW + 60)),
            format!("__Host-flyloft={}", key.under(b"password", b"rules").sign(Purpose::SecureVisit, NOW + 60)),
        ] {
            assert_eq!(judge(&guard, &cookie, NOW), NO_LOGIN, "{cookie}");
        }
        let without = Guard::new(Gate::Sso, key.clone(), None).unwrap();
        assert_eq!(judge(&without, "", NOW), Verdict::Refused(Refusal::NoProvider));
        let password = Some(Hashed::new("correct horse", &[9; 16]));
        let locked = Guard::new(Gate::Password, key, password).unwrap().with_logins(b"rules", SESSION);
        assert!(!locked.asks_for_a_login() && locked.depart(true, [], [1; 16], NOW).is_none());
    }

    #[test]
    fn a_bound_is_read_as_it_is_written_and_nothing_else_is() {
        let bound = Bound::of(&[1; 16]);
        assert_eq!(Bound::parse(&bound.text()), Some(bound));
        for text in ["", "AAAA", &bound.text()[1..], &format!("{}A", bound.text()), &"?".repeat(43)] {
            assert_eq!(Bound::parse(text), None, "{text}");
        }
    }
}
