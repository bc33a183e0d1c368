//! TXT records at Cloudflare, by its API of version 4.

use serde_json::json;

use super::TTL;
use super::api::{Api, Found};

pub const BASE: &str = "https://api.cloudflare.com/client/v4";

pub async fn find(api: &Api, name: &str, value: &str) -> Result<Found, String> {
    let records = format!("/zones/{}/dns_records", zone(api, name).await?);
    let found = api.get(&format!("{records}?type=TXT&name={name}&per_page=100")).await?.unwrap_or_default();
    let record = json!({ "type": "TXT", "name": name, "content": format!("\"{value}\""), "ttl": TTL });
    Ok(Found::among(&found["result"], |record| &record["content"], value, &records, record))
}

/// The id of the zone.
async fn zone(api: &Api, name: &str) -> Result<String, String> {
    for zone in api.zones(name) {
        let found = api.get(&format!("/zones?name={zone}")).await?.unwrap_or_default();
        if let Some(id) = found["result"][0]["id"].as_str() {
            return Ok(id.to_owned());
        }
    }
    Err(api.no_zone(name))
}
