//! Looking at environments, and what is done to them as a whole: `ls`, `show`, `releases`, `restart`, `scale`,
//! `rollback`, `destroy`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use flyloft_core::lifecycle::{Deploying, Event, Runs, State};
use flyloft_core::name::{AppName, CommitId, EnvRef, Origin};
use serde::Serialize;

use super::ports::PortItem;
use super::reply::{Reply, age, as_time, done, size, table};
use super::source::SourceItem;
use super::stage::Staged;
use super::{Api, Call, Ending};
use crate::command::{Destroy, Ls, Rollback, Scale, Target};
use crate::conductor;
use crate::deploy::{Again, Source, Work, spec};
use crate::engine::Stats;
use crate::error::{Error, OrFailed, Result};
use crate::store::{self, EnvRow, EventKind, ReleaseRow, ReleaseStatus};

/// How long `destroy` waits until nothing is left.
const GONE: Duration = Duration::from_secs(90);

#[derive(Serialize)]
struct EnvList {
    environments: Vec<EnvItem>,
}

#[derive(Serialize)]
struct EnvItem {
    name: EnvRef,
    /// `none`, `awake`, `asleep`, `off`, `waking`, `destroyed`
    state: &'static str,
    /// The release that serves, or would if it were awake.
    serves: Option<String>,
    /// The newest release that is being deployed.
    deploying: Option<String>,
    url: String,
    follows: Origin,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
    /// Bytes of memory that it holds now, and that it held before it was last put to rest.
    memory: Option<u64>,
    memory_awake: Option<u64>,
    /// Its image and its disk were given up to make room: a visit builds it anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    to_be_built: bool,
    /// What the engine stopped it for and what can be done, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    /// All of its state, for people: `awake v3`, `off v1, deploying v2`.
    #[serde(skip)]
    said: String,
}

impl Reply for EnvList {
    fn text(&self) -> String {
        if self.environments.is_empty() {
            return "there are no environments yet; push a branch, or stage one: flyloft up APP --pr NUMBER\n"
                .to_owned();
        }
        let now = store::now();
        let rows = self.environments.iter().map(|env| {
            let [memory, awake] =
                [env.memory, env.memory_awake].map(|bytes| bytes.map_or_else(|| "-".to_owned(), size));
            [env.name.to_string(), env.said.clone(), memory, awake, age(env.created_at, now), env.url.clone()]
        });
        table(["ENVIRONMENT", "STATE", "MEMORY", "AWAKE", "AGE", "URL"], rows)
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    env: EnvItem,
    /// Who may look.
    gate: String,
    /// Where what it follows is looked at, if it is.
    source: Option<SourceItem>,
    release: Option<ReleaseItem>,
    /// How many of each process type were asked for.
    formation: BTreeMap<String, u32>,
    processes: Vec<ProcessItem>,
    /// The engine's name of its container.
    container: Option<String>,
    /// Where the edge reaches it on this machine.
    upstream: Option<SocketAddr>,
    /// Ports that are published.
    ports: Vec<PortItem>,
    stats: Option<StatsItem>,
}

/// A line of its Procfile.
#[derive(Serialize)]
struct ProcessItem {
    #[serde(rename = "type")]
    kind: String,
    command: String,
}

/// What its container uses now; sizes in bytes.
#[derive(Serialize)]
struct StatsItem {
    memory: u64,
    swap: u64,
    pids: u32,
    /// Seconds since it was started.
    cpu: f64,
    /// Beside its image.
    disk: u64,
}

impl From<Stats> for StatsItem {
    fn from(stats: Stats) -> Self {
        let Stats { memory, swap, pids, cpu, disk, .. } = stats;
        Self { memory, swap, pids, cpu: cpu.as_secs_f64(), disk }
    }
}

fn followed(origin: &Origin) -> String {
    match origin {
        Origin::Branch(branch) => format!("branch {branch}"),
        Origin::PullRequest(number) => format!("pull request {number}"),
        Origin::Commit(commit) => format!("commit {}", commit.short()),
        Origin::Directory => "a directory".to_owned(),
    }
}

impl Reply for Shown {
    fn text(&self) -> String {
        let mut lines = vec![("url", self.env.url.clone()), ("state", self.env.said.clone())];
        lines.extend(self.env.stopped.iter().map(|why| ("stopped", why.clone())));
        if self.env.to_be_built {
            lines.push(("disk", "given up to make room; a visit builds it anew".to_owned()));
        }
        lines.push(("gate", self.gate.clone()));
        lines.push(("follows", followed(&self.env.follows)));
        lines.extend(self.source.iter().map(|source| ("", source.said())));
        lines.push(("age", age(self.env.created_at, store::now())));
        if let Some(release) = &self.release {
            let commit = release.commit.as_ref().map_or("no commit", |commit| commit.short());
            let made = age(release.created_at, store::now());
            lines.push(("release", format!("{} of {commit}, {made} ago by {}", release.number, release.by)));
        }
        lines
            .extend(self.processes.iter().map(|process| ("process", format!("{}: {}", process.kind, process.command))));
        lines.extend(self.formation.iter().map(|(name, count)| ("scaled", format!("{name}={count}"))));
        lines.extend(self.upstream.iter().map(|upstream| ("upstream", upstream.to_string())));
        lines.extend(self.ports.iter().map(|port| ("published", port.said())));
        if let Some(stats) = &self.stats {
            lines.push(("memory", format!("{}, and {} in swap", size(stats.memory), size(stats.swap))));
            lines.push(("disk", format!("{} beside its image", size(stats.disk))));
            lines.push(("processes", stats.pids.to_string()));
        }
        let lines = lines.iter().map(|(name, value)| format!("  {name:<10} {value}\n"));
        format!("{}\n{}", self.env.name, lines.collect::<String>())
    }
}

/// How many of each process type run.
#[derive(Serialize)]
struct Formation {
    formation: BTreeMap<String, u32>,
}

impl Reply for Formation {
    fn text(&self) -> String {
        let counts = self.formation.iter().map(|(name, count)| format!("{name}={count}"));
        format!("{}\n", counts.collect::<Vec<_>>().join(" "))
    }
}

#[derive(Serialize)]
struct ReleaseList {
    releases: Vec<ReleaseItem>,
}

#[derive(Serialize)]
struct ReleaseItem {
    number: String,
    commit: Option<CommitId>,
    status: &'static str,
    reason: String,
    by: String,
    failure: Option<String>,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
}

impl From<ReleaseRow> for ReleaseItem {
    fn from(row: ReleaseRow) -> Self {
        Self {
            number: row.number.to_string(),
            commit: row.commit,
            status: row.status.as_str(),
            reason: row.reason,
            by: row.by,
            failure: row.failure,
            created_at: row.created_at,
        }
    }
}

impl Reply for ReleaseList {
    fn text(&self) -> String {
        let now = store::now();
        let rows = self.releases.iter().map(|release| {
            let commit = release.commit.as_ref().map_or("-", |commit| commit.short());
            let [number, status, reason] = [&release.number, release.status, &release.reason].map(str::to_owned);
            let failure = release.failure.as_deref().unwrap_or_default();
            let failure = failure.lines().next().unwrap_or_default().to_owned();
            [number, status, age(release.created_at, now), commit.to_owned(), release.by.clone(), reason, failure]
        });
        table(["RELEASE", "STATUS", "AGE", "COMMIT", "BY", "REASON", "FAILURE"], rows)
    }
}

impl Api {
    pub(super) async fn ls(&self, call: &mut Call<'_>, ls: Ls) -> Result<Ending> {
        if let Some(app) = &ls.app {
            call.must_use(app)?;
            self.must_exist(app).await?;
        }
        let rows = self.loft.parts.store.environments(ls.app.as_ref()).await;
        let mut rows = rows.or_failed(|| "failed to list environments")?;
        rows.retain(|row| call.may_use(&row.name.app));
        let held = self.loft.parts.held(&rows).await;
        let environments = rows.iter().zip(held).map(|(row, memory)| self.item(row, memory)).collect();
        Ok(EnvList { environments }.into())
    }

    pub(super) async fn show(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        call.must_use(&name.app)?;
        let (row, _) = self.loft.find(&name).await?;
        let stats = self.loft.parts.stats(&row).await;
        let release =
            self.loft.parts.store.live_release(&row).await.or_failed(|| format!("failed to show `{name}`"))?;
        let content = release.as_ref().and_then(|release| release.content.clone()).unwrap_or_default();
        let source = self.source_of(&row).await?;
        let shown = Shown {
            env: self.item(&row, stats.as_ref().map(|stats| stats.memory)),
            gate: self.loft.parts.gates.gate(&row).to_string(),
            source,
            release: release.map(ReleaseItem::from),
            formation: row.formation.clone(),
            processes: content.processes.into_iter().map(|(kind, command)| ProcessItem { kind, command }).collect(),
            container: row.live.as_ref().map(|live| live.container.to_string()),
            upstream: row.live.as_ref().and_then(|live| live.upstream),
            ports: self.ports_of(&row).await?,
            stats: stats.map(StatsItem::from),
        };
        Ok(shown.into())
    }

    fn item(&self, row: &EnvRow, memory: Option<u64>) -> EnvItem {
        let state = serde_json::from_str::<State>(&row.state).ok();
        let said = state.as_ref().map_or_else(|| "unknown".to_owned(), State::to_string);
        let (excess, to_be_built) = match &state {
            Some(State::Live(live)) => (live.runs.excess(), live.runs.is_cleared()),
            _ => (None, false),
        };
        let remedy = |excess| conductor::remedy(row, excess, &self.loft.parts.settings);
        let (state, serves, deploying) = match state {
            Some(State::Live(live)) => {
                let deploying = match live.deploying {
                    Deploying::No => None,
                    Deploying::Yes { release, newest } => Some(newest.unwrap_or(release)),
                };
                (word(&live.runs), live.runs.release(), deploying)
            }
            Some(State::Destroyed { .. }) => ("destroyed", None, None),
            None => ("unknown", None, None),
        };
        EnvItem {
            name: row.name.clone(),
            state,
            serves: serves.map(|release| release.to_string()),
            deploying: deploying.map(|release| release.to_string()),
            url: self.loft.parts.settings.url(&row.host),
            follows: row.origin.clone(),
            created_at: row.created_at,
            memory,
            memory_awake: row.memory.awake,
            to_be_built,
            stopped: excess.map(|excess| format!("{excess}; {}", remedy(excess))),
            said,
        }
    }

    pub(super) async fn releases(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        call.must_use(&name.app)?;
        let (row, _) = self.loft.find(&name).await?;
        let releases = self.loft.parts.store.releases(row.id).await;
        let releases = releases.or_failed(|| format!("failed to list the releases of `{name}`"))?;
        Ok(ReleaseList { releases: releases.into_iter().map(ReleaseItem::from).collect() }.into())
    }

    pub(super) async fn restart(&self, call: &mut Call<'_>, name: EnvRef) -> Result<Ending> {
        call.must_use(&name.app)?;
        Ok(self.redeploy(call, &name, Again::Restart).await?.into())
    }

    /// Launches what serves again, with the variables and the formation that are set now.
    pub(super) async fn redeploy(&self, call: &mut Call<'_>, name: &EnvRef, again: Again) -> Result<Staged> {
        let (row, conductor) = self.loft.find(name).await?;
        let live =
            self.loft.parts.store.live_release(&row).await.or_failed(|| format!("failed to look up `{name}`"))?;
        let (commit, content) = live.map(|live| (live.commit, live.content)).unwrap_or_default();
        // What is being deployed for the first time will serve when its turn has come.
        if content.is_none() && !row.is_deploying() {
            return Err(Error::conflict(format!("`{name}` has no release that serves")).hint("push to it first"));
        }
        let reason = match again {
            Again::Config => "config",
            Again::Restart => "restart",
            Again::Scale => "scale",
            Again::Rollback => "rollback",
        };
        let source = Source::Again { commit, content: content.map(Box::new), again };
        self.deploy_and_show(call, conductor, work(call, source, reason)).await
    }

    pub(super) async fn scale(&self, call: &mut Call<'_>, scale: Scale) -> Result<Ending> {
        let name = scale.env;
        call.must_use(&name.app)?;
        let (row, _) = self.loft.find(&name).await?;
        let store = &self.loft.parts.store;
        let failed = || format!("failed to scale `{name}`");
        let content = store.live_release(&row).await.or_failed(failed)?.and_then(|live| live.content);
        let content = content.ok_or_else(|| Error::conflict(format!("`{name}` has no release that serves")))?;
        let mut formation = row.formation.clone();
        for count in scale.counts {
            let known = content.processes.iter().any(|(name, _)| *name == count.process);
            if !known || count.process == "release" {
                let types = content.processes.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "release");
                return Err(Error::usage(format!("`{name}` has no process type `{}`", count.process))
                    .hint(format!("it has: {}", types.collect::<Vec<_>>().join(", "))));
            }
            if count.process == "web" && count.count > 1 {
                return Err(Error::usage("one `web` process at most can listen on the port of a container")
                    .hint("let it start more workers itself, as gunicorn, puma and Node's cluster do"));
            }
            formation.insert(count.process, count.count);
        }
        let counts = |formation| spec::counts(&content, formation).map(|(name, _, count)| (name.to_owned(), count));
        let scaled = Formation { formation: counts(&formation).collect() };
        if formation == row.formation {
            return Ok(scaled.into());
        }
        store.set_formation(row.id, &formation).await.or_failed(failed)?;
        let text = formation.iter().map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ");
        let told = store.tell(&name.app, Some(&name.env), EventKind::Scaled, call.by(), &text, store::now());
        told.await.or_failed(failed)?;
        // What was the convention is now what was asked for, and nothing else changes.
        if counts(&row.formation).eq(counts(&formation)) {
            return Ok(scaled.into());
        }
        Ok(self.redeploy(call, &name, Again::Scale).await?.into())
    }

    pub(super) async fn rollback(&self, call: &mut Call<'_>, rollback: Rollback) -> Result<Ending> {
        let name = rollback.env;
        call.must_use(&name.app)?;
        let (row, conductor) = self.loft.find(&name).await?;
        let failed = || format!("failed to roll `{name}` back");
        let releases = self.loft.parts.store.releases(row.id).await.or_failed(failed)?;
        let wanted = match rollback.release {
            Some(number) => releases.into_iter().find(|release| release.number == number),
            None => releases.into_iter().find(|release| release.status == ReleaseStatus::Retired),
        };
        let list = format!("`flyloft releases {name}` lists them");
        let release = wanted.ok_or_else(|| Error::not_found(format!("`{name}` has no such release")).hint(&list))?;
        let (ReleaseStatus::Live | ReleaseStatus::Retired, Some(content)) = (release.status, release.content) else {
            return Err(Error::conflict(format!("{} of `{name}` never served", release.number)).hint(list));
        };
        call.say(&format!("-----> Going back to {}\n", release.number)).await?;
        let content = Some(Box::new(content));
        let source = Source::Again { commit: release.commit, content, again: Again::Rollback };
        let reason = format!("rollback to {}", release.number);
        Ok(self.deploy_and_show(call, conductor, work(call, source, &reason)).await?.into())
    }

    pub(super) async fn destroy(&self, call: &mut Call<'_>, destroy: Destroy) -> Result<Ending> {
        call.must_use(destroy.target.app())?;
        let name = match destroy.target {
            Target::Env(name) => name,
            Target::App(app) => {
                let rm = crate::command::AppsRm { app, yes: destroy.yes };
                return self.apps(call, crate::command::Apps::Rm(rm)).await;
            }
        };
        self.loft.find(&name).await?;
        if !destroy.yes {
            call.confirm(&format!("destroy `{name}`?")).await?;
        }
        match self.destroy_by(&name, call.by()).await? {
            true => Ok(done(format!("`{name}` is destroyed")).into()),
            false => Err(lingers(&name)),
        }
    }

    /// See [`Api::destroy_and_wait`].
    pub(super) async fn destroy_by(&self, name: &EnvRef, by: &str) -> Result<bool> {
        let gone = self.destroy_and_wait(name).await?;
        let told = self.loft.parts.store.tell(&name.app, Some(&name.env), EventKind::Destroyed, by, "", store::now());
        // It is destroyed, whether or not that can be written down.
        if let Err(error) = told.await {
            tracing::error!(env = %name, %error, "failed to record the end of an environment");
        }
        Ok(gone)
    }

    /// Says whether nothing of it is left already. What is left then is removed all the same.
    pub(super) async fn destroy_and_wait(&self, name: &EnvRef) -> Result<bool> {
        let (_, conductor) = self.loft.find(name).await?;
        conductor.tell(Event::Destroy).await?;
        Ok(tokio::time::timeout(GONE, conductor.gone()).await.is_ok())
    }

    pub(super) async fn environments_of(&self, app: &AppName) -> Result<Vec<EnvRow>> {
        let rows = self.loft.parts.store.environments(Some(app)).await;
        rows.or_failed(|| format!("failed to list the environments of `{app}`"))
    }
}

pub(super) fn word(runs: &Runs) -> &'static str {
    match runs {
        Runs::None => "none",
        Runs::Awake { .. } => "awake",
        Runs::Asleep { .. } => "asleep",
        Runs::Off { .. } => "off",
        Runs::Waking { .. } => "waking",
    }
}

pub(super) fn lingers(name: &EnvRef) -> Error {
    Error::failed(format!("`{name}` is not gone after {} s", GONE.as_secs()))
        .hint("it is being removed still; `flyloft ls` shows it until it is")
}

fn work(call: &Call<'_>, source: Source, reason: &str) -> Work {
    Work {
        source,
        reason: reason.to_owned(),
        by: call.by().to_owned(),
        no_cache: false,
        attached: false,
        together: None,
        push: None,
    }
}
