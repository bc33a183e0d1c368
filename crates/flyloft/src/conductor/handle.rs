//! How everybody else reaches an environment's conductor.

use flyloft_core::lifecycle::{Deploying, Event, Live, Runs, State, Timestamp};
use flyloft_core::name::EnvRef;
use tokio::sync::{mpsc, oneshot, watch};

use super::uses::{InUse, Uses};
use super::{Caller, Message, Restless, Ticket, Told};
use crate::deploy::Work;
use crate::engine::{ContainerId, Observed};
use crate::error::{Error, Result};
use crate::transcript::Reading;

/// A way to reach an environment's conductor.
#[derive(Clone)]
pub struct Conductor {
    pub(super) env: EnvRef,
    pub(super) mailbox: mpsc::Sender<Box<Message>>,
    pub(super) state: watch::Receiver<State>,
    pub(super) uses: Uses,
}

impl Conductor {
    /// Whether the environment, and so the conductor, is gone.
    pub fn is_gone(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// Comes back when the environment is gone.
    pub async fn gone(&self) {
        self.mailbox.closed().await;
    }

    pub async fn deploy(&self, work: Work) -> Result<Ticket> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::Deploy { work: Box::new(work), answer }, wait).await?
    }

    pub async fn tell(&self, event: Event) -> Result<Told> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::Event { event, answer }, wait).await?
    }

    /// Whose it is.
    pub fn env(&self) -> &EnvRef {
        &self.env
    }

    /// Somebody waits at the edge.
    pub async fn visit(&self, caller: impl Into<Caller>) {
        // Whoever is gone needs no waking.
        let _ = self.mailbox.send(Box::new(Message::Wake { caller: caller.into(), answer: None })).await;
    }

    /// Has it wake, as far as it may.
    pub async fn wake(&self, caller: impl Into<Caller>) -> Result<Told> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::Wake { caller: caller.into(), answer: Some(answer) }, wait).await?
    }

    /// What it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What it is when it neither wakes nor is gone.
    pub async fn settled(&self) -> State {
        let waking = |state: &State| matches!(state, State::Live(live) if matches!(live.runs, Runs::Waking { .. }));
        match self.state.clone().wait_for(|state| !waking(state)).await {
            Ok(state) => state.clone(),
            Err(_) => State::Destroyed { ending: None },
        }
    }

    /// Comes back when no deploy is under way, or it is gone.
    pub async fn deployed(&self) {
        let quiet = |state: &State| !matches!(state, State::Live(live) if live.deploying != Deploying::No);
        let _ = self.state.clone().wait_for(quiet).await;
    }

    /// Waits until it is as it was told to be, or has failed to. Gives what has kept it from its rest, where something
    /// has.
    pub async fn at_rest(&self) -> Result<Option<Restless>> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::AtRest { answer }, wait).await?;
        // What came of it may be a message that is still to be read, before this one.
        self.restless().await
    }

    /// What has kept it from its last rest, where something has.
    pub async fn restless(&self) -> Result<Option<Restless>> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::Restless { answer }, wait).await
    }

    /// Has it fall asleep for others, if nobody uses it. Says whether it does.
    pub async fn make_room(&self) -> bool {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::MakeRoom { answer }, wait).await.unwrap_or(false)
    }

    /// Has on record when somebody last used it.
    pub async fn note_use(&self) {
        let (answer, wait) = oneshot::channel();
        // One that is gone has none.
        let _ = self.ask(Message::NoteUse { answer }, wait).await;
    }

    /// Has it look anew at what is set for it.
    pub async fn reload(&self) -> Result<()> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::Reload { answer }, wait).await?
    }

    /// How many commands run in it.
    pub fn commands(&self) -> usize {
        self.uses.now()
    }

    /// What uses it, and who did so last.
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// When a command last ran in it, if one has since the daemon was started.
    pub fn last_command(&self) -> Option<Timestamp> {
        self.uses.last()
    }

    /// Keeps it from falling asleep, for a command: `by` says which and whose, in words for people.
    pub fn begin_use(&self, by: &str) -> InUse {
        self.uses.begin(by)
    }

    /// What the newest deploy says, if this daemon has begun it.
    pub async fn transcript(&self) -> Result<Option<Reading>> {
        let (answer, wait) = oneshot::channel();
        self.ask(Message::Transcript { answer }, wait).await
    }

    /// Hands over what the engine has of this environment, to be compared with what should be.
    pub async fn reconcile(&self, observed: Vec<Observed>, swap_changed: bool) {
        // One that is gone has nothing to compare.
        let _ = self.mailbox.send(Box::new(Message::Reconcile { observed, swap_changed })).await;
    }

    /// A container of it has ended.
    pub async fn ended(&self, container: ContainerId) {
        let _ = self.mailbox.send(Box::new(Message::ContainerEnded { container })).await;
    }

    /// Whether it serves now.
    pub fn is_awake(&self) -> bool {
        matches!(&*self.state.borrow(), State::Live(Live { runs: Runs::Awake { .. }, .. }))
    }

    /// Since when it takes no processor time, if it does not and nobody is about to change that.
    pub fn rests_since(&self) -> Option<Timestamp> {
        match &*self.state.borrow() {
            State::Live(Live { runs: Runs::Asleep { since, .. } | Runs::Off { since, .. }, deploying, .. })
                if *deploying == Deploying::No =>
            {
                Some(*since)
            }
            _ => None,
        }
    }

    async fn ask<T>(&self, message: Message, wait: oneshot::Receiver<T>) -> Result<T> {
        let gone =
            || Error::not_found("the environment has just been destroyed").hint("push again if it is to be made anew");
        self.mailbox.send(Box::new(message)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())
    }
}
