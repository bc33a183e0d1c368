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
    let all = Cmd::new("nft").args(["-j", "list", "sets", "inet"]).timeout(PATIENCE).run().await?;
    let answer: serde_json::Value = serde_json::from_slice(&all.stdout)?;
    Ok(elements::parse(&answer, table))
}
