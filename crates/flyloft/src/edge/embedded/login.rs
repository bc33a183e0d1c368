//! Logs people in: sends them off from an environment, to the provider and back, and lets them in. `crate::sso` has the
//! whole way.
//!
//! What must hold: nobody is led to another host than one that is routed here and asks for a login; a login that somebody
//! else has begun ends nowhere, and none ends twice; and whoever brings what is no login keeps nobody from theirs.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flyloft_core::gate::{ARRIVAL, Arrival, Attempts, Bound, Guard, cookie, local, values, without_ours};
use flyloft_core::sso::Spent;
use form_urlencoded::{Serializer, parse};
use hyper::header::{COOKIE, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::clock;
use super::exchange::Client;
use super::gate::{Caller, now};
use super::headers::{self, Authority};
use super::page::{Form, Notice};
use super::seldom::Seldom;
use super::snag::Snag;
use super::turns::{Turn, Turns};
use crate::sso::{CALLBACK, Exchange, PENDING, Pending, Sso, Trouble};

/// Where a login begins.
const START: &str = "/start";

/// A path that is longer is not kept: its browser comes back to the environment's first page.
const PATH_MAX: usize = 512;

/// So many logins a browser may have under way. Each is a cookie of one and a half KiB at most, and servers take 8 of
/// them together.
const SLOTS: u8 = 4;

/// The provider is asked about so many codes at a time, so many of each address, and for so long others wait.
const AT_A_TIME: usize = 16;
const OF_EACH: usize = 4;
const PATIENCE: Duration = Duration::from_secs(10);

/// Of each address the provider is asked so often at once about a code that is none, and once more after each of these
/// spans, in milliseconds. One by which it knows somebody does not count, nor one that it says nothing of: behind one
/// address may be a whole office.
const AT_ONCE: u64 = 20;
const EVERY: u64 = 3_000;

/// Who logs in, for all threads of the edge together.
pub struct Logins {
    attempts: Mutex<Attempts>,
    spent: Mutex<Spent>,
    turns: Turns,
    troubled: Seldom,
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            attempts: Mutex::new(Attempts::of(AT_ONCE, EVERY)),
            spent: Mutex::default(),
            turns: Turns::new(AT_A_TIME, OF_EACH),
            troubled: Seldom::default(),
        }
    }
}

impl Logins {
    /// A login that was begun here comes to its end, if it has not before. It counts as a bad one until it was good, also
    /// where its client goes away meanwhile.
    async fn end(&self, from: IpAddr, state: &str, until: u64) -> Result<Turn, Snag> {
        let turn = tokio::time::timeout(PATIENCE, self.turns.take(from)).await.map_err(|_| Snag::Busy)?;
        let begun = self.attempts().begin(from, clock::now());
        begun.map_err(|wait| Snag::TooMany { seconds: wait.as_secs() as u32 + 1 })?;
        let is_first = self.spent.lock().unwrap_or_else(PoisonError::into_inner).spend(state, until, now());
        if !is_first {
            // The provider is not asked.
            self.attempts().succeeded(from);
            return Err(Snag::Stale);
        }
        Ok(turn)
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends whoever may not look to where people log in, if that is somebody who goes there.
pub fn send<B>(caller: &Caller<'_>, guard: &Guard, request: &Request<B>, authority: &Authority) -> Notice {
    let shared = &caller.client.worker.shared;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let path =
        Some(local(&without_ours(target))).filter(|path| path.len() <= PATH_MAX).unwrap_or_else(|| "/".to_owned());
    let goes = shared.sso.as_ref().filter(|_| navigates(request)).and_then(|sso| {
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh).expect("the kernel has random numbers");
        Some((sso, guard.depart(caller.secure, all(request.headers()), fresh, now())?))
    });
    let status = if goes.is_some() { StatusCode::SEE_OTHER } else { StatusCode::UNAUTHORIZED };
    match (shared.routes.turned(caller.host, status), goes) {
        (None, _) => Notice::UnknownHost { host: caller.host.to_owned() },
        (Some(env), None) => {
            let again = (Form::of(request.headers()) == Form::Html).then_some(path);
            Notice::Snag { snag: Snag::Needed { env }, again }
        }
        (Some(_), Some((sso, departure))) => {
            let mut query = Serializer::new(String::new());
            query
                .append_pair("to", caller.host)
                .append_pair("bound", &departure.bound.text())
                .append_pair("path", &path);
            let origin = Origin::new(caller.secure, authority).of(&sso.host);
            Notice::Sent { cookies: vec![departure.cookie], to: format!("{origin}{START}?{}", query.finish()) }
        }
    }
}

/// Lets in whoever comes back with a ticket.
pub fn arrive<B>(caller: &Caller<'_>, guard: &Guard, request: &Request<B>) -> Notice {
    let shared = &caller.client.worker.shared;
    let [ticket, to] = asked(request.uri().query().unwrap_or_default(), ["ticket", "to"]);
    let (arrival, to) = (guard.arrive(caller.secure, &ticket, all(request.headers()), now()), local(&to));
    let status = if arrival == Arrival::Refused { StatusCode::FORBIDDEN } else { StatusCode::SEE_OTHER };
    let Some(env) = shared.routes.turned(caller.host, status) else {
        return Notice::UnknownHost { host: caller.host.to_owned() };
    };
    match arrival {
        Arrival::Entered { cookies, who } => {
            if let Some(sso) = &shared.sso {
                sso.arrived(env, who);
            }
            Notice::Sent { cookies: cookies.into(), to }
        }
        Arrival::There => Notice::Sent { cookies: Vec::new(), to },
        Arrival::Refused => Notice::Snag { snag: Snag::Ticket, again: Some(to) },
    }
}

/// Whether somebody looks at this in a window of a browser, which would show where it is led.
pub fn navigates<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let is = |name: &str, value: &str| headers.get(name).is_none_or(|said| said.as_bytes() == value.as_bytes());
    *request.method() == Method::GET
        && headers::upgrade(headers).is_none()
        && Form::of(headers) == Form::Html
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
}

/// The values of the `Cookie` headers.
fn all(headers: &HeaderMap) -> Vec<&[u8]> {
    headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect()
}

/// What a query says for these names; nothing where it does not.
fn asked<const N: usize>(query: &str, names: [&str; N]) -> [String; N] {
    let mut found = [const { String::new() }; N];
    for (name, value) in parse(query.as_bytes()) {
        if let Some(at) = names.iter().position(|known| *known == name) {
            found[at] = value.into_owned();
        }
    }
    found
}

/// How a browser has come, which is how it goes on at other host names of the server.
struct Origin {
    scheme: &'static str,
    /// With its colon, where it is not the scheme's own.
    port: String,
}

impl Origin {
    fn new(secure: bool, authority: &Authority) -> Self {
        let (scheme, own) = if secure { ("https", &b"443"[..]) } else { ("http", &b"80"[..]) };
        let port = authority.port().filter(|port| *port != own);
        let port = port.map_or_else(String::new, |port| format!(":{}", String::from_utf8_lossy(port)));
        Self { scheme, port }
    }

    fn of(&self, host: &str) -> String {
        format!("{}://{host}{}", self.scheme, self.port)
    }
}

/// A request for where people log in.
pub struct Login {
    sso: Arc<Sso>,
    is_get: bool,
    /// Somebody goes there, and no page of somebody's has it asked.
    goes: bool,
    path: String,
    query: String,
    cookies: Vec<Vec<u8>>,
    origin: Origin,
    secure: bool,
    from: IpAddr,
}

impl Login {
    pub fn of<B>(client: &Client, request: &Request<B>, authority: &Authority, sso: &Arc<Sso>) -> Self {
        let visitor = client.visitor(request.headers());
        Self {
            sso: sso.clone(),
            is_get: *request.method() == Method::GET,
            goes: request.headers().get("sec-fetch-mode").is_none_or(|mode| mode.as_bytes() == b"navigate"),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            cookies: all(request.headers()).into_iter().map(<[u8]>::to_vec).collect(),
            origin: Origin::new(visitor.is_secure(), authority),
            secure: visitor.is_secure(),
            from: visitor.ip(),
        }
    }

    pub async fn go_on(self: Box<Self>, client: &Client) -> Notice {
        let gone = match self.path.as_str() {
            START if self.is_get && self.goes => self.start(client).await,
            CALLBACK if self.is_get && self.goes => self.finish(client).await,
            _ => Err((Snag::NotHere, None)),
        };
        gone.unwrap_or_else(|(snag, again)| Notice::Snag { snag, again })
    }

    /// Sends somebody to the provider.
    async fn start(&self, client: &Client) -> Result<Notice, (Snag, Option<String>)> {
        let shared = &client.worker.shared;
        let [to, bound, path] = asked(&self.query, ["to", "bound", "path"]);
        let (to, path) = (to.to_ascii_lowercase(), local(&path));
        if !shared.routes.guard(&to).is_some_and(|guard| guard.asks_for_a_login()) {
            return Err((Snag::NoSuchPlace, None));
        }
        if Bound::parse(&bound).is_none() || path.len() > PATH_MAX {
            return Err((Snag::Stale, Some(self.origin.of(&to))));
        }
        let again = format!("{}{path}", self.origin.of(&to));
        let begun = self.sso.begin((to, path, bound), &self.redirect(), now()).await;
        let (to, pending) = begun.map_err(|trouble| self.troubled(client, &trouble, again))?;
        let pending = cookie(&self.slot(self.free_slot()), &self.sso.seal(&pending), self.secure, PENDING);
        Ok(Notice::Sent { cookies: vec![pending], to })
    }

    /// Takes what the provider says, and sends somebody back who may look.
    async fn finish(&self, client: &Client) -> Result<Notice, (Snag, Option<String>)> {
        let shared = &client.worker.shared;
        let [code, state, error, issuer] = asked(&self.query, ["code", "state", "error", "iss"]);
        let begun = (0..SLOTS).find_map(|slot| Some((slot, self.pending(slot, |pending| pending.state == state)?)));
        let Some((slot, Pending { to, path, bound, state, nonce, verifier, until })) = begun else {
            return Err((Snag::Stale, None));
        };
        let back = self.origin.of(&to);
        let again = format!("{back}{path}");
        // RFC 9207: an answer of another provider than the one that was asked.
        let ours = &self.sso.provider.identity.issuer;
        if !issuer.is_empty() && issuer != *ours {
            return Err((Snag::Nonsense, Some(again)));
        }
        if !error.is_empty() || code.is_empty() {
            return Err((Snag::Declined, Some(again)));
        }
        let turn = shared.logins.end(self.from, &state, until).await.map_err(|snag| (snag, Some(again.clone())))?;
        let (redirect, code) = (self.redirect(), code.as_str());
        let exchange = Exchange { code, verifier: &verifier, nonce: &nonce, redirect: &redirect, now: now() };
        let claims = self.sso.exchange(&exchange).await;
        drop(turn);
        if matches!(claims, Ok(_) | Err(Trouble::Unreachable { .. } | Trouble::Late { .. })) {
            // Or else it is the provider that is not as it should be.
            shared.logins.attempts().succeeded(self.from);
        }
        let claims = claims.map_err(|trouble| self.troubled(client, &trouble, again.clone()))?;
        let who = self.sso.admit(&claims).map_err(|why| {
            tracing::info!(who = claims.who(), ?why, "somebody has logged in who may not look");
            (Snag::NotAllowed(why), Some(again.clone()))
        })?;
        let guard = shared.routes.guard(&to);
        let ticket = guard.zip(Bound::parse(&bound)).and_then(|(guard, bound)| guard.ticket(&bound, &who, now()));
        let ticket = ticket.ok_or((Snag::NoSuchPlace, None))?;
        let mut query = Serializer::new(String::new());
        query.append_pair("ticket", &ticket).append_pair("to", &path);
        let spent = cookie(&self.slot(slot), "", self.secure, 0);
        Ok(Notice::Sent { cookies: vec![spent], to: format!("{back}{ARRIVAL}?{}", query.finish()) })
    }

    /// Where the provider sends people back to.
    fn redirect(&self) -> String {
        format!("{}{CALLBACK}", self.origin.of(&self.sso.host))
    }

    /// The name of a cookie of somebody who is on the way.
    fn slot(&self, slot: u8) -> String {
        let host = if self.secure { "__Host-" } else { "" };
        format!("{host}flyloft-pending-{slot}")
    }

    fn pending(&self, slot: u8, is_it: impl Fn(&Pending) -> bool) -> Option<Pending> {
        let cookies = self.cookies.iter().map(Vec::as_slice);
        values(cookies, &self.slot(slot)).find_map(|value| self.sso.unseal(value, now()).filter(&is_it))
    }

    /// One that nothing is in, or else what has been there for longest. Any of them, since tabs that are opened together
    /// know nothing of each other.
    fn free_slot(&self) -> u8 {
        let first = (crate::random::chance() * f64::from(SLOTS)) as u8;
        let slots = (0..SLOTS).map(|slot| (first + slot) % SLOTS);
        let until = |slot: &u8| self.pending(*slot, |_| true).map_or(0, |pending| pending.until);
        slots.min_by_key(until).unwrap_or(first)
    }

    fn troubled(&self, client: &Client, trouble: &Trouble, again: String) -> (Snag, Option<String>) {
        if client.worker.shared.logins.troubled.now() {
            tracing::warn!(issuer = self.sso.provider.identity.issuer, %trouble, "somebody could not log in");
        }
        (trouble.into(), Some(again))
    }
}
