//! Who stays: a connection that goes on in another protocol, and a stream of events, have no end. So whoever came in by
//! one is asked at the gate again while it lasts: a link expires, and a gate is shut.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::gate::{self, BYPASS_HEADER, Verdict};
use hyper::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue};
use hyper::http::Extensions;
use hyper::{Request, Uri};

use super::exchange::Client;
use super::gate::now;
use super::routes::Routes;

/// What an `Authorization` header said that was for the gate, and is gone from the head.
#[derive(Clone)]
pub struct Said(pub HeaderValue);

/// By what somebody came in.
pub struct Standing {
    host: String,
    from: IpAddr,
    secure: bool,
    target: String,
    /// Those that count at a gate.
    headers: HeaderMap,
    every: Duration,
    routes: Arc<Routes>,
}

impl Standing {
    pub fn of<B>(client: &Client, host: &str, request: &Request<B>) -> Self {
        Self::of_parts(client, host, request.uri(), request.headers(), request.extensions())
    }

    pub fn of_parts(client: &Client, host: &str, uri: &Uri, headers: &HeaderMap, extensions: &Extensions) -> Self {
        let (visitor, shared) = (client.visitor(headers), &client.worker.shared);
        let mut counting = HeaderMap::new();
        for cookie in headers.get_all(COOKIE) {
            counting.append(COOKIE, cookie.clone());
        }
        if let Some(token) = headers.get(BYPASS_HEADER) {
            counting.insert(BYPASS_HEADER, token.clone());
        }
        if let Some(Said(words)) = extensions.get() {
            counting.insert(AUTHORIZATION, words.clone());
        }
        Self {
            host: host.to_owned(),
            from: visitor.ip(),
            secure: visitor.is_secure(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            headers: counting,
            every: shared.limits.standing,
            routes: shared.routes.clone(),
        }
    }

    /// Comes to its end when whoever came in would not any more.
    pub async fn ended(self) {
        loop {
            tokio::time::sleep(self.every).await;
            if !self.is_good() {
                return;
            }
        }
    }

    fn is_good(&self) -> bool {
        let Some(guard) = self.routes.guard(&self.host) else { return true };
        let value = |name| self.headers.get(name).map(HeaderValue::as_bytes);
        let asked = gate::Request {
            address: self.from,
            secure: self.secure,
            follows: false,
            navigates: false,
            target: &self.target,
            bypass: value(BYPASS_HEADER),
            authorization: value(AUTHORIZATION.as_str()),
        };
        match guard.judge(&asked, self.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes), now()) {
            Verdict::Pass => true,
            // Where that is another one by now, it has to be found out anew, which takes a request.
            Verdict::Password(password) => guard.knows(&password) == Some(true),
            Verdict::Enter { .. } | Verdict::Refused(_) => false,
        }
    }
}
