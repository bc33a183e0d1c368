//! Connections that frozen apps leave open on servers. They are ended from the server's side once their environment has
//! rested for a while, so that a thousand sleepers hold none.
//!
//! A turn looks at those alone that came to rest since the last one, with one query, and talks to each server that has
//! something of theirs once. So what sleeps for long costs nothing, however much of it there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::lifecycle::Timestamp;

use super::{label, server_of};
use crate::error::{OrFailed, Result};
use crate::parts::Parts;
use crate::store::ServiceRow;

/// So much later than it came to rest something may be noted to rest: requests are let end before.
const LATE: Duration = Duration::from_secs(120);

/// What has been ended, and what has not yet.
pub struct Sleepers {
    grace: Duration,
    /// Who came to rest until then has been looked at.
    looked_until: Timestamp,
    /// Services without a connection since their environment came to rest at that moment, as far as they may be met again.
    ended: BTreeMap<i64, Timestamp>,
    /// Services that may have some.
    open: BTreeSet<i64>,
    /// Servers that did not do it when they were last asked.
    failing: BTreeSet<String>,
}

/// Ends connections of what rests, for as long as the daemon runs.
pub async fn hang_up_for_ever(parts: Arc<Parts>) {
    let Some(grace) = parts.settings.services.grace else { return };
    let mut sleepers = Sleepers::new(grace);
    let pause = (grace / 4).clamp(Duration::from_secs(1), Duration::from_secs(15));
    loop {
        if let Err(error) = sleepers.turn(&parts).await {
            tracing::warn!(%error, "failed to look for connections of what rests");
        }
        tokio::time::sleep(pause).await;
    }
}

impl Sleepers {
    pub fn new(grace: Duration) -> Self {
        let (ended, open, failing) = Default::default();
        Self { grace, looked_until: Timestamp(0), ended, open, failing }
    }

    pub async fn turn(&mut self, parts: &Parts) -> Result<()> {
        let until = parts.clock.now().minus(self.grace);
        let after = self.looked_until.minus(LATE);
        let rows = parts.store.services_at_rest(after, until, &self.open).await;
        let rows = rows.or_failed(|| "failed to list what has come to rest")?;
        self.looked_until = self.looked_until.max(until);
        self.ended.retain(|_, since| *since > after);
        // What has woken meanwhile is not among the rows.
        self.open.clear();
        let mut servers = BTreeMap::<String, Vec<(ServiceRow, Timestamp)>>::new();
        for (row, since) in rows {
            if parts.clients.are(&row.name) {
                // Somebody works there, and will have ended some time.
                self.open.insert(row.id);
            } else if self.ended.get(&row.id) != Some(&since) {
                servers.entry(row.server.clone()).or_default().push((row, since));
            }
        }
        for (server, rows) in servers {
            match self.hang_up(parts, &rows).await {
                Ok(left) => {
                    self.failing.remove(&server);
                    let (open, quiet): (Vec<_>, Vec<_>) = rows.iter().partition(|(row, _)| left.contains(&row.name));
                    self.open.extend(open.iter().map(|(row, _)| row.id));
                    self.ended.extend(quiet.iter().map(|(row, since)| (row.id, *since)));
                }
                Err(error) => {
                    self.open.extend(rows.iter().map(|(row, _)| row.id));
                    if self.failing.insert(server.clone()) {
                        tracing::warn!(server, %error, "failed to end connections of what rests; it is tried again");
                    }
                }
            }
        }
        Ok(())
    }

    /// Those of one server. Gives the names of what still has some.
    async fn hang_up(&self, parts: &Parts, rows: &[(ServiceRow, Timestamp)]) -> Result<Vec<String>> {
        let Some((first, _)) = rows.first() else { return Ok(Vec::new()) };
        let server = server_of(parts, first).await?;
        let labels: Vec<_> = rows.iter().map(|(row, _)| label(parts, row)).collect();
        // Less than the time for which it has rested: a request may have ended a moment after that began.
        Ok(parts.services.of(first.ask.kind).hang_up(&server, &labels, self.grace / 2).await?)
    }
}
