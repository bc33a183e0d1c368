//! TXT records at Hetzner, by the API of its cloud, which has all records of a name and type in one set.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::api::{Api, within};
use super::{Publish, TTL};

pub struct Hetzner(pub Api);

/// What a set has.
enum Set {
    None,
    Others,
    It,
}

impl Hetzner {
    pub const BASE: &str = "https://api.hetzner.cloud/v1";

    /// The path of the zone's sets, the record's name in it, and what the set of that name has.
    async fn find(&self, name: &str, text: &str) -> Result<(String, String, Set), String> {
        let zone = self.0.zone(name, "/zones").await?;
        let (sets, name) = (format!("/zones/{zone}/rrsets"), within(name, &zone).to_owned());
        let found = self.0.get(&format!("{sets}/{name}/TXT")).await?;
        let set = found.map_or(Set::None, |found| {
            let records = found["rrset"]["records"].as_array().map_or(&[][..], Vec::as_slice);
            let has_it = records.iter().any(|record: &Value| record["value"] == text);
            if has_it { Set::It } else { Set::Others }
        });
        Ok((sets, name, set))
    }
}

#[async_trait]
impl Publish for Hetzner {
    async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
        let text = format!("\"{value}\"");
        let (sets, name, set) = self.find(name, &text).await?;
        let records = json!([{ "value": text }]);
        match set {
            Set::None => {
                self.0.post(&sets, json!({ "name": name, "type": "TXT", "ttl": TTL, "records": records })).await
            }
            Set::Others => {
                self.0.post(&format!("{sets}/{name}/TXT/actions/add_records"), json!({ "records": records })).await
            }
            Set::It => Ok(()),
        }
    }

    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
        let text = format!("\"{value}\"");
        match self.find(name, &text).await? {
            (sets, name, Set::It) => {
                let records = json!({ "records": [{ "value": text }] });
                self.0.post(&format!("{sets}/{name}/TXT/actions/remove_records"), records).await
            }
            _ => Ok(()),
        }
    }
}
