//! `flyloft services template`, `reset`, `psql` and its like, `dump`, `restore`: the data of databases.

use std::sync::Arc;

use flyloft_core::name::EnvRef;
use flyloft_core::service::Kind;
use tokio::io::AsyncWriteExt;

use super::cooked::cook;
use super::exec::attach;
use super::reply::done;
use super::{Api, Call, Ending};
use crate::build::Tools;
use crate::command::{ServicesDump, ServicesOne, ServicesReset, ServicesRestore, ServicesTemplate};
use crate::deploy::Again;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::provision::client::Client;
use crate::provision::data::{self, Among, Owned};
use crate::provision::dumped::{ended, tail};
use crate::provision::opened;
use crate::service::{Client as Programs, Dumps};
use crate::store::{self, EnvRow, EventKind};

impl Api {
    /// Makes a template of the dump at standard input, or drops it.
    pub(super) async fn template(&self, call: &mut Call<'_>, template: ServicesTemplate) -> Result<Ending> {
        call.must_be_admin()?;
        let ServicesTemplate { server, name, rm, .. } = template;
        let parts = self.parts();
        if rm {
            data::drop_template(parts, &server, &name).await?;
            return Ok(done(format!("template `{name}` is removed")).into());
        }
        let failed = || format!("failed to look up server `{server}`");
        let row = parts.store.server(&server).await.or_failed(failed)?;
        let row = row.ok_or_else(|| super::services::unknown(&server))?;
        let kind = row.url.kind;
        let template = data::begin_template(parts, opened(parts, row).await?, &name).await?;
        self.announce(call, &template.programs).await?;
        data::fill_template(template, &mut *call.io.stdin).await?;
        let text = format!("template `{name}` is on server `{server}`; ask for it with services={kind}@{name}");
        Ok(done(text).into())
    }

    /// Gives a database fresh data, and deploys what serves again, so that its `release` command and
    /// `scripts.postdeploy` find them.
    pub(super) async fn reset_data(&self, call: &mut Call<'_>, reset: ServicesReset) -> Result<Ending> {
        let (env, owned) = self.owned(call, &reset.env, Among::Everything, reset.alias.as_deref()).await?;
        let what = format!("`{}` of `{}`", owned.row.ask, env.name);
        if !reset.yes {
            call.confirm(&format!("all data in {what} go. Go on?")).await?;
        }
        data::renew(self.parts(), &env, &owned, &env.asked).await?;
        let again = self.parts().store.set_postdeployed(env.id, None).await;
        again.or_failed(|| format!("failed to have the postdeploy script of `{}` run again", env.name))?;
        self.note(call.by(), &env, &format!("{} begins anew", owned.row.ask)).await?;
        call.say(&format!("-----> {what} has fresh data\n")).await?;
        if env.live.is_none() {
            return Ok(done("nothing runs with them yet").into());
        }
        let again = self.redeploy(call, &env.name, Again::Config).await;
        Ok(again.map_err(|error| error.hint("the data are fresh all the same"))?.into())
    }

    /// Opens a client for a person.
    pub(super) async fn client(&self, call: &mut Call<'_>, kind: Kind, one: ServicesOne) -> Result<Ending> {
        let (_, owned) = self.owned(call, &one.env, Among::Kind(kind), one.alias.as_deref()).await?;
        let programs = data::programs(self.parts(), &owned)?;
        self.announce(call, &programs).await?;
        let client = Client::open(self.parts(), &owned.server, &programs).await?;
        let terminal = call.io.terminal.clone();
        let size = terminal.as_ref().map(|terminal| (terminal.columns, terminal.rows));
        let term = terminal.as_ref().map(|terminal| terminal.term.as_str());
        let exec = client.start(&programs.shell, size, term).await?;
        let ended = attach(call, exec, || format!("failed to talk to the client of `{}`", one.env)).await;
        drop(client);
        ended
    }

    /// Writes all data to standard output.
    pub(super) async fn dump(&self, call: &mut Call<'_>, dump: ServicesDump) -> Result<Ending> {
        let (env, owned) = self.owned(call, &dump.env, Among::Databases, dump.alias.as_deref()).await?;
        if call.io.terminal.is_some() {
            return Err(Error::usage("a dump is nothing for a terminal")
                .hint(format!("name a file: flyloft services dump {} FILE", env.name))
                .hint("or redirect it: ssh HOST services dump APP/ENV > FILE"));
        }
        let failed = || format!("failed to dump `{}` of `{}`", owned.row.ask, env.name);
        let programs = data::programs(self.parts(), &owned)?;
        let Some(Dumps { dump, .. }) = &programs.dumps else {
            return Err(Error::usage(format!("nothing of kind {} is dumped", owned.row.ask.kind)));
        };
        self.announce(call, &programs).await?;
        let client = Client::open(self.parts(), &owned.server, &programs).await?;
        let mut exec = client.start(dump, None, None).await?;
        drop(exec.stdin);
        let mut said = Vec::new();
        let written = tokio::io::copy(&mut exec.stdout, &mut call.io.stdout);
        tokio::try_join!(written, tail(&mut exec.stderr, &mut said)).or_failed(failed)?;
        match exec.control.wait().await.or_failed(failed)? {
            0 => Ok(Ending::Code(0)),
            code => Err(ended(failed(), code, &said)),
        }
    }

    /// Replaces all data by those of the dump at standard input.
    pub(super) async fn restore_data(&self, call: &mut Call<'_>, restore: ServicesRestore) -> Result<Ending> {
        let (env, owned) = self.owned(call, &restore.env, Among::Databases, restore.alias.as_deref()).await?;
        let what = format!("`{}` of `{}`", owned.row.ask, env.name);
        if !restore.yes {
            // Standard input is the dump, and no answer.
            return Err(Error::usage(format!("all data in {what} would be replaced")).hint("say --yes"));
        }
        self.announce(call, &data::programs(self.parts(), &owned)?).await?;
        data::restore(self.parts(), &owned, &mut *call.io.stdin).await?;
        self.note(call.by(), &env, &format!("{} has what a dump says", owned.row.ask)).await?;
        Ok(done(format!("{what} has what the dump says")).into())
    }

    /// Says so where programs have to be made first.
    async fn announce(&self, call: &mut Call<'_>, programs: &Programs) -> Result<()> {
        if self.parts().builder.has_tools(&Tools::newest(programs.packages)).await? {
            return Ok(());
        }
        let text = format!("-----> Preparing {} (once)\n", programs.packages.join(" "));
        let text = if call.passes { cook(&text) } else { text };
        call.io.stderr.write_all(text.as_bytes()).await.or_failed(|| "failed to answer")?;
        call.io.stderr.flush().await.or_failed(|| "failed to answer")
    }

    fn parts(&self) -> &Arc<Parts> {
        &self.loft.parts
    }

    /// The environment, and what it has of that name, if the caller may use them.
    async fn owned(
        &self,
        call: &mut Call<'_>,
        env: &EnvRef,
        among: Among,
        name: Option<&str>,
    ) -> Result<(EnvRow, Owned)> {
        call.must_use(&env.app)?;
        let (row, _) = self.loft.find(env).await?;
        let owned = data::owned(self.parts(), &row, among, name).await?;
        Ok((row, owned))
    }

    async fn note(&self, by: &str, env: &EnvRow, text: &str) -> Result<()> {
        let EnvRef { app, env } = &env.name;
        let told = self.parts().store.tell(app, Some(env), EventKind::DataReplaced, by, text, store::now());
        told.await.or_failed(|| "failed to record an event")
    }
}
