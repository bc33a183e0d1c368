//! One task per environment. It alone changes what its environment is.
//!
//! ```text
//!   push, up, config …        ┌───────────────── conductor ─────────────────┐
//!   destroy, restart    ────► │ take a message → step() → persist → effects │ ──► engine, edge, store
//!   a deploy's own news  ───► └─────────────────────────────────────────────┘
//! ```
//!
//! What is decided is decided by [`lifecycle::step`], which knows nothing of the world; what is done is done in
//! [`effect`]. The new state is in the store before the first effect begins, and every effect can be repeated: a daemon
//! that dies in between goes on where it was.
//!
//! A conductor is never long about a message, so that nobody waits for it who need not: what takes time (a deploy, a
//! wake, letting requests end) goes on beside it, and its end comes back as a message.

mod effect;
mod end;
mod farewell;
mod handle;
mod hands;
mod ladder;
mod later;
mod message;
mod moved;
mod passage;
mod rebuild;
mod reconcile;
mod rest;
mod uses;
mod wake;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use flyloft_core::lifecycle::{self, Answer, Cause, Event, Live, Refusal, Runs, State, Timestamp};
use flyloft_core::name::{EnvRef, ReleaseNumber};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::effect::{closed, remedy};
pub use self::end::{End, Outcome};
pub use self::handle::Conductor;
use self::hands::Hands;
pub use self::message::Message;
use self::moved::Moved;
pub use self::rest::Restless;
use self::rest::{Look, Parted};
pub use self::uses::Uses;
use self::wake::Call;
pub use self::wake::Caller;
use crate::admission::{Place, Weight};
use crate::deploy::{Deployed, Job, Work};
use crate::engine::{ContainerId, ContainerState, Observed};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::{self, EnvRow, LiveRow, NewRelease, StoreError};
use crate::transcript::{Reading, Transcript};

/// A deploy that was accepted.
pub struct Ticket {
    pub env: EnvRef,
    pub release: ReleaseNumber,
    pub transcript: Transcript,
    pub ended: oneshot::Receiver<Result<Deployed>>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Done,
    AlreadySo,
}

impl Conductor {
    pub fn start(parts: Arc<Parts>, env: EnvRow) -> Result<Self> {
        let state =
            serde_json::from_str(&env.state).or_failed(|| format!("failed to read the state of `{}`", env.name))?;
        // A channel has room for dozens from the start: pointers are small.
        let (mailbox, inbox) = mpsc::channel(64);
        let (seen, watching) = watch::channel(State::clone(&state));
        let uses = Uses::new(parts.clock.clone());
        let (name, down) = (env.name.clone(), env.memory.down_since);
        let (id, host, memory) = (env.id, env.host.clone(), Weight::new(env.memory.awake));
        let moved = Moved::taken_up(&state, env.memory.asleep);
        let known = parts.clone();
        let task = Box::new(Task {
            parts,
            env,
            state,
            seen,
            jobs: BTreeMap::new(),
            running: None,
            previous: None,
            retiring: Arc::default(),
            later: None,
            hands: Hands::default(),
            disturb: CancellationToken::new(),
            look: None,
            restless: None,
            lacks_room: false,
            call: None,
            given_up: CancellationToken::new(),
            place: None,
            memory: memory.clone(),
            callers: Vec::new(),
            entering: false,
            down,
            parted: Parted::default(),
            moved,
            uses: uses.clone(),
            ended_unseen: false,
            rested: Instant::now(),
            unrecorded: Vec::new(),
            removed: false,
            transcript: None,
            myself: mailbox.downgrade(),
        });
        task.point_ports();
        tokio::spawn(task.run(inbox));
        let conductor = Self { env: name, mailbox, state: watching, uses };
        known.admission.know(id, conductor.clone(), host, memory);
        Ok(conductor)
    }
}

struct Task {
    parts: Arc<Parts>,
    env: EnvRow,
    state: State,
    /// The same, for everybody to see.
    seen: watch::Sender<State>,
    /// Deploys that were accepted and have not begun.
    jobs: BTreeMap<ReleaseNumber, Accepted>,
    running: Option<Running>,
    /// One that begins when no other is under way any more.
    later: Option<ReleaseNumber>,
    /// What served before: requests may still be on their way to it.
    previous: Option<LiveRow>,
    /// Containers that are being drained.
    retiring: Arc<Mutex<HashSet<ContainerId>>>,
    hands: Hands,
    /// Cancelled to keep what is about to rest from it.
    disturb: CancellationToken,
    /// What was seen of its use when it was decided that nobody uses it.
    look: Option<Look>,
    /// What kept it from its last rest.
    restless: Option<Restless>,
    /// There was no memory for it to start by itself, which its people know.
    lacks_room: bool,
    /// Who woke it, until that has begun, and the memory that it was promised.
    call: Option<Call>,
    place: Option<Place>,
    /// Cancelled when what is waking is not wanted any more.
    given_up: CancellationToken,
    /// What it holds when it is awake.
    memory: Weight,
    /// Those who wait for it to be let in.
    callers: Vec<oneshot::Sender<Result<Told>>>,
    entering: bool,
    /// Since when it has not been awake, as far as that is known.
    down: Option<Timestamp>,
    /// The same, from the step that brought it about until it is put to rest for it.
    parted: Parted,
    /// What of it is out of the way, while it sleeps.
    moved: Moved,
    uses: Uses,
    /// Its container was told to have ended when it was not awake.
    ended_unseen: bool,
    /// Time is looked at again only after this.
    rested: Instant,
    /// What has ended while the store could not take it.
    unrecorded: Vec<End>,
    removed: bool,
    /// Of the newest deploy.
    transcript: Option<Reading>,
    myself: mpsc::WeakSender<Box<Message>>,
}

struct Accepted {
    job: Job,
    ended: oneshot::Sender<Result<Deployed>>,
}

struct Running {
    release: ReleaseNumber,
    cancel: oneshot::Sender<Cause>,
}

impl Task {
    async fn run(mut self: Box<Self>, mut inbox: mpsc::Receiver<Box<Message>>) {
        while !self.removed {
            let due = self.due();
            let message = tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(message) => Some(message),
                    None => return,
                },
                () = tokio::time::sleep_until(due) => None,
            };
            // On the heap: a conductor that waits, as nearly all do, holds no room for the largest of what it may do.
            Box::pin(self.turn(message)).await;
        }
    }

    /// Without a message it is time for something.
    async fn turn(&mut self, message: Option<Box<Message>>) {
        match message {
            Some(message) => self.take(*message).await,
            None => self.tick().await,
        }
        self.see_what_ended().await;
        self.begin_later().await;
    }

    async fn take(&mut self, message: Message) {
        self.record_again().await;
        if self.removed {
            return;
        }
        match message {
            Message::Deploy { work, answer } => {
                let _ = answer.send(self.accept(*work).await);
            }
            Message::Wake { caller, answer } => self.want_awake(caller, answer).await,
            Message::Admitted { caller, place } => self.admitted(caller, place).await,
            Message::Event { event, answer } => {
                let told = self.step(&event, None).await;
                let _ = answer.send(told.and_then(|told| told.map_err(|refusal| self.refused(refusal))));
            }
            Message::Reload { answer } => {
                let _ = answer.send(self.reload().await);
            }
            Message::MakeRoom { answer } => {
                let _ = answer.send(self.make_room().await);
            }
            Message::NoteUse { answer } => {
                self.note_use().await;
                let _ = answer.send(());
            }
            Message::Restless { answer } => {
                let _ = answer.send(self.restless.clone());
            }
            Message::AtRest { answer } => self.hands.give(async move {
                let _ = answer.send(());
            }),
            Message::Reconcile { observed, swap_changed } => {
                if swap_changed {
                    self.moved.forget();
                }
                if let Err(error) = self.reconcile(&observed).await {
                    tracing::warn!(env = %self.env.name, %error, "failed to reconcile");
                }
            }
            Message::ContainerEnded { container } => {
                if let Err(error) = self.ended(&container).await {
                    tracing::warn!(env = %self.env.name, %error, "failed to look at what has ended");
                }
            }
            Message::Transcript { answer } => {
                let _ = answer.send(self.transcript.clone());
            }
            Message::Healthy { release, live, routed } => {
                self.forget_running(release);
                let _ = routed.send(self.switch(release, &live).await);
                self.parts.edge.expect(&self.env.host, false);
            }
            Message::JobEnded { end, heard } => {
                if let End::Failed { release, .. } = end {
                    self.forget_running(release);
                    self.parts.edge.expect(&self.env.host, self.running.is_some());
                }
                self.record(end).await;
                let _ = heard.send(());
            }
        }
    }

    /// Makes a healthy release the one that serves.
    async fn switch(&mut self, release: ReleaseNumber, live: &LiveRow) -> Result<()> {
        self.check_that_it_runs(release, live).await?;
        self.step(&Event::DeploySucceeded { release }, Some(live)).await?.ok();
        // What its `app.json` asks for holds from here on.
        if let Err(error) = self.reload().await {
            tracing::warn!(env = %self.env.name, %error, "failed to read what is set");
        }
        match self.env.live.as_ref() == Some(live) {
            true => {
                self.uses.by(&format!("the deploy of {release}"));
                Ok(())
            }
            false => Err(self.unwanted(release)),
        }
    }

    /// It may have waited for long since it was probed, and that it has ended was told when it did not serve yet. What
    /// ends from here on is told after this message.
    async fn check_that_it_runs(&self, release: ReleaseNumber, live: &LiveRow) -> Result<()> {
        let found = self.parts.engine.find(&live.container).await;
        match found.or_failed(|| format!("failed to look at `{}`", live.container))? {
            Some(Observed { state: ContainerState::Running, .. }) => Ok(()),
            Some(Observed { excess: Some(excess), .. }) => {
                Err(Error::failed(format!("{release} was stopped before it could serve: {excess}")))
            }
            _ => Err(Error::failed(format!("{release} does not run any more, though it had come up"))),
        }
    }

    /// Numbers the release, and starts its deploy or lets it wait for its turn.
    async fn accept(&mut self, work: Work) -> Result<Ticket> {
        let name = self.env.name.clone();
        let failed = || format!("failed to record a release of `{name}`");
        let release = NewRelease {
            environment: self.env.id,
            commit: work.commit().cloned(),
            reason: work.reason.clone(),
            by: work.by.clone(),
        };
        let number = self.parts.store.add_release(release, store::now()).await.or_failed(failed)?;
        let accepted = self.begin(number, work).await;
        if let Err(error) = &accepted {
            self.jobs.remove(&number);
            // If even that fails, the reconciliation finds a release that nobody deploys.
            self.fail_release(number, &error.brief()).await.ok();
        }
        accepted
    }

    async fn begin(&mut self, number: ReleaseNumber, work: Work) -> Result<Ticket> {
        let failed = || format!("failed to begin {number} of `{}`", self.env.name);
        let path = self.parts.settings.transcript(self.env.id, number);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).or_failed(failed)?;
        }
        let transcript = Transcript::create(&path).or_failed(failed)?;
        self.transcript = Some(transcript.reading());
        self.reload().await?;
        let (ended, wait) = oneshot::channel();
        let waits = work.waits();
        let job = Job {
            parts: self.parts.clone(),
            env: self.env.clone(),
            release: number,
            work,
            transcript: transcript.clone(),
            conductor: self.myself.upgrade().expect("a message has just come"),
        };
        self.jobs.insert(number, Accepted { job, ended });
        if waits && self.put_off(number, &transcript).await? {
            return Ok(Ticket { env: self.env.name.clone(), release: number, transcript, ended: wait });
        }
        match self.step(&Event::Deploy { release: number }, None).await? {
            Ok(_) => {
                self.announce().await?;
                Ok(Ticket { env: self.env.name.clone(), release: number, transcript, ended: wait })
            }
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Takes over what others may have changed in the store: how many of each process type are wanted, and settings.
    async fn reload(&mut self) -> Result<()> {
        let row = self.parts.store.environment(&self.env.name).await;
        let row = row.or_failed(|| format!("failed to look up `{}`", self.env.name))?;
        if let Some(row) = row.filter(|row| row.id == self.env.id) {
            let gate = |env: &EnvRow| (self.parts.gates.gate(env), env.gate_generation, env.gate_password.clone());
            let is_other = gate(&row) != gate(&self.env);
            let EnvRow { formation, settings, app_settings, asked, gate_generation, gate_password, .. } = row;
            let (own, before) = (self.env.clone(), self.env.clone());
            self.env = EnvRow { formation, settings, app_settings, asked, gate_generation, gate_password, ..own };
            if is_other {
                let guarded = self.parts.edge.guard(&self.env.host, self.parts.gates.guard(&self.env)).await;
                if guarded.is_err() {
                    // Whoever asks again is not told that it is so.
                    self.env = before;
                }
                guarded.or_failed(|| format!("failed to change who may look at `{}`", self.env.host))?;
            }
        }
        self.point_ports();
        Ok(())
    }

    /// Decides, persists, acts. `live` is what serves from now on if the event comes to that.
    async fn step(&mut self, event: &Event, live: Option<&LiveRow>) -> Result<Result<Told, Refusal>> {
        let now = self.parts.clock.now();
        let decided = lifecycle::step(&self.state, event, now, &self.policy());
        let (state, effects) = match decided {
            Ok(Answer::Done(state, effects)) => (state, effects),
            Ok(Answer::AlreadySo) => return Ok(Ok(Told::AlreadySo)),
            Err(refusal) => return Ok(Err(refusal)),
        };
        tracing::debug!(env = %self.env.name, %event, %state, "step");
        let live = live.filter(|live| serves(&state) == Some(live.release));
        // A start of the daemon changes nothing for most.
        if state != self.state || live.is_some() {
            let text = serde_json::to_string(&state).or_failed(|| "failed to write a state")?;
            let lasting = event.outlives_a_power_cut() || live.is_some_and(|live| self.env.live.as_ref() != Some(live));
            let recorded = match lasting {
                true => self.parts.store.set_state(self.env.id, &text, live, store::now()).await,
                false => self.parts.store.note_state(self.env.id, &text).await,
            };
            match recorded {
                // It is as if a power cut had taken the note, and nobody has to sleep on for want of a few bytes.
                Err(StoreError::Full) if !lasting => {
                    tracing::warn!(env = %self.env.name, %event, "the disk is full: a state is not on record");
                }
                recorded => recorded.or_failed(|| format!("failed to record the state of `{}`", self.env.name))?,
            }
        }
        self.pass(&state, now);
        if !rests(&state) {
            self.disturb.cancel();
        }
        if !is_waking(&state) {
            self.given_up.cancel();
        }
        self.seen.send_replace(state.clone());
        self.state = state;
        if let Some(live) = live {
            crate::fault::point("route.stored");
            self.previous = self.env.live.replace(live.clone());
        }
        self.point_ports();
        for effect in effects {
            self.act(effect).await;
        }
        Ok(Ok(Told::Done))
    }

    fn forget_running(&mut self, release: ReleaseNumber) {
        if self.running.as_ref().is_some_and(|running| running.release == release) {
            self.running = None;
        }
    }

    /// Why a release that is healthy does not come to serve.
    fn unwanted(&self, release: ReleaseNumber) -> Error {
        match &self.state {
            State::Destroyed { .. } => cancelled(&self.env, Cause::Destroyed),
            State::Live(live) => match live.newest().filter(|newest| *newest > release) {
                Some(by) => cancelled(&self.env, Cause::Superseded { by }),
                None => Error::conflict(format!("the deploy of `{}` had been given up already", self.env.name)),
            },
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        let error = Error::conflict(format!("failed to change `{}`: {refusal}", self.env.name));
        match refusal.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Whether it is to take no processor time.
fn rests(state: &State) -> bool {
    matches!(state, State::Live(Live { runs: Runs::Asleep { .. } | Runs::Off { .. }, .. }))
}

fn is_waking(state: &State) -> bool {
    matches!(state, State::Live(Live { runs: Runs::Waking { .. }, .. }))
}

fn serves(state: &State) -> Option<ReleaseNumber> {
    match state {
        State::Live(live) => live.runs.release(),
        State::Destroyed { .. } => None,
    }
}

/// What a person is told whose deploy does not go on.
pub fn cancelled(env: &EnvRow, cause: Cause) -> Error {
    match cause {
        Cause::Superseded { by } => Error::conflict(format!("the deploy of `{}` is superseded by {by}", env.name))
            .hint("a newer deploy of the same environment has taken its place"),
        Cause::Destroyed => Error::conflict(format!("`{}` was destroyed meanwhile", env.name)),
    }
}

#[cfg(test)]
mod tests;
