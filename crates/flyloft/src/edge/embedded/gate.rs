//! Asks at the gate of a host name whether a request may go on, before anything else happens with it.
//!
//! What must hold: who may not look is nobody's visitor. It wakes nothing, waits nowhere and is no use.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use flyloft_core::gate::{self, ARRIVAL, BYPASS, BYPASS_HEADER, FORM, Guard, Refusal, Verdict};
use hyper::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::exchange::Client;
use super::headers::{self, Authority};
use super::login::{self, Login};
use super::page::{Form, Notice};
use super::password::{Asked, Doubt};
use super::standing::Said;

/// Why a request does not go on.
pub enum Stop {
    Answered(Notice),
    /// It has to be found out whether it says the password.
    Doubted(Doubt),
    /// It is for where people log in.
    LogsIn(Box<Login>),
}

impl From<Notice> for Stop {
    fn from(notice: Notice) -> Self {
        Stop::Answered(notice)
    }
}

/// Who stands at the gate of which host name.
pub struct Caller<'a> {
    pub client: &'a Client,
    /// In lower case. A host name that is not routed has no gate.
    pub host: &'a str,
    pub from: IpAddr,
    pub secure: bool,
    /// A program that a refusal may ask for a password. A browser would interrupt whoever looks at a page.
    pub takes_challenges: bool,
}

/// An `Authorization` header that was for the gate is gone after this.
pub fn ask<B>(client: &Client, request: &mut Request<B>, authority: &Authority, host: &str) -> Result<(), Stop> {
    let Some(guard) = client.worker.shared.routes.guard(host) else { return Ok(()) };
    let headers = request.headers();
    let caller = Caller::new(client, headers, host);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let asked = gate::Request {
        address: caller.from,
        secure: caller.secure,
        // What asks for another protocol does not follow to another address.
        follows: matches!(*request.method(), Method::GET | Method::HEAD) && headers::upgrade(headers).is_none(),
        // It matters where there is a token alone.
        navigates: target.contains(BYPASS) && login::navigates(request),
        target,
        bypass: headers.get(BYPASS_HEADER).map(HeaderValue::as_bytes),
        authorization: headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
    };
    if guard.asks_for_a_password() && *request.method() == Method::POST && request.uri().path() == FORM {
        let host = host.to_owned();
        return Err(Stop::Doubted(Doubt { guard, host, asked: Asked::Form }));
    }
    if guard.asks_for_a_login() && *request.method() == Method::GET && request.uri().path() == ARRIVAL {
        return Err(login::arrive(&caller, &guard, request).into());
    }
    let counts = !is_foreign(&*request, host);
    let cookies = headers.get_all(COOKIE).iter().filter(|_| counts).map(HeaderValue::as_bytes);
    match guard.judge(&asked, cookies, now()) {
        Verdict::Pass => Ok(()),
        Verdict::Password(password) => {
            caller.says(&guard, asked.target, password)?;
            if let Some(words) = request.headers_mut().remove(AUTHORIZATION) {
                request.extensions_mut().insert(Said(words));
            }
            Ok(())
        }
        Verdict::Refused(Refusal::NoLogin) => Err(login::send(&caller, &guard, request, authority).into()),
        verdict => Err(caller.turned(verdict, asked.target).into()),
    }
}

/// Whether a page of another host has its visitor's browser ask this. Sibling hosts are strangers', but one site to a
/// browser, which sends its cookies along whatever they say of `SameSite`; so they do not count then. To go there is the
/// visitor's own doing.
fn is_foreign<B>(request: &Request<B>, host: &str) -> bool {
    let (method, headers) = (request.method(), request.headers());
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_of_host = |origin: &str| {
        let (_, authority) = origin.split_once("://").unwrap_or_default();
        authority.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case(host))
    };
    let of_another = value("origin").is_some_and(|origin| !is_of_host(origin))
        || matches!(value("sec-fetch-site"), Some("same-site" | "cross-site"));
    let goes_there = matches!(*method, Method::GET | Method::HEAD)
        && headers::upgrade(headers).is_none()
        && value("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    of_another && !goes_there
}

impl<'a> Caller<'a> {
    pub fn new(client: &'a Client, headers: &HeaderMap, host: &'a str) -> Self {
        let visitor = client.visitor(headers);
        let takes_challenges = !headers.contains_key("sec-fetch-mode") && Form::of(headers) == Form::Text;
        Self { client, host, from: visitor.ip(), secure: visitor.is_secure(), takes_challenges }
    }

    /// Says a password, which is known to be right, is refused, or has to be found out.
    fn says(&self, guard: &Arc<Guard>, target: &str, password: Vec<u8>) -> Result<(), Stop> {
        let proofs = &self.client.worker.shared.proofs;
        proofs.begin(self.from)?;
        match guard.knows(&password) {
            Some(true) => {
                proofs.succeeded(self.from);
                Ok(())
            }
            Some(false) => Err(self.turned(Verdict::Refused(Refusal::NoPassword), target).into()),
            None => {
                let (guard, host) = (guard.clone(), self.host.to_owned());
                Err(Stop::Doubted(Doubt { guard, host, asked: Asked::Said { password, target: target.to_owned() } }))
            }
        }
    }

    /// The answer to whoever does not go on, which is counted. `target` is what it has asked for.
    pub fn turned(&self, verdict: Verdict, target: &str) -> Notice {
        let challenge = self.takes_challenges && verdict == Verdict::Refused(Refusal::NoPassword);
        let status = match verdict {
            Verdict::Enter { .. } => StatusCode::SEE_OTHER,
            _ if challenge => StatusCode::UNAUTHORIZED,
            _ => StatusCode::FORBIDDEN,
        };
        let env = self.client.worker.shared.routes.turned(self.host, status);
        match (verdict, env) {
            (Verdict::Enter { cookie, to }, _) => Notice::Enter { cookie, to },
            (Verdict::Refused(Refusal::NoPassword), Some(env)) => {
                Notice::Locked { env, to: target.to_owned(), again: false, challenge }
            }
            (Verdict::Refused(why), Some(env)) => Notice::Barred { env, why },
            _ => Notice::UnknownHost { host: self.host.to_owned() },
        }
    }
}

/// Seconds since the Unix epoch, by which links expire.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
