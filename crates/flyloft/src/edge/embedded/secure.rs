//! The way in over TLS: how a connection begins, and where plain HTTP is led.

use std::io;
use std::sync::Arc;

use hyper::{Request, Uri};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::exchange::Client;
use super::headers::{self, Sender};
use super::page::Notice;
use super::worker::Shared;
use crate::tls::{CHALLENGES, Certificates, Shown};

/// How much of what is to be sent is kept while the client takes nothing, before and after it is encrypted.
const SENT_AHEAD: usize = 16 << 10;

/// An alert that ends the connection (level 2), in a record of TLS 1.2, as it has to be before anything is agreed upon
/// (RFC 8446 sections 5.1 and 6): `unrecognized_name` (RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What the threads know of TLS.
#[derive(Clone, Debug)]
pub struct Secure {
    pub certificates: Arc<Certificates>,
    /// Where clients come to over TLS.
    pub port: u16,
}

impl Secure {
    /// Begins TLS with a client. Who asks for no name, or for one that no certificate is for, is told so.
    pub async fn agree<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Arc<Shown>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let name = begun.client_hello().server_name().map(str::to_ascii_lowercase);
        let Some(shown) = name.as_deref().and_then(|name| self.certificates.choose(name)) else {
            begun.io.write_all(&UNRECOGNIZED_NAME).await?;
            begun.io.shutdown().await?;
            return Err(io::Error::other(format!("no certificate is for {name:?}")));
        };
        let stream = begun.into_stream_with(shown.config.clone(), |tls| tls.set_buffer_limit(Some(SENT_AHEAD)));
        Ok((stream.await?, shown))
    }

    /// Where a request over plain HTTP for a host of ours is led, if it is.
    pub fn lead(&self, host: &str, uri: &Uri) -> Option<String> {
        if is_challenge(uri.path()) || !self.certificates.cover(host) {
            return None;
        }
        Some(over_tls(host, uri, self.port))
    }
}

/// The same address over TLS.
fn over_tls(host: &str, uri: &Uri, port: u16) -> String {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    // The absolute form needs no path, and one request has a `*` for it.
    let target = match target.chars().next() {
        Some('/') => target.to_owned(),
        Some('?') => format!("/{target}"),
        _ => "/".to_owned(),
    };
    match port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    }
}

/// Whether a request has come the way that it is to. `host` is in lower case.
pub fn ask<B>(client: &Client, request: &Request<B>, host: &str) -> Result<(), Notice> {
    let shared = &client.worker.shared;
    match &client.shown {
        // Whoever came to one name is not answered for another that its certificate is not for.
        Some(shown) if !shown.names.cover(host) => Err(Notice::Misdirected { host: host.to_owned() }),
        // Also over TLS: a proxy that speaks it with the edge says how its clients came.
        _ => {
            let led = match &client.sender {
                Sender::Client(from) if from.is_secure() => None,
                Sender::Client(_) => shared.secure.as_ref().and_then(|secure| secure.lead(host, request.uri())),
                Sender::Proxy(_) => led_by_proxy(shared, request, host),
            };
            let led = led.filter(|_| shared.serves(host));
            led.map_or(Ok(()), |at| Err(Notice::OverTls { at }))
        }
    }
}

/// What speaks TLS in the edge's place, or ends it before this server, says that it has not for this one.
fn led_by_proxy<B>(shared: &Shared, request: &Request<B>, host: &str) -> Option<String> {
    if !headers::came_plain(request.headers(), &shared.proxies) {
        return None;
    }
    if let Some(secure) = &shared.proxy_speaks {
        return secure.lead(host, request.uri());
    }
    let port = shared.proxies.tls_port.filter(|_| !is_challenge(request.uri().path()))?;
    Some(over_tls(host, request.uri(), port))
}

/// Whether a path is one that is asked for over plain HTTP by who checks that a name is ours: a token, and nothing that an
/// app could take for another path (RFC 8555 section 8.3).
fn is_challenge(path: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    path.strip_prefix(CHALLENGES).is_some_and(|token| !token.is_empty() && token.bytes().all(is_of_token))
}
