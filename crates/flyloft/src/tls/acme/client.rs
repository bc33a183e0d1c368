//! HTTP to ACME servers. What they say beside their answers is noted: what time it is, and when they want to be asked again.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::error::AcmeError;
use crate::outgoing;
use crate::tls::trust;

/// Bytes of an answer.
const ANSWER: usize = 1 << 20;

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Seconds since 1970 by the machine's clock.
    clock: fn() -> i64,
    heard: Arc<Mutex<Heard>>,
}

/// What the last answer said. Nothing, where there is none to what was asked last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    pub status: Option<StatusCode>,
    /// By how many seconds the server's clock is ahead of the machine's.
    pub ahead: Option<i64>,
    /// For how many seconds the server wants to be left alone.
    pub wait: Option<i64>,
}

impl Client {
    /// Believes who is vouched for in the file `roots`, and waits for an answer for so long.
    pub fn new(roots: &Path, limit: Duration, clock: fn() -> i64) -> Result<Self, AcmeError> {
        let failed = |why: String| AcmeError::Roots { path: PathBuf::from(roots), why };
        let config = trusting(roots).map_err(failed)?;
        let http = outgoing::client(config, limit).https_only(true).build();
        let http = http.map_err(|error| failed(error.to_string()))?;
        Ok(Self { http, clock, heard: Arc::default() })
    }

    pub fn heard(&self) -> Heard {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, heard: Heard) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }

    async fn ask(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Box<dyn StdError + Send + Sync>> {
        self.hear(Heard::default());
        let (mut head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        head.headers.insert(USER_AGENT, HeaderValue::from_static(concat!("flyloft/", env!("CARGO_PKG_VERSION"))));
        let request = reqwest::Request::try_from(Request::from_parts(head, body))?;
        let answer = self.http.execute(request).await?;
        self.hear(Heard::of(answer.headers(), answer.status(), (self.clock)()));
        Ok(outgoing::whole(answer, ANSWER).await?.map(Full::new))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move { client.ask(request).await.map(BytesResponse::from).map_err(Error::Other) })
    }
}

impl Heard {
    fn of(headers: &HeaderMap, status: StatusCode, now: i64) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let moment = |text: &str| {
            let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some(at.as_secs() as i64 - now)
        };
        // RFC 9110 section 10.2.3: so many seconds, or a moment.
        let wait = text(RETRY_AFTER).and_then(|text| text.parse().ok().or_else(|| moment(text)));
        let heard = Self { status: Some(status), ahead: text(DATE).and_then(moment), wait };
        // Whoever answers a question may say as well when to ask the next one.
        if heard.is_passing() { heard } else { Self { wait: None, ..heard } }
    }

    /// There is what was asked for.
    pub fn is_well(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }

    /// There is no such thing.
    pub fn is_missing(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// The server has trouble of its own, or too much to do: it says nothing of what was asked for.
    pub fn is_passing(&self) -> bool {
        self.status.is_some_and(|status| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS)
    }
}

/// What believes who is vouched for in a file, and nobody else.
fn trusting(roots: &Path) -> Result<ClientConfig, String> {
    let text = std::fs::read(roots).map_err(|error| error.to_string())?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates.map_err(|error| error.to_string())?);
    if store.is_empty() {
        return Err("there is none in it".to_owned());
    }
    Ok(trust::client(store))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_beside_its_answer_is_understood() {
        let of = |status: u16, headers: &[(HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let Heard { ahead, wait, .. } =
                Heard::of(&headers.collect(), StatusCode::from_u16(status).unwrap(), 784_111_777);
            (ahead, wait)
        };
        let moment = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(of(200, &[(DATE, moment)]), (Some(0), None));
        assert_eq!(of(200, &[(DATE, "Mon, 07 Nov 1994 08:49:37 GMT"), (RETRY_AFTER, "3")]), (Some(86400), None));
        assert_eq!(of(429, &[(RETRY_AFTER, "120")]), (None, Some(120)));
        assert_eq!(of(503, &[(RETRY_AFTER, moment)]), (None, Some(0)));
        assert_eq!(of(500, &[(RETRY_AFTER, "7")]), (None, Some(7)));
        assert_eq!(of(429, &[(RETRY_AFTER, "soon"), (DATE, "today")]), (None, None));
    }
}
