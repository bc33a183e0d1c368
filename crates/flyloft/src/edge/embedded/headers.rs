//! What the edge changes in a head on its way through. Pure.
//!
//! What must hold: whatever says who the client is and how it came here is the edge's own word (RFC 7239 section 8.1
//! on why). A header about one connection does not reach the next one (RFC 9110 section 7.6.1).

use std::borrow::Cow;
use std::net::IpAddr;

use flyloft_core::gate;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, REFERER,
    REFERRER_POLICY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Uri};

use super::framing::Framing;
use super::proxies::Proxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// The client, as the upstream is told of it.
#[derive(Clone, Debug)]
pub struct Visitor {
    ip: IpAddr,
    address: HeaderValue,
    scheme: &'static str,
}

/// Who sends requests over a connection.
#[derive(Clone, Debug)]
pub enum Sender {
    Client(Visitor),
    /// A proxy that says with each request whose it is, and speaks for itself where it does not.
    Proxy(Visitor),
}

/// The host that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// As the client wrote it, with the port. Visible ASCII, and digits where the port is.
    value: HeaderValue,
    /// Where the host ends, and the port begins if there is one.
    host_end: usize,
}

/// Why the host of a request cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHost;

impl Visitor {
    pub fn new(address: IpAddr) -> Self {
        // An IPv4 client of a dual-stack socket is told by its IPv4 address.
        let ip = address.to_canonical();
        let address = HeaderValue::try_from(ip.to_string()).expect("an address is made of visible characters");
        Self { ip, address, scheme: "http" }
    }

    pub fn over_tls(address: IpAddr) -> Self {
        Self { scheme: "https", ..Self::new(address) }
    }

    /// As a proxy that is believed tells of it; `otherwise` where it does not. It says so in words of its own, or adds to
    /// what others said before.
    pub fn told_by(headers: &HeaderMap, proxies: &Proxies, otherwise: &Visitor) -> Self {
        let told: Vec<&[u8]> = tokens(headers, &X_FORWARDED_FOR).collect();
        let visitor = proxies.client(told.into_iter()).map_or_else(|| otherwise.clone(), Self::new);
        let scheme = match how_it_came(headers, proxies) {
            Some(word) if is_secure(word) => "https",
            Some(_) => "http",
            None => otherwise.scheme,
        };
        Self { scheme, ..visitor }
    }

    pub fn address(&self) -> &str {
        self.address.to_str().unwrap_or_default()
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Whether it came over TLS.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    fn default_port(&self) -> &'static str {
        if self.scheme == "https" { "443" } else { "80" }
    }
}

/// How a request came from its client, as it is told by who knows. That is a proxy that has seen the client itself: what
/// stands in `X-Forwarded-For` last is no other proxy of ours. One behind others knows how those came to it, so of what it
/// passes on `https` alone counts, whoever has said that. Nobody is led to TLS then, who may have come that way.
fn how_it_came<'a>(headers: &'a HeaderMap, proxies: &Proxies) -> Option<&'a [u8]> {
    let name = X_FORWARDED_PROTO;
    let mut words = tokens(headers, &name);
    let is_behind_others = tokens(headers, &X_FORWARDED_FOR).last().is_some_and(|told| proxies.name(told));
    if is_behind_others { words.find(|word| is_secure(word)) } else { words.last() }
}

/// `wss` of a WebSocket, as some proxies call it.
fn is_secure(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"https") || word.eq_ignore_ascii_case(b"wss")
}

/// Whether it is told of a request that it did not come over TLS.
pub fn came_plain(headers: &HeaderMap, proxies: &Proxies) -> bool {
    let is_plain = |word: &[u8]| word.eq_ignore_ascii_case(b"http") || word.eq_ignore_ascii_case(b"ws");
    how_it_came(headers, proxies).is_some_and(is_plain)
}

impl Authority {
    /// From the request's target where it names a host (HTTP/2's `:authority`, or the absolute form), else from `Host`,
    /// which must be there once (RFC 9112 section 3.2).
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, NoHost> {
        if let Some(authority) = uri.authority() {
            let text = authority.as_str();
            if authority.host().is_empty() || text.contains('@') {
                return Err(NoHost);
            }
            return Self::new(HeaderValue::try_from(text).map_err(|_| NoHost)?);
        }
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(value), None) => Self::new(value.clone()),
            _ => Err(NoHost),
        }
    }

    fn new(value: HeaderValue) -> Result<Self, NoHost> {
        let text = value.as_bytes();
        if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
            return Err(NoHost);
        }
        let after_address = text.iter().rposition(|byte| *byte == b']').map_or(0, |bracket| bracket + 1);
        let colon = text[after_address..].iter().position(|byte| *byte == b':');
        let host_end = colon.map_or(text.len(), |colon| after_address + colon);
        // Apps make links out of the whole, so what follows the host must be nothing that sends people elsewhere.
        let port = text.get(host_end + 1..).unwrap_or_default();
        if port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
            return Err(NoHost);
        }
        Ok(Self { value, host_end })
    }

    /// Lower case, without port and without the root's dot: the key of the routes.
    pub fn host(&self) -> Cow<'_, str> {
        let host = std::str::from_utf8(&self.value.as_bytes()[..self.host_end]).expect("it is visible ASCII");
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    }

    /// Digits.
    pub fn port(&self) -> Option<&[u8]> {
        self.value.as_bytes().get(self.host_end + 1..).filter(|port| !port.is_empty())
    }
}

/// The protocol that the client asks to go on with, where it does. HTTP/2 is not one to upgrade to: the edge speaks it
/// itself, and behind it a second request could hide in what upstream and edge read differently.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let known = !tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(b"h2c"));
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

/// The head that an upstream gets for a request with a body like this.
pub fn to_upstream(
    request: &Parts,
    authority: &Authority,
    visitor: &Visitor,
    upgrade: Option<&HeaderValue>,
    body: Framing,
) -> Vec<u8> {
    let headers = &request.headers;
    let target = gate::without_ours(request.uri.path_and_query().map_or("/", |target| target.as_str()));
    // The absolute form needs no path: `http://shop.test?query`.
    let root = if target.starts_with(['/', '*']) { "" } else { "/" };
    // Most heads fit, with what is added here.
    let mut head = Vec::with_capacity(1 << 10);
    for part in [request.method.as_str(), " ", root, &target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    write(&mut head, "host", authority.value.as_bytes());
    let named = named_by_connection(headers);
    for (name, value) in headers {
        if is_for_the_edge(name) || is_about_one_connection(name) || is_a_claim(name) || named.contains(name) {
            continue;
        }
        if *name == REFERER
            && let Ok(address) = value.to_str()
        {
            write(&mut head, name, gate::without_ours(address).as_bytes());
        } else {
            write(&mut head, name, value.as_bytes());
        }
    }
    write_cookies(&mut head, headers);
    if let Some(protocol) = upgrade {
        write(&mut head, "upgrade", protocol.as_bytes());
        write(&mut head, "connection", b"upgrade");
    } else if headers.contains_key(TE) && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers")) {
        write(&mut head, "te", b"trailers");
        write(&mut head, "connection", b"te");
    }
    match body {
        Framing::Length(length) => write(&mut head, "content-length", length.to_string().as_bytes()),
        Framing::Empty if expects_a_body(&request.method) || headers.contains_key(CONTENT_LENGTH) => {
            write(&mut head, "content-length", b"0");
        }
        Framing::Empty => {}
        Framing::Chunked | Framing::ToEnd => write(&mut head, "transfer-encoding", b"chunked"),
    }
    let port = authority.port().unwrap_or(visitor.default_port().as_bytes());
    write(&mut head, "x-forwarded-port", port);
    write(&mut head, "x-forwarded-for", visitor.address.as_bytes());
    write(&mut head, "x-forwarded-proto", visitor.scheme.as_bytes());
    write(&mut head, "x-forwarded-host", authority.value.as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}

/// Appends a header to a head. Neither name nor value has an end of line in it: the types of hyper see to that.
pub fn write(head: &mut Vec<u8>, name: impl AsRef<str>, value: &[u8]) {
    for part in [name.as_ref().as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// A body may be empty, but its length is worth saying (RFC 9110 section 8.6).
fn expects_a_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// The trailers that a request declares, without those that belong into a head (RFC 9110 section 6.5.1).
pub fn trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let belongs_into_a_head = |name: &HeaderName| {
        is_for_the_edge(name)
            || is_about_one_connection(name)
            || is_a_claim(name)
            || matches!(
                name.as_str(),
                "authorization"
                    | "cache-control"
                    | "content-encoding"
                    | "content-range"
                    | "content-type"
                    | "max-forwards"
                    | "trailer"
            )
    };
    let declared = tokens(headers, &TRAILER).filter_map(|token| HeaderName::from_bytes(token).ok());
    declared.filter(|name| !belongs_into_a_head(name)).collect()
}

/// Whether an answer goes on for as long as somebody listens (the HTML standard, server-sent events).
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let essence = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().split(|byte| *byte == b';').next());
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// An address that opens the gate is nobody else's to know: a page at it tells it neither to its app nor elsewhere.
pub fn forbid_referring(headers: &mut HeaderMap, uri: &Uri) {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if gate::without_ours(target).len() < target.len() {
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
}

/// Staging is not for search engines, whatever the app says of itself.
pub fn forbid_indexing(headers: &mut HeaderMap) {
    headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
}

/// What `Connection` says is about that connection alone. Most heads name nothing.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    if !headers.contains_key(CONNECTION) {
        return Vec::new();
    }
    let is_header = |token: &&[u8]| !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close");
    tokens(headers, &CONNECTION).filter(is_header).filter_map(|token| HeaderName::from_bytes(token).ok()).collect()
}

/// What the edge says in words of its own, or does itself.
fn is_for_the_edge(name: &HeaderName) -> bool {
    matches!(name.as_str(), "host" | "content-length" | "cookie" | "expect" | gate::BYPASS_HEADER)
}

/// RFC 9110 section 7.6.1, and what was meant so before it.
pub fn is_about_one_connection(name: &HeaderName) -> bool {
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

/// A header by which a client could pass itself off as somebody else, or have a say in the app's surroundings. Apps
/// behind CGI-like interfaces (WSGI, Rack, PHP) cannot tell `_` from `-`, so the edge does not either. `Proxy`, which no
/// standard knows, is the variable HTTP_PROXY to them, and with it the way of their own requests (CVE-2016-5385).
fn is_a_claim(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let like = |pattern: &[u8]| {
        name.iter().zip(pattern).all(|(byte, wanted)| byte == wanted || (*wanted == b'-' && *byte == b'_'))
    };
    match name.first() {
        Some(b'x') => (name.len() >= 12 && like(b"x-forwarded-")) || (name.len() == 9 && like(b"x-real-ip")),
        Some(b'f') => name == b"forwarded",
        Some(b'p') => name == b"proxy",
        _ => false,
    }
}

/// HTTP/2 may send a cookie in pieces; in HTTP/1.1 it is one header (RFC 9113 section 8.2.3). What is for the gate stays
/// here.
fn write_cookies(head: &mut Vec<u8>, headers: &HeaderMap) {
    let begin = head.len();
    let mut put = |cookies: &[u8]| {
        head.extend_from_slice(if head.len() == begin { b"cookie: " } else { b"; " });
        head.extend_from_slice(cookies);
    };
    for cookies in headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes) {
        if gate::pairs(cookies).any(gate::is_ours) {
            gate::pairs(cookies).filter(|pair| !pair.is_empty() && !gate::is_ours(pair)).for_each(&mut put);
        } else {
            put(cookies);
        }
    }
    if head.len() > begin {
        head.extend_from_slice(b"\r\n");
    }
}

/// The members of a list header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().flat_map(|value| members(value.as_bytes()))
}

/// The members of a list.
pub fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}
