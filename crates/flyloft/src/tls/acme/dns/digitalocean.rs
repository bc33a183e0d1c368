//! TXT records at DigitalOcean, by its API of version 2.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::api::{Api, within};
use super::{Publish, TTL};

pub struct DigitalOcean(pub Api);

impl DigitalOcean {
    pub const BASE: &str = "https://api.digitalocean.com/v2";

    /// The zone, and the records of this name and text that are in it.
    async fn find(&self, name: &str, value: &str) -> Result<(String, Vec<u64>), String> {
        let zone = self.0.zone(name, "/domains").await?;
        let found = self.0.get(&format!("/domains/{zone}/records?type=TXT&name={name}&per_page=200")).await?;
        let found = found.unwrap_or_default();
        let records = found["domain_records"].as_array().map_or(&[][..], Vec::as_slice);
        let is_it = |record: &&Value| record["data"].as_str().is_some_and(|data| data.trim_matches('"') == value);
        let ids = records.iter().filter(is_it).filter_map(|record| record["id"].as_u64()).collect();
        Ok((zone, ids))
    }
}

#[async_trait]
impl Publish for DigitalOcean {
    async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
        let (zone, found) = self.find(name, value).await?;
        if !found.is_empty() {
            return Ok(());
        }
        let record = json!({ "type": "TXT", "name": within(name, &zone), "data": value, "ttl": TTL });
        self.0.post(&format!("/domains/{zone}/records"), record).await
    }

    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
        let (zone, found) = self.find(name, value).await?;
        for id in found {
            self.0.delete(&format!("/domains/{zone}/records/{id}")).await?;
        }
        Ok(())
    }
}
