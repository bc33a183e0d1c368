//! Connections that nobody uses any more, and their end.

use std::time::Duration;

use super::{Session, fault_of};
use crate::service::{Label, ServiceError};

/// What is quiet is told by the server's own clock, so that an app that has just woken, and talks to it, is not cut off. A
/// statement that runs is never quiet.
/// A role that somebody else has made under the name since is not ours.
const HANG_UP: &str = "
    SELECT name FROM (
        SELECT ours.name, CASE
            WHEN there.state NOT IN ('active', 'fastpath function call')
            AND clock_timestamp() - greatest(there.backend_start, there.state_change) >= $3::float8 * interval '1 millisecond'
            THEN pg_terminate_backend(there.pid) ELSE false END AS ended
        FROM pg_stat_activity there JOIN unnest($1::text[], $2::text[]) AS ours (name, said)
        ON there.usename = ours.name AND shobj_description(there.usesysid, 'pg_authid') = ours.said
        WHERE there.backend_type = 'client backend'
    ) found GROUP BY name HAVING NOT bool_and(ended)";

impl Session<'_> {
    /// Ends those of these roles on which nothing has happened for so long, in one statement. Gives the names of roles
    /// that have others.
    pub(super) async fn hang_up(&self, labels: &[Label], quiet: Duration) -> Result<Vec<String>, ServiceError> {
        let names: Vec<&str> = labels.iter().map(|label| label.name.as_str()).collect();
        let texts: Vec<&str> = labels.iter().map(|label| label.text.as_str()).collect();
        let millis = quiet.as_secs_f64() * 1e3;
        let rows = self.client.query(HANG_UP, &[&names, &texts, &millis]).await;
        let rows = rows.map_err(|error| fault_of(self.server, error, "end connections of others"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
