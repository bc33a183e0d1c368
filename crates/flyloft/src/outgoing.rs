//! HTTP that is asked of servers elsewhere: of providers of logins and of DNS, and of authorities for certificates.
//!
//! What must hold: nobody is asked but whom a caller names, wherever an answer leads, and each answer has a limit of time
//! and of size.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::Response;
use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use rustls::ClientConfig;

/// `limit` is for all of an answer, from the look-up of the name to the last byte.
pub fn client(trust: ClientConfig, limit: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trust)
        .user_agent(concat!("flyloft/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        // Each address of a server has its share of it, so that one that is dead does not take all.
        .connect_timeout(limit)
        .timeout(limit)
}

/// An answer with its body, if that has no more bytes than this.
pub async fn whole(answer: reqwest::Response, most: usize) -> Result<Response<Bytes>, Box<dyn Error + Send + Sync>> {
    let (head, body) = Response::<reqwest::Body>::from(answer).into_parts();
    let body = Limited::new(body, most).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// What is at the bottom of an error.
pub fn root(error: &reqwest::Error) -> String {
    let mut error: &dyn Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
