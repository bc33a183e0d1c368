//! `flyloft ports`: ports of environments that the host publishes.

use std::collections::BTreeSet;

use flyloft_core::name::EnvRef;
use flyloft_core::port::{self, Asker, Port, Protocol};
use serde::Serialize;

use super::reply::{Reply, age, as_time, table};
use super::{Api, Call, Ending};
use crate::command::{Ports, PortsAdd, PortsRm, Target};
use crate::error::{Error, OrFailed, Result};
use crate::ports::Claim;
use crate::principal::Role;
use crate::store::{self, EnvRow, EventKind, PortRow};

/// So many ports of the pool are tried that somebody else may have.
const TRIED: usize = 100;

#[derive(Serialize)]
struct PortList {
    ports: Vec<PortItem>,
}

#[derive(Serialize)]
pub(super) struct PortItem {
    env: EnvRef,
    protocol: Protocol,
    port: u16,
    host_port: u16,
    /// Whether it is served. If not, somebody else has that port of the machine.
    served: bool,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl PortItem {
    /// `5432/tcp at port 25432`
    pub(super) fn said(&self) -> String {
        let Self { protocol, port, host_port, served, .. } = self;
        let taken = if *served { "" } else { ", which somebody else has" };
        format!("{port}/{protocol} at port {host_port}{taken}")
    }
}

impl Reply for PortItem {
    fn text(&self) -> String {
        format!(
            "port {}/{} of {} is published at port {} of this machine\n",
            self.port, self.protocol, self.env, self.host_port
        )
    }
}

impl Reply for PortList {
    fn text(&self) -> String {
        if self.ports.is_empty() {
            return "no ports are published; publish one: flyloft ports add APP/ENV PORT\n".to_owned();
        }
        let rows = self.ports.iter().map(|item| {
            let PortItem { env, protocol, port, host_port, served, created_at } = item;
            let served = if *served { "yes" } else { "no, somebody else has it" };
            let age = age(*created_at, store::now());
            [env.to_string(), format!("{port}/{protocol}"), host_port.to_string(), served.to_owned(), age]
        });
        table(["ENVIRONMENT", "PORT", "PUBLISHED AT", "SERVED", "AGE"], rows)
    }
}

impl Api {
    pub(super) async fn ports(&self, call: &mut Call<'_>, command: Ports) -> Result<Ending> {
        match command {
            Ports::Add(add) => self.add_port(call, add).await,
            Ports::Ls { target } => self.list_ports(call, target).await,
            Ports::Rm(rm) => self.remove_port(call, rm).await,
        }
    }

    async fn add_port(&self, call: &mut Call<'_>, add: PortsAdd) -> Result<Ending> {
        let PortsAdd { env: name, port, host_port, protocol, force } = add;
        call.must_use(&name.app)?;
        let failed = || format!("failed to publish port {port} of `{name}`");
        let asker = match call.principal.role {
            Role::Admin => Asker::Admin { force },
            Role::Deployer { .. } => Asker::Deployer,
        };
        if let Some(host) = host_port {
            self.loft.parts.settings.ports.check(host, asker).map_err(|error| not_for(asker, error))?;
        }
        let (env, conductor) = self.loft.find(&name).await?;
        let (ports, store) = (&self.loft.parts.ports, &self.loft.parts.store);
        let turn = ports.turn().await;
        let known = store.ports().await.or_failed(failed)?;
        let own: Vec<&PortRow> = known.iter().filter(|row| row.env == env.id).collect();
        if let Some(there) = own.iter().find(|row| (row.protocol, row.port) == (protocol, port)) {
            return Err(Error::conflict(format!(
                "port {port}/{protocol} of `{name}` is published already, at port {}",
                there.host_port
            ))
            .hint(format!("take it back first: flyloft ports rm {name} {port} --protocol {protocol}")));
        }
        if own.len() >= port::MOST {
            return Err(Error::conflict(format!("{}: {}", failed(), port::PortError::TooMany))
                .hint(format!("flyloft ports ls {name}")));
        }
        let (host, claim) = match host_port {
            Some(host) => {
                let claim = self.claimed(call, protocol, host, &known)?;
                port::must_stay(host).map_err(|error| not_for(asker, error))?;
                (host, claim)
            }
            None => self.chosen(&name, protocol, port, &known)?,
        };
        let added = Port { protocol, host, port };
        if !store.add_port(env.id, added, store::now()).await.or_failed(failed)? {
            return Err(Error::conflict(format!("`{name}` has just been destroyed")));
        }
        ports.open(env.id, &name, added, claim)?;
        drop(turn);
        // It knows where its ports lead.
        conductor.reload().await?;
        if let Err(error) = ports.begun().await {
            tracing::warn!(env = %name, %error, "who comes to a port is relayed until the firewall can be changed");
        }
        let text = format!("port {added} is published at port {host}");
        self.tell_of_ports(call.by(), &env, &text).await?;
        Ok(self
            .item_of(&PortRow { env: env.id, name, protocol, port, host_port: host, created_at: store::now() })
            .into())
    }

    /// A port of the machine that nobody has.
    fn chosen(&self, name: &EnvRef, protocol: Protocol, port: u16, known: &[PortRow]) -> Result<(u16, Claim)> {
        let (ports, pool) = (&self.loft.parts.ports, self.loft.parts.settings.ports);
        let taken: BTreeSet<u16> =
            known.iter().filter(|row| row.protocol == protocol).map(|row| row.host_port).collect();
        let candidates = pool.candidates(name, port, &taken).take(TRIED);
        let mut claims = candidates.filter_map(|host| Some((host, ports.claim(protocol, host).ok()?)));
        claims.next().ok_or_else(|| {
            Error::failed(format!("failed to publish port {port} of `{name}`: no port of {pool} is free"))
                .hint("`range` in `[ports]` of the configuration says which are given out")
        })
    }

    /// A port of the machine that somebody has named.
    fn claimed(&self, call: &Call<'_>, protocol: Protocol, host: u16, known: &[PortRow]) -> Result<Claim> {
        let Some(row) = known.iter().find(|row| (row.protocol, row.host_port) == (protocol, host)) else {
            return self.loft.parts.ports.claim(protocol, host);
        };
        // Whose it is, is for those who may know.
        let whose = match call.may_use(&row.name.app) {
            true => format!("port {}/{protocol} of `{}`", row.port, row.name),
            false => "another environment's".to_owned(),
        };
        Err(Error::conflict(format!("port {host} ({protocol}) of this machine is {whose} already"))
            .hint("take another one with --host-port, or leave the choice to Flyloft"))
    }

    async fn list_ports(&self, call: &mut Call<'_>, target: Target) -> Result<Ending> {
        call.must_use(target.app())?;
        match &target {
            Target::App(app) => self.must_exist(app).await?,
            Target::Env(env) => drop(self.loft.find(env).await?),
        }
        let mut rows = self.loft.parts.store.ports().await.or_failed(|| "failed to list ports")?;
        rows.retain(|row| match &target {
            Target::App(app) => row.name.app == *app,
            Target::Env(env) => row.name == *env,
        });
        Ok(PortList { ports: rows.iter().map(|row| self.item_of(row)).collect() }.into())
    }

    async fn remove_port(&self, call: &mut Call<'_>, rm: PortsRm) -> Result<Ending> {
        let PortsRm { env: name, port, protocol } = rm;
        call.must_use(&name.app)?;
        let failed = || format!("failed to take port {port} of `{name}` back");
        let (env, _) = self.loft.find(&name).await?;
        let turn = self.loft.parts.ports.turn().await;
        let rows = self.loft.parts.store.ports_of(env.id).await.or_failed(failed)?;
        let row = rows.iter().find(|row| (row.protocol, row.port) == (protocol, port)).ok_or_else(|| {
            Error::not_found(format!("port {port}/{protocol} of `{name}` is not published"))
                .hint(format!("`flyloft ports ls {name}` lists those that are"))
        })?;
        self.loft.parts.store.remove_port(env.id, protocol, port).await.or_failed(failed)?;
        self.loft.parts.ports.close(env.id, row.port());
        drop(turn);
        let begun = self.loft.parts.ports.begun().await;
        let text = format!("port {} is published no more", row.port());
        self.tell_of_ports(call.by(), &env, &text).await?;
        begun.map_err(|error| {
            let still = format!("port {} is on record no more, but {}", row.port(), error.what);
            Error { what: still, ..error }
                .hint("who is connected may stay so until that works: it is tried every few seconds")
        })?;
        Ok(super::reply::done(text).into())
    }

    /// The ports of an environment that are published.
    pub(super) async fn ports_of(&self, env: &EnvRow) -> Result<Vec<PortItem>> {
        let rows = self.loft.parts.store.ports_of(env.id).await;
        let rows = rows.or_failed(|| format!("failed to look up the ports of `{}`", env.name))?;
        Ok(rows.iter().map(|row| self.item_of(row)).collect())
    }

    fn item_of(&self, row: &PortRow) -> PortItem {
        let PortRow { env, name, protocol, port, host_port, created_at } = row.clone();
        let served = self.loft.parts.ports.serves(env, row.port());
        PortItem { env: name, protocol, port, host_port, served, created_at }
    }

    async fn tell_of_ports(&self, by: &str, env: &EnvRow, text: &str) -> Result<()> {
        let EnvRef { app, env: name } = &env.name;
        let told = self.loft.parts.store.tell(app, Some(name), EventKind::PortsChanged, by, text, store::now());
        told.await.or_failed(|| format!("failed to record what is published of `{}`", env.name))
    }
}

fn not_for(asker: Asker, error: port::PortError) -> Error {
    let insist = error == port::PortError::Privileged;
    match asker {
        Asker::Deployer => Error::forbidden(error).hint("leave --host-port out, or ask an admin"),
        Asker::Admin { .. } if insist => Error::usage(error).hint("say --force if you mean it"),
        Asker::Admin { .. } => Error::usage(error),
    }
}
