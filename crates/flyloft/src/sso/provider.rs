//! Whom people log in with: what is known of it, and what it is asked.
//!
//! Nothing is asked before somebody logs in. What it says of itself, and its keys, are kept. When they are an hour old
//! they are asked for again, by one for all, and nobody waits for that who can be served with what is known. Where it does
//! not answer, nobody asks it again for a while that grows with each failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flyloft_core::sso::{self, Claims, Disbelief, Discovery, Expected, PublicKey, Rules};
use form_urlencoded::Serializer;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use reqwest::RequestBuilder;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::watch;

use super::fetch::{Fetch, FetchError};
use super::signature;

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
    /// How old what it says of itself may be before it is asked again.
    pub fresh: Duration,
    /// How old that may be before nobody goes by it any more.
    pub good: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            answer: seconds(8),
            pause: seconds(1),
            keys: seconds(60),
            fresh: seconds(3600),
            good: seconds(24 * 3600),
        }
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
    /// It is asked just now.
    asking: Option<Asking>,
}

/// Where its answer comes.
type Asking = watch::Receiver<Option<Result<About, Trouble>>>;

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
    pub fn new(identity: Identity, patience: Patience) -> Arc<Self> {
        let fetch = Fetch::new(patience.answer);
        Arc::new(Self { identity, patience, fetch, known: Mutex::default() })
    }

    /// What is known of it. This waits for its answer only where nothing is that is good.
    pub async fn about(self: &Arc<Self>) -> Result<About, Trouble> {
        let asking = {
            let mut known = self.known();
            match known.about.clone() {
                Some(about) if about.at.elapsed() < self.patience.fresh => return Ok(about),
                Some(about) if about.at.elapsed() < self.patience.good => {
                    // It is there for the next one, or the next but one.
                    let _ = self.learn(&mut known);
                    return Ok(about);
                }
                _ => self.learn(&mut known)?,
            }
        };
        self.learnt(asking).await
    }

    /// Asks what it says of itself, unless that is under way, or has failed a moment ago. It goes on when whoever has had
    /// it asked goes away.
    fn learn(self: &Arc<Self>, known: &mut Known) -> Result<Asking, Trouble> {
        // What went with the thread that asked has been closed.
        if let Some(asking) = known.asking.as_ref().filter(|asking| asking.has_changed().is_ok()) {
            return Ok(asking.clone());
        }
        if let Some((at, times, trouble)) = &known.failed
            && at.elapsed() < self.patience.after(*times)
        {
            return Err(trouble.clone());
        }
        let (answer, asking) = watch::channel(None);
        known.asking = Some(asking.clone());
        let provider = self.clone();
        tokio::spawn(async move {
            let learnt = provider.ask_about().await;
            provider.keep(&learnt);
            answer.send_replace(Some(learnt));
        });
        Ok(asking)
    }

    fn keep(&self, learnt: &Result<About, Trouble>) {
        let mut known = self.known();
        known.asking = None;
        match learnt {
            Ok(about) => (known.about, known.failed) = (Some(about.clone()), None),
            Err(trouble) => {
                let times = known.failed.as_ref().map_or(0, |(_, times, _)| *times);
                tracing::warn!(issuer = self.identity.issuer, %trouble, "the provider of logins does not answer");
                known.failed = Some((Instant::now(), times.saturating_add(1), trouble.clone()));
            }
        }
    }

    async fn learnt(&self, mut asking: Asking) -> Result<About, Trouble> {
        let learnt = asking.wait_for(Option::is_some).await.ok().and_then(|learnt| learnt.clone());
        learnt.unwrap_or_else(|| {
            let why = "nobody asks it any more, since the daemon ends".to_owned();
            Err(Trouble::Unreachable { url: self.identity.issuer.clone(), why })
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn about_anew(self: &Arc<Self>, before: &About) -> Result<Option<About>, Trouble> {
        let asking = {
            let mut known = self.known();
            match &known.about {
                Some(about) if about.at > before.at => return Ok(Some(about.clone())),
                Some(about) if about.at.elapsed() < self.patience.keys => return Ok(None),
                _ => self.learn(&mut known)?,
            }
        };
        self.learnt(asking).await.map(Some)
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
    pub async fn exchange(self: &Arc<Self>, exchange: &Exchange<'_>, rules: &Rules) -> Result<Claims, Trouble> {
        let limit = self.patience.answer * QUESTIONS;
        let exchanged = tokio::time::timeout(limit, self.exchange_in_time(exchange, rules)).await;
        exchanged.unwrap_or_else(|_| {
            let why = format!("it did not answer all that a login takes within {} s", limit.as_secs());
            Err(Trouble::Late { url: self.identity.issuer.clone(), why })
        })
    }

    async fn exchange_in_time(self: &Arc<Self>, exchange: &Exchange<'_>, rules: &Rules) -> Result<Claims, Trouble> {
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
    async fn read(self: &Arc<Self>, about: &About, token: &str, exchange: &Exchange<'_>) -> Result<Claims, Trouble> {
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
