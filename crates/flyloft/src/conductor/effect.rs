//! Carrying out what the life cycle decided. Thin: nothing is decided here.
//!
//! An effect that fails is told and left: the state says what should be, and the reconciliation finds containers that
//! are not as they should be, and removals that did not come to their end.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flyloft_core::lifecycle::{Cause, Effect, Live, Runs, State, WhyOff};
use flyloft_core::name::{EnvRef, Origin, ReleaseNumber};
use flyloft_core::policy::{Excess, Size, Span};
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::passage;
use super::rest::Rest;
use super::wake::{self, Call, Woken};
use super::{Accepted, Caller, End, Message, Outcome, Running, Task, cancelled};
use crate::deploy::{self, Deployed, Job, spec};
use crate::edge::{Route, Target};
use crate::engine::{ContainerId, EngineError};
use crate::error::{Error, OrFailed, Result};
use crate::parts::{Parts, Settings};
use crate::ports::Way;
use crate::provision;
use crate::store::{self, EnvRow, EventKind};
use crate::volumes;

/// How long requests in flight may take on a release that is being retired.
pub(super) const DRAIN: Duration = Duration::from_secs(30);
/// How long what has just woken takes up its memory.
const SETTLED: Duration = Duration::from_secs(1);
/// What processes have between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// What visitors read whose environment is not there.
const UNBUILT: &str = "It is not kept on this server at the moment, and could not be built anew";

impl Task {
    pub(super) async fn act(&mut self, effect: Effect) {
        let text = effect.to_string();
        if let Err(error) = self.carry_out(effect).await {
            tracing::warn!(env = %self.env.name, effect = text, %error, "an effect failed");
        }
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<()> {
        match effect {
            Effect::StartDeploy { release } => self.start_deploy(release),
            Effect::CancelDeploy { release, cause } => self.cancel_deploy(release, cause),
            Effect::SkipDeploy { release, cause } => self.skip_deploy(release, cause).await?,
            Effect::AbandonDeploy { release } => self.abandon_deploy(release).await?,
            Effect::Route { .. } => self.route().await?,
            Effect::Hold => self.close().await?,
            Effect::Report { release, excess } => self.report(release, excess).await?,
            Effect::ReportEnd { release, again } => self.report_end(release, again).await,
            Effect::Unroute => {
                self.parts.edge.remove(&self.env.host).await.or_failed(|| "failed to remove the route")?
            }
            Effect::Freeze { release } => self.rest(release, Rest::Frozen),
            Effect::Stop { release } => self.rest(release, Rest::Stopped),
            Effect::Clear { .. } => self.clear(),
            Effect::Offload { depth, .. } => self.offload(depth),
            Effect::Thaw { release } => self.wake(release, true),
            Effect::Start { release } => self.wake(release, false),
            Effect::Retire { .. } => self.retire().await?,
            Effect::Farewell { .. } => self.farewell().await,
            Effect::Remove => self.remove().await?,
        }
        Ok(())
    }

    fn start_deploy(&mut self, release: ReleaseNumber) {
        let Some(Accepted { job, mut ended }) = self.jobs.remove(&release) else { return };
        let (cancel, cancelled) = oneshot::channel();
        self.running = Some(Running { release, cancel });
        self.parts.edge.expect(&self.env.host, true);
        tokio::spawn(async move {
            let deploying = AssertUnwindSafe(deploy::deploy(&job, called_off(&job, cancelled, &mut ended)));
            // Whatever becomes of it, the conductor must hear of its end, or nothing is ever deployed again.
            let result = deploying.catch_unwind().await;
            let result = result.unwrap_or_else(|_| Err(Error::failed("the deploy failed in a way that is a bug")));
            job.parts.tally.deploy(&job.env.name.app, result.is_err());
            if let Err(error) = &result {
                let unwanted = job.work.attached && ended.is_closed();
                let (heard, wait) = oneshot::channel();
                let end = End::Failed { release, why: error.brief(), unwanted };
                // Whoever waits may look at once what has become of it.
                if job.conductor.send(Box::new(Message::JobEnded { end, heard })).await.is_ok() {
                    let _ = wait.await;
                }
            }
            job.parts.looked_through.forget();
            let _ = ended.send(result);
        });
    }

    fn cancel_deploy(&mut self, release: ReleaseNumber, cause: Cause) {
        if let Some(running) = self.running.take_if(|running| running.release == release) {
            let _ = running.cancel.send(cause);
        }
    }

    pub(super) async fn skip_deploy(&mut self, release: ReleaseNumber, cause: Cause) -> Result<()> {
        let error = cancelled(&self.env, cause);
        let why = error.to_string();
        if let Some(Accepted { job, ended }) = self.jobs.remove(&release) {
            if let Some(together) = &job.work.together {
                together.ended(false);
            }
            let _ = ended.send(Err(error));
        }
        self.fail_release(release, &why).await
    }

    /// The containers that it made go with the comparison that follows.
    async fn abandon_deploy(&mut self, release: ReleaseNumber) -> Result<()> {
        self.fail_release(release, "the daemon ended in the middle of it").await
    }

    pub(super) async fn fail_release(&self, release: ReleaseNumber, why: &str) -> Result<()> {
        let failed = self.parts.store.fail_release(self.env.id, release, why, store::now());
        failed.await.or_failed(|| format!("failed to record the end of {release}"))
    }

    async fn route(&self) -> Result<()> {
        let target = match self.env.live.as_ref().and_then(|live| live.upstream) {
            Some(upstream) => Target::Upstream(upstream),
            None => Target::Unavailable { why: "This app has no web process.".to_owned() },
        };
        self.set_route(target).await
    }

    /// Whoever visits an environment that has never served is told so, and not that there is none.
    pub(super) async fn announce(&self) -> Result<()> {
        match &self.state {
            State::Live(live) if live.runs == Runs::None => self.set_route(closed(&self.state)).await,
            _ => Ok(()),
        }
    }

    /// Has its ports lead where they should, as it is now.
    pub(super) fn point_ports(&self) {
        let live = self.env.live.as_ref();
        let way = match (&self.state, live, closed(&self.state)) {
            (State::Live(Live { runs: Runs::Awake { .. }, .. }), Some(live), _) => Way::Open(live.container.clone()),
            (_, _, Target::Held { failure }) => Way::Held { failed: failure.is_some() },
            (_, _, Target::Unavailable { .. } | Target::Upstream(_)) => Way::Shut,
        };
        self.parts.ports.set(self.env.id, live.map(|live| &live.container), way, &self.uses);
    }

    /// Answers those who wait for it to wake.
    pub(super) async fn turn_away(&self, why: &str) -> Result<()> {
        self.parts.ports.turn_away(self.env.id);
        self.set_route(Target::Held { failure: Some(format!("{why}. The next visit tries again.")) }).await
    }

    /// What does not serve now holds its visitors, or says why it does not.
    pub(super) async fn close(&self) -> Result<()> {
        let target = match (closed(&self.state), self.state.unbuilt_until()) {
            // Why, its people read in its events: strangers come here, too.
            (Target::Held { .. }, Some(until)) => {
                let again = self.parts.clock.until(until).as_secs().div_ceil(60).max(1);
                Target::Held { failure: Some(format!("{UNBUILT}. Visits try again in {again} min.")) }
            }
            (target, _) => target,
        };
        self.set_route(target).await
    }

    async fn set_route(&self, target: Target) -> Result<()> {
        let guard = self.parts.gates.guard(&self.env);
        let route = Route { env: self.env.name.clone(), target, guard };
        let set = self.parts.edge.set(&self.env.host, route).await;
        set.or_failed(|| format!("failed to route `{}`", self.env.host))
    }

    async fn report(&self, release: ReleaseNumber, excess: Excess) -> Result<()> {
        let EnvRef { app, env } = &self.env.name;
        let text = format!("{release}: {excess}; {}", remedy(&self.env, excess, &self.parts.settings));
        let told = self.parts.store.tell(app, Some(env), EventKind::Stopped, "flyloft", &text, store::now());
        told.await.or_failed(|| format!("failed to record that {release} was stopped"))
    }

    async fn report_end(&self, release: ReleaseNumber, again: Option<Duration>) {
        let then = match again {
            Some(again) if again.is_zero() => "is started again".to_owned(),
            Some(again) => format!("is started again in {}, or by a visit", Span(Some(again))),
            None => "is started again by the next visit".to_owned(),
        };
        let text = format!("{release} ended by itself and {then}");
        tracing::warn!(env = %self.env.name, text, "what serves has ended");
        tell(&self.parts, &self.env.name, EventKind::Crashed, &text).await;
    }

    /// Wakes what serves. The conductor hears of the end by a message.
    fn wake(&mut self, release: ReleaseNumber, frozen: bool) {
        let (Some(live), Some(myself)) = (self.env.live.clone(), self.myself.upgrade()) else { return };
        let (parts, env) = (self.parts.clone(), self.env.clone());
        let (call, mut place, need) = (self.call.take(), self.place.take(), self.memory.bytes());
        let by_itself = Caller::from("flyloft");
        let given_up = CancellationToken::new();
        self.given_up = given_up.clone();
        self.hands.give(async move {
            // What is to be thawed is awake already, as far as its memory goes.
            if !frozen && place.is_none() {
                match wake::room(&parts, &env, &live.container, need, &given_up).await {
                    Ok(room) => place = Some(room),
                    Err(error) => return ended(&myself, release, Outcome::NoRoom(error.brief())).await,
                }
            }
            crate::fault::point(if frozen { "thaw.begun" } else { "start.begun" });
            let call = call.unwrap_or_else(|| Call::new(by_itself, Runs::None, Duration::ZERO));
            let room = (&mut place, &given_up);
            let woken = AssertUnwindSafe(wake::wake(&parts, &env, live, frozen, call, room)).catch_unwind().await;
            let (outcome, wake) = match woken {
                Ok(Woken { outcome, wake, waited }) => (outcome, Some((wake, waited))),
                Err(_) => {
                    tracing::error!(env = %env.name, "a wake failed in a way that is a bug");
                    (Outcome::Dead, None)
                }
            };
            crate::fault::point(if frozen { "thaw.done" } else { "start.done" });
            if let (Outcome::Dead, Some(why)) = (&outcome, wake.as_ref().and_then(|(wake, _)| wake.failure.as_ref())) {
                tell(&parts, &env.name, EventKind::WakeFailed, &format!("{release}: {why}")).await;
            }
            ended(&myself, release, outcome).await;
            // By then the kernel sees what it has taken.
            tokio::spawn(async move {
                tokio::time::sleep(SETTLED).await;
                drop(place);
            });
            if let Some((wake, waited)) = wake {
                passage::record(&parts, &env, wake, waited).await;
            }
        });
    }

    /// Removes the containers that do not serve, each when no request is on its way to it any more. Beside the
    /// conductor: a slow download must not keep the environment from its next deploy.
    async fn retire(&mut self) -> Result<()> {
        let upstream = self.previous.take().and_then(|previous| previous.upstream);
        for old in others(&self.parts, &self.env).await? {
            let (parts, retiring) = (self.parts.clone(), self.retiring.clone());
            if !retiring.lock().expect("not poisoned").insert(old.clone()) {
                continue;
            }
            tokio::spawn(async move {
                if let Some(upstream) = upstream {
                    parts.edge.drained(upstream, DRAIN).await;
                }
                if let Err(error) = remove_container(&parts, &old).await {
                    tracing::warn!(container = %old, %error, "failed to retire a container");
                }
                retiring.lock().expect("not poisoned").remove(&old);
            });
        }
        Ok(())
    }

    /// Removes what a deploy that failed left behind. Nothing that is under way is disturbed.
    pub(super) async fn tidy(&mut self) {
        if self.running.is_none()
            && self.jobs.is_empty()
            && let Err(error) = self.retire().await
        {
            tracing::warn!(env = %self.env.name, %error, "failed to tidy up");
        }
    }

    async fn sweep(&self) -> Result<()> {
        for leftover in others(&self.parts, &self.env).await? {
            remove_container(&self.parts, &leftover).await?;
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<()> {
        crate::fault::point("remove.begun");
        self.env.live = None;
        self.sweep().await?;
        let failed = || format!("failed to forget `{}`", self.env.name);
        crate::fault::point("remove.swept");
        match tokio::fs::remove_dir_all(self.parts.settings.transcripts.join(self.env.id.0.to_string())).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).or_failed(failed),
            _ => {}
        }
        if let Origin::Branch(branch) = &self.env.origin {
            self.parts.repositories.delete_branch(&self.env.name.app, branch).await.or_failed(failed)?;
        }
        let ports = self.parts.ports.turn().await;
        // Last, since what the store does not know any more is removed by nobody.
        self.parts.store.remove_environment(self.env.id).await.or_failed(failed)?;
        self.parts.ports.remove(self.env.id);
        drop(ports);
        self.parts.looked_through.forget();
        self.removed = true;
        let parts = self.parts.clone();
        // What it had on servers goes as soon as they let it.
        tokio::spawn(async move {
            volumes::sweep(&parts).await;
            provision::sweep(&parts).await;
        });
        Ok(())
    }
}

/// Lets a conductor know what became of a wake.
async fn ended(conductor: &mpsc::Sender<Box<Message>>, release: ReleaseNumber, outcome: Outcome) {
    let end = End::Woke { release, outcome };
    let _ = conductor.send(Box::new(Message::JobEnded { end, heard: oneshot::channel().0 })).await;
}

/// Lets its people know what became of an environment.
pub(super) async fn tell(parts: &Parts, env: &EnvRef, kind: EventKind, text: &str) {
    if let Err(error) = parts.store.tell(&env.app, Some(&env.env), kind, "flyloft", text, store::now()).await {
        tracing::warn!(%env, %error, "failed to record an event");
    }
}

/// What becomes of a visit to what does not serve now.
pub fn closed(state: &State) -> Target {
    let State::Live(live) = state else { return Target::Unavailable { why: "It is being destroyed.".to_owned() } };
    match live.runs {
        Runs::None => {
            Target::Unavailable { why: "Nothing serves yet: its first deploy is under way, or has failed.".to_owned() }
        }
        Runs::Off { why: WhyOff::Over(excess), .. } => {
            Target::Unavailable { why: format!("This environment was stopped: {excess}.") }
        }
        Runs::Off { why: WhyOff::Crashed, .. } => {
            let why = "It ended, or did not answer when it was woken. The next visit tries again.";
            Target::Held { failure: Some(why.to_owned()) }
        }
        Runs::Off { why: WhyOff::Unbuilt { .. }, .. } => Target::Held { failure: Some(format!("{UNBUILT}.")) },
        Runs::Off { why: WhyOff::NoRoom { .. }, .. } => {
            let why = "This machine had no memory for it to start. The next visit tries again.";
            Target::Held { failure: Some(why.to_owned()) }
        }
        Runs::Awake { .. } | Runs::Asleep { .. } | Runs::Off { .. } | Runs::Waking { .. } => {
            Target::Held { failure: None }
        }
    }
}

/// What its people can do, in a few words.
pub fn remedy(env: &EnvRow, excess: Excess, settings: &Settings) -> String {
    let (limits, env) = (settings.levels(env, &env.asked).limits(), &env.name);
    let raise = match excess {
        Excess::Disk => format!("its limit is {}, `flyloft set {env} disk=SIZE` sets another", Size(limits.disk)),
        Excess::Inodes => format!(
            "its limit is {} with those in its volumes, which stay; `flyloft set {env} inodes=COUNT` sets another",
            limits.inodes
        ),
        Excess::Volume => {
            return format!(
                "`flyloft volumes ls {env}` shows which; `flyloft volumes add {env} PATH --size SIZE` gives it more and starts it"
            );
        }
        Excess::Floor => {
            format!("`floor = \"{}\"` in `[disk]` of the configuration is kept free", Size(settings.disk.floor))
        }
    };
    format!("{raise}; `flyloft restart {env}` starts it with a fresh disk")
}

/// Comes back when the deploy is not wanted any more, and says why.
async fn called_off(
    job: &Job,
    cancelled: oneshot::Receiver<Cause>,
    ended: &mut oneshot::Sender<Result<Deployed>>,
) -> Error {
    tokio::select! {
        Ok(cause) = cancelled => super::cancelled(&job.env, cause),
        () = ended.closed(), if job.work.attached => Error::failed("whoever pushed has gone away"),
        else => std::future::pending().await,
    }
}

/// The environment's containers but the one that serves.
async fn others(parts: &Parts, env: &EnvRow) -> Result<Vec<ContainerId>> {
    let mut found = parts.engine.containers().await.or_failed(|| "failed to list containers")?;
    found.retain(|id| is_leftover(id, env));
    Ok(found)
}

/// Whether it is the environment's, and not what serves.
pub(super) fn is_leftover(id: &ContainerId, env: &EnvRow) -> bool {
    spec::belongs_to(id, env) && env.live.as_ref().is_none_or(|live| live.container != *id)
}

async fn remove_container(parts: &Parts, id: &ContainerId) -> Result<()> {
    match parts.engine.stop(id, GRACE).await {
        // Somebody else has just removed it.
        Err(EngineError::NoContainer(_)) => return Ok(()),
        stopped => stopped.or_failed(|| format!("failed to stop `{id}`"))?,
    }
    parts.engine.remove(id).await.or_failed(|| format!("failed to remove `{id}`"))
}
