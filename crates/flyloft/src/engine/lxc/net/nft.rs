//! Talking to nftables: transactions in its own language, answers in JSON (libnftables-json(5)).

use std::collections::BTreeMap;
use std::time::Duration;

use super::NetError;
use super::elements::{self, Admitted};
use crate::exec::Cmd;

/// It answers in milliseconds; more means that it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Applies all of it or nothing.
pub async fn apply(script: &str) -> Result<(), NetError> {
    if script.is_empty() {
        return Ok(());
    }
    Cmd::new("nft").args(["-f", "-"]).stdin(script).timeout(PATIENCE).run().await?;
    Ok(())
}

/// What the table admits now; nothing where there is no table.
pub async fn admitted(table: &str) -> Result<BTreeMap<String, Admitted>, NetError> {
    let (sets, maps) = (list(&["sets", "inet"]).await?, list(&["maps", "inet"]).await?);
    Ok(elements::parse(&sets, &maps, table))
}

/// How many packets with something in them have gone to each link that has ports that are published.
pub async fn counts(table: &str) -> Result<BTreeMap<String, u64>, NetError> {
    Ok(elements::parse_counts(&list(&["set", "inet", table, "used"]).await?, table))
}

async fn list(what: &[&str]) -> Result<serde_json::Value, NetError> {
    let listed = Cmd::new("nft").args(["-j", "list"]).args(what).timeout(PATIENCE).run().await?;
    Ok(serde_json::from_slice(&listed.stdout)?)
}
