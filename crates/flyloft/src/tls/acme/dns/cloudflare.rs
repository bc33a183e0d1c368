//! TXT records at Cloudflare, by its API of version 4.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::api::Api;
use super::{Publish, TTL};

pub struct Cloudflare(pub Api);

impl Cloudflare {
    pub const BASE: &str = "https://api.cloudflare.com/client/v4";

    /// The id of the zone.
    async fn zone(&self, name: &str) -> Result<String, String> {
        for zone in self.0.zones(name) {
            let found = self.0.get(&format!("/zones?name={zone}")).await?.unwrap_or_default();
            if let Some(id) = found["result"][0]["id"].as_str() {
                return Ok(id.to_owned());
            }
        }
        Err(self.0.no_zone(name))
    }

    /// The zone's id, and those of the records of this name and text that are in it.
    async fn find(&self, name: &str, value: &str) -> Result<(String, Vec<String>), String> {
        let zone = self.zone(name).await?;
        let found = self.0.get(&format!("/zones/{zone}/dns_records?type=TXT&name={name}&per_page=100")).await?;
        let found = found.unwrap_or_default();
        let records = found["result"].as_array().map_or(&[][..], Vec::as_slice);
        // In quotes, or not, as it was written.
        let is_it = |record: &&Value| record["content"].as_str().is_some_and(|text| text.trim_matches('"') == value);
        let ids = records.iter().filter(is_it).filter_map(|record| Some(record["id"].as_str()?.to_owned())).collect();
        Ok((zone, ids))
    }
}

#[async_trait]
impl Publish for Cloudflare {
    async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
        let (zone, found) = self.find(name, value).await?;
        if !found.is_empty() {
            return Ok(());
        }
        let record = json!({ "type": "TXT", "name": name, "content": format!("\"{value}\""), "ttl": TTL });
        self.0.post(&format!("/zones/{zone}/dns_records"), record).await
    }

    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
        let (zone, found) = self.find(name, value).await?;
        for id in found {
            self.0.delete(&format!("/zones/{zone}/dns_records/{id}")).await?;
        }
        Ok(())
    }
}
