//! One question to a provider, and its answer: over TLS, but on this machine.

use std::time::Duration;

use bytes::Bytes;
use flyloft_core::sso::may_be_asked;
use hyper::StatusCode;
use hyper::header::ACCEPT;
use reqwest::{ClientBuilder, RequestBuilder};
use rustls::RootCertStore;
use thiserror::Error;

use crate::outgoing::{self, root};
use crate::tls::trust;

/// No answer that is asked for here is as large.
const ANSWER: usize = 512 << 10;

pub struct Fetch {
    http: reqwest::Client,
    /// For all of it, from the look-up of the name to the last byte.
    limit: Duration,
}

#[derive(Debug, Error)]
pub enum FetchError {
    #[error("it did not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("it could not be reached: {0}")]
    Reach(String),
    #[error("what it answers is no HTTP, or breaks off: {0}")]
    Http(String),
    #[error("its answer breaks off, or is larger than {} KiB", ANSWER >> 10)]
    Body,
    #[error("it cannot be asked that: {0}")]
    Question(String),
    #[error("only this machine is asked without TLS")]
    Plain,
}

impl Fetch {
    /// Believes whom this machine believes.
    pub fn new(limit: Duration) -> Self {
        Self::with(trust::machine(), limit, |client| client)
    }

    fn with(roots: RootCertStore, limit: Duration, change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        // What is asked without TLS has to stay on this machine, so no proxy of the daemon's environment is asked. People
        // log in too seldom for a connection to be worth keeping.
        let client = outgoing::client(trust::client(roots), limit).no_proxy().pool_max_idle_per_host(0);
        Self { http: change(client).build().expect("it brings all that it takes to build it"), limit }
    }

    pub fn get(&self, url: &str) -> RequestBuilder {
        self.http.get(url)
    }

    pub fn post(&self, url: &str) -> RequestBuilder {
        self.http.post(url)
    }

    pub async fn ask(&self, question: RequestBuilder) -> Result<(StatusCode, Bytes), FetchError> {
        let question = question.header(ACCEPT, "application/json").build();
        let question = question.map_err(|error| FetchError::Question(root(&error)))?;
        if !may_be_asked(question.url().as_str()) {
            return Err(FetchError::Plain);
        }
        // Most of the time there is nobody who asks, and it is large.
        let asked = Box::pin(self.http.execute(question));
        let answer = asked.await.map_err(|error| match error {
            error if error.is_timeout() => FetchError::Late(self.limit),
            error if error.is_connect() => FetchError::Reach(root(&error)),
            error => FetchError::Http(root(&error)),
        })?;
        let answer = outgoing::whole(answer, ANSWER).await;
        let answer = answer.map_err(|error| match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_timeout() => FetchError::Late(self.limit),
            _ => FetchError::Body,
        })?;
        Ok((answer.status(), answer.into_body()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::Certificates;
    use crate::tls::trial::Authority;

    /// `stays`: it does not say that this was all.
    async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: String, stays: bool) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
        let asked = String::from_utf8_lossy(&head).into_owned();
        let says = says.replace("HEAD", &format!("Content-Length: {}\r\n\r\n{asked}", asked.len()));
        let _ = stream.write_all(says.as_bytes()).await;
        if stays {
            std::future::pending::<()>().await;
        }
        let _ = stream.shutdown().await;
    }

    /// A server that says this to whoever asks, by a certificate for `localhost` if by any.
    async fn server(says: &str, authority: Option<&Authority>, stays: bool) -> u16 {
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
                    None => speak(stream, says.clone(), stays).await,
                    Some(shown) => {
                        if let Ok(stream) = TlsAcceptor::from(shown.config.clone()).accept(stream).await {
                            speak(stream, says.clone(), stays).await;
                        }
                    }
                }
            }
        });
        port
    }

    async fn ask(fetch: &Fetch, url: &str) -> Result<(u16, String), FetchError> {
        let (status, body) = fetch.ask(fetch.get(url)).await?;
        Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
    }

    const LIMIT: Duration = Duration::from_secs(20);

    fn trusting(roots: RootCertStore) -> Fetch {
        Fetch::with(roots, LIMIT, |client| client)
    }

    #[tokio::test]
    async fn a_server_is_asked_over_tls_if_its_certificate_is_issued_for_it_by_somebody_who_is_believed() {
        let authority = Authority::root("Root");
        let port = server("HTTP/1.1 200 OK\r\nHEAD", Some(&authority), false).await;
        let fetch = trusting(authority.roots());
        let (status, asked) = ask(&fetch, &format!("https://localhost:{port}/a?b=c")).await.unwrap();
        assert!(status == 200 && asked.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("\r\nhost: localhost:{port}\r\n")), "{asked}");
        let error = ask(&fetch, &format!("https://127.0.0.1:{port}/")).await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
        let strangers = trusting(Authority::root("Another").roots());
        let error = ask(&strangers, &format!("https://localhost:{port}/")).await.unwrap_err().to_string();
        assert!(error.contains("UnknownIssuer"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_is_taken_as_it_is_and_bounded() {
        let fetch = trusting(RootCertStore::empty());
        let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nHEAD";
        let url = |port: u16| format!("http://127.0.0.1:{port}/");
        assert_eq!(ask(&fetch, &url(server(elsewhere, None, false).await)).await.unwrap().0, 302);
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(ANSWER + 1));
        for (says, expected) in [
            (large.as_str(), "is larger than 512 KiB"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "its answer breaks off"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "is no HTTP"),
            ("", "is no HTTP"),
        ] {
            let error = ask(&fetch, &url(server(says, None, false).await)).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let hasty = Fetch::with(RootCertStore::empty(), Duration::from_millis(50), |client| client);
        let error = ask(&hasty, &url(silent.local_addr().unwrap().port())).await.unwrap_err();
        assert!(matches!(error, FetchError::Late(_)), "{error}");
        let begins = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", None, true).await;
        let error = ask(&hasty, &url(begins)).await.unwrap_err();
        assert!(matches!(error, FetchError::Late(_)), "it stops in the middle: {error}");
        let gone = url(std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let error = ask(&fetch, &gone).await.unwrap_err().to_string();
        assert!(error.starts_with("it could not be reached: Connection refused"), "{error}");
        for url in ["http://192.0.2.1/", "http://localhost.example.org/", "ftp://127.0.0.1/"] {
            assert!(matches!(ask(&fetch, url).await, Err(FetchError::Plain)), "{url}");
        }
        assert!(matches!(ask(&fetch, "127.0.0.1").await, Err(FetchError::Question(_))));
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_passed_by() {
        // With one that nobody accepts, its queue is full, and the kernel answers to no other.
        let dead = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        dead.bind(&"[::1]:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        dead.listen(0).unwrap();
        let address = dead.local_addr().unwrap().as_socket().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let _full: Vec<_> = std::iter::from_fn(|| connect().ok()).take(16).collect();
        assert!(connect().is_err(), "it still takes connections");
        let alive = server("HTTP/1.1 200 OK\r\nHEAD", None, false).await;
        let addresses = [address, ([127, 0, 0, 1], alive).into()];
        let fetch =
            Fetch::with(RootCertStore::empty(), LIMIT, |client| client.resolve_to_addrs("localhost", &addresses));
        let begun = std::time::Instant::now();
        assert_eq!(ask(&fetch, "http://localhost/").await.unwrap().0, 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
