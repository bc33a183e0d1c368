//! Where the branch or pull request that an environment follows is looked at, for `flyloft show`.

use flyloft_core::name::CommitId;
use serde::Serialize;

use super::Api;
use super::reply::{age, as_time_if_any};
use crate::error::{OrFailed, Result};
use crate::store::{self, EnvRow};

#[derive(Serialize)]
pub(super) struct SourceItem {
    url: String,
    /// Where it was when it was last staged.
    commit: CommitId,
    /// When it was last looked at since the daemon was started.
    #[serde(serialize_with = "as_time_if_any")]
    looked_at: Option<i64>,
    /// Whether it was not there then.
    missing: bool,
}

impl SourceItem {
    pub(super) fn said(&self) -> String {
        let looked = match self.looked_at {
            Some(at) => format!("looked at {} ago", age(at, store::now())),
            None => "not looked at since the daemon was started".to_owned(),
        };
        let missing = if self.missing { ", and not found" } else { "" };
        format!("of {}, {looked}{missing}", self.url)
    }
}

impl Api {
    pub(super) async fn source_of(&self, env: &EnvRow) -> Result<Option<SourceItem>> {
        let row = self.loft.parts.store.followed_by(env.id).await;
        let row = row.or_failed(|| format!("failed to see what `{}` follows", env.name))?;
        Ok(row.map(|row| SourceItem {
            looked_at: self.loft.follows.looked_at(row.id),
            missing: row.missing.is_some(),
            url: row.url,
            commit: row.head,
        }))
    }
}
