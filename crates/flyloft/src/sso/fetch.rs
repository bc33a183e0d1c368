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

use crate::tls::trust;

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
        Self::trusting(trust::machine(), limit)
    }

    fn trusting(roots: RootCertStore, limit: Duration) -> Self {
        Self { tls: Arc::new(trust::client(roots)), limit }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::Certificates;
    use crate::tls::trial::Authority;

    async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
        let asked = String::from_utf8_lossy(&head).into_owned();
        let says = says.replace("HEAD", &format!("Content-Length: {}\r\n\r\n{asked}", asked.len()));
        let _ = stream.write_all(says.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// A server that says this to whoever asks, by a certificate for `localhost` if by any.
    async fn server(says: &str, authority: Option<&Authority>) -> u16 {
        let shown = authority.map(|authority| {
            let certificates = Certificates::new().unwrap();
            certificates.set([&authority.issue(&["localhost"]).pair()]);
            certificates.choose("localhost").unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, says) = (listener.local_addr().unwrap().port(), says.to_owned());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match &shown {
                    None => speak(stream, says.clone()).await,
                    Some(shown) => {
                        if let Ok(stream) = TlsAcceptor::from(shown.config.clone()).accept(stream).await {
                            speak(stream, says.clone()).await;
                        }
                    }
                }
            }
        });
        port
    }

    async fn ask(fetch: &Fetch, url: &str) -> Result<(u16, String), FetchError> {
        let (status, body) = fetch.ask(Request::get(url).body(Full::default()).unwrap()).await?;
        Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_server_is_asked_over_tls_if_its_certificate_is_issued_for_it_by_somebody_who_is_believed() {
        let authority = Authority::root("Root");
        let port = server("HTTP/1.1 200 OK\r\nHEAD", Some(&authority)).await;
        let fetch = Fetch::trusting(authority.roots(), LIMIT);
        let (status, asked) = ask(&fetch, &format!("https://localhost:{port}/a?b=c")).await.unwrap();
        assert!(status == 200 && asked.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("\r\nhost: localhost:{port}\r\n")), "{asked}");
        let error = ask(&fetch, &format!("https://127.0.0.1:{port}/")).await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
        let strangers = Fetch::trusting(Authority::root("Another").roots(), LIMIT);
        let error = ask(&strangers, &format!("https://localhost:{port}/")).await.unwrap_err().to_string();
        assert!(error.contains("UnknownIssuer"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_is_taken_as_it_is_and_bounded() {
        let fetch = Fetch::trusting(RootCertStore::empty(), LIMIT);
        let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nHEAD";
        let url = |port: u16| format!("http://127.0.0.1:{port}/");
        assert_eq!(ask(&fetch, &url(server(elsewhere, None).await)).await.unwrap().0, 302);
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(ANSWER + 1));
        for (says, expected) in [
            (large.as_str(), "is larger than 512 KiB"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "its answer breaks off"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "is no HTTP"),
            ("", "is no HTTP"),
        ] {
            let error = ask(&fetch, &url(server(says, None).await)).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let hasty = Fetch::trusting(RootCertStore::empty(), Duration::from_millis(50));
        let error = ask(&hasty, &url(silent.local_addr().unwrap().port())).await.unwrap_err();
        assert!(matches!(error, FetchError::Late(_)), "{error}");
    }
}
