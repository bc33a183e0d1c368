//! What environments have on servers of others: on record before it is made, handed to what is launched, and gone after
//! the environment.
//!
//! ```text
//!   ∅ ── deploy ──► making ── the server has it ──► ready
//!                      └──── the environment goes ────┴──► dropping ── the server has it no more ──► ∅
//! ```
//!
//! What must hold: nothing is on a server that is not on record here, and nothing goes from a server that does not carry
//! this daemon's label as well. The reconciliation repeats what a server that was down did not do.

pub mod client;
pub mod data;
pub mod dumped;
pub mod sleepers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flyloft_core::name::ReleaseNumber;
use flyloft_core::policy::{Key, Level, Settings};
use flyloft_core::service::managed::Recipe;
use flyloft_core::service::{Ask, Isolation, Kind};

use crate::build::Tools;
use crate::engine::{Addresses, ContainerId, EngineError, Reach, Volume};
use crate::error::{Error, OrFailed, Result};
use crate::managed;
use crate::parts::Parts;
use crate::service::{Copies, Driver, Label, Secret, Server, ServiceError, Wanted, postgres, tls};
use crate::store::{self, EnvRow, NewService, ServerRow, ServiceRow, ServiceState};
use crate::volumes;

/// How many connections an environment may have to a database at once: a server has a hundred unless it was told
/// otherwise, and they are for all.
const CONNECTIONS: u32 = 20;

/// How often what is to go is tried again, and servers are looked for.
const RECONCILE: Duration = Duration::from_secs(60);

/// How long a name server may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// For so long a server is asked again that cannot be reached, or has no connection left: people wait for a deploy.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Hexadecimal digits of a password: 128 bits, and nothing in it that an app has trouble with.
const PASSWORD: usize = 32;

/// What a container is given of its environment's services.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Less than what people set, and more than what `app.json` says.
    pub variables: BTreeMap<String, String>,
    pub reach: Reach,
    /// See [`crate::volumes`].
    pub volumes: Vec<Volume>,
    /// Who vouches for its servers.
    pub files: BTreeMap<String, String>,
}

/// Where servers were when they were last looked for.
#[derive(Default)]
pub struct Places(tokio::sync::Mutex<Found>);

#[derive(Default)]
struct Found {
    at: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// Somebody may have a container still whose rules lead to where a server was.
    behind: bool,
}

/// What holds for the environment, where its release asks for this.
pub fn asks(parts: &Parts, env: &EnvRow, asked: &Settings) -> Vec<Ask> {
    parts.settings.levels(env, asked).merged().services.map(|asks| asks.0).unwrap_or_default()
}

/// The same where there are servers for it, and what there is no server for. Where only `app.json` asks for that, it is
/// no reason not to deploy: the file is written for others as well.
pub async fn met(parts: &Parts, env: &EnvRow, asked: &Settings) -> Result<(Vec<Ask>, Vec<Ask>)> {
    let asks = asks(parts, env, asked);
    if asks.is_empty() {
        return Ok((asks, Vec::new()));
    }
    let servers = parts.store.servers().await.or_failed(|| "failed to list servers")?;
    let (met, unmet): (Vec<Ask>, Vec<Ask>) =
        asks.into_iter().partition(|ask| servers.iter().any(|row| ask.fits(&row.url)));
    let (_, level) = parts.settings.levels(env, asked).of(Key::Services);
    data::check_asks(parts, env, &met, level).await?;
    match unmet.first() {
        Some(ask) if level != Level::AppJson => Err(no_server(env, ask)),
        _ => Ok((met, unmet)),
    }
}

fn no_server(env: &EnvRow, ask: &Ask) -> Error {
    let kind = ask.kind;
    let mut error = Error::failed(format!(
        "`{}` asks for {}, and there is no server {}",
        env.name,
        ask.what(),
        ask.of_which_kind()
    ))
    .hint(format!("an admin tells of one: flyloft services add NAME --kind {kind} --url -"));
    if Recipe::of(kind).is_ok() {
        error = error.hint(format!("or has flyloft run one: flyloft services add NAME --kind {kind} --managed"));
    }
    error.hint(format!("or do without: flyloft set {} services=none", env.name))
}

/// Packages with which what is asked for is copied, where those have to be installed first: once, and that takes a while.
pub async fn unprepared(parts: &Parts, env: &EnvRow, asks: &[Ask]) -> Result<BTreeSet<String>> {
    let mut unprepared = BTreeSet::new();
    for ask in asks.iter().filter(|ask| ask.data.as_ref().is_some_and(|data| !data.is_of(&env.name))) {
        let Copies::Dumps(packages) = parts.services.of(ask.kind).copies() else { continue };
        let is_made = of(parts, env, ask).await?.is_some_and(|row| row.state != ServiceState::Making);
        if !is_made && !parts.builder.has_tools(&Tools::newest(packages)).await? {
            unprepared.insert(packages.join(" "));
        }
    }
    Ok(unprepared)
}

/// Makes what is asked for and not there yet. Gives what was made, as in `Database on server pg`.
pub async fn provide(parts: &Parts, env: &EnvRow, asks: &[Ask]) -> Result<Vec<String>> {
    let mut made = Vec::new();
    for ask in asks {
        let found = of(parts, env, ask).await?;
        if found.as_ref().is_some_and(|row| row.state != ServiceState::Making) {
            continue;
        }
        let seed = data::seed_of(parts, env, ask).await?;
        let row = match found {
            Some(row) => row,
            None => begin(parts, env, ask, seed.as_ref()).await?,
        };
        let server = server_of(parts, &row).await?;
        crate::fault::point("service.begun");
        make(parts, &server, &row, seed).await?;
        made.push(format!("{} on server {}", ask.kind.thing(), row.server));
    }
    Ok(made)
}

/// Gives whether it is still on record, so that somebody will end it.
async fn make(parts: &Parts, server: &Server, row: &ServiceRow, seed: Option<data::Seed>) -> Result<bool> {
    let failed = || format!("failed to record what is on server `{}`", row.server);
    let (driver, seed) = (parts.services.of(row.ask.kind), data::on_server(seed, row)?);
    let mut wanted = wanted(parts, row)?;
    if driver.copies() == Copies::Itself {
        wanted.seed = seed.as_ref().map(|seed| seed.label.clone());
    }
    if row.ask.isolation == Isolation::Database {
        wanted.taken = parts.store.numbers_of_others(&row.server, row.id).await.or_failed(failed)?;
    }
    let number = match seed.filter(|_| matches!(driver.copies(), Copies::Dumps(_))) {
        Some(seed) => dumped::provide(parts, server, &wanted, &seed).await?,
        None => made(driver, server, &wanted).await?,
    };
    crate::fault::point("service.made");
    parts.store.service_is_ready(row.id, number).await.or_failed(failed)
}

async fn made(driver: &dyn Driver, server: &Server, wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
    again(PATIENCE, || driver.provide(server, wanted)).await
}

/// Asks again what may have been in vain for a moment only.
async fn again<T, F>(patience: Duration, ask: impl Fn() -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match ask().await {
            Err(error) if error.fault.may_pass() && started.elapsed() + pause < patience => {
                tracing::debug!(%error, "it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            done => return done,
        }
    }
}

/// What a container that is launched now as that release gets. All of it has been made.
pub async fn given(parts: &Parts, env: &EnvRow, release: ReleaseNumber, asks: &[Ask]) -> Result<Given> {
    let mut given = Given { volumes: volumes::mounted(parts, env, release).await?, ..Given::default() };
    let mut servers = BTreeSet::new();
    for ask in asks {
        let Some(row) = of(parts, env, ask).await?.filter(|row| row.state == ServiceState::Ready) else { continue };
        let server = server_of(parts, &row).await?;
        // One that runs here may just have been started, and may have begun anew.
        if server.beside.is_some() {
            mend(parts, &server, std::slice::from_ref(&row), managed::PATIENCE).await?;
        }
        let wanted = wanted(parts, &row)?;
        // Where two have one name, it is that of the first who asks.
        for (name, value) in parts.services.of(ask.kind).variables(&server, &wanted, ask.alias.as_deref()) {
            given.variables.entry(name).or_insert(value);
        }
        given.files.extend(tls::files(&server)?);
        if ask.kind == Kind::Postgres {
            servers.insert(row.server);
        }
        given.reach.allow.extend(match addresses(&server).await {
            Ok(found) => found,
            // It is most likely where it was.
            Err(error) => match parts.places.0.lock().await.at.get(&server.name) {
                Some(known) => known.iter().copied().collect(),
                None => return Err(error),
            },
        });
    }
    // They would hold for connections to each of these, and only one is meant; all URLs say it of their own.
    if servers.len() > 1 {
        postgres::OF_ALL_CONNECTIONS.iter().for_each(|name| drop(given.variables.remove(*name)));
    }
    given.reach.allow.sort();
    given.reach.allow.dedup();
    Ok(given)
}

/// Ends what has lost its environment, and has those that are there reach what is theirs where it is now. Not beside
/// containers, who need not wait for a server that does not answer.
pub async fn reconcile_for_ever(parts: Arc<Parts>) {
    if let Err(error) = parts.store.abandon_templates().await {
        tracing::warn!(%error, "failed to give up templates that were being made");
    }
    loop {
        managed::keep_all(&parts).await;
        sweep(&parts).await;
        volumes::sweep(&parts).await;
        if let Err(error) = follow(&parts).await {
            tracing::warn!(%error, "failed to look where servers are");
        }
        if let Err(error) = remake(&parts).await {
            tracing::warn!(%error, "failed to look for what servers have lost");
        }
        tokio::time::sleep(RECONCILE).await;
    }
}

/// Ends what has lost its environment. What does not work now is tried again in a minute.
pub async fn sweep(parts: &Parts) {
    let strays = match parts.store.stray_services().await {
        Ok(strays) => strays,
        Err(error) => return tracing::warn!(%error, "failed to list what is to go from servers"),
    };
    let mut failing = BTreeSet::new();
    for row in strays {
        // One that does not answer does so to the next one, too.
        if failing.contains(&row.server) {
            continue;
        }
        match end(parts, &row).await {
            Ok(None) => tracing::info!(server = row.server, name = row.name, "removed what no environment has"),
            Ok(Some(error)) => {
                tracing::warn!(server = row.server, name = row.name, %error, "failed to remove what no environment has");
            }
            Err(error) => {
                tracing::warn!(server = row.server, name = row.name, %error, "failed to remove what no environment has");
                failing.insert(row.server);
            }
        }
    }
    data::sweep(parts, &mut failing).await;
}

/// Makes again what servers have forgotten, as Redis does when it is started without a file for its users.
async fn remake(parts: &Parts) -> Result<()> {
    let rows = parts.store.services().await.or_failed(|| "failed to list what is on servers")?;
    let mut on = BTreeMap::<String, Vec<ServiceRow>>::new();
    for row in rows.into_iter().filter(|row| row.state == ServiceState::Ready) {
        on.entry(row.server.clone()).or_default().push(row);
    }
    for (name, rows) in on {
        if let Err(error) = remake_on(parts, &rows).await {
            tracing::warn!(server = name, %error, "failed to make again what a server may have lost");
        }
    }
    Ok(())
}

/// `rows` are of one server.
async fn remake_on(parts: &Parts, rows: &[ServiceRow]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let server = server_of(parts, first).await?;
    // What others run and have restored is theirs to mend. A Redis forgets by itself.
    if server.beside.is_none() && server.url.kind != Kind::Redis {
        return Ok(());
    }
    mend(parts, &server, rows, PATIENCE).await
}

/// Makes again what of these the server has not.
async fn mend(parts: &Parts, server: &Server, rows: &[ServiceRow], patience: Duration) -> Result<()> {
    let driver = parts.services.of(server.url.kind);
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let lost = again(patience, || driver.lost(server, &names)).await?;
    for row in rows.iter().filter(|row| lost.contains(&row.name)) {
        match make(parts, server, row, None).await? {
            true => tracing::info!(server = row.server, name = row.name, "made again what the server had lost"),
            // Its environment went meanwhile.
            false => driver.remove(server, &label(parts, row)).await?,
        }
    }
    Ok(())
}

/// Gives why it is there still, where that says nothing of what else is on its server.
async fn end(parts: &Parts, row: &ServiceRow) -> Result<Option<ServiceError>> {
    let server = server_of(parts, row).await?;
    crate::fault::point("service.ending");
    let removed = parts.services.of(row.ask.kind).remove(&server, &label(parts, row)).await;
    if let Some(left) = only_this(removed)? {
        return Ok(Some(left));
    }
    parts.store.forget_service(row.id).await.or_failed(|| format!("failed to forget `{}`", row.name))?;
    Ok(None)
}

fn only_this(removed: Result<(), ServiceError>) -> Result<Option<ServiceError>, ServiceError> {
    match removed {
        Err(error) if error.fault.is_of_one_thing() => Ok(Some(error)),
        removed => removed.map(|()| None),
    }
}

/// Opens the way to servers that have moved.
async fn follow(parts: &Parts) -> Result<()> {
    let failed = || "failed to list what is on servers";
    let rows = parts.store.services().await.or_failed(failed)?;
    let ready: Vec<ServiceRow> = rows.into_iter().filter(|row| row.state == ServiceState::Ready).collect();
    let mut places = parts.places.0.lock().await;
    let used: BTreeSet<String> = ready.iter().map(|row| row.server.clone()).collect();
    for row in parts.store.servers().await.or_failed(failed)? {
        if !used.contains(&row.name) {
            continue;
        }
        // While a name leads nowhere, the way stays open to where it led.
        let Ok(server) = opened(parts, row.clone()).await else { continue };
        let Ok(found) = addresses(&server).await else { continue };
        let found: BTreeSet<SocketAddr> = found.into_iter().collect();
        let before = places.at.insert(row.name, found.clone());
        places.behind |= before.is_none_or(|before| before != found);
    }
    if !places.behind {
        return Ok(());
    }
    let mut owned = BTreeMap::<_, Vec<ServiceRow>>::new();
    for row in ready {
        if let Some(env) = row.env {
            owned.entry(env).or_default().push(row);
        }
    }
    let mut all = true;
    for (env, rows) in owned {
        let Some(env) = parts.store.environment_of(env).await.or_failed(failed)? else { continue };
        let asks = asks(parts, &env, &env.asked);
        let found =
            rows.iter().filter(|row| asks.iter().any(|ask| ask.is(&row.ask))).map(|row| places.at.get(&row.server));
        // Where one of them was never found, nothing is closed.
        let Some(found) = found.collect::<Option<Vec<_>>>() else { continue };
        let allow: BTreeSet<SocketAddr> = found.into_iter().flatten().copied().collect();
        // What is being launched has what was found when its deploy began, and is looked at once it serves.
        all &= !env.is_deploying();
        if let Some(live) = &env.live {
            all &= allow_only(parts, &live.container, Reach { allow: allow.into_iter().collect() }).await;
        }
    }
    places.behind = !all;
    Ok(())
}

/// Says whether it has come about, as far as there is somebody.
async fn allow_only(parts: &Parts, container: &ContainerId, reach: Reach) -> bool {
    match parts.engine.allow(container, &reach).await {
        Ok(()) | Err(EngineError::NoContainer(_)) => true,
        Err(error) => {
            tracing::warn!(%container, %error, "failed to open the way to a server");
            false
        }
    }
}

async fn of(parts: &Parts, env: &EnvRow, ask: &Ask) -> Result<Option<ServiceRow>> {
    let rows = parts.store.services_of(env.id).await;
    let rows = rows.or_failed(|| format!("failed to look up the services of `{}`", env.name))?;
    Ok(rows.into_iter().find(|row| row.ask.is(ask)))
}

/// Puts on record what is about to be made: where what it begins with is, or else on the server that was told of first among
/// those that can have it.
async fn begin(parts: &Parts, env: &EnvRow, ask: &Ask, seed: Option<&data::Seed>) -> Result<ServiceRow> {
    let failed = || format!("failed to record what `{}` is to have", env.name);
    let servers = parts.store.servers().await.or_failed(failed)?;
    let is_right = |row: &ServerRow| ask.fits(&row.url) && seed.is_none_or(|seed| seed.server == row.name);
    let server = servers.into_iter().filter(is_right).min_by_key(|row| row.created_at);
    let server = server.ok_or_else(|| no_server(env, ask))?;
    let name = ask.name_for(&env.name, &parts.settings.instance, env.id.0);
    let password = parts.vault.seal(&purpose(&server.name, &name), &crate::random::hex(PASSWORD));
    let new = NewService { env: env.id, server: server.name, ask: ask.clone(), name, password };
    let begun = parts.store.begin_service(new, store::now()).await.or_failed(failed)?;
    begun.ok_or_else(|| Error::not_found(format!("there is no environment `{}` any more", env.name)))
}

/// The server, which runs if this daemon runs it.
async fn server_of(parts: &Parts, row: &ServiceRow) -> Result<Server> {
    let failed = || format!("failed to look up server `{}`", row.server);
    let server = parts.store.server(&row.server).await.or_failed(failed)?;
    opened(parts, server.ok_or_else(|| Error::not_found(format!("there is no server `{}`", row.server)))?).await
}

/// With its password. It runs, if this daemon runs it.
pub async fn opened(parts: &Parts, row: ServerRow) -> Result<Server> {
    let at = match &row.managed {
        Some(managed) => Some(managed::awake(parts, &row, managed).await?),
        None => None,
    };
    reached(parts, row, at)
}

/// With its password, and at these addresses, if this daemon runs it and it has some.
pub fn reached(parts: &Parts, row: ServerRow, at: Option<Addresses>) -> Result<Server> {
    let ServerRow { name, mut url, password, ca, .. } = row;
    if let Some(at) = at {
        url.host = at.ipv4.to_string();
    }
    let opened = parts.vault.open_sealed(&server_purpose(&name), &password).map_err(|error| {
        Error::because(format!("failed to read the password of server `{name}`"), error)
            .hint("put the key back that was there, or remove the server and add it again")
    });
    Ok(Server { name, url, password: Secret(opened?), ca, beside: at.map(|at| at.ipv6.into()) })
}

/// What a server's password is sealed for.
pub fn server_purpose(name: &str) -> String {
    format!("server {name}")
}

fn purpose(server: &str, name: &str) -> String {
    format!("service {server}/{name}")
}

fn wanted(parts: &Parts, row: &ServiceRow) -> Result<Wanted> {
    let password = parts.vault.open_sealed(&purpose(&row.server, &row.name), &row.password);
    let password = password.or_failed(|| format!("failed to read the password of `{}`", row.name))?;
    Ok(Wanted {
        label: label(parts, row),
        password: Secret(password),
        connections: CONNECTIONS,
        isolation: row.ask.isolation,
        taken: BTreeSet::new(),
        seed: None,
    })
}

/// Of this daemon alone: another one that was made of its backup takes nothing for its own.
fn label(parts: &Parts, row: &ServiceRow) -> Label {
    let text = format!("flyloft {} {}", parts.settings.instance, row.name);
    Label { name: row.name.clone(), text, number: row.number }
}

async fn addresses(server: &Server) -> Result<Vec<SocketAddr>> {
    let (host, port) = (server.url.host.as_str(), server.url.port);
    let failed = || format!("failed to find the address of server `{}`, `{host}`", server.name);
    let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host, port))).await;
    let beside = server.beside.map(|beside| SocketAddr::new(beside, port));
    Ok(found.or_failed(failed)?.or_failed(failed)?.chain(beside).collect())
}

#[cfg(test)]
mod tests;
