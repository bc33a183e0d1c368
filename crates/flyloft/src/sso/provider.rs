//! Whom people log in with: what is known of it, and what it is asked.
//!
//! Nothing is asked before somebody logs in. What it says of itself, and its keys, are kept for an hour; where it does not
//! answer, nobody asks it again for a while that grows with each failure, and what was known before holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flyloft_core::sso::{self, Claims, Disbelief, Discovery, Expected, PublicKey, Rules};
use form_urlencoded::Serializer;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use reqwest::RequestBuilder;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::Mutex;

use super::fetch::{Fetch, FetchError};
use super::signature;

/// How long what a provider has said of itself is good, and its keys are.
const FRESH: Duration = Duration::from_secs(3600);

/// How long nobody asks after a failure, at most.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// All that the end of a login asks takes as long as so many questions may at most.
const QUESTIONS: u32 = 3;

/// How long a provider is waited for, and how often it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For each question.
    pub answer: Duration,
    /// After a failure, until the next question; the double after the next one.
    pub pause: Duration,
    /// Between two looks at its keys, where a token is signed by none that is known.
    pub keys: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { answer: seconds(8), pause: seconds(1), keys: seconds(60) }
    }
}

/// How a client is known to a provider.
pub struct Identity {
    pub issuer: String,
    pub client: String,
    pub secret: String,
    pub scopes: Vec<String>,
}

pub struct Provider {
    pub identity: Identity,
    patience: Patience,
    fetch: Fetch,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    about: Option<About>,
    /// Since when it has not answered, how often that was, and how it failed last.
    failed: Option<(Instant, u32, Trouble)>,
}

#[derive(Clone)]
pub struct About {
    pub discovery: Arc<Discovery>,
    pub keys: Arc<Vec<PublicKey>>,
    at: Instant,
}

/// Why a login does not go on that a provider had a part in.
#[derive(Clone, Debug, Error)]
pub enum Trouble {
    #[error("`{url}`: {why}")]
    Unreachable { url: String, why: String },
    #[error("`{url}`: {why}")]
    Late { url: String, why: String },
    #[error("`{url}` answered {status}{}", said(.what))]
    Status { url: String, status: u16, what: String },
    #[error("`{url}`: {why}")]
    Disbelieved { url: String, why: Disbelief },
    /// What somebody came with is no code, or not any more.
    #[error("it does not take the code: {0}")]
    Code(String),
}

fn said(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(": {what}") }
}

/// What a login brings to the end of it.
pub struct Exchange<'a> {
    pub code: &'a str,
    pub verifier: &'a str,
    pub nonce: &'a str,
    pub redirect: &'a str,
    /// In seconds since the Unix epoch.
    pub now: u64,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    #[serde(default)]
    access_token: String,
}

#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Provider {
    pub fn new(identity: Identity, patience: Patience) -> Self {
        let fetch = Fetch::new(patience.answer);
        Self { identity, patience, fetch, known: Mutex::default() }
    }

    /// What is known of it, which is asked for where it is not, or not any more. Who comes meanwhile waits for that.
    pub async fn about(&self) -> Result<About, Trouble> {
        let mut known = self.known.lock().await;
        if let Some(about) = known.about.as_ref().filter(|about| about.at.elapsed() < FRESH) {
            return Ok(about.clone());
        }
        let learnt = match &known.failed {
            Some((at, times, trouble)) if at.elapsed() < self.patience.after(*times) => Err(trouble.clone()),
            _ => self.learn(&mut known).await,
        };
        match (learnt, &known.about) {
            (Err(_), Some(before)) => Ok(before.clone()),
            (learnt, _) => learnt,
        }
    }

    async fn learn(&self, known: &mut Known) -> Result<About, Trouble> {
        match self.ask_about().await {
            Ok(about) => {
                *known = Known { about: Some(about.clone()), failed: None };
                Ok(about)
            }
            Err(trouble) => {
                let times = known.failed.as_ref().map_or(0, |(_, times, _)| *times);
                tracing::warn!(issuer = self.identity.issuer, %trouble, "nobody can log in");
                known.failed = Some((Instant::now(), times.saturating_add(1), trouble.clone()));
                Err(trouble)
            }
        }
    }

    async fn ask_about(&self) -> Result<About, Trouble> {
        let url = Discovery::at(&self.identity.issuer);
        let document = self.get(&url, self.fetch.get(&url)).await?;
        let discovery = Discovery::read(&document, &self.identity.issuer);
        let discovery = discovery.map_err(|why| Trouble::Disbelieved { url, why })?;
        let keys = self.get(&discovery.keys, self.fetch.get(&discovery.keys)).await?;
        let keys = sso::keys(&keys).map_err(|why| Trouble::Disbelieved { url: discovery.keys.clone(), why })?;
        Ok(About { discovery: Arc::new(discovery), keys: Arc::new(keys), at: Instant::now() })
    }

    /// What is known of it after the keys that were known have turned out not to be all.
    async fn about_anew(&self, before: &About) -> Result<Option<About>, Trouble> {
        let mut known = self.known.lock().await;
        match &known.about {
            Some(about) if about.at > before.at => Ok(Some(about.clone())),
            Some(about) if about.at.elapsed() < self.patience.keys => Ok(None),
            _ => self.learn(&mut known).await.map(Some),
        }
    }

    /// Where a browser is sent to log in.
    pub fn address(&self, discovery: &Discovery, asked: &[(&str, &str)]) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("response_type", "code");
        query.append_pair("client_id", &self.identity.client);
        query.append_pair("scope", &self.identity.scopes.join(" "));
        query.extend_pairs(asked);
        let joint = if discovery.authorization.contains('?') { '&' } else { '?' };
        format!("{}{joint}{}", discovery.authorization, query.finish())
    }

    /// Who has logged in, for a code that somebody has brought, and what `rules` have to know of them.
    pub async fn exchange(&self, exchange: &Exchange<'_>, rules: &Rules) -> Result<Claims, Trouble> {
        let limit = self.patience.answer * QUESTIONS;
        let exchanged = tokio::time::timeout(limit, self.exchange_in_time(exchange, rules)).await;
        exchanged.unwrap_or_else(|_| {
            let why = format!("it did not answer all that a login takes within {} s", limit.as_secs());
            Err(Trouble::Late { url: self.identity.issuer.clone(), why })
        })
    }

    async fn exchange_in_time(&self, exchange: &Exchange<'_>, rules: &Rules) -> Result<Claims, Trouble> {
        let about = self.about().await?;
        let tokens = self.tokens(&about.discovery, exchange).await?;
        let mut claims = self.read(&about, &tokens.id_token, exchange).await?;
        if let Some(url) = about.discovery.userinfo.as_ref().filter(|_| rules.need_more(&claims)) {
            let told = self.get(url, self.fetch.get(url).bearer_auth(&tokens.access_token)).await?;
            claims.complete(&told).map_err(|why| Trouble::Disbelieved { url: url.clone(), why })?;
        }
        Ok(claims)
    }

    /// What an id token says that is to be believed.
    async fn read(&self, about: &About, token: &str, exchange: &Exchange<'_>) -> Result<Claims, Trouble> {
        let mut claims = signature::read(token, &about.keys);
        if let Err(Disbelief::NoKey | Disbelief::Signature) = claims
            && let Some(about) = self.about_anew(about).await?
        {
            claims = signature::read(token, &about.keys);
        }
        let disbelieved = |why| Trouble::Disbelieved { url: about.discovery.token.clone(), why };
        let claims = claims.map_err(disbelieved)?;
        let Identity { issuer, client, .. } = &self.identity;
        let expected = Expected { issuer, client, nonce: exchange.nonce, now: exchange.now };
        claims.check(&expected).map_err(disbelieved)?;
        Ok(claims)
    }

    /// The tokens for a code.
    async fn tokens(&self, discovery: &Discovery, exchange: &Exchange<'_>) -> Result<Tokens, Trouble> {
        let url = &discovery.token;
        let (status, body) = self.ask(url, self.question(discovery, exchange)).await?;
        if status == StatusCode::OK {
            let malformed = |_| Disbelief::Malformed("it answers a code with no id token");
            let tokens = serde_json::from_slice(&body).map_err(malformed);
            return tokens.map_err(|why| Trouble::Disbelieved { url: url.clone(), why });
        }
        let refused: Refused = serde_json::from_slice(&body).unwrap_or_default();
        let what: String =
            format!("{} {}", refused.error, refused.error_description).trim().chars().take(200).collect();
        match refused.error.as_str() {
            "invalid_grant" => Err(Trouble::Code(what)),
            _ => Err(Trouble::Status { url: url.clone(), status: status.as_u16(), what }),
        }
    }

    /// What a code is exchanged with (OpenID Connect Core 1.0 section 3.1.3, RFC 7636 section 4.5).
    fn question(&self, discovery: &Discovery, exchange: &Exchange<'_>) -> RequestBuilder {
        let Identity { client, secret, .. } = &self.identity;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", exchange.code)
            .append_pair("redirect_uri", exchange.redirect)
            .append_pair("code_verifier", exchange.verifier);
        let mut question = self.fetch.post(&discovery.token);
        if discovery.basic {
            // Each is encoded as in a form (RFC 6749 section 2.3.1).
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            question = question.basic_auth(encoded(client), Some(encoded(secret)));
        } else {
            form.append_pair("client_id", client).append_pair("client_secret", secret);
        }
        question.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.finish())
    }

    async fn get(&self, url: &str, question: RequestBuilder) -> Result<Bytes, Trouble> {
        match self.ask(url, question).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(Trouble::Status { url: url.to_owned(), status: status.as_u16(), what: String::new() }),
        }
    }

    async fn ask(&self, url: &str, question: RequestBuilder) -> Result<(StatusCode, Bytes), Trouble> {
        self.fetch.ask(question).await.map_err(|error| {
            let (url, why) = (url.to_owned(), error.to_string());
            match error {
                FetchError::Late(_) => Trouble::Late { url, why },
                _ => Trouble::Unreachable { url, why },
            }
        })
    }
}

impl Patience {
    /// How long nobody asks after so many failures.
    fn after(&self, times: u32) -> Duration {
        PAUSE_MAX.min(self.pause * 2_u32.saturating_pow(times.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_does_not_answer_is_left_alone_for_longer_each_time() {
        let patience = Patience::default();
        assert_eq!([1, 2, 3, 7, 100].map(|times| patience.after(times).as_secs()), [1, 2, 4, 60, 60]);
    }
}
