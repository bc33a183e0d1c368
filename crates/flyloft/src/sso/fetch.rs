//! One question to a server of others over HTTP/1.1, and its answer. Over TLS where the URL says so, without following
//! where it leads, and with bounds for time and size.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// No answer that is asked for here is as large.
const ANSWER: usize = 512 << 10;

#[derive(Clone)]
pub struct Fetch {
    tls: Arc<ClientConfig>,
    /// For all of it, from the look-up of the name to the last byte.
    limit: Duration,
}

#[derive(Debug, Error)]
pub enum FetchError {
    #[error("it did not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("it could not be reached: {0}")]
    Reach(io::Error),
    #[error("what it answers is no HTTP, or breaks off: {0}")]
    Http(hyper::Error),
    #[error("its answer breaks off, or is larger than {} KiB", ANSWER >> 10)]
    Body,
    #[error("that is no URL to ask")]
    Url,
}

impl Fetch {
    /// Believes whom this machine believes.
    pub fn new(limit: Duration) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.expect("ring has what these versions need");
        Self { tls: Arc::new(builder.with_root_certificates(roots).with_no_client_auth()), limit }
    }

    /// The request's target is the whole URL.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), FetchError> {
        // Most of the time there is nobody who asks, and it is large.
        let asked = Box::pin(self.ask_in_time(request));
        tokio::time::timeout(self.limit, asked).await.map_err(|_| FetchError::Late(self.limit))?
    }

    async fn ask_in_time(&self, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), FetchError> {
        let url = std::mem::take(request.uri_mut());
        let authority = url.authority().ok_or(FetchError::Url)?;
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = target.parse::<Uri>().map_err(|_| FetchError::Url)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Url)?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static("flyloft"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let is_secure = url.scheme_str() == Some("https");
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(FetchError::Reach)?;
        if !is_secure {
            return converse(stream, request).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Url)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(FetchError::Reach)?;
        converse(stream, request).await
    }
}

async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    // It ends with this call.
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|_| FetchError::Body)?;
    Ok((status, body.to_bytes()))
}
