//! Volumes of environments, and the templates that they start with. On record before the engine has them, so that what the
//! engine has and is not on record here has lost its environment.

use flyloft_core::name::{AppName, ReleaseNumber};
use flyloft_core::volume::{MountPath, TemplateName};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{EnvId, Store, StoreError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRow {
    pub id: i64,
    pub env: EnvId,
    pub path: MountPath,
    /// Bytes.
    pub size: u64,
    /// What is still to be copied into it.
    pub template: Option<TemplateName>,
    pub created_at: i64,
    /// The release whose `app.json` asked for it; none where people added it, or have changed it since.
    pub asked: Option<ReleaseNumber>,
}

/// See [`VolumeRow`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    pub env: EnvId,
    pub path: MountPath,
    pub size: u64,
    pub template: Option<TemplateName>,
    pub asked: Option<ReleaseNumber>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeTemplateRow {
    pub id: i64,
    pub app: AppName,
    pub name: TemplateName,
    pub ready: bool,
    pub created_at: i64,
}

const VOLUME: &str = "SELECT id, environment, path, size, template, created_at, asked FROM volumes";
const TEMPLATE: &str = "SELECT id, app, name, ready, created_at FROM volume_templates";

impl Store {
    /// Puts a volume on record, unless the environment has one there already, or is gone. Says whether it has.
    pub async fn add_volume(&self, volume: NewVolume, now: i64) -> Result<bool, StoreError> {
        self.call(move |t| {
            let NewVolume { env, path, size, template, asked } = volume;
            let (template, asked) = (template.map(String::from), asked.map(|release| release.0));
            let added = t.execute(
                "INSERT INTO volumes (environment, path, size, template, created_at, asked)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM environments WHERE id = ?1)
                 ON CONFLICT (environment, path) DO NOTHING",
                params![env.0, path.as_str(), size as i64, template, now, asked],
            )?;
            Ok(added == 1)
        })
        .await
    }

    /// It is people's from now on.
    pub async fn resize_volume(&self, id: i64, size: u64) -> Result<(), StoreError> {
        self.change_volume("UPDATE volumes SET size = ?2, asked = NULL WHERE id = ?1", id, Some(size as i64)).await
    }

    /// Forgets what a release asked for, unless people have made it theirs.
    pub async fn forget_asked_volume(
        &self,
        env: EnvId,
        path: MountPath,
        asked: ReleaseNumber,
    ) -> Result<(), StoreError> {
        self.call(move |t| forget_asked(t, env, &path, asked)).await
    }

    /// Forgets what releases asked for that never served, for which this one does not ask; the rest is this one's from now
    /// on. Says whether there was any of that.
    pub async fn inherit_volumes(
        &self,
        env: EnvId,
        release: ReleaseNumber,
        asks: Vec<MountPath>,
    ) -> Result<bool, StoreError> {
        self.call(move |t| {
            let sql = format!(
                "{VOLUME} WHERE environment = ?1 AND asked IN
                 (SELECT number FROM releases WHERE environment = ?1 AND status = 'failed')"
            );
            let rows = all(t, &sql, [env.0], VolumeRow::from_row)?;
            for VolumeRow { id, path, asked, .. } in &rows {
                match asked {
                    Some(asked) if !asks.contains(path) => forget_asked(t, env, path, *asked)?,
                    _ => drop(t.execute("UPDATE volumes SET asked = ?2 WHERE id = ?1", params![id, release.0])?),
                }
            }
            Ok(!rows.is_empty())
        })
        .await
    }

    /// It has all that it was to start with.
    pub async fn volume_is_filled(&self, id: i64) -> Result<(), StoreError> {
        self.change_volume("UPDATE volumes SET template = ?2 WHERE id = ?1", id, None).await
    }

    pub async fn remove_volume(&self, id: i64) -> Result<(), StoreError> {
        self.call(move |t| Ok(t.execute("DELETE FROM volumes WHERE id = ?1", [id]).map(drop)?)).await
    }

    async fn change_volume(&self, sql: &'static str, id: i64, to: Option<i64>) -> Result<(), StoreError> {
        self.call(move |t| Ok(t.execute(sql, params![id, to]).map(drop)?)).await
    }

    pub async fn volumes_of(&self, env: EnvId) -> Result<Vec<VolumeRow>, StoreError> {
        self.call(move |t| {
            all(t, &format!("{VOLUME} WHERE environment = ?1 ORDER BY path"), [env.0], VolumeRow::from_row)
        })
        .await
    }

    pub async fn volumes(&self) -> Result<Vec<VolumeRow>, StoreError> {
        self.call(|t| all(t, &format!("{VOLUME} ORDER BY id"), [], VolumeRow::from_row)).await
    }

    /// Puts a template on record that is about to be made. None if the app has one of that name.
    pub async fn begin_volume_template(
        &self,
        app: &AppName,
        name: TemplateName,
        now: i64,
    ) -> Result<Option<VolumeTemplateRow>, StoreError> {
        let app = app.clone();
        self.call(move |t| {
            let added = t.execute(
                "INSERT OR IGNORE INTO volume_templates (app, name, ready, created_at) VALUES (?, ?, 0, ?)",
                params![app.to_string(), name.as_str(), now],
            )?;
            let id = t.last_insert_rowid();
            Ok((added == 1).then_some(VolumeTemplateRow { id, app, name, ready: false, created_at: now }))
        })
        .await
    }

    pub async fn volume_template_is_ready(&self, id: i64) -> Result<(), StoreError> {
        self.call(move |t| Ok(t.execute("UPDATE volume_templates SET ready = 1 WHERE id = ?1", [id]).map(drop)?)).await
    }

    pub async fn volume_template(
        &self,
        app: &AppName,
        name: &TemplateName,
    ) -> Result<Option<VolumeTemplateRow>, StoreError> {
        let (app, name) = (app.to_string(), name.to_string());
        self.call(move |t| {
            let mut query = t.prepare(&format!("{TEMPLATE} WHERE app = ?1 AND name = ?2"))?;
            query.query_row([app, name], |row| Ok(VolumeTemplateRow::from_row(row))).optional()?.transpose()
        })
        .await
    }

    pub async fn volume_templates_of(&self, app: &AppName) -> Result<Vec<VolumeTemplateRow>, StoreError> {
        let app = app.to_string();
        self.call(move |t| {
            all(t, &format!("{TEMPLATE} WHERE app = ?1 ORDER BY name"), [app], VolumeTemplateRow::from_row)
        })
        .await
    }

    pub async fn volume_templates(&self) -> Result<Vec<VolumeTemplateRow>, StoreError> {
        self.call(|t| all(t, &format!("{TEMPLATE} ORDER BY id"), [], VolumeTemplateRow::from_row)).await
    }

    pub async fn remove_volume_template(&self, id: i64) -> Result<(), StoreError> {
        self.call(move |t| Ok(t.execute("DELETE FROM volume_templates WHERE id = ?1", [id]).map(drop)?)).await
    }

    /// Templates that were under way when the daemon ended are none.
    pub async fn remove_half_made_volume_templates(&self) -> Result<(), StoreError> {
        self.call(move |t| Ok(t.execute("DELETE FROM volume_templates WHERE ready = 0", []).map(drop)?)).await
    }
}

fn all<T>(
    t: &Transaction,
    sql: &str,
    of: impl rusqlite::Params,
    from_row: fn(&Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut query = t.prepare(sql)?;
    let mut rows = query.query(of)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(from_row(row)?);
    }
    Ok(all)
}

/// What was checked when it was written.
fn checked<T: std::str::FromStr<Err = flyloft_core::volume::VolumeError>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| StoreError::Corrupt(format!("{error}")))
}

/// What `scripts.postdeploy` has put there for that release is gone with it, so it runs once more.
fn forget_asked(t: &Transaction, env: EnvId, path: &MountPath, asked: ReleaseNumber) -> Result<(), StoreError> {
    let sql = "DELETE FROM volumes WHERE environment = ?1 AND path = ?2 AND asked = ?3";
    if t.execute(sql, params![env.0, path.as_str(), asked.0])? > 0 {
        t.execute(
            "UPDATE environments SET postdeployed_at = NULL WHERE id = ?1 AND postdeployed_at >=
             (SELECT created_at FROM releases WHERE environment = ?1 AND number = ?2)",
            params![env.0, asked.0],
        )?;
    }
    Ok(())
}

impl VolumeRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get(0)?,
            env: EnvId(row.get(1)?),
            path: checked(&row.get::<_, String>(2)?)?,
            size: row.get::<_, i64>(3)? as u64,
            template: row.get::<_, Option<String>>(4)?.as_deref().map(checked).transpose()?,
            created_at: row.get(5)?,
            asked: row.get::<_, Option<u32>>(6)?.map(ReleaseNumber),
        })
    }
}

impl VolumeTemplateRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get(0)?,
            app: super::name(&row.get::<_, String>(1)?)?,
            name: checked(&row.get::<_, String>(2)?)?,
            ready: row.get(3)?,
            created_at: row.get(4)?,
        })
    }
}
