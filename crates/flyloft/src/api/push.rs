//! What the SSH door asks for: keys, repositories, and what a push brings.

use std::sync::Arc;

use async_trait::async_trait;
use clap::Parser;
use flyloft_core::harmless;
use flyloft_core::lifecycle::Event;
use flyloft_core::name::{AppName, BranchName, EnvName, EnvRef, Origin};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::cooked::cook;
use super::stage::follow;
use super::{Api, Role};
use crate::command::Invocation;
use crate::conductor::{Conductor, Ticket};
use crate::deploy::{Source, Together, Work};
use crate::door::{Backend, CommandIo, Output, PublicKey};
use crate::error::{Error, Kind, OrFailed, Result};
use crate::exec::Cmd;
use crate::principal::Principal;
use crate::source::{BranchUpdate, Push, ReceivePack};
use crate::store::{self, EnvRow, EventKind, StoreError};

/// Commands that the program has and no door carries.
const OF_THE_SERVER: [&str; 6] = ["serve", "upgrade", "restore", "setup", "doctor", "completions"];

#[async_trait]
impl Backend for Api {
    async fn authenticate(&self, key: &PublicKey) -> Option<Principal> {
        let found = self.loft.parts.store.key_by_fingerprint(&key.fingerprint).await;
        let row = found.inspect_err(|error| tracing::error!(%error, "failed to look up a key")).ok()??;
        if row.public_key != key.line {
            return None;
        }
        let role = if row.admin { Role::Admin } else { Role::Deployer { apps: row.apps } };
        Some(Principal { name: row.name, role })
    }

    fn keys_changed(&self) -> watch::Receiver<()> {
        self.keys_changed.subscribe()
    }

    async fn command(&self, principal: &Principal, argv: Vec<String>, mut io: CommandIo) -> i32 {
        if let Some(own) = argv.first().filter(|word| OF_THE_SERVER.contains(&word.as_str())) {
            let error = Error::usage(format!("`{own}` is not a command for SSH")).hint("run it on the server itself");
            return refuse(&error, io).await;
        }
        let argv = std::iter::once("flyloft".to_owned()).chain(argv);
        let invocation = match Invocation::try_parse_from(argv) {
            Ok(invocation) => invocation,
            Err(error) => {
                let text = harmless::text(&error.render().to_string());
                let text = if io.terminal.is_some() { cook(&text) } else { text };
                let stream = if error.use_stderr() { &mut io.stderr } else { &mut io.stdout };
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.flush().await;
                return error.exit_code();
            }
        };
        let mut command = invocation.command.clone();
        if let Some(file) = command.take_file() {
            let error = Error::usage(format!("`{}` would be a file of the server", file.display()))
                .hint("over SSH, send the content to standard input and leave the file out, or name it `-`");
            return refuse(&error, io).await;
        }
        if let Some(file) = command.take_output() {
            let error = Error::usage(format!("`{}` would be a file of the server", file.display()))
                .hint("over SSH, leave the file out, and redirect what comes: ssh HOST COMMAND > FILE");
            return refuse(&error, io).await;
        }
        Api::command(self, principal, invocation, io).await.into()
    }

    async fn receive(&self, principal: &Principal, app: &AppName) -> Result<ReceivePack> {
        principal.must_use(app)?;
        self.ensure_app(app, &principal.name).await?;
        self.loft.parts.repositories.receive_pack(app).or_failed(|| format!("failed to receive a push to `{app}`"))
    }

    async fn upload(&self, principal: &Principal, app: &AppName) -> Result<Cmd> {
        principal.must_use(app)?;
        self.must_exist(app).await?;
        Ok(self.loft.parts.repositories.upload_pack(app).await?)
    }

    async fn push(&self, principal: &Principal, app: &AppName, push: Push, mut output: Output) -> Result<()> {
        principal.must_use(app)?;
        let repositories = &self.loft.parts.repositories;
        repositories.check(app, &push).await?;
        let push = Arc::new(push);
        let (staged, deleted): (Vec<_>, Vec<_>) = push.updates.iter().partition(|update| update.new.is_some());
        // Everything that can be refused is refused before anything begins. What cannot be undone comes last.
        let mut going = Vec::new();
        for update in deleted {
            going.push(self.going(app, update).await?);
        }
        let mut environments = Vec::new();
        for update in &staged {
            let origin = Origin::Branch(update.branch.clone());
            let made = async { self.loft.ensure(&environment(app, update)?, &origin).await };
            match made.await {
                Ok(made) => environments.push(made),
                Err(error) => {
                    self.forget_empty(&environments).await;
                    return Err(error);
                }
            }
        }
        let together = (staged.len() > 1).then(|| Together::of(staged.len()));
        let pushed: Vec<EnvRow> = environments.iter().map(|(env, _)| env.clone()).collect();
        let mut tickets = Vec::new();
        for (update, (_, conductor)) in staged.iter().zip(environments) {
            let commit = update.new.clone().expect("partitioned by it");
            let work = Work {
                source: Source::Commit { commit, quarantine: push.quarantine.clone() },
                reason: "push".to_owned(),
                by: principal.name.clone(),
                no_cache: false,
                attached: true,
                together: together.clone(),
                push: Some(push.clone()),
            };
            match conductor.deploy(work).await {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => {
                    if let Some(together) = &together {
                        together.ended(false);
                    }
                    return Err(error);
                }
            }
        }
        tell_all(tickets, &mut output).await?;
        repositories.hold(app, &push).await?;
        for env in &pushed {
            self.follow_pushes(principal, env).await;
        }
        self.destroy_all(principal, &going, !staged.is_empty(), &mut output).await
    }
}

impl Api {
    /// Destroys those that a refused push has made: they have no release.
    async fn forget_empty(&self, environments: &[(EnvRow, Conductor)]) {
        for (env, conductor) in environments {
            if self.loft.parts.store.releases(env.id).await.is_ok_and(|releases| releases.is_empty()) {
                let _ = conductor.tell(Event::Destroy).await;
            }
        }
    }

    /// The branch is pushed here: where its app comes from, it may be at something else.
    async fn follow_pushes(&self, principal: &Principal, env: &EnvRow) {
        let EnvRef { app, env: name } = &env.name;
        let store = &self.loft.parts.store;
        let ended = async {
            self.loft.follows.forget(env.id);
            if store.unfollow(env.id).await? {
                let text = "it was pushed, and follows pushes from now on; `flyloft up --branch` changes that";
                store.tell(app, Some(name), EventKind::FollowEnded, &principal.name, text, store::now()).await?;
            }
            Ok::<_, StoreError>(())
        };
        // What was pushed serves already.
        if let Err(error) = ended.await {
            tracing::error!(env = %env.name, %error, "failed to record that an environment follows pushes");
        }
    }

    /// What the deletion of a branch destroys. A branch may outlive its environment, and another may have its name.
    async fn going(&self, app: &AppName, update: &BranchUpdate) -> Result<Going> {
        // A name that no environment can have is that of a branch that was never staged.
        let Ok(env) = EnvName::for_branch(&update.branch) else { return Ok(Going::Nothing(update.branch.clone())) };
        let name = EnvRef::new(app.clone(), env);
        let found =
            self.loft.parts.store.environment(&name).await.or_failed(|| format!("failed to look up `{name}`"))?;
        match found.filter(|env| env.origin == Origin::Branch(update.branch.clone())) {
            Some(_) => Ok(Going::Environment(name)),
            None => Ok(Going::Nothing(update.branch.clone())),
        }
    }

    /// Nothing of this can be taken back. So an error rejects the push only while all is still as it was; after that
    /// it is told, and the branches move as what serves already says.
    async fn destroy_all(
        &self,
        principal: &Principal,
        going: &[Going],
        mut changed: bool,
        output: &mut Output,
    ) -> Result<()> {
        for going in going {
            let line = match going {
                Going::Nothing(branch) => format!("=====> Branch {branch} had no environment\n"),
                Going::Environment(name) => match self.destroy_by(name, &principal.name).await {
                    Ok(gone) => {
                        changed = true;
                        let left = if gone { "" } else { "; what is left of it is being removed" };
                        format!("=====> Destroyed {name}{left}\n")
                    }
                    Err(error) if error.kind == Kind::NotFound => format!("=====> {name} was not there any more\n"),
                    Err(error) if !changed => return Err(error),
                    Err(error) => {
                        let failed = Error { what: format!("failed to destroy `{name}`: {}", error.what), ..error };
                        failed.hint("the rest of the push is done").hint(format!("flyloft destroy {name}")).push_text()
                    }
                },
            };
            output.write_all(harmless::text(&line).as_bytes()).await.or_failed(|| "failed to answer")?;
        }
        Ok(())
    }
}

/// Ends a command that is none before it begins.
async fn refuse(error: &Error, mut io: CommandIo) -> i32 {
    let text = error.text();
    let text = if io.terminal.is_some() { cook(&text) } else { text };
    // A client that is gone does not read it.
    let _ = io.stderr.write_all(text.as_bytes()).await;
    let _ = io.stderr.flush().await;
    error.kind.exit_code().into()
}

/// See [`Api::going`].
enum Going {
    Environment(EnvRef),
    Nothing(BranchName),
}

/// One after the other, so that their lines do not mix. Of several errors the first that says more than that another
/// one failed.
async fn tell_all(tickets: Vec<Ticket>, output: &mut Output) -> Result<()> {
    let several = tickets.len() > 1;
    let mut failed: Option<Error> = None;
    for ticket in tickets {
        if several {
            let line = format!("=====> {}\n", ticket.env);
            output.write_all(line.as_bytes()).await.or_failed(|| "failed to answer")?;
        }
        let env = ticket.env.clone();
        if let Err(error) = follow(ticket, output).await {
            let secondary = error.what == crate::deploy::Together::ANOTHER_FAILED;
            if failed.is_none() || !secondary {
                failed = Some(if several { Error { what: format!("{env}: {}", error.what), ..error } } else { error });
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn environment(app: &AppName, update: &BranchUpdate) -> Result<EnvRef> {
    let env = EnvName::for_branch(&update.branch).map_err(|error| {
        Error::usage(error).hint("rename the branch; pull requests are staged with `flyloft up APP --pr NUMBER`")
    })?;
    Ok(EnvRef::new(app.clone(), env))
}
