//! Asks at the gate of a host name whether a request may go on, before anything else happens with it.
//!
//! What must hold: who may not look is nobody's visitor. It wakes nothing, waits nowhere and is no use.

use std::time::{SystemTime, UNIX_EPOCH};

use flyloft_core::gate::{self, BYPASS_HEADER, Verdict};
use hyper::header::{COOKIE, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::exchange::Client;
use super::headers;
use super::page::Notice;

/// `host` is in lower case. A host name that is not routed has no gate.
pub fn ask<B>(client: &Client, request: &Request<B>, host: &str) -> Result<(), Notice> {
    let routes = &client.worker.shared.routes;
    let Some(guard) = routes.guard(host) else { return Ok(()) };
    let headers = request.headers();
    let visitor = client.visitor(headers);
    let asked = gate::Request {
        address: visitor.ip(),
        secure: visitor.is_secure(),
        // What asks for another protocol does not follow to another address.
        follows: matches!(*request.method(), Method::GET | Method::HEAD) && headers::upgrade(headers).is_none(),
        target: request.uri().path_and_query().map_or("/", |target| target.as_str()),
        bypass: headers.get(BYPASS_HEADER).map(HeaderValue::as_bytes),
    };
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    match guard.judge(&asked, cookies, now()) {
        Verdict::Pass => Ok(()),
        Verdict::Enter { cookie, to } => {
            routes.turned(host, StatusCode::SEE_OTHER);
            Err(Notice::Enter { cookie, to })
        }
        Verdict::Refused(why) => Err(match routes.turned(host, StatusCode::FORBIDDEN) {
            Some(env) => Notice::Barred { env, why },
            None => Notice::UnknownHost { host: host.to_owned() },
        }),
    }
}

/// Seconds since the Unix epoch, by which links expire.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
