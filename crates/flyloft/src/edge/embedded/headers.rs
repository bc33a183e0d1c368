//! What the edge changes in a head on its way through. Pure.
//!
//! What must hold: whatever says who the client is and how it came here is the edge's own word (RFC 7239 section 8.1
//! on why). A header about one connection does not reach the next one (RFC 9110 section 7.6.1).

use std::borrow::Cow;
use std::net::IpAddr;

use hyper::Uri;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// The client, as the upstream is told of it.
#[derive(Clone, Debug)]
pub struct Visitor {
    address: HeaderValue,
    scheme: &'static str,
}

/// The host that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// As the client wrote it, with the port.
    pub value: HeaderValue,
}

/// Why the host of a request cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHost;

impl Visitor {
    pub fn new(address: IpAddr) -> Self {
        // An IPv4 client of a dual-stack socket is told by its IPv4 address.
        let address = address.to_canonical().to_string();
        let address = HeaderValue::try_from(address).expect("an address is made of visible characters");
        Self { address, scheme: "http" }
    }

    fn default_port(&self) -> &'static str {
        if self.scheme == "https" { "443" } else { "80" }
    }
}

impl Authority {
    /// From the request's target where it names a host (HTTP/2's `:authority`, or the absolute form), else from `Host`,
    /// which must be there once (RFC 9112 section 3.2).
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, NoHost> {
        if let Some(authority) = uri.authority() {
            let text = authority.as_str();
            let named = !authority.host().is_empty() && !text.contains('@');
            return if named {
                HeaderValue::try_from(text).map(|value| Self { value }).map_err(|_| NoHost)
            } else {
                Err(NoHost)
            };
        }
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(value), None) if value.to_str().is_ok_and(|host| !host.is_empty()) => {
                Ok(Self { value: value.clone() })
            }
            _ => Err(NoHost),
        }
    }

    /// Lower case, without port and without the root's dot: the key of the routes.
    pub fn host(&self) -> Cow<'_, str> {
        let (host, _) = self.split();
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    }

    fn port(&self) -> Option<&str> {
        self.split().1.filter(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
    }

    fn split(&self) -> (&str, Option<&str>) {
        let text = self.value.to_str().unwrap_or_default();
        let after_address = text.rfind(']').map_or(0, |bracket| bracket + 1);
        match text[after_address..].find(':') {
            Some(colon) => (&text[..after_address + colon], Some(&text[after_address + colon + 1..])),
            None => (text, None),
        }
    }
}

/// The protocol that the client asks to go on with, where it does. HTTP/2 is not one to upgrade to: the edge speaks it
/// itself, and behind it a second request could hide in what upstream and edge read differently.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let known = !tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("h2c"));
    (asked && known).then(|| protocol.clone())
}

/// Whether the body comes in a coding that the edge does not take off. What it forwarded would have lost its label.
pub fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) => !coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => true,
    }
}

/// Makes a request's headers those that its upstream gets.
pub fn to_upstream(
    headers: &mut HeaderMap,
    authority: Authority,
    visitor: &Visitor,
    upgrade: Option<HeaderValue>,
    has_body: bool,
) {
    headers.reserve(8);
    let trailers = headers.contains_key(TE) && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    strip(headers, |name| is_about_one_connection(name) || is_a_claim(name) || *name == EXPECT);
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if has_body && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    join_cookies(headers);
    let port = match authority.port() {
        Some(port) => HeaderValue::try_from(port).expect("a port is made of digits"),
        None => HeaderValue::from_static(visitor.default_port()),
    };
    headers.insert(X_FORWARDED_PORT, port);
    headers.insert(X_FORWARDED_FOR, visitor.address.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(visitor.scheme));
    headers.insert(X_FORWARDED_HOST, authority.value.clone());
    headers.insert(HOST, authority.value);
}

/// Makes an upstream's headers those that the client gets.
pub fn to_client(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    // A length beside a coding is not to be believed (RFC 9112 section 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    strip(headers, is_about_one_connection);
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    forbid_indexing(headers);
}

/// Staging is not for search engines, whatever the app says of itself.
pub fn forbid_indexing(headers: &mut HeaderMap) {
    headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
}

/// Removes what is unwanted, and what `Connection` names. Most heads have one such header or none.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = if headers.contains_key(CONNECTION) {
        let is_header =
            |token: &&str| !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close");
        tokens(headers, &CONNECTION).filter(is_header).filter_map(|token| HeaderName::try_from(token).ok()).collect()
    } else {
        Vec::new()
    };
    for name in named {
        headers.remove(name);
    }
    while let Some(name) = headers.keys().find(|name| unwanted(name)).cloned() {
        headers.remove(name);
    }
}

fn is_about_one_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// A header by which a client could pass itself off as somebody else. Apps behind CGI-like interfaces (WSGI, Rack, PHP)
/// cannot tell `_` from `-`, so the edge does not either.
fn is_a_claim(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let like = |pattern: &[u8]| {
        name.iter().zip(pattern).all(|(byte, wanted)| byte == wanted || (*wanted == b'-' && *byte == b'_'))
    };
    match name.first() {
        Some(b'x') => (name.len() >= 12 && like(b"x-forwarded-")) || (name.len() == 9 && like(b"x-real-ip")),
        Some(b'f') => name == b"forwarded",
        _ => false,
    }
}

/// HTTP/2 may send a cookie in pieces; in HTTP/1.1 it is one header (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let mut whole = [first.as_bytes(), b"; ", second.as_bytes()].concat();
        for cookie in cookies {
            whole.extend_from_slice(b"; ");
            whole.extend_from_slice(cookie.as_bytes());
        }
        let whole = HeaderValue::try_from(whole).expect("what was header values is one");
        headers.insert(COOKIE, whole);
    }
}

/// The members of a list header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}
