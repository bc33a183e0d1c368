//! `flyloft services`: the servers on which environments can have databases and the like.

use flyloft_core::name::EnvRef;
use flyloft_core::policy::Size;
use flyloft_core::service::{Kind, ServerUrl};
use futures_util::future::join_all;
use serde::Serialize;

use super::managed::ManagedItem;
use super::reply::{Reply, age, as_time, done, size, table};
use super::{Api, Call, Ending};
use crate::command::{Services, ServicesAdd, ServicesChange, ServicesLs, ServicesRm};
use crate::engine::ContainerState;
use crate::error::{Error, OrFailed, Result};
use crate::managed;
use crate::parts::Parts;
use crate::provision::{opened, reached, server_purpose};
use crate::service::tls::{certificates, written};
use crate::service::{Health, Secret, Server, ServiceError};
use crate::store::{self, Forgotten, ServerRow, ServiceRow, ServiceState, TemplateRow};

/// A URL, and the certificates of who vouches for a server.
const INPUT: u64 = 256 << 10;

#[derive(Serialize)]
struct ServerList {
    servers: Vec<ServerItem>,
    templates: Vec<TemplateItem>,
}

#[derive(Serialize)]
struct TemplateItem {
    name: String,
    server: String,
    is_ready: bool,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

#[derive(Serialize)]
struct ServerItem {
    name: String,
    kind: Kind,
    /// With the password in it if that was asked for.
    url: String,
    /// False where flyloft is to run it, and does not.
    runs: bool,
    /// Whether it has to show a certificate of somebody who was named.
    ca: bool,
    /// Flyloft runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    managed: Option<ManagedItem>,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl Reply for ServerList {
    fn text(&self) -> String {
        if self.servers.is_empty() {
            return "there are no servers yet; add one: flyloft services add NAME --kind postgres --managed\n"
                .to_owned();
        }
        let now = store::now();
        let rows = self.servers.iter().map(|server| {
            let by = if server.managed.is_some() { ", run by flyloft" } else { "" };
            let at = if server.runs { &server.url } else { "does not run" };
            [server.name.clone(), format!("{}{by}", server.kind), age(server.created_at, now), at.to_owned()]
        });
        let servers = table(["SERVER", "KIND", "AGE", "URL"], rows);
        let rows = self.templates.iter().map(|template| {
            let state = if template.is_ready { "ready" } else { "being made" };
            [template.name.clone(), template.server.clone(), age(template.created_at, now), state.to_owned()]
        });
        match self.templates.is_empty() {
            true => servers,
            false => format!("{servers}\n{}", table(["TEMPLATE", "SERVER", "AGE", "STATE"], rows)),
        }
    }
}

#[derive(Serialize)]
struct HealthList {
    servers: Vec<HealthItem>,
}

#[derive(Serialize)]
struct HealthItem {
    name: String,
    kind: Kind,
    #[serde(flatten)]
    health: Health,
    /// Of one that flyloft runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

/// In bytes.
#[derive(Serialize)]
struct Data {
    bytes: u64,
    most: u64,
}

impl Reply for HealthList {
    fn text(&self) -> String {
        let rows = self.servers.iter().map(|HealthItem { name, kind, health, data }| {
            let Health { version, connections, max_connections } = health;
            let most = max_connections.map(|most| format!(" of {most}")).unwrap_or_default();
            let data = data.as_ref().map(|data| format!("{} of {}", size(data.bytes), Size(data.most)));
            [name.clone(), format!("{kind} {version}"), format!("{connections}{most}"), data.unwrap_or_default()]
        });
        match self.servers.as_slice() {
            [] => String::new(),
            // Only of those that flyloft runs it is known.
            all if all.iter().all(|item| item.data.is_none()) => table(
                ["SERVER", "VERSION", "CONNECTIONS"],
                rows.map(|[name, version, connections, _]| [name, version, connections]),
            ),
            _ => table(["SERVER", "VERSION", "CONNECTIONS", "DATA"], rows),
        }
    }
}

impl Api {
    pub(super) async fn services(&self, call: &mut Call<'_>, command: Services) -> Result<Ending> {
        match command {
            Services::Add(add) => self.add_server(call, add).await,
            Services::Ls(ls) => self.list_servers(call, ls).await,
            Services::Check { name } => self.check_servers(call, name).await,
            Services::Change(change) => self.change_server(call, change).await,
            Services::Upgrade(upgrade) => self.upgrade_server(call, upgrade).await,
            Services::Rm(rm) => self.remove_server(call, rm).await,
            Services::Template(template) => self.template(call, template).await,
            Services::Reset(reset) => self.reset_data(call, reset).await,
            Services::Psql(one) => self.client(call, Kind::Postgres, one).await,
            Services::Mysql(one) => self.client(call, Kind::Mysql, one).await,
            Services::RedisCli(one) => self.client(call, Kind::Redis, one).await,
            Services::Dump(dump) => self.dump(call, dump).await,
            Services::Restore(restore) => self.restore_data(call, restore).await,
        }
    }

    async fn add_server(&self, call: &mut Call<'_>, add: ServicesAdd) -> Result<Ending> {
        call.must_be_admin()?;
        let name = add.name.clone();
        let failed = || format!("failed to add server `{name}`");
        check_name(&name)?;
        let store = &self.loft.parts.store;
        if store.server(&name).await.or_failed(failed)?.is_some() {
            return Err(taken(&name));
        }
        if add.managed {
            return self.add_managed(call, add).await;
        }
        let (url, named_ca) = (add.url.map(|url| url.0).unwrap_or_default(), add.ca.is_some());
        let server = told(call, (&name, add.kind), &url, named_ca).await?;
        let driver = self.loft.parts.services.of(server.url.kind);
        let health = driver.check(&server).await.map_err(ServiceError::of_a_new_one)?;
        let row = ServerRow {
            name: name.clone(),
            url: server.url.clone(),
            password: self.loft.parts.vault.seal(&server_purpose(&name), &server.password.0),
            ca: server.ca,
            managed: None,
            created_at: store::now(),
        };
        if !store.add_server(row).await.or_failed(failed)? {
            return Err(taken(&name));
        }
        let (kind, address) = (server.url.kind, server.url.address());
        Ok(done(format!("server `{name}` is added: {kind} {} at {address}", health.version)).into())
    }

    /// What has its address in its variables finds another one when it is started next.
    async fn change_server(&self, call: &mut Call<'_>, change: ServicesChange) -> Result<Ending> {
        call.must_be_admin()?;
        let ServicesChange { name, url, ca } = change;
        let Parts { store, vault, services, .. } = &*self.loft.parts;
        let failed = || format!("failed to change server `{name}`");
        let row = store.server(&name).await.or_failed(failed)?.ok_or_else(|| unknown(&name))?;
        if row.managed.is_some() {
            return Err(Error::usage(format!("server `{name}` is run by flyloft, which knows where it is"))
                .hint(format!("newer packages, and more of the machine: flyloft services upgrade {name}")));
        }
        let kind = row.url.kind;
        let mut server = told(call, (&name, kind), &url.0, ca.is_some()).await?;
        server.ca = server.ca.or(row.ca);
        server.url.tls |= server.ca.is_some();
        let health = services.of(kind).check(&server).await?;
        if server.url.address() != row.url.address() || server.url.management_port() != row.url.management_port() {
            self.must_be_the_same(&server).await?;
        }
        if kind == Kind::Redis && server.url.database != row.url.database {
            self.must_be_empty(&name, &row.url.database).await?;
        }
        let password = vault.seal(&server_purpose(&name), &server.password.0);
        let row = ServerRow { url: server.url.clone(), password, ca: server.ca, ..row };
        if !store.change_server(row).await.or_failed(failed)? {
            return Err(unknown(&name));
        }
        let address = server.url.address();
        Ok(done(format!("server `{name}` is changed: {kind} {} at {address}", health.version)).into())
    }

    /// Has all that environments have on the server of that name, and templates, as far as it cannot be made again.
    async fn must_be_the_same(&self, server: &Server) -> Result<()> {
        let Parts { store, services, .. } = &*self.loft.parts;
        let kind = server.url.kind;
        let rows = store.services().await.or_failed(|| "failed to list what is on servers")?;
        let is_there = |row: &ServiceRow| row.server == server.name && row.state == ServiceState::Ready;
        let mut names: Vec<String> = rows.into_iter().filter(is_there).map(|row| row.name).collect();
        let templates = store.templates().await.or_failed(|| "failed to list templates")?;
        let is_there = |row: &TemplateRow| row.server == server.name && row.is_ready;
        names.extend(templates.into_iter().filter(is_there).map(|row| row.database));
        // A Redis that was started anew has forgotten them, and is told again.
        if names.is_empty() || kind == Kind::Redis {
            return Ok(());
        }
        match services.of(kind).lost(server, &names).await?.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => {
                let (name, address) = (&server.name, server.url.address());
                let others = if rest.is_empty() { String::new() } else { format!(" and {} others", rest.len()) };
                Err(Error::conflict(format!(
                    "what is at {address} is another server than `{name}`: it has no `{first}`{others}"
                ))
                .hint("move the data there first, or give it a name of its own: flyloft services add"))
            }
        }
    }

    /// What has a prefix on a Redis has its keys in the database of this number, and a user that may go to no other one.
    async fn must_be_empty(&self, name: &str, number: &str) -> Result<()> {
        let (store, failed) = (&self.loft.parts.store, || "failed to list what is on servers");
        let owned = store.services().await.or_failed(failed)?;
        let strays = store.stray_services().await.or_failed(failed)?;
        if !owned.iter().chain(&strays).any(|service| service.server == name) {
            return Ok(());
        }
        Err(Error::conflict(format!("what is on server `{name}` is in database {number}, and stays there"))
            .hint(format!("give the URL that ends in /{number}"))
            .hint("or give the other number a name of its own: flyloft services add"))
    }

    async fn list_servers(&self, call: &mut Call<'_>, ls: ServicesLs) -> Result<Ending> {
        call.must_be_admin()?;
        let templates = self.loft.parts.store.templates().await.or_failed(|| "failed to list templates")?;
        let rows = self.loft.parts.store.servers().await.or_failed(|| "failed to list servers")?;
        let mut servers = Vec::new();
        for row in rows {
            let created_at = row.created_at;
            // Nothing is started to be listed.
            let at = match &row.managed {
                Some(managed) => managed::observe(&self.loft.parts, &row, managed).await?,
                None => None,
            };
            let runs = row.managed.is_none() || at.as_ref().is_some_and(|at| at.state != ContainerState::Stopped);
            let at = at.map(|at| at.addresses);
            let server = reached(&self.loft.parts, row.clone(), at)?;
            let url = match ls.reveal {
                true => server.url.with_password(&server.password.0),
                false => server.url.to_string(),
            };
            let (kind, managed) =
                (row.url.kind, row.managed.as_ref().map(|managed| ManagedItem::of(&row.name, managed, at)));
            servers.push(ServerItem { name: row.name, kind, url, runs, ca: row.ca.is_some(), managed, created_at });
        }
        let templates = templates.into_iter().filter_map(|row| {
            let TemplateRow { name, server, is_ready, created_at, .. } = row;
            Some(TemplateItem { name: name?.to_string(), server, is_ready, created_at })
        });
        Ok(ServerList { servers, templates: templates.collect() }.into())
    }

    /// All are tried, and the first that is not well is what comes of it.
    async fn check_servers(&self, call: &mut Call<'_>, name: Option<String>) -> Result<Ending> {
        call.must_be_admin()?;
        let store = &self.loft.parts.store;
        let failed = || "failed to list servers";
        let rows = match name {
            Some(name) => vec![store.server(&name).await.or_failed(failed)?.ok_or_else(|| unknown(&name))?],
            None => store.servers().await.or_failed(failed)?,
        };
        let checks = join_all(rows.into_iter().map(|row| self.check_server(row)));
        let (mut well, mut unwell) = (Vec::new(), Vec::<Error>::new());
        for checked in checks.await {
            match checked {
                Ok(health) => well.push(health),
                Err(error) => unwell.push(error),
            }
        }
        let list = HealthList { servers: well };
        let mut unwell = unwell.into_iter();
        let Some(first) = unwell.next() else { return Ok(list.into()) };
        call.say(&list.text()).await?;
        Err(unwell.fold(first, |error, other| error.hint(format!("also: {other}"))))
    }

    /// One that flyloft is to run is started.
    async fn check_server(&self, row: ServerRow) -> Result<HealthItem> {
        let parts = &self.loft.parts;
        let failed = || format!("failed to measure what server `{}` has", row.name);
        let data = match &row.managed {
            Some(managed) => Some(Data {
                bytes: parts.engine.volume(&managed::volume(managed)).await.or_failed(failed)?.bytes,
                most: managed.outfit.share.disk,
            }),
            None => None,
        };
        let server = opened(parts, row).await?;
        let health = parts.services.of(server.url.kind).check(&server).await?;
        Ok(HealthItem { name: server.name, kind: server.url.kind, health, data })
    }

    async fn remove_server(&self, call: &mut Call<'_>, rm: ServicesRm) -> Result<Ending> {
        call.must_be_admin()?;
        let ServicesRm { name, yes } = rm;
        let name = name.as_str();
        if self.loft.parts.store.has_templates(name).await.or_failed(|| "failed to list templates")? {
            return Err(Error::conflict(format!("there are templates on server `{name}`"))
                .hint(format!("remove them: flyloft services template {name} NAME --rm"))
                .hint("`flyloft services ls` lists them; one that is removed goes when the server can be reached"));
        }
        let failed = || format!("failed to remove server `{name}`");
        let row = self.loft.parts.store.server(name).await.or_failed(failed)?.ok_or_else(|| unknown(name))?;
        if row.managed.is_some() && !yes {
            call.confirm(&format!("server `{name}` goes, with all data that are on it. Go on?")).await?;
        }
        match self.loft.parts.store.forget_server(name).await.or_failed(failed)? {
            Forgotten::Gone => {}
            Forgotten::Unknown => return Err(unknown(name)),
            Forgotten::Used(users, strays) => return Err(in_use(name, &users, strays)),
        }
        let Some(managed) = &row.managed else { return Ok(done(format!("server `{name}` is removed")).into()) };
        managed::remove(&self.loft.parts, &row, managed).await?;
        Ok(done(format!("server `{name}` is removed, with all its data")).into())
    }
}

fn in_use(name: &str, users: &[EnvRef], strays: usize) -> Error {
    let error = Error::conflict(format!("there is something on server `{name}`"));
    let error = match users {
        [] => error,
        users => {
            let all: Vec<String> = users.iter().map(|env| format!("`{env}`")).collect();
            error.hint(format!("destroy what has it, or wait until it has gone: {}", all.join(", ")))
        }
    };
    match strays {
        0 => error,
        _ => error.hint(format!("{strays} of environments that are gone go when the server can be reached")),
    }
}

/// Where the server is and what opens it, as far as that comes from standard input: the URL in the first line, and what
/// follows is certificates.
async fn told(call: &mut Call<'_>, (name, kind): (&str, Kind), url: &str, named_ca: bool) -> Result<Server> {
    let reads_url = url == "-";
    let input = match reads_url || named_ca {
        true => call.input(if reads_url { "the URL" } else { "the certificate" }, INPUT).await?,
        false => String::new(),
    };
    let (url, rest) = match reads_url {
        true => input.split_once('\n').unwrap_or((&input, "")),
        false => (url, input.as_str()),
    };
    let (url, password) = ServerUrl::parse(kind, url.trim()).map_err(Error::usage)?;
    // There may be a key beside them, which is nothing to keep.
    let ca = named_ca.then(|| certificates(rest.trim()).map(written)).transpose().map_err(|why| {
        let mut error = Error::usage("failed to read the certificate of who vouches for the server");
        error.causes.push(why);
        error.hint("give a file of PEM, which has lines such as `-----BEGIN CERTIFICATE-----`")
    })?;
    Ok(Server {
        name: name.to_owned(),
        url: ServerUrl { tls: url.tls || ca.is_some(), ..url },
        password: Secret(password),
        ca,
        beside: None,
    })
}

pub(super) fn taken(name: &str) -> Error {
    Error::conflict(format!("there is a server `{name}` already"))
        .hint(format!("tell anew of that one: flyloft services change {name} --url -"))
        .hint(format!("or forget it: flyloft services rm {name}"))
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match (1..=30).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-') {
        true => Ok(()),
        false => Err(Error::usage(format!("`{name}` is no name for a server"))
            .hint("lower-case letters, digits and `-` are allowed, 30 at most")),
    }
}

pub(super) fn unknown(name: &str) -> Error {
    Error::not_found(format!("there is no server `{name}`")).hint("`flyloft services ls` lists them")
}
