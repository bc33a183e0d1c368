//! `flyloft services add --managed` and `upgrade`: servers that flyloft runs itself.

use std::net::IpAddr;
use std::time::Instant;

use flyloft_core::plan::Stack;
use flyloft_core::policy::Size;
use flyloft_core::service::managed::{ManagedError, Outfit, Recipe, Share, check_move};
use serde::Serialize;

use super::reply::done;
use super::services::unknown;
use super::{Api, Call, Ending};
use crate::command::{ServicesAdd, ServicesUpgrade};
use crate::engine::Addresses;
use crate::error::{Error, OrFailed, Result};
use crate::machine::Memory;
use crate::managed;
use crate::parts::Parts;
use crate::provision::{self, server_purpose};
use crate::service::Health;
use crate::store::{self, Forgotten, ManagedRow, ServerRow};

/// Hexadecimal digits of an administrator's password: 128 bits.
const PASSWORD: usize = 32;

/// What is told of it in lists.
#[derive(Serialize)]
pub struct ManagedItem {
    stack: Stack,
    /// Bytes that it may take.
    memory: u64,
    disk: u64,
    container: String,
    /// Where it is, once it has been started.
    addresses: Vec<IpAddr>,
}

impl ManagedItem {
    pub fn of(name: &str, row: &ManagedRow, at: Option<Addresses>) -> Self {
        let Outfit { stack, share: Share { memory, disk }, .. } = row.outfit;
        let addresses = at.into_iter().flat_map(Addresses::both).collect();
        Self { stack, memory, disk, container: managed::container(name, row).0, addresses }
    }
}

impl Api {
    /// Its name is free, or was a moment ago.
    pub(super) async fn add_managed(&self, call: &mut Call<'_>, add: ServicesAdd) -> Result<Ending> {
        let ServicesAdd { name, kind, stack, memory, disk, .. } = add;
        let parts = &self.loft.parts;
        let usual = Share::on(Memory::look().total);
        let share =
            Share { memory: memory.map_or(usual.memory, |size| size.0), disk: disk.map_or(usual.disk, |size| size.0) };
        let recipe = Recipe::of(kind).map_err(refused)?;
        share.check(kind).map_err(refused)?;
        let outfit = Outfit { stack: stack.unwrap_or(Stack::ALL[0]), edition: 0, share };
        let _hold = self.install(call, recipe, outfit).await?;
        let row = ServerRow {
            name: name.clone(),
            url: recipe.url(kind, &name),
            password: parts.vault.seal(&server_purpose(&name), &crate::random::hex(PASSWORD)),
            ca: None,
            managed: Some(ManagedRow { id: 0, outfit }),
            created_at: store::now(),
        };
        let failed = || format!("failed to add server `{name}`");
        if !parts.store.add_server(row).await.or_failed(failed)? {
            return Err(super::services::taken(&name));
        }
        let (row, managed) = self.managed(&name).await?;
        call.say(&format!("-----> Starting {kind}\n")).await?;
        match begin(parts, &row, &managed).await {
            Ok((health, address)) => {
                let text = format!("server `{name}` is added: {kind} {} at {address}, run by flyloft", health.version);
                Ok(done(text).into())
            }
            Err(error) => Err(self.withdraw(&row, &managed, error).await),
        }
    }

    /// Nothing stays of a server that does not work. What an environment has begun to use by now does.
    async fn withdraw(&self, row: &ServerRow, managed: &ManagedRow, error: Error) -> Error {
        let parts = &self.loft.parts;
        let gone = match parts.store.forget_server(&row.name).await {
            Ok(Forgotten::Gone) => managed::remove(parts, row, managed).await,
            Ok(_) => Ok(()),
            Err(error) => Err(Error::because("failed to forget it", error)),
        };
        match gone {
            Ok(()) => error,
            Err(left) => error.hint(format!("something of it is left: {left}")),
        }
    }

    /// Newer packages of the same stack, or of a newer one. What runs goes on until they are installed.
    pub(super) async fn upgrade_server(&self, call: &mut Call<'_>, upgrade: ServicesUpgrade) -> Result<Ending> {
        call.must_be_admin()?;
        let ServicesUpgrade { name, stack, memory, disk } = upgrade;
        let parts = &self.loft.parts;
        let (row, managed) = self.managed(&name).await?;
        let (kind, have) = (row.url.kind, managed.outfit);
        let share = Share {
            memory: memory.map_or(have.share.memory, |size| size.0),
            disk: disk.map_or(have.share.disk, |size| size.0),
        };
        let outfit = Outfit { stack: stack.unwrap_or(have.stack), edition: today(), share };
        check_move(kind, have.stack, outfit.stack).map_err(refused)?;
        share.check(kind).map_err(refused)?;
        if share.disk < have.share.disk {
            self.must_hold(&row, &managed, share).await?;
        }
        let recipe = Recipe::of(kind).map_err(refused)?;
        let _holds = (self.install(call, recipe, outfit).await?, managed::prepare(parts, recipe, have).await?);
        let Some(attempt) = parts.managed.attempts.begin(managed.id, outfit) else {
            return Err(Error::conflict(format!("server `{name}` is being upgraded already")).hint("wait for its end"));
        };
        call.say("-----> Starting it anew\n").await?;
        let begun = Instant::now();
        match begin(parts, &row, &managed).await {
            Ok((health, address)) => {
                let failed = || format!("failed to record what server `{name}` is made of");
                if !parts.store.set_outfit(managed.id, outfit).await.or_failed(failed)? {
                    return Err(unknown(&name));
                }
                let away = begun.elapsed().as_secs_f32();
                let text =
                    format!("server `{name}` is {kind} {} at {address}; it was away for {away:.1} s", health.version);
                Ok(done(text).into())
            }
            Err(error) => {
                drop(attempt);
                let back = begin(parts, &row, &managed).await;
                Err(match back {
                    Ok(_) => error.hint("it is what it was before, and answers"),
                    Err(other) => error.hint(format!("what it was before does not answer either: {other}")),
                })
            }
        }
    }

    /// Whether its data fit into what it may take.
    async fn must_hold(&self, row: &ServerRow, managed: &ManagedRow, share: Share) -> Result<()> {
        let failed = || format!("failed to measure what server `{}` has", row.name);
        let has = self.loft.parts.engine.volume(&managed::volume(managed)).await.or_failed(failed)?.bytes;
        if has <= share.disk {
            return Ok(());
        }
        let (has, most) = (Size(has).about(), Size(share.disk));
        Err(Error::usage(format!("the data on server `{}` take {has}, which is more than {most}", row.name))
            .hint("give it more: --disk SIZE"))
    }

    /// Installs what it is made of. The first one of its kind takes some time.
    async fn install(&self, call: &mut Call<'_>, recipe: Recipe, outfit: Outfit) -> Result<crate::build::Hold> {
        if !managed::has_image(&self.loft.parts, recipe, outfit).await? {
            call.say(&format!("-----> Installing {} on {}\n", recipe.packages.join(" "), outfit.stack)).await?;
        }
        managed::prepare(&self.loft.parts, recipe, outfit).await
    }

    async fn managed(&self, name: &str) -> Result<(ServerRow, ManagedRow)> {
        let row =
            self.loft.parts.store.server(name).await.or_failed(|| format!("failed to look up server `{name}`"))?;
        let row = row.ok_or_else(|| unknown(name))?;
        match row.managed.clone() {
            Some(managed) => Ok((row, managed)),
            None => Err(Error::usage(format!("server `{name}` is not run by flyloft"))
                .hint("whoever runs it upgrades it; `flyloft services ls` tells which are run by flyloft")),
        }
    }
}

/// Has it run, and waits for its answer. Gives where it is as well.
async fn begin(parts: &Parts, row: &ServerRow, managed: &ManagedRow) -> Result<(Health, String)> {
    let addresses = managed::keep(parts, row, managed).await?;
    let health = managed::until_it_answers(parts, row, managed, addresses).await?;
    Ok((health, provision::reached(parts, row.clone(), Some(addresses))?.url.address()))
}

fn refused(error: ManagedError) -> Error {
    let told = Error::usage(&error);
    match error {
        ManagedError::Kind(kind) => {
            told.hint(format!("run one yourself, and tell of it: flyloft services add NAME --kind {kind} --url -"))
        }
        ManagedError::Memory { .. } => told.hint("give it more: --memory SIZE"),
        ManagedError::Older { .. } => told.hint("leave --stack out"),
        ManagedError::Major { kind, asked, .. } => told
            .hint("leave --stack out for the newest packages of the same version")
            .hint(format!("or add another one: flyloft services add NAME --kind {kind} --managed --stack {asked}"))
            .hint("and take there what is worth it, with the kind's own programs or `flyloft services dump` and `restore`"),
    }
}

/// The days since 1970.
fn today() -> u32 {
    u32::try_from(store::now() / 86_400_000).unwrap_or_default()
}
