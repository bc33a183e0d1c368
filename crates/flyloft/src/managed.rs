//! Servers of databases and the like that flyloft runs itself: each in a container of its own, with its data in a volume.
//!
//! ```text
//!   on record ─► its image is there ─► so is its volume, with a password in it ─► so is its container ─► it runs
//! ```
//!
//! [`keep`] goes this way from wherever things are, so that the same does for a new one, after a reboot, when it has died,
//! and with another image. What must hold: nothing removes a volume but [`remove`], after the record has gone; data are
//! never handed to a server that does not read them; nobody is told where a server is before it runs.
//!
//! A server never sleeps. An environment that wakes would wait for two, one after the other; this daemon itself asks each
//! server something every minute; and one that nobody uses costs little, since the kernel may swap out what it holds.

mod attempt;

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flyloft_core::disk::Unit;
use flyloft_core::policy::{Excess, Size};
use flyloft_core::service::managed::{DATA, Outfit, PASSWORD, Recipe};
use flyloft_core::volume::files;
use tokio::io::AsyncReadExt;

use self::attempt::Attempts;
use crate::build::Tools;
use crate::engine::{
    Addresses, ContainerId, ContainerSpec, ContainerState, EngineError, Filling, Image, Observed, Process, Reach,
    Volume, VolumeId,
};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::provision::reached;
use crate::service::{Fault, Health};
use crate::store::{ManagedRow, ServerRow};

/// How long a server may take to end, and to write down what it has in memory.
const GRACE: Duration = Duration::from_secs(60);

/// How long one may take to answer that has been started: after a crash PostgreSQL goes through its journal first.
pub const PATIENCE: Duration = Duration::from_secs(120);

const LOOK: Duration = Duration::from_millis(100);

/// Lines of what a server printed that are told with an error.
const SAID: usize = 8;

/// Whose turn it is to change what runs, and what is made of something else meanwhile.
#[derive(Default)]
pub struct Managed {
    turn: tokio::sync::Mutex<()>,
    pub attempts: Attempts,
}

/// What the engine calls its container. No environment is called so: their containers have a number before the last one.
pub fn container(name: &str, managed: &ManagedRow) -> ContainerId {
    ContainerId(format!("{name}-server-{}", managed.id))
}

/// The same, if it has one.
pub fn container_of(row: &ServerRow) -> Option<ContainerId> {
    row.managed.as_ref().map(|managed| container(&row.name, managed))
}

pub fn volume(managed: &ManagedRow) -> VolumeId {
    VolumeId(format!("server-{}", managed.id))
}

/// What there is of its container.
pub async fn observe(parts: &Parts, row: &ServerRow, managed: &ManagedRow) -> Result<Option<Observed>> {
    let found = parts.engine.find(&container(&row.name, managed)).await;
    found.or_failed(|| format!("failed to look at server `{}`", row.name))
}

/// Where it is. One that does not run is started, and has answered then.
pub async fn awake(parts: &Parts, row: &ServerRow, managed: &ManagedRow) -> Result<Addresses> {
    match observe(parts, row, managed).await? {
        Some(found) if found.state != ContainerState::Stopped => Ok(found.addresses),
        _ => {
            let addresses = keep(parts, row, managed).await?;
            until_it_answers(parts, row, managed, addresses).await?;
            Ok(addresses)
        }
    }
}

/// All of them, for ever again.
pub async fn keep_all(parts: &Parts) {
    let rows = match parts.store.servers().await {
        Ok(rows) => rows,
        Err(error) => return tracing::warn!(%error, "failed to list servers"),
    };
    for row in rows {
        let Some(managed) = &row.managed else { continue };
        if let Err(error) = keep(parts, &row, managed).await {
            tracing::warn!(server = row.name, %error, "failed to keep a server running");
        }
    }
}

/// A container has ended that no environment has. If it is a server's, that is started again.
pub async fn ended(parts: Arc<Parts>, ended: ContainerId) {
    let rows = match parts.store.servers().await {
        Ok(rows) => rows,
        Err(error) => return tracing::warn!(%error, "failed to list servers"),
    };
    for row in rows {
        let Some(managed) = row.managed.as_ref().filter(|managed| container(&row.name, managed) == ended) else {
            continue;
        };
        if let Err(error) = keep(&parts, &row, managed).await {
            tracing::warn!(server = row.name, %error, "failed to start a server that had ended");
        }
    }
}

/// Has it run as it is to be. What runs otherwise is stopped, and made anew in its place. It may not answer yet.
pub async fn keep(parts: &Parts, row: &ServerRow, on_record: &ManagedRow) -> Result<Addresses> {
    let managed = &parts.managed.attempts.meant(on_record);
    let failed = || format!("failed to run server `{}`", row.name);
    let recipe = Recipe::of(row.url.kind).or_failed(failed)?;
    // Whatever it takes to make that, what runs goes on meanwhile.
    let (image, _hold) = parts.builder.tools(&tools(recipe, managed.outfit)).await?;
    let _turn = parts.managed.turn.lock().await;
    let now = parts.store.server(&row.name).await.or_failed(failed)?.and_then(|row| row.managed);
    if now.map(|now| parts.managed.attempts.meant(&now)).as_ref() != Some(managed) {
        return Err(Error::conflict(format!("server `{}` is being changed, or gone", row.name)));
    }
    let (engine, id, spec) = (&parts.engine, container(&row.name, managed), spec(recipe, image, row, managed));
    fill(parts, row, managed).await?;
    let addresses = match engine.create(&spec).await {
        Err(EngineError::Exists(_)) => {
            engine.stop(&id, GRACE).await.or_failed(failed)?;
            crate::fault::point("server.stopped");
            engine.remake(&spec).await.or_failed(failed)?
        }
        made => made.or_failed(failed)?,
    };
    let found = engine.find(&id).await.or_failed(failed)?;
    match found.as_ref().and_then(|found| found.excess) {
        Some(Excess::Disk | Excess::Inodes) => drop(engine.remake(&spec).await.or_failed(failed)?),
        Some(excess) => has_room(parts, row, managed, excess).await?,
        None => {}
    }
    if found.is_none_or(|found| found.state == ContainerState::Stopped) {
        engine.start(&id).await.or_failed(failed)?;
        tracing::info!(server = row.name, "started a server");
    }
    Ok(addresses)
}

fn tools(recipe: Recipe, outfit: Outfit) -> Tools<'static> {
    Tools { stack: outfit.stack, edition: outfit.edition, packages: recipe.packages }
}

/// Says whether its packages have to be installed first.
pub async fn has_image(parts: &Parts, recipe: Recipe, outfit: Outfit) -> Result<bool> {
    Ok(parts.builder.has_tools(&tools(recipe, outfit)).await?)
}

/// Installs its packages, while nothing changes.
pub async fn prepare(parts: &Parts, recipe: Recipe, outfit: Outfit) -> Result<crate::build::Hold> {
    Ok(parts.builder.tools(&tools(recipe, outfit)).await?.1)
}

fn spec(recipe: Recipe, image: Image, row: &ServerRow, managed: &ManagedRow) -> ContainerSpec {
    let share = managed.outfit.share;
    let kind = row.url.kind;
    ContainerSpec {
        id: container(&row.name, managed),
        image,
        processes: vec![Process { name: kind.to_string(), command: recipe.script.to_owned(), env: share.env(kind) }],
        env: Default::default(),
        limits: share.limits(),
        reach: Reach::default(),
        volumes: vec![data(managed)],
        files: Default::default(),
    }
}

/// An empty database is made of hundreds of files: how many there may be follows from the size.
fn data(managed: &ManagedRow) -> Volume {
    let size = managed.outfit.share.disk;
    Volume { id: volume(managed), path: DATA.to_owned(), size, read_only: false, counts: false }
}

/// Has a new server find its password. It goes from there once the server has it.
async fn fill(parts: &Parts, row: &ServerRow, managed: &ManagedRow) -> Result<()> {
    let failed = || format!("failed to make a volume for server `{}`", row.name);
    let (engine, volume) = (&parts.engine, volume(managed));
    if engine.volumes().await.or_failed(failed)?.contains(&volume) {
        return Ok(());
    }
    // With a container that has lost its volume nothing can be done.
    engine.remove(&container(&row.name, managed)).await.or_failed(failed)?;
    let (staging, password) = (engine.staging(), reached(parts, row.clone(), None)?.password);
    let tree = staging.dir.join(format!("server-{}-{}", managed.id, crate::random::hex(8)));
    let write = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&tree)?;
        let file = tree.join(PASSWORD);
        let mut open = fs::OpenOptions::new();
        open.create_new(true).write(true).mode(0o600).open(&file)?.write_all(password.0.as_bytes())?;
        [&file, &tree].into_iter().try_for_each(|path| chown(path, Some(staging.user), Some(staging.user)))
    };
    let filled = match write() {
        Ok(()) => engine.fill_volume(&volume, Filling::Tree(tree.clone())).await.or_failed(failed),
        Err(error) => Err(error).or_failed(failed),
    };
    if filled.is_err() {
        let _ = fs::remove_dir_all(&tree);
    }
    filled
}

/// Whether what it was stopped for holds no longer.
async fn has_room(parts: &Parts, row: &ServerRow, managed: &ManagedRow, excess: Excess) -> Result<()> {
    let failed = || format!("failed to look whether there is room for server `{}`", row.name);
    let stopped = Error::failed(format!("server `{}` was stopped: {excess}", row.name));
    if excess == Excess::Volume {
        let (most, has) = (managed.outfit.share.disk, parts.engine.volume(&volume(managed)).await.or_failed(failed)?);
        if has.bytes <= most && has.inodes <= files(most) {
            return Ok(());
        }
        let (about, bound) = (Size(has.bytes).about(), Size(most));
        return Err(stopped
            .hint(format!("its data take {about} in {} files, and may take {bound} in {}", has.inodes, files(most)))
            .hint(format!("give it more: flyloft services upgrade {} --disk SIZE", row.name)));
    }
    for unit in Unit::ALL {
        let space = parts.engine.space(unit).or_failed(failed)?;
        if space.free < space.floor(parts.settings.disk.floor) {
            return Err(stopped.hint("it is started again as soon as there is room on the disk"));
        }
    }
    Ok(())
}

/// What the server says of itself as soon as it answers. What it has printed is told if it does not.
pub async fn until_it_answers(
    parts: &Parts,
    row: &ServerRow,
    managed: &ManagedRow,
    addresses: Addresses,
) -> Result<Health> {
    let server = reached(parts, row.clone(), Some(addresses))?;
    let begun = Instant::now();
    loop {
        match parts.services.of(row.url.kind).check(&server).await {
            Ok(health) => return Ok(health),
            Err(error) if begun.elapsed() < PATIENCE && is_coming(&error.fault) => tokio::time::sleep(LOOK).await,
            Err(error) => {
                let mut error = Error::from(error);
                error.causes.extend(said(parts, &container(&row.name, managed)).await);
                return Err(error);
            }
        }
    }
}

/// What a server does that has not come up yet.
fn is_coming(fault: &Fault) -> bool {
    matches!(fault, Fault::Down | Fault::Slow(_) | Fault::Other(_))
}

/// The last lines that it printed.
async fn said(parts: &Parts, id: &ContainerId) -> Option<String> {
    let mut text = String::new();
    let mut log = parts.engine.logs(id, SAID, false).await.ok()?;
    log.read_to_string(&mut text).await.ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Takes it away with all its data, after the record of it.
pub async fn remove(parts: &Parts, row: &ServerRow, managed: &ManagedRow) -> Result<()> {
    let _turn = parts.managed.turn.lock().await;
    let failed = || format!("failed to remove what server `{}` has left", row.name);
    parts.engine.remove(&container(&row.name, managed)).await.or_failed(failed)?;
    parts.engine.forget_volume(&volume(managed)).await.or_failed(failed)
}

#[cfg(test)]
mod tests;
