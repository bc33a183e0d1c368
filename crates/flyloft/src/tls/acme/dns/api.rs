//! The way to providers that publish records by HTTP and JSON, with a token out of a file.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::secret;
use crate::outgoing::{self, root};
use crate::tls::trust;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of an answer.
const ANSWER: usize = 1 << 20;

pub struct Api {
    /// What people call the provider.
    pub name: &'static str,
    /// What all addresses begin with.
    pub base: String,
    /// The file with the token.
    pub token: PathBuf,
    /// That records are put into. Empty: the longest one that the provider has.
    pub zone: String,
}

impl Api {
    pub async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        self.call(Method::GET, path, None).await
    }

    /// What is there afterwards has to be, so that nothing is an error.
    pub async fn post(&self, path: &str, body: Value) -> Result<(), String> {
        let done = self.call(Method::POST, path, Some(body)).await?;
        done.map(drop).ok_or_else(|| format!("{} does not know `{path}`", self.name))
    }

    /// What is not there is gone.
    pub async fn delete(&self, path: &str) -> Result<(), String> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    /// What the provider answers. None: there is no such thing.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Option<Value>, String> {
        let unreached = |error| format!("failed to reach {} at `{}`: {}", self.name, self.base, root(&error));
        let http = outgoing::client(trust::client(trust::machine()), LIMIT).build().map_err(unreached)?;
        let request = http.request(method, format!("{}{path}", self.base)).bearer_auth(secret(&self.token)?);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = outgoing::whole(request.send().await.map_err(unreached)?, ANSWER).await;
        let answer = answer.map_err(|error| format!("the answer of {} broke off: {error}", self.name))?;
        let said = serde_json::from_slice(answer.body());
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::NO_CONTENT => Ok(Some(Value::Null)),
            status if status.is_success() => {
                said.map(Some).map_err(|_| format!("{} answered something else than JSON", self.name))
            }
            status => Err(format!("{} answered {}: {}", self.name, status.as_u16(), words(&said.unwrap_or_default()))),
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
        format!("{} has no zone {}, or the token is not for it", self.name, zones.join(" or "))
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
