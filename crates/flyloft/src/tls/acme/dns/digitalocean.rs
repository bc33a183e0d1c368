//! TXT records at DigitalOcean, by its API of version 2.

use serde_json::json;

use super::TTL;
use super::api::{Api, Found, within};

pub const BASE: &str = "https://api.digitalocean.com/v2";

pub async fn find(api: &Api, name: &str, value: &str) -> Result<Found, String> {
    let zone = api.zone(name, "/domains").await?;
    let records = format!("/domains/{zone}/records");
    let found = api.get(&format!("{records}?type=TXT&name={name}&per_page=200")).await?.unwrap_or_default();
    let record = json!({ "type": "TXT", "name": within(name, &zone), "data": value, "ttl": TTL });
    Ok(Found::among(&found["domain_records"], |record| &record["data"], value, &records, record))
}
