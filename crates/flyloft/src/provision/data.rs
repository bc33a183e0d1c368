//! What databases begin with, and fresh data for those that are there.
//!
//! A template is a database that a dump was read into, and that nobody connects to. What is to take the place of data that
//! are in use is made aside, and takes it when it is whole: a dump that is broken, or a server that goes down in the
//! middle, changes nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use flyloft_core::name::Origin;
use flyloft_core::policy::{Key, Level, Settings};
use flyloft_core::service::{Ask, Data, Isolation, Kind, TemplateName};
use tokio::io::AsyncRead;

use super::{asks, dumped, only_this, opened, purpose, server_of, wanted};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::service::{Client as Programs, Copies, Label, Secret, Server, ServiceError, Wanted, no_data};
use crate::store::{self, EnvRow, NewTemplate, ServiceRow, ServiceState, TemplateRow};

/// What a database begins with, and on which server that is.
pub struct Seed {
    pub server: String,
    pub wanted: Wanted,
}

/// What an environment has, with all that opens it.
#[derive(Clone)]
pub struct Owned {
    pub row: ServiceRow,
    pub server: Server,
    pub wanted: Wanted,
}

/// Services whose data are being replaced.
#[derive(Default)]
pub struct Renewals(Mutex<HashSet<i64>>);

struct Renewal(Arc<Parts>, i64);

impl Renewal {
    fn begin(parts: &Arc<Parts>, owned: &Owned) -> Result<Self> {
        match parts.renewals.0.lock().expect("not poisoned").insert(owned.row.id) {
            true => Ok(Self(parts.clone(), owned.row.id)),
            false => Err(Error::conflict("its data are being replaced already").hint("wait until that has ended")),
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.renewals.0.lock().expect("not poisoned").remove(&self.1);
    }
}

/// Only people may ask for what another environment has: `app.json` comes with a pull request as well. That of a pull
/// request, which may be a stranger's, has the templates of its own app alone.
pub(super) async fn check_asks(parts: &Parts, env: &EnvRow, asks: &[Ask], level: Level) -> Result<()> {
    if level != Level::AppJson {
        return Ok(());
    }
    let app = &env.name.app;
    for ask in asks {
        let refused = |what: &str| {
            Error::forbidden(format!("`app.json` asks for `{ask}`, {what}"))
                .hint(format!("whoever may use the app can: flyloft apps set {app} services={ask}"))
        };
        match &ask.data {
            Some(Data::Environment(other)) if *other != env.name => {
                return Err(refused("the data of another environment").hint("or name a template"));
            }
            Some(Data::Template(name)) if matches!(env.origin, Origin::PullRequest(_)) => {
                let apps = parts.store.apps().await.or_failed(|| "failed to list apps")?;
                if name.app(apps.iter().map(|row| &row.name)) != Some(app) {
                    let own = format!("or name one whose name begins with that of the app, as `{app}_seed`");
                    return Err(refused("a template that is not its app's").hint(own));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a database that is made for this ask begins with. What an environment would copy from itself is nothing.
pub(super) async fn seed_of(parts: &Parts, env: &EnvRow, ask: &Ask) -> Result<Option<Seed>> {
    if ask.data.is_some() && parts.services.of(ask.kind).copies() == Copies::Never {
        return Err(Error::usage(format!("`{ask}`: nothing of kind {} begins with data", ask.kind))
            .hint(format!("ask for it without: {}", kind(ask))));
    }
    match &ask.data {
        None => Ok(None),
        Some(Data::Environment(other)) if *other == env.name => Ok(None),
        Some(Data::Environment(other)) if other.app != env.name.app => {
            Err(Error::forbidden(format!("`{}` asks for the data of another app's `{other}`", env.name))
                .hint("name an environment of the same app, or a template"))
        }
        Some(Data::Environment(other)) => {
            let failed = || format!("failed to look up `{other}`");
            let missing = || {
                Error::not_found(format!("`{other}` has no {} whose data `{}` could begin with", kind(ask), env.name))
                    .hint(format!("deploy `{other}` first, or ask for other data: flyloft set {} services=…", env.name))
            };
            let source = parts.store.environment(other).await.or_failed(failed)?.ok_or_else(missing)?;
            let rows = parts.store.services_of(source.id).await.or_failed(failed)?;
            let row = rows.into_iter().find(|row| row.ask.is(ask) && row.state == ServiceState::Ready);
            let row = row.ok_or_else(missing)?;
            Ok(Some(Seed { wanted: wanted(parts, &row)?, server: row.server }))
        }
        Some(Data::Template(name)) => {
            let row = template(parts, name).await?;
            match row.kind == ask.kind {
                true => Ok(Some(Seed { wanted: wanted_template(parts, &row)?, server: row.server })),
                false => Err(Error::conflict(format!("template `{name}` is of kind {}, not {}", row.kind, ask.kind))),
            }
        }
    }
}

fn kind(ask: &Ask) -> String {
    ask.clone().with(None).to_string()
}

async fn template(parts: &Parts, name: &TemplateName) -> Result<TemplateRow> {
    let found = parts.store.template(name).await.or_failed(|| format!("failed to look up template `{name}`"))?;
    match found {
        Some(row) if row.is_ready => Ok(row),
        Some(_) => Err(Error::conflict(format!("template `{name}` is being made")).hint("try again when it is there")),
        None => Err(Error::not_found(format!("there is no template `{name}`"))
            .hint(format!("an admin makes one: flyloft services template SERVER {name} --from-dump FILE"))
            .hint("`flyloft services ls` lists them")),
    }
}

fn template_label(parts: &Parts, database: &str) -> Label {
    let text = format!("flyloft {} {database}", parts.settings.instance);
    Label { name: database.to_owned(), text, number: None }
}

/// As an environment would want it.
fn wanted_template(parts: &Parts, row: &TemplateRow) -> Result<Wanted> {
    let opened = parts.vault.open_sealed(&purpose(&row.server, &row.database), &row.password);
    let password = opened.or_failed(|| format!("failed to read the password of `{}`", row.database))?;
    Ok(template_of(template_label(parts, &row.database), password))
}

fn template_of(label: Label, password: String) -> Wanted {
    Wanted {
        label,
        password: Secret(password),
        connections: super::CONNECTIONS,
        isolation: Isolation::Usual,
        taken: BTreeSet::new(),
        seed: None,
    }
}

/// Which of what an environment has may be meant where it is not named.
#[derive(Clone, Copy, Debug)]
pub enum Among {
    Everything,
    /// What data can be written out of.
    Databases,
    Kind(Kind),
}

/// What an environment has of this name: of its variables, or of its kind. Without a name the only one, or the one that
/// has none.
pub async fn owned(parts: &Parts, env: &EnvRow, among: Among, name: Option<&str>) -> Result<Owned> {
    let rows = parts.store.services_of(env.id).await;
    let rows = rows.or_failed(|| format!("failed to look up the services of `{}`", env.name))?;
    let kind = if let Among::Kind(kind) = among { Some(kind) } else { None };
    let may_be_meant = |row: &ServiceRow| match among {
        Among::Everything => true,
        Among::Databases => name.is_some() || parts.services.of(row.ask.kind).copies() != Copies::Never,
        Among::Kind(kind) => row.ask.kind == kind,
    };
    let is_there = |row: &ServiceRow| row.state == ServiceState::Ready && may_be_meant(row);
    let rows: Vec<ServiceRow> = rows.into_iter().filter(is_there).collect();
    let is_meant = |row: &&ServiceRow| match name {
        Some(name) => row.ask.alias.as_deref() == Some(name) || row.ask.to_string() == name,
        None => rows.len() == 1 || (row.ask.alias.is_none() && (kind.is_some() || row.ask.kind == Kind::Postgres)),
    };
    let Some(row) = rows.iter().find(is_meant).cloned() else {
        let all: Vec<String> = rows.iter().map(|row| format!("`{}`", row.ask)).collect();
        return Err(match (all.as_slice(), name) {
            ([], _) => {
                let (what, ask) = kind.map_or(("database", "postgres"), |kind| (kind.as_str(), kind.as_str()));
                Error::not_found(format!("`{}` has no {what}", env.name))
                    .hint(format!("ask for one, and deploy it: flyloft set {} services={ask}", env.name))
            }
            (all, Some(name)) => Error::not_found(format!("`{}` has nothing called `{name}`", env.name))
                .hint(format!("it has {}", all.join(", "))),
            (all, None) => Error::usage(format!("`{}` has several services", env.name))
                .hint(format!("name one with --as: {}", all.join(", "))),
        });
    };
    let server = server_of(parts, &row).await?;
    let wanted = wanted(parts, &row)?;
    Ok(Owned { row, server, wanted })
}

/// What people can do with it.
pub fn programs(parts: &Parts, owned: &Owned) -> Result<Programs> {
    Ok(parts.services.of(owned.row.ask.kind).client(&owned.server, &owned.wanted)?)
}

/// Gives it the data anew that it begins with: those that are asked for now.
pub async fn renew(parts: &Arc<Parts>, env: &EnvRow, owned: &Owned, asked: &Settings) -> Result<()> {
    let renewal = Renewal::begin(parts, owned)?;
    let ask = asks(parts, env, asked).into_iter().find(|ask| ask.is(&owned.row.ask));
    let seed = match &ask {
        Some(ask) => {
            let (_, level) = parts.settings.levels(env, asked).of(Key::Services);
            check_asks(parts, env, std::slice::from_ref(ask), level).await?;
            seed_of(parts, env, ask).await?
        }
        None => None,
    };
    let (driver, seed) = (parts.services.of(owned.row.ask.kind), on_server(seed, &owned.row)?);
    if !matches!(driver.copies(), Copies::Dumps(_)) {
        let wanted = Wanted { seed: seed.map(|seed| seed.label), ..owned.wanted.clone() };
        return Ok(driver.renew(&owned.server, &wanted).await?);
    }
    let aside = Aside::of(parts, owned);
    let programs = driver.open_aside(&owned.server, &owned.wanted).await?;
    let filled = match seed {
        Some(seed) => dumped::pour(parts, &owned.server, &driver.client(&owned.server, &seed)?, &programs).await,
        None => Ok(()),
    };
    place(renewal, owned, programs, aside, filled).await
}

/// What a database begins with has to be where that is.
pub(super) fn on_server(seed: Option<Seed>, row: &ServiceRow) -> Result<Option<Wanted>> {
    match seed {
        Some(seed) if seed.server != row.server => Err(Error::conflict(format!(
            "`{}` is on server `{}`, and what it is to begin with on server `{}`",
            row.name, row.server, seed.server
        ))
        .hint("destroy the environment, and stage it anew")),
        seed => Ok(seed.map(|seed| seed.wanted)),
    }
}

/// Replaces what it has by what a dump says.
pub async fn restore(parts: &Arc<Parts>, owned: &Owned, dump: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
    let renewal = Renewal::begin(parts, owned)?;
    let aside = Aside::of(parts, owned);
    let driver = parts.services.of(owned.row.ask.kind);
    let programs = driver.open_aside(&owned.server, &owned.wanted).await?;
    let filled = dumped::fill(parts, &owned.server, &programs, dump).await;
    place(renewal, owned, programs, aside, filled).await
}

/// What was filled aside takes the place of what is there, if it is whole. From when that goes on it does not end with
/// whoever asked for it.
async fn place(
    renewal: Renewal,
    owned: &Owned,
    programs: Programs,
    mut aside: Aside,
    filled: Result<()>,
) -> Result<()> {
    if let Err(error) = filled {
        aside.drop_now().await;
        return Err(error.hint("what was there is there still"));
    }
    let driver = renewal.0.services.of(owned.row.ask.kind);
    if !matches!(driver.copies(), Copies::Dumps(_)) {
        driver.put_in_place(&owned.server, &owned.wanted.label).await?;
        aside.keep();
        return Ok(());
    }
    let owned = owned.clone();
    let placing = tokio::spawn(async move { pour_in_place(&renewal, &owned, &programs, aside).await });
    placing.await.or_failed(|| "failed to put the new data in their place")?
}

/// Until they are whole in their place, the only whole ones are aside, and stay there.
async fn pour_in_place(renewal: &Renewal, owned: &Owned, programs: &Programs, mut aside: Aside) -> Result<()> {
    let (parts, server) = (&renewal.0, &owned.server);
    let driver = parts.services.of(owned.row.ask.kind);
    let to = driver.client(server, &owned.wanted)?;
    aside.keep();
    let placed = async {
        driver.empty(server, &owned.wanted.label).await?;
        crate::fault::point("service.emptied");
        dumped::pour(parts, server, programs, &to).await
    };
    placed.await.map_err(|error| {
        error.hint(format!(
            "what was there may be gone, and the new data are not whole: run the same command again; until then a whole \
             copy of them is what `{}` has on server `{}`",
            programs.user, server.name
        ))
    })?;
    aside.drop_now().await;
    Ok(())
}

/// What is being filled goes, unless it has come to be in place; also where whoever sent it has gone away.
struct Aside {
    parts: Arc<Parts>,
    kind: Kind,
    server: Server,
    label: Label,
    kept: bool,
}

impl Aside {
    fn of(parts: &Arc<Parts>, owned: &Owned) -> Self {
        let (parts, kind) = (parts.clone(), owned.row.ask.kind);
        Self { parts, kind, server: owned.server.clone(), label: owned.wanted.label.clone(), kept: false }
    }

    fn keep(&mut self) {
        self.kept = true;
    }

    async fn drop_now(mut self) {
        self.kept = true;
        drop_aside(&self.parts, self.kind, &self.server, &self.label).await;
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (parts, kind) = (self.parts.clone(), self.kind);
        let (server, label) = (self.server.clone(), self.label.clone());
        tokio::spawn(async move { drop_aside(&parts, kind, &server, &label).await });
    }
}

async fn drop_aside(parts: &Parts, kind: Kind, server: &Server, label: &Label) {
    if let Err(error) = parts.services.of(kind).drop_aside(server, label).await {
        // The next one takes it away before it begins, and the end of its environment does, too.
        tracing::warn!(server = server.name, name = label.name, %error, "failed to drop what was half restored");
    }
}

/// A template that nothing is in yet. It goes unless it is filled.
pub struct Unfilled {
    server: Server,
    wanted: Wanted,
    unfinished: Unfinished,
    /// What fills it.
    pub programs: Programs,
}

/// Puts on record that a template is made on a server.
pub async fn begin_template(parts: &Arc<Parts>, server: Server, name: &TemplateName) -> Result<Unfilled> {
    let failed = || format!("failed to record template `{name}`");
    let (kind, id) = (server.url.kind, crate::random::hex(8));
    let driver = parts.services.of(kind);
    // Nothing is put on record that could not be made.
    if driver.copies() == Copies::Never {
        return Err(no_data(&server).into());
    }
    let database = name.name_for(kind, &parts.settings.instance, &id);
    let secret = crate::random::hex(super::PASSWORD);
    let password = parts.vault.seal(&purpose(&server.name, &database), &secret);
    let wanted = template_of(template_label(parts, &database), secret);
    let programs = driver.client(&server, &wanted)?;
    let new = NewTemplate { name: name.clone(), server: server.name.clone(), kind, database, password };
    let begun = parts.store.begin_template(new, store::now()).await.or_failed(failed)?;
    let row = begun.ok_or_else(|| {
        Error::conflict(format!("there is a template `{name}` already"))
            .hint(format!("flyloft services template {} {name} --rm", server.name))
    })?;
    let unfinished = Unfinished { parts: parts.clone(), id: Some(row.id) };
    crate::fault::point("template.begun");
    Ok(Unfilled { server, wanted, unfinished, programs })
}

/// Makes a template of a dump.
pub async fn fill_template(template: Unfilled, dump: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
    let Unfilled { server, wanted, unfinished, programs } = template;
    let parts = unfinished.parts.clone();
    let driver = parts.services.of(server.url.kind);
    driver.provide(&server, &wanted).await?;
    dumped::fill(&parts, &server, &programs, dump).await?;
    driver.seal(&server, &wanted.label).await?;
    crate::fault::point("template.made");
    unfinished.keep().await
}

/// A template that has to go if it does not come to its end.
struct Unfinished {
    parts: Arc<Parts>,
    id: Option<i64>,
}

impl Unfinished {
    /// It has come to its end.
    async fn keep(mut self) -> Result<()> {
        if let Some(id) = self.id {
            self.parts.store.template_is_ready(id).await.or_failed(|| "failed to record a template")?;
        }
        self.id = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let parts = self.parts.clone();
        tokio::spawn(async move {
            if let Err(error) = parts.store.drop_template(id).await {
                return tracing::warn!(%error, "failed to record that a template has to go");
            }
            sweep(&parts, &mut BTreeSet::new()).await;
        });
    }
}

/// Forgets a template. It goes from its server as soon as that lets it.
pub async fn drop_template(parts: &Arc<Parts>, server: &str, name: &TemplateName) -> Result<()> {
    let row = template(parts, name).await?;
    if row.server != server {
        return Err(Error::not_found(format!(
            "template `{name}` is not on server `{server}`, but on `{}`",
            row.server
        )));
    }
    let dropped = parts.store.drop_template(row.id).await;
    dropped.or_failed(|| format!("failed to forget template `{name}`"))?;
    let parts = parts.clone();
    tokio::spawn(async move { sweep(&parts, &mut BTreeSet::new()).await });
    Ok(())
}

/// Ends what nobody can name any more. Servers that fail are noted, and not asked again.
pub(super) async fn sweep(parts: &Parts, failing: &mut BTreeSet<String>) {
    let strays = match parts.store.stray_templates().await {
        Ok(strays) => strays,
        Err(error) => return tracing::warn!(%error, "failed to list templates that are to go"),
    };
    for row in strays {
        if failing.contains(&row.server) {
            continue;
        }
        match end(parts, &row).await {
            Ok(None) => tracing::info!(server = row.server, name = row.database, "removed a template"),
            Ok(Some(error)) => {
                tracing::warn!(server = row.server, name = row.database, %error, "failed to remove a template");
            }
            Err(error) => {
                tracing::warn!(server = row.server, name = row.database, %error, "failed to remove a template");
                failing.insert(row.server);
            }
        }
    }
}

async fn end(parts: &Parts, row: &TemplateRow) -> Result<Option<ServiceError>> {
    let failed = || format!("failed to look up server `{}`", row.server);
    let server = parts.store.server(&row.server).await.or_failed(failed)?;
    let server = server.ok_or_else(|| Error::not_found(format!("there is no server `{}`", row.server)))?;
    let server = opened(parts, server).await?;
    let label = template_label(parts, &row.database);
    if let Some(left) = only_this(parts.services.of(row.kind).remove_template(&server, &label).await)? {
        return Ok(Some(left));
    }
    parts.store.forget_template(row.id).await.or_failed(|| format!("failed to forget `{}`", row.database))?;
    Ok(None)
}
