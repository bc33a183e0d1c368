//! What happened, for people: `flyloft events`. Never holds the value of a variable.

use flyloft_core::name::{AppName, EnvName, EnvRef};
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, name};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    AppCreated,
    AppRemoved,
    DeployStarted,
    DeploySucceeded,
    DeployFailed,
    ConfigChanged,
    /// Of a database, by somebody.
    DataReplaced,
    Scaled,
    SettingsChanged,
    /// Somebody has made a link to it, or all of them were revoked.
    Shared,
    LinksRevoked,
    /// Somebody has logged in at its gate, for the first time.
    LoggedIn,
    VolumesChanged,
    PortsChanged,
    Stopped,
    /// It ended by itself.
    Crashed,
    SleepFailed,
    /// Its image and its disk were given up to make room, and it was built anew, or could not be.
    Cleared,
    Rebuilt,
    RebuildFailed,
    /// What was kept for later was given up to make room.
    ReleaseDropped,
    CacheDropped,
    /// It sleeps, and its memory could not be moved, or not all of it.
    MemoryKept,
    WakeFailed,
    /// `scripts.pr-predestroy` did not end well.
    FarewellFailed,
    Destroyed,
    /// Of an app: what takes its requests does not do so, or not as it was told.
    EdgeFailed,
    EdgeWorks,
    SnippetRefused,
    SnippetTaken,
    /// Of an app: a certificate for TLS is not what it should be, or will not be before long.
    CertificateFailed,
    CertificateWorks,
    HostChanged,
    HostTaken,
    /// What an environment follows has moved to where a person has to look first.
    SourceMoved,
    SourceGone,
    /// Of an app: the repository that its environments follow cannot be read.
    FollowFailed,
    FollowWorks,
    /// Its branch is pushed from now on.
    FollowEnded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub id: i64,
    pub at: i64,
    pub app: AppName,
    pub env: Option<EnvName>,
    pub kind: String,
    /// The key's name, or the system user's.
    pub by: String,
    pub text: String,
}

/// Older events than the newest of this number are dropped.
const KEPT: i64 = 10_000;

impl Store {
    pub async fn tell(
        &self,
        app: &AppName,
        env: Option<&EnvName>,
        kind: EventKind,
        by: &str,
        text: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        let (app, env) = (app.to_string(), env.map(|env| env.to_string()));
        let (by, text) = (by.to_owned(), text.to_owned());
        self.note(move |t| {
            t.execute(
                "INSERT INTO events (at, app, environment, kind, by, text) VALUES (?, ?, ?, ?, ?, ?)",
                params![now, app, env, kind.as_str(), by, text],
            )?;
            t.execute("DELETE FROM events WHERE id <= ?1", [t.last_insert_rowid() - KEPT])?;
            Ok(())
        })
        .await
    }

    /// The newest event of an environment, or of an app itself, that is of one of these kinds: its kind and its text.
    pub async fn newest_event(
        &self,
        app: &AppName,
        env: Option<&EnvName>,
        kinds: [EventKind; 3],
    ) -> Result<Option<(String, String)>, StoreError> {
        let (app, env) = (app.to_string(), env.map(|env| env.to_string()));
        self.call(move |t| {
            let sql = "SELECT kind, text FROM events WHERE app = ?1 AND environment IS ?2 AND kind IN (?3, ?4, ?5)
                       ORDER BY id DESC LIMIT 1";
            let [first, second, third] = kinds.map(EventKind::as_str);
            Ok(t.query_row(sql, params![app, env, first, second, third], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?)
        })
        .await
    }

    /// Tells that somebody has logged in at the gate of an environment, unless that was told before of this environment.
    pub async fn tell_first_login(&self, env: &EnvRef, who: &str, now: i64) -> Result<(), StoreError> {
        let (app, name, by) = (env.app.to_string(), env.env.to_string(), who.to_owned());
        let known = self
            .call(move |t| {
                // An earlier one of this name is another one.
                let sql = "SELECT EXISTS (SELECT 1 FROM events WHERE app = ?1 AND environment = ?2 AND kind = ?3 AND by = ?4
                           AND id > (SELECT coalesce(max(id), 0) FROM events
                                     WHERE app = ?1 AND (environment = ?2 OR environment IS NULL) AND kind IN (?5, ?6)))";
                let [kind, ends, gone] =
                    [EventKind::LoggedIn, EventKind::Destroyed, EventKind::AppRemoved].map(EventKind::as_str);
                Ok(t.query_row(sql, params![app, name, kind, by, ends, gone], |row| row.get::<_, bool>(0))?)
            })
            .await?;
        match known {
            true => Ok(()),
            false => self.tell(&env.app, Some(&env.env), EventKind::LoggedIn, who, "for the first time", now).await,
        }
    }

    /// Tells of something of an app's that fails, unless that was the last word about it; or that it works, if it was.
    pub async fn tell_turn(
        &self,
        app: &AppName,
        [fails, works]: [EventKind; 2],
        well: bool,
        (by, text): (&str, &str),
        now: i64,
    ) -> Result<(), StoreError> {
        // The last word about an earlier app of this name was its end.
        let newest = self.newest_event(app, None, [fails, works, EventKind::AppRemoved]).await?;
        let failed = newest.is_some_and(|(kind, _)| kind == fails.as_str());
        match failed == well {
            true => self.tell(app, None, if well { works } else { fails }, by, text, now).await,
            false => Ok(()),
        }
    }

    /// The newest `limit` events after `after`, oldest first; of one app or environment where named.
    pub async fn events(
        &self,
        app: Option<&AppName>,
        env: Option<&EnvName>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let (app, env) = (app.map(|app| app.to_string()), env.map(|env| env.to_string()));
        self.call(move |t| {
            let mut query = t.prepare(
                "SELECT id, at, app, environment, kind, by, text FROM events
                 WHERE id > ?1 AND (?2 IS NULL OR app = ?2) AND (?3 IS NULL OR environment = ?3)
                 ORDER BY id DESC LIMIT ?4",
            )?;
            let mut rows = query.query(params![after, app, env, limit])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                let env: Option<String> = row.get(3)?;
                events.push(EventRow {
                    id: row.get(0)?,
                    at: row.get(1)?,
                    app: name(&row.get::<_, String>(2)?)?,
                    env: env.map(|env| name(&env)).transpose()?,
                    kind: row.get(4)?,
                    by: row.get(5)?,
                    text: row.get(6)?,
                });
            }
            events.reverse();
            Ok(events)
        })
        .await
    }
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::AppCreated => "app-created",
            EventKind::AppRemoved => "app-removed",
            EventKind::DeployStarted => "deploy-started",
            EventKind::DeploySucceeded => "deploy-succeeded",
            EventKind::DeployFailed => "deploy-failed",
            EventKind::ConfigChanged => "config-changed",
            EventKind::DataReplaced => "data-replaced",
            EventKind::Scaled => "scaled",
            EventKind::SettingsChanged => "settings-changed",
            EventKind::Shared => "shared",
            EventKind::LinksRevoked => "links-revoked",
            EventKind::LoggedIn => "logged-in",
            EventKind::VolumesChanged => "volumes-changed",
            EventKind::PortsChanged => "ports-changed",
            EventKind::Stopped => "stopped",
            EventKind::Crashed => "crashed",
            EventKind::SleepFailed => "sleep-failed",
            EventKind::Cleared => "cleared",
            EventKind::Rebuilt => "rebuilt",
            EventKind::RebuildFailed => "rebuild-failed",
            EventKind::ReleaseDropped => "release-dropped",
            EventKind::CacheDropped => "cache-dropped",
            EventKind::MemoryKept => "memory-kept",
            EventKind::WakeFailed => "wake-failed",
            EventKind::FarewellFailed => "farewell-failed",
            EventKind::Destroyed => "destroyed",
            EventKind::EdgeFailed => "edge-failed",
            EventKind::EdgeWorks => "edge-works",
            EventKind::SnippetRefused => "snippet-refused",
            EventKind::SnippetTaken => "snippet-taken",
            EventKind::CertificateFailed => "certificate-failed",
            EventKind::CertificateWorks => "certificate-works",
            EventKind::HostChanged => "host-changed",
            EventKind::HostTaken => "host-taken",
            EventKind::SourceMoved => "source-moved",
            EventKind::SourceGone => "source-gone",
            EventKind::FollowFailed => "follow-failed",
            EventKind::FollowWorks => "follow-works",
            EventKind::FollowEnded => "follow-ended",
        }
    }
}
