//! A model of an ACME server, for what Pebble does not do: it limits, hangs, fails and says when to renew, as a test wants.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64ct::{Base64UrlUnpadded, Encoding};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::tls::pair;
use crate::tls::trial::Authority;

pub struct Model {
    pub base: String,
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Status, headers, body.
pub type Said = (u16, Vec<(&'static str, String)>, String);

/// What is said to who asks for a path of the server at `base`, and what they have signed. `None` keeps them waiting.
pub type Says = dyn Fn(&str, &str, &str) -> Option<Said> + Send + Sync;

pub fn said(status: u16, body: &str) -> Option<Said> {
    Some((status, Vec::new(), body.to_owned()))
}

pub fn problem(status: u16, kind: &str, detail: &str) -> String {
    format!(r#"{{"type": "urn:ietf:params:acme:error:{kind}", "detail": "{detail}", "status": {status}}}"#)
}

/// What every one says.
fn usual(base: &str, path: &str) -> Option<Said> {
    let url = |name: &str| format!("{base}/{name}");
    match path {
        "/dir" => {
            let (nonce, account, order) = (url("nonce"), url("account"), url("order"));
            let ari = url("ari");
            said(
                200,
                &format!(
                    r#"{{"newNonce": "{nonce}", "newAccount": "{account}", "newOrder": "{order}", "renewalInfo": "{ari}"}}"#
                ),
            )
        }
        "/nonce" => said(200, ""),
        "/account" => Some((201, vec![("location", url("account/1"))], r#"{"status": "valid"}"#.to_owned())),
        _ => said(404, &problem(404, "malformed", "there is no such thing")),
    }
}

impl Model {
    /// One that says this, or what every one says where that answers 0.
    pub async fn start(says: impl Fn(&str, &str, &str) -> Option<Said> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (root, dir) = (Authority::root("Model"), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("roots"), &root.root_pem).unwrap();
        let acceptor = acceptor(&root);
        let (asked, says): (Arc<Mutex<Vec<String>>>, Arc<Says>) = (Arc::default(), Arc::new(says));
        let model = Self { base: base.clone(), dir, asked: asked.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, base, asked, says) = (acceptor.clone(), base.clone(), asked.clone(), says.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, base.clone(), asked.clone(), says.clone()));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        model
    }

    pub fn directory(&self) -> String {
        format!("{}/dir", self.base)
    }

    pub fn roots(&self) -> PathBuf {
        self.dir.path().join("roots")
    }

    /// What was asked: methods, paths, and what was signed.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How often this was asked.
    pub fn count(&self, what: &str) -> usize {
        self.asked().iter().filter(|asked| asked.starts_with(what)).count()
    }
}

fn acceptor(root: &Authority) -> TlsAcceptor {
    let versions = ServerConfig::builder_with_provider(pair::provider()).with_safe_default_protocol_versions();
    let certified = root.issue(&["localhost"]).pair().certified;
    let config = versions.unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))))
}

async fn answer(
    request: Request<Incoming>,
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
    says: Arc<Says>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let signed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let payload = Base64UrlUnpadded::decode_vec(signed["payload"].as_str().unwrap_or_default()).unwrap_or_default();
    let (path, payload) = (head.uri.path().to_owned(), String::from_utf8_lossy(&payload).into_owned());
    asked.lock().unwrap().push(format!("{} {path} {payload}", head.method).trim_end().to_owned());
    let (status, headers, body) = match says(&base, &path, &payload) {
        Some((0, ..)) => usual(&base, &path).unwrap(),
        Some(said) => said,
        None => std::future::pending().await,
    };
    let mut response = Response::builder().status(status).header("replay-nonce", "bm9uY2U");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}
