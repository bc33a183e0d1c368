//! `flyloft apps`.

use std::collections::HashSet;
use std::sync::Mutex;

use flyloft_core::name::AppName;
use serde::Serialize;

use super::environments::lingers;
use super::reply::{Reply, age, as_time, done, table};
use super::{Api, Call, Ending};
use crate::command::{Apps, AppsCreate, AppsRm};
use crate::error::{Error, OrFailed, Result};
use crate::store::{self, CredentialKind, CredentialRow, EventKind};
use crate::volumes;

/// A token or a private key is not larger than this.
const SECRET: u64 = 64 << 10;

#[derive(Serialize)]
struct AppList {
    apps: Vec<AppItem>,
}

#[derive(Serialize)]
struct AppItem {
    name: AppName,
    git_url: Option<String>,
    environments: u32,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl Reply for AppList {
    fn text(&self) -> String {
        if self.apps.is_empty() {
            return "there are no apps yet; push to one, or create it: flyloft apps create NAME\n".to_owned();
        }
        let now = store::now();
        let rows = self.apps.iter().map(|app| {
            let url = app.git_url.clone().unwrap_or_else(|| "(pushed)".to_owned());
            [app.name.to_string(), app.environments.to_string(), age(app.created_at, now), url]
        });
        table(["APP", "ENVIRONMENTS", "AGE", "GIT"], rows)
    }
}

impl Api {
    pub(super) async fn apps(&self, call: &mut Call<'_>, command: Apps) -> Result<Ending> {
        match command {
            Apps::Create(create) => self.create_app(call, create).await,
            Apps::Ls => self.list_apps(call).await,
            Apps::Set(set) => self.set_app(call, set).await,
            Apps::Rm(rm) => self.remove_app(call, rm).await,
        }
    }

    async fn create_app(&self, call: &mut Call<'_>, create: AppsCreate) -> Result<Ending> {
        call.must_be_admin()?;
        let AppsCreate { app, git, token_from, token_user, deploy_key_from } = create;
        let repositories = &self.loft.parts.repositories;
        let url = git.as_deref().map(|url| repositories.url(url)).transpose()?;
        let credential = match (token_from, deploy_key_from, &url) {
            (Some(_), _, Some(url)) => {
                let secret = call.input("the token", SECRET).await?.trim().to_owned();
                Some((CredentialKind::Token, url.authority(), token_user, secret))
            }
            (_, Some(_), Some(url)) => {
                let secret = call.input("the deploy key", SECRET).await?;
                Some((CredentialKind::DeployKey, url.authority(), String::new(), secret))
            }
            _ => None,
        };
        let store = &self.loft.parts.store;
        let failed = || format!("failed to create `{app}`");
        let new = self.ensure_app(&app, call.by()).await?;
        if !new && git.is_none() {
            return Ok(done(format!("app `{app}` is there already")).into());
        }
        if let Some(git) = &git {
            store.set_app_url(&app, git).await.or_failed(failed)?;
        }
        if let Some((kind, host, username, secret)) = credential {
            store.set_credential(&app, CredentialRow { kind, host, username, secret }).await.or_failed(failed)?;
        }
        Ok(done(format!("app `{app}` is {}", if new { "created" } else { "changed" })).into())
    }

    /// Makes an app with its repository. Says whether it is new.
    pub(super) async fn ensure_app(&self, app: &AppName, by: &str) -> Result<bool> {
        let failed = || format!("failed to create `{app}`");
        let parts = &self.loft.parts;
        if self.leaving.lock().expect("not poisoned").contains(app) {
            return Err(being_removed(app));
        }
        let new = parts.store.create_app(app, None, store::now()).await.or_failed(failed)?;
        parts.repositories.ensure(app).await.or_failed(failed)?;
        if new {
            let told = parts.store.tell(app, None, EventKind::AppCreated, by, "", store::now());
            told.await.or_failed(failed)?;
        }
        Ok(new)
    }

    async fn list_apps(&self, call: &mut Call<'_>) -> Result<Ending> {
        let rows = self.loft.parts.store.apps().await.or_failed(|| "failed to list apps")?;
        let visible = rows.into_iter().filter(|app| call.may_use(&app.name));
        let apps = visible.map(|app| AppItem {
            name: app.name,
            git_url: app.git_url,
            environments: app.environments,
            created_at: app.created_at,
        });
        Ok(AppList { apps: apps.collect() }.into())
    }

    async fn remove_app(&self, call: &mut Call<'_>, rm: AppsRm) -> Result<Ending> {
        call.must_be_admin()?;
        let AppsRm { app, yes } = rm;
        self.must_exist(&app).await?;
        let environments = self.environments_of(&app).await?;
        if !yes {
            let with = match environments.len() {
                0 => "which has no environment".to_owned(),
                1 => "with its environment".to_owned(),
                many => format!("with its {many} environments"),
            };
            call.confirm(&format!("remove app `{app}` {with}?")).await?;
        }
        // What would make anything of the app's meanwhile is refused, and the app itself goes last: whatever happens in
        // between, it can be removed again.
        let _leaving = Leaving::begin(&self.leaving, &app)?;
        for env in environments {
            if !self.destroy_and_wait(&env.name).await? {
                return Err(lingers(&env.name));
            }
        }
        let parts = &self.loft.parts;
        let failed = || format!("failed to remove `{app}`");
        crate::fault::point("remove-app.emptied");
        parts.repositories.remove(&app)?;
        crate::fault::point("remove-app.repositories");
        // What the next app of this name builds with must not be what somebody else's builds have left.
        parts.builder.forget_caches_of(&app).await.or_failed(failed)?;
        crate::fault::point("remove-app.caches");
        if !parts.store.remove_app(&app).await.or_failed(failed)? {
            return Err(Error::conflict(failed()).hint("a push that was under way has made an environment: try again"));
        }
        parts.store.tell(&app, None, EventKind::AppRemoved, call.by(), "", store::now()).await.or_failed(failed)?;
        // Its templates have their place on the disk until then.
        volumes::sweep(parts).await;
        Ok(done(format!("app `{app}` is removed")).into())
    }

    /// Deployers are told of apps that are theirs and not there; of others, only that they may not use them.
    pub(super) async fn must_exist(&self, app: &AppName) -> Result<()> {
        let found = self.loft.parts.store.app(app).await.or_failed(|| format!("failed to look up `{app}`"))?;
        match found {
            Some(_) => Ok(()),
            None => Err(Error::not_found(format!("there is no app `{app}`"))
                .hint("`flyloft apps ls` lists what there is")
                .hint(format!("push to it, or create it: flyloft apps create {app}"))),
        }
    }
}

/// An app that is being removed, for as long as that takes.
struct Leaving<'a> {
    apps: &'a Mutex<HashSet<AppName>>,
    app: &'a AppName,
}

impl<'a> Leaving<'a> {
    fn begin(apps: &'a Mutex<HashSet<AppName>>, app: &'a AppName) -> Result<Self> {
        match apps.lock().expect("not poisoned").insert(app.clone()) {
            true => Ok(Self { apps, app }),
            false => Err(being_removed(app)),
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.apps.lock().expect("not poisoned").remove(self.app);
    }
}

fn being_removed(app: &AppName) -> Error {
    Error::conflict(format!("app `{app}` is being removed")).hint("try again when it is gone")
}
