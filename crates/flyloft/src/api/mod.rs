//! What commands do. Every door comes here with a command as data and the streams to answer on.
//!
//! A handler checks what the caller may do, asks the [loft](crate::loft) or the store, and gives a [`Reply`], which is
//! printed here, as text or as JSON, in the same way for every door.

mod apps;
mod archive;
mod backup;
mod config;
mod cooked;
mod data;
mod environments;
mod exec;
mod gate;
mod keys;
mod life;
mod logs;
mod managed;
mod ports;
mod push;
mod reply;
mod services;
mod settings;
mod source;
mod stage;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod volumes;
mod why;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use flyloft_core::harmless;
use flyloft_core::name::AppName;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::command::{Command, Invocation};
use crate::door::CommandIo;
use crate::error::{Error, Result};
use crate::loft::Loft;
use crate::principal::{Principal, Role};
use cooked::{Cooked, cook};
use reply::Reply;

pub struct Api {
    loft: Arc<Loft>,
    /// Told when a key was removed.
    keys_changed: watch::Sender<()>,
    /// Apps that are being removed.
    leaving: Mutex<HashSet<AppName>>,
    /// Held from the look at what is set to the record of what is set now.
    setting: tokio::sync::Mutex<()>,
    /// What is under way for clients and comes to an end.
    pub errands: TaskTracker,
}

/// How a command ends well.
enum Ending {
    Reply(Box<dyn Reply>),
    /// All was written while it ran; this is the exit code.
    Code(u8),
}

impl<T: Reply + 'static> From<T> for Ending {
    fn from(reply: T) -> Self {
        Ending::Reply(Box::new(reply))
    }
}

/// A command under way: who gave it, and the streams to its client.
struct Call<'a> {
    principal: &'a Principal,
    io: CommandIo,
    json: bool,
    /// Whether the output goes to a terminal as it is.
    passes: bool,
}

impl Api {
    pub fn new(loft: Arc<Loft>) -> Self {
        Self {
            loft,
            keys_changed: watch::Sender::new(()),
            leaving: Mutex::default(),
            setting: Default::default(),
            errands: TaskTracker::new(),
        }
    }

    /// What the daemon waits for before it ends, as long as it is kept; none for a command that has no end of its own.
    pub fn errand(&self, command: &Command) -> Option<TaskTrackerToken> {
        (!command.goes_on()).then(|| self.errands.token())
    }

    /// Runs a command, and gives its exit code.
    pub async fn command(&self, principal: &Principal, invocation: Invocation, io: CommandIo) -> u8 {
        let _errand = self.errand(&invocation.command);
        let mut call = Call::new(principal, invocation.json, io, &invocation.command);
        let ended = self.dispatch(&mut call, invocation.command).await;
        match call.finish(ended).await {
            Ok(code) => code,
            Err(error) => {
                tracing::debug!(%error, "a command's client is gone");
                1
            }
        }
    }

    async fn dispatch(&self, call: &mut Call<'_>, command: Command) -> Result<Ending> {
        match command {
            Command::Apps(apps) => self.apps(call, apps).await,
            Command::Keys(keys) => self.keys(call, keys).await,
            Command::Services(services) => self.services(call, services).await,
            Command::Volumes(volumes) => self.volumes(call, volumes).await,
            Command::Tls(tls) => self.tls(call, tls).await,
            Command::Ports(ports) => self.ports(call, ports).await,
            Command::Up(up) => self.up(call, up).await,
            Command::Ls(ls) => self.ls(call, ls).await,
            Command::Show(one) => self.show(call, one.env).await,
            Command::Why(one) => self.why(call, one.env).await,
            Command::Stats(stats) => self.stats(call, stats).await,
            Command::Logs(logs) => self.logs(call, logs).await,
            Command::Run(run) => self.run(call, run).await,
            Command::Shell(one) => self.shell(call, one.env).await,
            Command::Restart(one) => self.restart(call, one.env).await,
            Command::Sleep(sleep) => self.sleep(call, sleep).await,
            Command::Wake(one) => self.wake(call, one.env).await,
            Command::Off(one) => self.off(call, one.env).await,
            Command::Pin(one) => self.pin(call, one.env).await,
            Command::Unpin(one) => self.unpin(call, one.env).await,
            Command::Extend(extend) => self.extend(call, extend).await,
            Command::Set(set) => self.set(call, set).await,
            Command::Share(share) => self.share(call, share).await,
            Command::Gate(gate) => self.gate(call, gate).await,
            Command::Scale(scale) => self.scale(call, scale).await,
            Command::Config(config) => self.config(call, config).await,
            Command::Releases(one) => self.releases(call, one.env).await,
            Command::Rollback(rollback) => self.rollback(call, rollback).await,
            Command::Destroy(destroy) => self.destroy(call, destroy).await,
            Command::Events(events) => self.events(call, events).await,
            Command::Backup(_) => self.backup(call).await,
        }
    }
}

impl<'a> Call<'a> {
    /// A client with a terminal has it in raw mode over SSH, so text is made ready for that. What a command inside a
    /// container writes has come from a terminal of its own, and passes as it is.
    fn new(principal: &'a Principal, json: bool, io: CommandIo, command: &Command) -> Self {
        let raw = io.terminal.as_ref().is_some_and(|terminal| terminal.raw);
        let passes = command.hands_terminal_over();
        if let Some(terminal) = io.terminal.as_ref().filter(|_| !passes) {
            terminal.lines.ask();
        }
        let io = match raw && !passes {
            true => {
                CommandIo { stdout: Box::new(Cooked::new(io.stdout)), stderr: Box::new(Cooked::new(io.stderr)), ..io }
            }
            false => io,
        };
        Self { principal, io, json, passes: raw && passes }
    }
}

impl Call<'_> {
    fn by(&self) -> &str {
        &self.principal.name
    }

    fn must_be_admin(&self) -> Result<()> {
        match self.principal.role {
            Role::Admin => Ok(()),
            Role::Deployer { .. } => Err(Error::forbidden(format!("key `{}` is not an admin's", self.by()))
                .hint("an admin can do this, or add the key with --admin")),
        }
    }

    fn may_use(&self, app: &AppName) -> bool {
        self.principal.may_use(app)
    }

    fn must_use(&self, app: &AppName) -> Result<()> {
        self.principal.must_use(app)
    }

    /// Says what goes on, to people.
    async fn say(&mut self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let failed = |error| Error::because("failed to answer", error);
        self.io.stdout.write_all(text.as_bytes()).await.map_err(failed)?;
        self.io.stdout.flush().await.map_err(failed)
    }

    /// Asks whether to go on. Without a terminal nobody can answer, and `--yes` must have said so.
    async fn confirm(&mut self, question: &str) -> Result<()> {
        if self.io.terminal.is_none() {
            return Err(Error::usage(format!("there is no terminal to ask: {question}")).hint("say --yes"));
        }
        let failed = |error| Error::because("failed to ask", error);
        self.io.stderr.write_all(format!("{question} [y/N] ").as_bytes()).await.map_err(failed)?;
        self.io.stderr.flush().await.map_err(failed)?;
        let mut answer = String::new();
        BufReader::new(&mut self.io.stdin).read_line(&mut answer).await.map_err(failed)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Error::failed("nothing was done")),
        }
    }

    /// All of standard input, which must be text of at most `limit` bytes.
    async fn input(&mut self, what: &str, limit: u64) -> Result<String> {
        use tokio::io::AsyncReadExt;
        let mut text = String::new();
        let read = (&mut self.io.stdin).take(limit + 1).read_to_string(&mut text).await;
        read.map_err(|error| Error::because(format!("failed to read {what} from standard input"), error))?;
        if text.len() as u64 > limit {
            return Err(Error::usage(format!("{what} is larger than {limit} bytes")));
        }
        if text.trim().is_empty() {
            return Err(Error::usage(format!("{what} is empty")).hint("give a file, or send it to standard input"));
        }
        Ok(text)
    }

    /// Writes the reply or the error, and gives the exit code.
    async fn finish(&mut self, ended: Result<Ending>) -> std::io::Result<u8> {
        let code = match ended {
            Ok(Ending::Code(code)) => code,
            Ok(Ending::Reply(reply)) => {
                let text = match self.json {
                    true => harmless::json(&format!("{:#}\n", reply.json())),
                    false if reply.is_exact() && self.io.terminal.is_none() => reply.text(),
                    false => harmless::text(&reply.text()),
                };
                self.io.stdout.write_all(text.as_bytes()).await?;
                0
            }
            Err(error) => {
                let text = if self.json { error.json() } else { error.text() };
                let text = if self.passes { cook(&text) } else { text };
                self.io.stderr.write_all(text.as_bytes()).await?;
                error.kind.exit_code()
            }
        };
        self.io.stdout.flush().await?;
        self.io.stderr.flush().await?;
        self.io.stdout.shutdown().await?;
        self.io.stderr.shutdown().await?;
        Ok(code)
    }
}
