//! `flyloft volumes`: directories of environments that outlive their deploys, and what they start with.

use std::sync::Arc;

use flyloft_core::name::{AppName, EnvRef};
use flyloft_core::policy::Size;
use flyloft_core::volume::{self, MountPath, TemplateName};
use serde::Serialize;

use super::reply::{Reply, age, as_time, done, size, table};
use super::{Api, Call, Ending};
use crate::command::{Target, VolumeTemplates, Volumes, VolumesAdd, VolumesRm};
use crate::deploy::Again;
use crate::engine::Filling;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::principal::Role;
use crate::store::{self, EnvRow, EventKind, NewVolume, VolumeRow};
use crate::volumes::{of, of_template, sweep};

#[derive(Serialize)]
struct VolumeList {
    volumes: Vec<VolumeItem>,
}

#[derive(Serialize)]
struct VolumeItem {
    env: EnvRef,
    path: MountPath,
    /// Bytes that are in it, and that may be.
    used: u64,
    size: u64,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl Reply for VolumeList {
    fn text(&self) -> String {
        if self.volumes.is_empty() {
            return "there are no volumes; add one: flyloft volumes add APP/ENV PATH\n".to_owned();
        }
        let rows = self.volumes.iter().map(|volume| {
            let VolumeItem { env, path, used, created_at, .. } = volume;
            let age = age(*created_at, store::now());
            [env.to_string(), path.to_string(), size(*used), Size(volume.size).to_string(), age]
        });
        table(["ENVIRONMENT", "PATH", "USED", "SIZE", "AGE"], rows)
    }
}

#[derive(Serialize)]
struct TemplateList {
    templates: Vec<TemplateItem>,
}

#[derive(Serialize)]
struct TemplateItem {
    name: TemplateName,
    /// Bytes that are in it.
    used: u64,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl Reply for TemplateList {
    fn text(&self) -> String {
        if self.templates.is_empty() {
            return "there are no templates; make one: flyloft volumes templates add APP NAME FILE.tar\n".to_owned();
        }
        let rows = self.templates.iter().map(|TemplateItem { name, used, created_at }| {
            [name.to_string(), size(*used), age(*created_at, store::now())]
        });
        table(["TEMPLATE", "USED", "AGE"], rows)
    }
}

/// A template that is forgotten if it does not come to its end, also where whoever asked for it has gone.
struct Unfinished {
    parts: Arc<Parts>,
    id: Option<i64>,
}

impl Unfinished {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let parts = self.parts.clone();
        tokio::spawn(async move {
            if let Err(error) = parts.store.remove_volume_template(id).await {
                return tracing::warn!(%error, "failed to forget a template");
            }
            sweep(&parts).await;
        });
    }
}

impl Api {
    pub(super) async fn volumes(&self, call: &mut Call<'_>, command: Volumes) -> Result<Ending> {
        match command {
            Volumes::Add(add) => self.add_volume(call, add).await,
            Volumes::Ls { target } => self.list_volumes(call, target).await,
            Volumes::Rm(rm) => self.remove_volume(call, rm).await,
            Volumes::Templates(VolumeTemplates::Add { app, name, .. }) => self.add_template(call, &app, name).await,
            Volumes::Templates(VolumeTemplates::Ls { app }) => self.list_templates(call, &app).await,
            Volumes::Templates(VolumeTemplates::Rm { app, name }) => self.remove_template(call, &app, &name).await,
        }
    }

    async fn add_volume(&self, call: &mut Call<'_>, add: VolumesAdd) -> Result<Ending> {
        let VolumesAdd { env: name, path, size, template } = add;
        call.must_use(&name.app)?;
        let failed = || format!("failed to give `{name}` a volume at `{path}`");
        let (env, _) = self.loft.find(&name).await?;
        let size = self.granted_size(call, &env, size)?;
        let store = &self.loft.parts.store;
        let there = store.volumes_of(env.id).await.or_failed(failed)?;
        if let Some(known) = there.iter().find(|row| row.path == path) {
            return self.resize_volume(call, &name, known, size, template.is_some()).await;
        }
        volume::check(there.iter().map(|row| &row.path).chain([&path])).map_err(Error::usage)?;
        if let Some(template) = &template {
            self.must_have(&name.app, template).await?;
        }
        let size = size.unwrap_or_else(|| self.most(&env));
        let new = NewVolume { env: env.id, path: path.clone(), size: size.0, template, asked: None };
        if !store.add_volume(new, store::now()).await.or_failed(failed)? {
            return Err(Error::conflict(format!(
                "somebody else has just added a volume at `{path}`, or destroyed `{name}`"
            )));
        }
        self.changed_volume(call, &env, format!("volume at {path} of {size} added")).await
    }

    async fn resize_volume(
        &self,
        call: &mut Call<'_>,
        name: &EnvRef,
        known: &VolumeRow,
        size: Option<Size>,
        template: bool,
    ) -> Result<Ending> {
        let path = &known.path;
        let Some(size) = size.filter(|_| !template) else {
            return Err(Error::conflict(format!("`{name}` has a volume at `{path}` already"))
                .hint(format!("another size: flyloft volumes add {name} {path} --size SIZE"))
                .hint(format!("away with what is in it: flyloft volumes rm {name} {path}")));
        };
        let failed = || format!("failed to change the volume at `{path}` of `{name}`");
        let used = self.loft.parts.engine.volume(&of(known)).await.or_failed(failed)?.bytes;
        if used > size.0 {
            let has = Size(used).about();
            return Err(Error::conflict(format!("{}: it has {has}, and would be stopped for it", failed()))
                .hint(format!("make room in it first: flyloft shell {name}")));
        }
        self.loft.parts.store.resize_volume(known.id, size.0).await.or_failed(failed)?;
        let (env, _) = self.loft.find(name).await?;
        self.changed_volume(call, &env, format!("volume at {path} may take {size}")).await
    }

    /// Whoever is no admin gives no more than the environment's own disk may take.
    fn granted_size(&self, call: &Call<'_>, env: &EnvRow, size: Option<Size>) -> Result<Option<Size>> {
        let most = self.most(env);
        match size.map(volume::check_size).transpose().map_err(Error::usage)? {
            Some(size) if size > most && matches!(call.principal.role, Role::Deployer { .. }) => {
                Err(Error::forbidden(format!("{size} is more than the environment's disk may take, which is {most}"))
                    .hint(format!("key `{}` is not an admin's; an admin may do it", call.by())))
            }
            size => Ok(size),
        }
    }

    fn most(&self, env: &EnvRow) -> Size {
        Size(self.loft.parts.settings.levels(env, &env.asked).limits().disk)
    }

    /// Has what serves launched with what is on record now.
    async fn changed_volume(&self, call: &mut Call<'_>, env: &EnvRow, text: String) -> Result<Ending> {
        let EnvRef { app, env: name } = &env.name;
        let told =
            self.loft.parts.store.tell(app, Some(name), EventKind::VolumesChanged, call.by(), &text, store::now());
        told.await.or_failed(|| format!("failed to record what `{}` has", env.name))?;
        if env.live.is_none() && !env.is_deploying() {
            return Ok(done(format!("{text}; nothing runs yet that has it")).into());
        }
        call.say(&format!("-----> {}{}\n", text[..1].to_uppercase(), &text[1..])).await?;
        let deployed = self.redeploy(call, &env.name, Again::Restart).await;
        Ok(deployed.map_err(|error| error.hint("it is on record all the same, for the next deploy"))?.into())
    }

    async fn list_volumes(&self, call: &mut Call<'_>, target: Target) -> Result<Ending> {
        call.must_use(target.app())?;
        let envs = match &target {
            Target::App(app) => {
                self.must_exist(app).await?;
                self.environments_of(app).await?
            }
            Target::Env(env) => vec![self.loft.find(env).await?.0],
        };
        let failed = || format!("failed to list the volumes of `{target}`");
        let mut volumes = Vec::new();
        for env in envs {
            for row in self.loft.parts.store.volumes_of(env.id).await.or_failed(failed)? {
                let used = self.loft.parts.engine.volume(&of(&row)).await.or_failed(failed)?.bytes;
                let VolumeRow { path, size, created_at, .. } = row;
                volumes.push(VolumeItem { env: env.name.clone(), path, used, size, created_at });
            }
        }
        Ok(VolumeList { volumes }.into())
    }

    async fn remove_volume(&self, call: &mut Call<'_>, rm: VolumesRm) -> Result<Ending> {
        let VolumesRm { env: name, path, yes } = rm;
        call.must_use(&name.app)?;
        let failed = || format!("failed to take the volume at `{path}` away from `{name}`");
        let (env, _) = self.loft.find(&name).await?;
        let rows = self.loft.parts.store.volumes_of(env.id).await.or_failed(failed)?;
        let row = rows.into_iter().find(|row| row.path == path).ok_or_else(|| {
            Error::not_found(format!("`{name}` has no volume at `{path}`"))
                .hint(format!("`flyloft volumes ls {name}` lists them"))
        })?;
        if !yes {
            call.confirm(&format!("remove all that is in `{path}` of `{name}`?")).await?;
        }
        self.loft.parts.store.remove_volume(row.id).await.or_failed(failed)?;
        let ended = self.changed_volume(call, &env, format!("volume at {path} removed")).await;
        // Nothing has it any more, unless that has failed.
        sweep(&self.loft.parts).await;
        ended
    }

    async fn add_template(&self, call: &mut Call<'_>, app: &AppName, name: TemplateName) -> Result<Ending> {
        call.must_use(app)?;
        self.must_exist(app).await?;
        let failed = || format!("failed to make template `{name}`");
        let parts = &self.loft.parts;
        let taken = || {
            Error::conflict(format!("`{app}` has a template `{name}` already"))
                .hint(format!("flyloft volumes templates rm {app} {name}"))
        };
        if parts.store.volume_template(app, &name).await.or_failed(failed)?.is_some() {
            return Err(taken());
        }
        let tree = self.unpack(&mut call.io.stdin).await?;
        let begun = parts.store.begin_volume_template(app, name.clone(), store::now()).await;
        let row = begun.or_failed(failed)?.ok_or_else(taken)?;
        let unfinished = Unfinished { parts: parts.clone(), id: Some(row.id) };
        parts.engine.fill_volume(&of_template(&row), Filling::Tree(tree.0.clone())).await.or_failed(failed)?;
        parts.store.volume_template_is_ready(row.id).await.or_failed(failed)?;
        unfinished.keep();
        Ok(done(format!("template `{name}` of `{app}` is made")).into())
    }

    async fn list_templates(&self, call: &mut Call<'_>, app: &AppName) -> Result<Ending> {
        call.must_use(app)?;
        self.must_exist(app).await?;
        let failed = || format!("failed to list the templates of `{app}`");
        let mut templates = Vec::new();
        for row in
            self.loft.parts.store.volume_templates_of(app).await.or_failed(failed)?.into_iter().filter(|row| row.ready)
        {
            let used = self.loft.parts.engine.volume(&of_template(&row)).await.or_failed(failed)?.bytes;
            templates.push(TemplateItem { name: row.name, used, created_at: row.created_at });
        }
        Ok(TemplateList { templates }.into())
    }

    async fn remove_template(&self, call: &mut Call<'_>, app: &AppName, name: &TemplateName) -> Result<Ending> {
        call.must_use(app)?;
        let row = self.must_have(app, name).await?;
        let parts = &self.loft.parts;
        parts.store.remove_volume_template(row).await.or_failed(|| format!("failed to remove template `{name}`"))?;
        sweep(parts).await;
        Ok(done(format!("template `{name}` of `{app}` is removed")).into())
    }

    /// The id of a template that is there.
    async fn must_have(&self, app: &AppName, name: &TemplateName) -> Result<i64> {
        let found = self.loft.parts.store.volume_template(app, name).await;
        let found = found.or_failed(|| format!("failed to look up template `{name}`"))?;
        let found = found.filter(|row| row.ready).ok_or_else(|| {
            Error::not_found(format!("`{app}` has no template `{name}`"))
                .hint(format!("`flyloft volumes templates ls {app}` lists them"))
        });
        Ok(found?.id)
    }
}
