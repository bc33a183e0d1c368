//! The way to providers that publish records by HTTP and JSON, with a token out of a file.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{Publish, cloudflare, digitalocean, hetzner, secret};
use crate::outgoing::{self, root};
use crate::tls::trust;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of an answer.
const ANSWER: usize = 1 << 20;

/// Whose ways of records are known.
#[derive(Clone, Copy, Debug)]
pub enum Provider {
    Cloudflare,
    DigitalOcean,
    Hetzner,
}

pub struct Api {
    pub provider: Provider,
    /// What all addresses begin with.
    pub base: String,
    /// The file with the token.
    pub token: PathBuf,
    /// That records are put into. Empty: the longest one that the provider has.
    pub zone: String,
}

/// Whether a record is there, and what a provider is asked to do for that to change.
pub enum Found {
    There(Vec<Step>),
    Missing(Step),
}

pub enum Step {
    Post(String, Value),
    Delete(String),
}

impl Provider {
    /// What people call it.
    fn name(self) -> &'static str {
        match self {
            Provider::Cloudflare => "Cloudflare",
            Provider::DigitalOcean => "DigitalOcean",
            Provider::Hetzner => "Hetzner",
        }
    }

    pub fn base(self) -> &'static str {
        match self {
            Provider::Cloudflare => cloudflare::BASE,
            Provider::DigitalOcean => digitalocean::BASE,
            Provider::Hetzner => hetzner::BASE,
        }
    }
}

impl Found {
    /// For a provider that has a list of records, each with an id at the path `at`, and takes a `new` one there.
    pub fn among(list: &Value, text: impl Fn(&Value) -> &Value, value: &str, at: &str, new: Value) -> Self {
        // In quotes, or not, as it was written.
        let is_it = |record: &&Value| text(record).as_str().is_some_and(|text| text.trim_matches('"') == value);
        let delete = |record: &Value| match &record["id"] {
            Value::String(id) => Some(Step::Delete(format!("{at}/{id}"))),
            Value::Number(id) => Some(Step::Delete(format!("{at}/{id}"))),
            _ => None,
        };
        let there: Vec<Step> = list.as_array().into_iter().flatten().filter(is_it).filter_map(delete).collect();
        if there.is_empty() { Found::Missing(Step::Post(at.to_owned(), new)) } else { Found::There(there) }
    }
}

#[async_trait]
impl Publish for Api {
    async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
        match self.find(name, value).await? {
            Found::There(_) => Ok(()),
            Found::Missing(step) => self.take(step).await,
        }
    }

    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
        if let Found::There(steps) = self.find(name, value).await? {
            for step in steps {
                self.take(step).await?;
            }
        }
        Ok(())
    }
}

impl Api {
    async fn find(&self, name: &str, value: &str) -> Result<Found, String> {
        match self.provider {
            Provider::Cloudflare => cloudflare::find(self, name, value).await,
            Provider::DigitalOcean => digitalocean::find(self, name, value).await,
            Provider::Hetzner => hetzner::find(self, name, value).await,
        }
    }

    async fn take(&self, step: Step) -> Result<(), String> {
        match step {
            // What is there afterwards has to be, so that nothing is an error.
            Step::Post(path, body) => {
                let done = self.call(Method::POST, &path, Some(body)).await?;
                done.map(drop).ok_or_else(|| format!("{} does not know `{path}`", self.provider.name()))
            }
            // What is not there is gone.
            Step::Delete(path) => self.call(Method::DELETE, &path, None).await.map(drop),
        }
    }

    pub async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        self.call(Method::GET, path, None).await
    }

    /// What the provider answers. None: there is no such thing.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Option<Value>, String> {
        let name = self.provider.name();
        let unreached = |error| format!("failed to reach {name} at `{}`: {}", self.base, root(&error));
        let http = outgoing::client(trust::client(trust::machine()), LIMIT).build().map_err(unreached)?;
        let request = http.request(method, format!("{}{path}", self.base)).bearer_auth(secret(&self.token)?);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = outgoing::whole(request.send().await.map_err(unreached)?, ANSWER).await;
        let answer = answer.map_err(|error| format!("the answer of {name} broke off: {error}"))?;
        let said = serde_json::from_slice(answer.body());
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::NO_CONTENT => Ok(Some(Value::Null)),
            status if status.is_success() => {
                said.map(Some).map_err(|_| format!("{name} answered something else than JSON"))
            }
            status => Err(format!("{name} answered {}: {}", status.as_u16(), words(&said.unwrap_or_default()))),
        }
    }

    /// Zones that a record may be in, the longest first.
    pub fn zones<'a>(&'a self, record: &'a str) -> impl Iterator<Item = &'a str> {
        let found = std::iter::successors(record.split_once('.'), |(_, rest)| rest.split_once('.'));
        let found = found.map(|(_, zone)| zone).filter(move |zone| zone.contains('.') && self.zone.is_empty());
        Some(self.zone.as_str()).filter(|zone| !zone.is_empty()).into_iter().chain(found)
    }

    /// The longest zone that the provider has below `path`, by name.
    pub async fn zone(&self, record: &str, path: &str) -> Result<String, String> {
        for zone in self.zones(record) {
            if self.get(&format!("{path}/{zone}")).await?.is_some() {
                return Ok(zone.to_owned());
            }
        }
        Err(self.no_zone(record))
    }

    pub fn no_zone(&self, record: &str) -> String {
        let zones: Vec<String> = self.zones(record).map(|zone| format!("`{zone}`")).collect();
        format!("{} has no zone {}, or the token is not for it", self.provider.name(), zones.join(" or "))
    }
}

/// The name of a record as it is written in its zone.
pub fn within<'a>(record: &'a str, zone: &str) -> &'a str {
    record.strip_suffix(zone).and_then(|name| name.strip_suffix('.')).unwrap_or(record)
}

/// Why a provider has refused, in its own words.
fn words(said: &Value) -> &str {
    let places = [&said["message"], &said["error"]["message"], &said["errors"][0]["message"]];
    places.into_iter().find_map(Value::as_str).unwrap_or("it does not say why")
}
