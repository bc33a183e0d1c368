//! Volumes: directories of an environment that outlive its deploys. On record before the engine makes one, filled before
//! the first container has it, and gone after the environment.
//!
//! What must hold: the engine removes what no record names, and nothing else. So a record is made first, and goes first.
//! What an `app.json` asks for, which may be a stranger's, takes no more in all than its environment's own disk may.

use std::collections::BTreeSet;

use flyloft_core::name::ReleaseNumber;
use flyloft_core::policy::Size;
use flyloft_core::volume::{self, Ask, VolumeError};

use crate::deploy::{Job, Source, Undo};
use crate::engine::{EngineError, Filling, Volume, VolumeId};
use crate::error::{Error, OrFailed, Result};
use crate::managed;
use crate::parts::Parts;
use crate::store::{self, Content, EnvRow, NewVolume, VolumeRow, VolumeTemplateRow};

/// Makes what a release asks for and its environment does not have yet, and fills what is to start with a template. What
/// it makes goes again if the release never serves.
pub async fn prepare(job: &Job, content: &Content, undo: &mut Undo) -> Result<()> {
    let (parts, env) = (&job.parts, &job.env);
    let failed = || format!("failed to look up the volumes of `{}`", env.name);
    // Of a deploy that could not take back what it had made: its daemon was killed.
    let wanted = content.volumes.iter().map(|ask| ask.path.clone()).collect();
    if parts.store.inherit_volumes(env.id, job.release, wanted).await.or_failed(failed)? {
        sweep(parts).await;
    }
    let there = parts.store.volumes_of(env.id).await.or_failed(failed)?;
    // What somebody has taken away comes back with a new build, and not before.
    let asks = if matches!(job.work.source, Source::Again { .. }) { &[][..] } else { &content.volumes[..] };
    let paths: BTreeSet<_> = there.iter().map(|row| &row.path).chain(asks.iter().map(|ask| &ask.path)).collect();
    volume::check(paths).map_err(|error| refused(env, error))?;
    let new: Vec<&Ask> = asks.iter().filter(|ask| there.iter().all(|row| row.path != ask.path)).collect();
    let given = there.iter().filter(|row| row.asked.is_some()).fold(0, |sum: u64, row| sum.saturating_add(row.size));
    let limits = parts.settings.levels(env, &content.settings).limits();
    let sizes = volume::grant(&new, given, Size(limits.disk)).map_err(|error| refused(env, error))?;
    for (ask, size) in new.into_iter().zip(sizes) {
        add(job, ask, size, undo).await?;
    }
    for row in parts.store.volumes_of(env.id).await.or_failed(failed)? {
        if let Some(name) = &row.template {
            let is_new = there.iter().all(|known| known.id != row.id);
            fill(parts, env, &row, (is_new, limits.inodes)).await?;
            job.transcript.step(&format!("Volume at {} starts with template {name}", row.path));
        }
    }
    Ok(())
}

/// Why a release does not get what it asks for.
fn refused(env: &EnvRow, why: VolumeError) -> Error {
    let is_size = matches!(why, VolumeError::TooLarge { .. });
    let name = &env.name;
    let error = Error::failed(format!("`{name}` cannot have the volumes that it is to have: {why}"));
    let error = if is_size { error.hint("ask for a smaller `size` of each in `app.json`") } else { error };
    let list = format!("`flyloft volumes ls {name}` lists those that are there; `flyloft volumes rm` takes one away");
    let error = error.hint(list);
    if !is_size {
        return error;
    }
    error
        .hint(format!(
            "what people add, or give another size, does not count: flyloft volumes add {name} PATH --size SIZE"
        ))
        .hint(format!("or let its disk take more: flyloft set {name} disk=SIZE"))
}

/// Puts on record what goes again with a release that never serves, unless people have made it theirs by then.
async fn add(job: &Job, ask: &Ask, size: Size, undo: &mut Undo) -> Result<()> {
    let (parts, env, path, release) = (job.parts.clone(), job.env.id, ask.path.clone(), job.release);
    // Before that: a deploy that is called off meanwhile does not hear whether it has come about.
    undo.push("forget a new volume", async move {
        parts.store.forget_asked_volume(env, path, release).await?;
        sweep(&parts).await;
        Ok::<_, store::StoreError>(())
    });
    let (path, template) = (ask.path.clone(), ask.template.clone());
    let new = NewVolume { env, path, size: size.0, template, asked: Some(release) };
    let added = job.parts.store.add_volume(new, store::now()).await;
    if added.or_failed(|| format!("failed to record a volume of `{}`", job.env.name))? {
        job.transcript.step(&format!("Volume at {} of {size}", ask.path));
        if let Some(asked) = ask.size.filter(|asked| *asked > size) {
            job.transcript.detail(&format!("`app.json` asks for {asked}; the environment's disk may take {size}"));
        }
    }
    Ok(())
}

/// `is_new`: it goes again with the release. The environment may have `most` files.
async fn fill(parts: &Parts, env: &EnvRow, row: &VolumeRow, (is_new, most): (bool, u64)) -> Result<()> {
    let Some(name) = &row.template else { return Ok(()) };
    let (app, path) = (&env.name.app, &row.path);
    let failed = || format!("failed to fill the volume at `{path}` of `{}` with template `{name}`", env.name);
    let template = parts.store.volume_template(app, name).await.or_failed(failed)?.filter(|template| template.ready);
    let template = template.ok_or_else(|| {
        Error::failed(format!("{}: there is no such template", failed()))
            .hint(format!("make it: flyloft volumes templates add {app} {name} FILE.tar"))
            .hint(match is_new {
                true => format!("or have the volume start empty: flyloft volumes add {} {path}", env.name),
                false => format!("or do without the volume: flyloft volumes rm {} {path}", env.name),
            })
    })?;
    let from = of_template(&template);
    let usage = parts.engine.volume(&from).await.or_failed(failed)?;
    if usage.bytes > row.size {
        let (has, size) = (Size(usage.bytes).about(), Size(row.size));
        return Err(Error::failed(format!("{}: it has {has}, and the volume may take {size}", failed())).hint(
            match is_new {
                true => format!("give it more: flyloft volumes add {} {path} --template {name} --size SIZE", env.name),
                false => format!("give it more: flyloft volumes add {} {path} --size SIZE", env.name),
            },
        ));
    }
    if usage.inodes > most {
        return Err(Error::failed(format!(
            "{}: it has {} files, and `{}` may have {most}",
            failed(),
            usage.inodes,
            env.name
        ))
        .hint(format!("let it have more: flyloft set {} inodes=COUNT", env.name)));
    }
    parts.engine.fill_volume(&of(row), Filling::CopyOf(from)).await.or_failed(failed)?;
    crate::fault::point("volume.filled");
    parts.store.volume_is_filled(row.id).await.or_failed(failed)
}

/// What a container of the environment has, which is launched or started as that release.
pub async fn mounted(parts: &Parts, env: &EnvRow, release: ReleaseNumber) -> Result<Vec<Volume>> {
    let rows = parts.store.volumes_of(env.id).await;
    let mut rows = rows.or_failed(|| format!("failed to look up the volumes of `{}`", env.name))?;
    // What a newer one asks for goes again if that never serves. What is to be filled is filled by the next deploy, which
    // it could not be once a container has it; until then nothing that runs has ever had it.
    rows.retain(|row| row.template.is_none() && row.asked.is_none_or(|asked| asked <= release));
    let volume = |row: VolumeRow| {
        let path = row.path.to_string();
        Volume { id: of(&row), path, size: row.size, read_only: false, counts: true }
    };
    Ok(rows.into_iter().map(volume).collect())
}

/// What the engine calls it.
pub fn of(row: &VolumeRow) -> VolumeId {
    VolumeId(format!("volume-{}", row.id))
}

pub fn of_template(row: &VolumeTemplateRow) -> VolumeId {
    VolumeId(format!("template-{}", row.id))
}

/// Removes what is on no record: whose environment or template is gone. What a container still has is tried again.
pub async fn sweep(parts: &Parts) {
    if let Err(error) = sweep_all(parts).await {
        tracing::warn!(%error, "failed to look for volumes that no environment has");
    }
}

async fn sweep_all(parts: &Parts) -> Result<()> {
    let failed = || "failed to list volumes";
    // Listed first: what is made after that is in nobody's list of leftovers.
    let there = parts.engine.volumes().await.or_failed(failed)?;
    if there.is_empty() {
        return Ok(());
    }
    let volumes = parts.store.volumes().await.or_failed(failed)?;
    let templates = parts.store.volume_templates().await.or_failed(failed)?;
    let servers = parts.store.servers().await.or_failed(failed)?;
    let servers = servers.iter().filter_map(|row| row.managed.as_ref()).map(managed::volume);
    let environments = volumes.iter().map(of).chain(templates.iter().map(of_template));
    let known: BTreeSet<VolumeId> = environments.chain(servers).collect();
    for id in there.into_iter().filter(|id| !known.contains(id)) {
        match parts.engine.forget_volume(&id).await {
            Ok(()) => tracing::info!(volume = %id, "removed a volume that no environment has"),
            Err(EngineError::VolumeInUse(_)) => {}
            Err(error) => tracing::warn!(volume = %id, %error, "failed to remove a volume that no environment has"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
