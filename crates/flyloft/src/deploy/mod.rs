//! A deploy, from top to bottom: `source → build → services → launch → probe → postdeploy → route`.
//!
//! Each step is recorded in the store before it is done, and registers its undo before it can be needed. A failure, or a
//! newer push, anywhere before the end undoes what was done; the old release has served all the while. The last step
//! hands the new release to the [conductor](crate::conductor), which moves the host name and retires the old one.

pub mod image;
pub mod probe;
mod services;
pub mod spec;
mod together;
mod undo;

use std::path::PathBuf;
use std::sync::Arc;

use flyloft_core::gate::Gate;
use flyloft_core::lifecycle::Cause;
use flyloft_core::name::{CommitId, ReleaseNumber};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::admission::{Place, Weight};
use crate::conductor::{self, Message};
use crate::engine::ContainerId;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::provision::Given;
use crate::source::{Push, Quarantine};
use crate::store::{self, Content, EnvRow, EventKind, LiveRow};
use crate::transcript::Transcript;
use probe::Started;
pub use together::Together;
pub use undo::Undo;

/// What is asked for.
pub struct Work {
    pub source: Source,
    /// Why there is a release: `push`, `up`, `config`, `rollback to v2`.
    pub reason: String,
    /// Who asked.
    pub by: String,
    /// Build every layer of the app anew.
    pub no_cache: bool,
    /// Called off when whoever asked goes away, as a push is: its branch does not move either.
    pub attached: bool,
    /// Other environments that are staged by the same push: all of them are, or none.
    pub together: Option<Together>,
    /// Which branches have to be where the push took them for, if one asked for this.
    pub push: Option<Arc<Push>>,
}

pub enum Source {
    /// A commit that the app's repository has, or that a push has in quarantine.
    Commit { commit: CommitId, quarantine: Option<Quarantine> },
    /// A tree in the engine's staging directory. It is used up.
    Tree { dir: Leftover },
    /// What an earlier release was made from. Without content it is what serves when its turn has come.
    Again { commit: Option<CommitId>, content: Option<Box<Content>>, again: Again },
}

/// Why an earlier release is launched again.
///
/// `release:` of the Procfile runs when Heroku runs it: before a new build, a change of variables or a rollback serves.
/// A restart and a change of scale are no releases there, and what it prepares has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It has the variables that it had.
    Rollback,
    /// What serves, with the variables that are set now.
    Config,
    /// The same, since a restart always takes up what is set.
    Restart,
    Scale,
}

/// What a person is told whose fetch is not begun yet.
pub const FETCHES_WAIT: &str = "Waiting: other repositories are being fetched";

/// A directory that goes with whoever has it.
pub struct Leftover(pub PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        use std::io::ErrorKind;
        // What writes into it has been told to end, and may still be at it.
        let mut removed = std::fs::remove_dir_all(&self.0);
        for _ in 0..3 {
            if !removed.as_ref().is_err_and(|error| error.kind() == ErrorKind::DirectoryNotEmpty) {
                break;
            }
            removed = std::fs::remove_dir_all(&self.0);
        }
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(dir = %self.0.display(), %error, "failed to remove a tree that was sent");
            }
            _ => {}
        }
    }
}

impl Work {
    /// Whether it waits for a deploy that is under way, and does not take its place: it is about whatever serves then.
    pub fn waits(&self) -> bool {
        matches!(self.source, Source::Again { again: Again::Config | Again::Restart | Again::Scale, .. })
    }

    pub fn commit(&self) -> Option<&CommitId> {
        match &self.source {
            Source::Commit { commit, .. } => Some(commit),
            Source::Again { commit, .. } => commit.as_ref(),
            Source::Tree { .. } => None,
        }
    }
}

/// One deploy, with all that it needs.
pub struct Job {
    pub parts: Arc<Parts>,
    pub env: EnvRow,
    pub release: ReleaseNumber,
    pub work: Work,
    pub transcript: Transcript,
    pub conductor: mpsc::Sender<Box<Message>>,
}

/// What a deploy that succeeded comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub release: ReleaseNumber,
    pub url: String,
}

/// Runs a deploy to its end, or until it is called off with an error. After an error nothing of it is left, but for the
/// layers that it made on the way; the conductor, which is told of it, records that it failed.
pub async fn deploy(job: &Job, called_off: impl Future<Output = Error>) -> Result<Deployed> {
    job.tell(EventKind::DeployStarted, &format!("{} ({})", job.release, job.work.reason)).await;
    let mut undo = Undo::default();
    let prepared = tokio::select! {
        biased;
        error = called_off => Err(error),
        prepared = prepare(job, &mut undo) => prepared,
    };
    // From here on it cannot be called off: the conductor decides which release serves.
    let result = match prepared {
        Ok(live) => job.step("route", route(job, live)).await,
        Err(error) => Err(error),
    };
    if let Some(together) = &job.work.together {
        together.ended(result.is_ok());
    }
    match &result {
        Ok(deployed) => {
            job.tell(EventKind::DeploySucceeded, &format!("{} at {}", job.release, deployed.url)).await;
            if job.parts.gates.gate(&job.env) == Gate::Link {
                job.transcript.detail(&format!("A link opens it: flyloft share {}", job.env.name));
            }
            job.transcript.heading("Deployed");
            job.transcript.plain(&deployed.url);
        }
        Err(error) => {
            job.transcript.settle();
            undo.run().await;
            job.tell(EventKind::DeployFailed, &format!("{}: {}", job.release, error.brief())).await;
        }
    }
    result
}

/// All that can be done beside the old release.
async fn prepare(job: &Job, undo: &mut Undo) -> Result<LiveRow> {
    let tree = job.step("source", image::source(job, undo)).await?;
    let early = services::begin(job, tree.as_deref()).await?;
    let built = job.step("build", image::build(job, tree, &early.asks)).await?;
    let (content, given) = job.step("services", services::collect(job, built, early, undo)).await?;
    let _place = room(job).await?;
    let container = job.step("launch", launch(job, &content, &given, undo)).await?;
    // Its log began with it.
    let at = OffsetDateTime::UNIX_EPOCH;
    let started = Started { env: &job.env, content: &content, container: &container, at };
    let upstream = job.step("probe", probe::probe(&job.parts, started, &job.transcript)).await?;
    if let Some(script) = &content.postdeploy {
        job.step("postdeploy", postdeploy(job, script, &container)).await?;
    }
    if let Some(together) = &job.work.together {
        together.all_ready().await?;
    }
    if let Some(push) = &job.work.push {
        job.parts.repositories.hold(&job.env.name.app, push).await?;
    }
    Ok(LiveRow { release: job.release, container, upstream })
}

impl Job {
    /// Records a step before and after it is done.
    async fn step<T>(&self, name: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let failed = || format!("failed to record step `{name}`");
        let Parts { store, .. } = &*self.parts;
        store.begin_step(self.env.id, self.release, name, store::now()).await.or_failed(failed)?;
        crate::fault::point(&format!("{name}.begun"));
        let value = work.await?;
        crate::fault::point(&format!("{name}.done"));
        // It is done, whether or not that can be written down.
        if let Err(error) = store.end_step(self.env.id, self.release, name, store::now()).await {
            tracing::error!(env = %self.env.name, step = name, %error, "failed to record the end of a step");
        }
        Ok(value)
    }

    async fn tell(&self, kind: EventKind, text: &str) {
        let env = &self.env.name;
        let told = self.parts.store.tell(&env.app, Some(&env.env), kind, &self.work.by, text, store::now()).await;
        if let Err(error) = told {
            tracing::error!(%env, %error, "failed to record an event");
        }
    }
}

/// Waits until there is memory for one more container.
async fn room(job: &Job) -> Result<Place> {
    let admission = &job.parts.admission;
    let need = Weight::new(job.env.memory.awake).bytes();
    if let Some(place) = admission.enter_now(job.env.id, need) {
        return Ok(place);
    }
    job.transcript.step("Waiting until others are asleep: memory is short");
    admission.enter(job.env.id, need).await
}

/// Starts a container beside the old one, after what `release:` in the Procfile asks for.
async fn launch(job: &Job, content: &Content, given: &Given, undo: &mut Undo) -> Result<ContainerId> {
    let failed = || format!("failed to launch {} of `{}`", job.release, job.env.name);
    let Parts { engine, store, .. } = &*job.parts;
    let number = store.next_container(job.env.id).await.or_failed(failed)?;
    let id = spec::container_id(&job.env, number);
    let version = spec::Version { release: job.release, commit: job.work.commit() };
    let spec = spec::container(&job.parts, &job.env, version, (content, given), &id);
    let (leftover, owner) = (id.clone(), engine.clone());
    undo.push("remove the new container", async move { owner.remove(&leftover).await });
    let same = matches!(job.work.source, Source::Again { again: Again::Restart | Again::Scale, .. });
    let command = content.processes.iter().find(|(name, _)| name == "release").filter(|_| !same);
    if let Some((_, command)) = command {
        job.transcript.step("Running the release command");
        release_phase(job, &spec, command).await?;
    }
    job.transcript.step("Launching");
    engine.create(&spec).await.or_failed(failed)?;
    crate::fault::point("launch.created");
    engine.start(&id).await.or_failed(failed)?;
    Ok(id)
}

/// Runs the release command in the new container, before anything else runs in it.
async fn release_phase(job: &Job, spec: &crate::engine::ContainerSpec, command: &str) -> Result<()> {
    let engine = &job.parts.engine;
    let failed = || format!("failed to run the release command of `{}`", job.env.name);
    let alone = crate::engine::ContainerSpec { processes: Vec::new(), ..spec.clone() };
    engine.create(&alone).await.or_failed(failed)?;
    engine.start(&spec.id).await.or_failed(failed)?;
    let ended = spec::run(engine, &spec.id, ("release.1", command), &job.transcript).await.or_failed(failed)?;
    engine.remove(&spec.id).await.or_failed(failed)?;
    must_be_well("the release command", &ended, "the release that serves is left alone")
}

/// Runs `scripts.postdeploy` of `app.json` in the new container, where no deploy has succeeded yet, or the data have been
/// made anew since. The app answers by then, and nobody is sent to it.
async fn postdeploy(job: &Job, script: &str, container: &ContainerId) -> Result<()> {
    let Parts { store, engine, .. } = &*job.parts;
    let failed = || format!("failed to run the postdeploy script of `{}`", job.env.name);
    if store.is_postdeployed(job.env.id).await.or_failed(failed)? {
        return Ok(());
    }
    job.transcript.step("Running the postdeploy script");
    let ended = spec::run(engine, container, ("postdeploy.1", script), &job.transcript).await.or_failed(failed)?;
    must_be_well("the postdeploy script", &ended, "it runs again with the next deploy, until it has ended well once")?;
    store.set_postdeployed(job.env.id, Some(store::now())).await.or_failed(failed)
}

fn must_be_well(what: &str, ended: &spec::Ended, and: &str) -> Result<()> {
    match ended {
        spec::Ended { code: 0, .. } => Ok(()),
        spec::Ended { code, said } => {
            let output = if *said { "its output is above" } else { "it has printed nothing" };
            Err(Error::failed(format!("{what} ended with status {code}")).hint(format!("{output}; {and}")))
        }
    }
}

/// Hands the new release over. When this comes back, new requests go to it.
async fn route(job: &Job, live: LiveRow) -> Result<Deployed> {
    let (routed, wait) = oneshot::channel();
    let message = Message::Healthy { release: job.release, live, routed };
    // The conductor goes with its environment.
    let gone = || conductor::cancelled(&job.env, Cause::Destroyed);
    job.conductor.send(Box::new(message)).await.map_err(|_| gone())?;
    wait.await.map_err(|_| gone())??;
    Ok(Deployed { release: job.release, url: job.parts.settings.url(&job.env.host) })
}
