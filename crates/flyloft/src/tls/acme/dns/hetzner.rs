//! TXT records at Hetzner, by the API of its cloud, which has all records of a name and type in one set.

use serde_json::json;

use super::TTL;
use super::api::{Api, Found, Step, within};

pub const BASE: &str = "https://api.hetzner.cloud/v1";

pub async fn find(api: &Api, name: &str, value: &str) -> Result<Found, String> {
    let zone = api.zone(name, "/zones").await?;
    let (sets, name, text) = (format!("/zones/{zone}/rrsets"), within(name, &zone), format!("\"{value}\""));
    let records = json!([{ "value": text }]);
    let Some(found) = api.get(&format!("{sets}/{name}/TXT")).await? else {
        let set = json!({ "name": name, "type": "TXT", "ttl": TTL, "records": records });
        return Ok(Found::Missing(Step::Post(sets, set)));
    };
    let has_it = found["rrset"]["records"].as_array().is_some_and(|all| all.iter().any(|one| one["value"] == text));
    let act = |act: &str| Step::Post(format!("{sets}/{name}/TXT/actions/{act}"), json!({ "records": records }));
    Ok(if has_it { Found::There(vec![act("remove_records")]) } else { Found::Missing(act("add_records")) })
}
