//! `flyloft apps set` and `flyloft set`: what holds for environments, level by level.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use flyloft_core::gate::Gate;
use flyloft_core::lifecycle;
use flyloft_core::name::EnvRef;
use flyloft_core::policy::{Key, Levels, Settings};
use serde::Serialize;

use super::reply::{Reply, table};
use super::{Api, Call, Ending};
use crate::command::{AppsSet, Assignment, Set};
use crate::error::{Error, Kind, OrFailed, Result};
use crate::loft::NOTING;
use crate::principal::Role;
use crate::store::{self, EnvRow, EventKind};

/// What goes so soon is gone before anybody could take back what destroys it.
const AT_ONCE: Duration = Duration::from_secs(60);

/// How many environments are named in a question.
const NAMED: usize = 5;

#[derive(Serialize)]
struct SettingList {
    settings: BTreeMap<&'static str, SettingItem>,
    /// Settings that were changed and hold from the next launch on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    at_next_launch: Vec<&'static str>,
    /// What is launched anew by hand.
    #[serde(skip)]
    target: String,
}

#[derive(Serialize)]
pub(super) struct SettingItem {
    pub value: String,
    /// `built in`, `server`, `app.json`, `app`, `environment`
    pub from: String,
}

/// What holds, and who says so.
pub(super) fn items(levels: &Levels) -> BTreeMap<&'static str, SettingItem> {
    let item = |key| {
        let (value, from) = levels.of(key);
        SettingItem { value, from: from.to_string() }
    };
    Key::ALL.into_iter().map(|key| (key.as_str(), item(key))).collect()
}

impl Reply for SettingList {
    fn text(&self) -> String {
        let row = |key: Key| {
            let SettingItem { value, from } = &self.settings[key.as_str()];
            [key.to_string(), value.clone(), from.clone()]
        };
        let mut text = table(["SETTING", "VALUE", "FROM"], Key::ALL.map(row));
        if !self.at_next_launch.is_empty() {
            let (keys, target) = (self.at_next_launch.join(", "), &self.target);
            text.push_str(&format!("{keys}: from the next launch on, or at once: flyloft restart {target}\n"));
        }
        text
    }
}

impl Api {
    pub(super) async fn set_app(&self, call: &mut Call<'_>, set: AppsSet) -> Result<Ending> {
        let AppsSet { app, settings, yes } = set;
        call.must_use(&app)?;
        self.must_exist(&app).await?;
        if !yes {
            let environments = self.environments_of(&app).await?;
            self.confirm_ends(call, environments, |row| &mut row.app_settings, &settings).await?;
        }
        let _one_at_a_time = self.setting.lock().await;
        let parts = &self.loft.parts;
        let failed = || format!("failed to change the settings of `{app}`");
        let row = parts.store.app(&app).await.or_failed(failed)?;
        let before = row.map(|row| row.settings).unwrap_or_default();
        let levels = |app| Levels { server: parts.settings.defaults.clone(), app, ..Levels::default() };
        let changed = self.changed(call, &before, &settings)?;
        if changed != before {
            parts.store.set_app_settings(&app, &changed).await.or_failed(failed)?;
            let text = said(&settings);
            let told = parts.store.tell(&app, None, EventKind::SettingsChanged, call.by(), &text, store::now());
            told.await.or_failed(failed)?;
        }
        // Also where nothing is new: the last one who said so may have failed at the edge.
        self.loft.reload(&app, None).await?;
        let (target, at_next_launch) = (format!("{app}/ENV"), limits_of(&before, &changed));
        Ok(SettingList { settings: items(&levels(changed)), at_next_launch, target }.into())
    }

    pub(super) async fn set(&self, call: &mut Call<'_>, set: Set) -> Result<Ending> {
        let Set { env, settings, yes } = set;
        let EnvRef { app, env: name } = &env;
        call.must_use(app)?;
        if !yes {
            let (row, _) = self.loft.find(&env).await?;
            self.confirm_ends(call, vec![row], |row| &mut row.settings, &settings).await?;
        }
        let _one_at_a_time = self.setting.lock().await;
        let (mut row, _) = self.loft.find(&env).await?;
        let parts = &self.loft.parts;
        let failed = || format!("failed to change the settings of `{env}`");
        let before = row.settings.clone();
        row.settings = self.changed(call, &before, &settings)?;
        if row.settings != before {
            parts.store.set_settings(row.id, &row.settings).await.or_failed(failed)?;
            let text = said(&settings);
            let told = parts.store.tell(app, Some(name), EventKind::SettingsChanged, call.by(), &text, store::now());
            told.await.or_failed(failed)?;
        }
        self.loft.reload(app, Some(&env)).await?;
        let at_next_launch = match row.live {
            Some(_) => limits_of(&before, &row.settings),
            None => Vec::new(),
        };
        let levels = parts.settings.levels(&row, &row.asked);
        Ok(SettingList { settings: items(&levels), at_next_launch, target: env.to_string() }.into())
    }

    /// Asks, where the assignments would destroy what is there. Nobody else's have to wait for the answer.
    async fn confirm_ends(
        &self,
        call: &mut Call<'_>,
        environments: Vec<EnvRow>,
        level: fn(&mut EnvRow) -> &mut Settings,
        assignments: &[Assignment],
    ) -> Result<()> {
        let parts = &self.loft.parts;
        let policy = |row: &EnvRow| parts.settings.levels(row, &row.asked).policy();
        let mut doomed = Vec::new();
        for mut row in environments {
            let before = policy(&row);
            let changed = self.changed(call, level(&mut row), assignments)?;
            *level(&mut row) = changed;
            let after = policy(&row);
            if after.expire == before.expire {
                continue;
            }
            // One that is destroyed meanwhile is no loss any more.
            let (_, conductor) = match self.loft.find(&row.name).await {
                Err(error) if error.kind == Kind::NotFound => continue,
                found => found?,
            };
            // One that is busy may have been used since, and is asked about for nothing.
            let _ = tokio::time::timeout(NOTING, conductor.note_use()).await;
            let soon = parts.clock.now().plus(AT_ONCE);
            let ends = |policy| lifecycle::end(&conductor.state(), policy).is_some_and(|end| end <= soon);
            if ends(&after) && !ends(&before) {
                doomed.push(row.name);
            }
        }
        match doomed.as_slice() {
            [] => Ok(()),
            doomed => {
                let question = format!("with `{}` time destroys {} at once. Go on?", said(assignments), names(doomed));
                call.confirm(&question).await
            }
        }
    }

    /// What is set after the assignments, if the caller may make them: whoever is no admin gives no more than the server
    /// does.
    fn changed(&self, call: &Call<'_>, before: &Settings, assignments: &[Assignment]) -> Result<Settings> {
        let (mut asked, mut changed) = (Settings::default(), before.clone());
        if let Some(key) = twice(assignments) {
            return Err(Error::usage(format!("`{key}` is set twice")).hint("say once what it is to be"));
        }
        for Assignment(text) in assignments {
            asked.assign(text).and_then(|()| changed.assign(text)).map_err(Error::usage)?;
        }
        if asked.gate == Some(Gate::Sso) && !self.loft.parts.gates.have_logins() {
            return Err(Error::usage("`gate=sso` lets in whoever logs in, and on this server nobody can").hint(
                "say with whom in `[sso]` of the configuration, which an admin of the server does, and reload it",
            ));
        }
        let levels = Levels { server: self.loft.parts.settings.defaults.clone(), ..Levels::default() };
        let granted = levels.granted(asked.clone());
        if let Role::Deployer { .. } = call.principal.role
            && let Some(key) = Key::ALL.into_iter().find(|key| granted.get(*key) != asked.get(*key))
        {
            let (wanted, (most, _)) = (asked.get(key).unwrap_or_default(), levels.of(key));
            let error = Error::forbidden(format!("`{key}={wanted}` is more than the server gives, which is {most}"))
                .hint(format!("key `{}` is not an admin's; an admin may set it", call.by()));
            return Err(match key {
                Key::Ttl | Key::Expire => error.hint("`flyloft pin` and `flyloft extend` keep one environment longer"),
                _ => error,
            });
        }
        Ok(changed)
    }
}

/// A key that more than one of them names.
fn twice(assignments: &[Assignment]) -> Option<&str> {
    let mut seen = HashSet::new();
    assignments.iter().filter_map(|Assignment(text)| Some(text.split_once('=')?.0)).find(|key| !seen.insert(*key))
}

/// As many of them as anybody reads.
fn names(envs: &[EnvRef]) -> String {
    let (named, more) = envs.split_at(envs.len().min(NAMED));
    let mut names: Vec<String> = named.iter().map(|env| format!("`{env}`")).collect();
    if !more.is_empty() {
        names.push(format!("{} others", more.len()));
    }
    match names.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => names.concat(),
    }
}

fn said(assignments: &[Assignment]) -> String {
    assignments.iter().map(|Assignment(text)| text.as_str()).collect::<Vec<_>>().join(" ")
}

/// The limits that differ. They are a container's from its launch on.
fn limits_of(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let differs = |key: &Key| {
        !matches!(key, Key::Idle | Key::Ttl | Key::Expire | Key::Gate) && before.get(*key) != after.get(*key)
    };
    Key::ALL.into_iter().filter(differs).map(Key::as_str).collect()
}
