//! What is put to rest, and what its memory does then.
//!
//! What must hold: whatever is under way for that, somebody who comes ends it at once, and does not wait for it; and
//! what is in use is not frozen. The second is looked at when nobody can come any more who is not told of as a visit.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flyloft_core::lifecycle::{Depth, Timestamp};
use flyloft_core::name::ReleaseNumber;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::effect::{DRAIN, GRACE, tell};
use super::moved::Moved;
use super::uses::Uses;
use super::{End, Message, Task};
use crate::admission::Weight;
use crate::engine::EngineError;
use crate::parts::Parts;
use crate::store::{EnvId, EventKind, LiveRow};

/// Each move of memory keeps a thread and, most of the time, a processor. Those who wake need both.
static MOVES: Semaphore = Semaphore::const_new(4);

/// Those that go to the disk go one by one: nobody's memory is compressed meanwhile. An hour after many have fallen asleep
/// they are all due, and whoever is to make room for a visitor must not wait behind them.
static DEEP_MOVES: Semaphore = Semaphore::const_new(1);

/// Times of the edge are as exact as the kernel's tick.
const TICK: Duration = Duration::from_millis(20);

/// How a container takes no processor time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Frozen,
    Stopped,
}

impl Rest {
    /// Where a test has the daemon die.
    fn places(self) -> [&'static str; 2] {
        match self {
            Rest::Frozen => ["freeze.begun", "freeze.done"],
            Rest::Stopped => ["off.begun", "off.done"],
        }
    }
}

/// Why something that was to fall asleep stays awake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restless {
    Request,
    Command,
    /// Since it was decided that nobody does.
    Used,
    /// In the engine's words.
    Unable(String),
}

impl fmt::Display for Restless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Restless::Request => {
                write!(f, "a request is under way, and has not come to its end within {} s", DRAIN.as_secs())
            }
            Restless::Command => f.write_str("a command of `flyloft run` or `flyloft shell` runs in it"),
            Restless::Used => f.write_str("somebody has just used it"),
            Restless::Unable(why) => f.write_str(why),
        }
    }
}

/// How an environment was used, as seen at some time.
#[derive(Clone, Copy)]
pub(super) struct Look {
    at: Instant,
    pub unused: Option<Duration>,
    /// When something was last said to one of its ports.
    said: Option<Timestamp>,
}

impl Look {
    pub fn at(parts: &Parts, host: &str, uses: &Uses) -> Self {
        Self { at: Instant::now(), unused: parts.edge.unused_for(host), said: uses.said() }
    }

    pub fn is_in_use(self) -> bool {
        self.unused == Some(Duration::ZERO)
    }

    /// Whether somebody used it between this look and a later one.
    fn is_outdated_by(self, later: Look) -> bool {
        match (self.unused, later.unused) {
            _ if self.said < later.said => true,
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(now)) => now + TICK < before + later.at.duration_since(self.at),
        }
    }
}

/// When it stopped being awake, until that is noted. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Parted(Arc<Mutex<Option<Timestamp>>>);

impl Parted {
    pub fn set(&self, at: Option<Timestamp>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn take(&self) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What is to rest, and what there is to know for that.
struct Resting {
    parts: Arc<Parts>,
    env: EnvId,
    host: String,
    live: LiveRow,
    rest: Rest,
    /// Any use after this keeps it awake.
    look: Option<Look>,
    /// Somebody wants it, though it may have been used a moment ago.
    wanted: bool,
    uses: Uses,
    parted: Parted,
    memory: Weight,
    moved: Moved,
    /// Cancelled when it is not to rest any more.
    disturbed: CancellationToken,
}

impl Resting {
    /// Lets the requests end, and then has it rest.
    async fn rest(mut self) -> Result<(), Restless> {
        if let Some(look) = self.look.as_mut().filter(|_| self.wanted) {
            // What was said to its ports before that is known only now.
            self.parts.ports.settled(self.env).await;
            look.said = self.uses.said();
        }
        // Whoever has come in time need not wait until their requests have ended.
        self.must_be_unused()?;
        if let Some(upstream) = self.live.upstream {
            let drained = tokio::select! {
                drained = self.parts.edge.drained(upstream, DRAIN) => drained,
                () = self.disturbed.cancelled() => return Ok(()),
            };
            // Frozen it would be caught, and nobody would come to end that. What is stopped ends it.
            if !drained && self.rest == Rest::Frozen {
                return Err(Restless::Request);
            }
        }
        // From here on whoever comes to one of its ports is told of as a visit, and what was said before is known.
        self.parts.ports.settled(self.env).await;
        self.note().await;
        self.must_be_unused()?;
        if self.disturbed.is_cancelled() {
            return Ok(());
        }
        let (container, [begun, done]) = (&self.live.container, self.rest.places());
        crate::fault::point(begun);
        let rested = match self.rest {
            Rest::Frozen => {
                self.moved.forget();
                self.parts.engine.freeze(container).await
            }
            Rest::Stopped => self.parts.engine.stop(container, GRACE).await,
        };
        crate::fault::point(done);
        match rested {
            // It is being destroyed, a newer release has taken its place, or it has ended while requests did: then its
            // next visitor finds that out.
            Ok(()) | Err(EngineError::NoContainer(_) | EngineError::NotRunning(_)) => Ok(()),
            Err(error) => {
                tracing::warn!(%container, %error, "failed to have a container rest");
                match self.rest {
                    Rest::Frozen => Err(Restless::Unable(error.to_string())),
                    Rest::Stopped => Ok(()),
                }
            }
        }
    }

    /// What is turned off is so for those who use it, too.
    fn must_be_unused(&self) -> Result<(), Restless> {
        if self.rest == Rest::Stopped {
            return Ok(());
        }
        if self.uses.now() > 0 {
            return Err(Restless::Command);
        }
        match self.look {
            Some(look) if look.is_outdated_by(Look::at(&self.parts, &self.host, &self.uses)) => Err(Restless::Used),
            _ => Ok(()),
        }
    }

    /// Notes what it holds while it is awake, if it was until now.
    async fn note(&self) {
        let (store, container) = (&self.parts.store, &self.live.container);
        let noted = match self.parted.take() {
            Some(at) => {
                let awake = self.parts.engine.stats(container).await.ok().map(|stats| stats.memory + stats.swap);
                // What has ended meanwhile holds nothing, which is not what it needs.
                let awake = awake.filter(|bytes| *bytes > 0);
                awake.inspect(|bytes| self.memory.set(*bytes));
                store.note_rest(self.env, awake, at).await
            }
            None => store.note_held(self.env, None).await,
        };
        if let Err(error) = noted {
            tracing::warn!(%container, %error, "failed to note what it held");
        }
    }
}

impl Task {
    /// Lets the requests to what serves end, and then has it rest. Whoever comes before that keeps it awake.
    pub(super) fn rest(&mut self, release: ReleaseNumber, rest: Rest) {
        let (Some(live), Some(myself)) = (self.env.live.clone(), self.myself.upgrade()) else { return };
        // Only what is decided last is to be done, and whoever comes ends just that.
        self.disturb.cancel();
        self.disturb = CancellationToken::new();
        self.restless = None;
        // What somebody wants asleep may be in use, as long as that comes to its end.
        let now = || Some(Look::at(&self.parts, &self.env.host, &self.uses)).filter(|look| !look.is_in_use());
        let resting = Resting {
            wanted: self.look.is_none(),
            look: self.look.take().or_else(now),
            parts: self.parts.clone(),
            env: self.env.id,
            host: self.env.host.clone(),
            live,
            rest,
            uses: self.uses.clone(),
            parted: self.parted.clone(),
            memory: self.memory.clone(),
            moved: self.moved.clone(),
            disturbed: self.disturb.clone(),
        };
        self.hands.give(async move {
            if let Err(why) = resting.rest().await {
                let end = End::Restless { release, why };
                let _ = myself.send(Box::new(Message::JobEnded { end, heard: oneshot::channel().0 })).await;
            }
        });
    }

    /// Takes it off the disk.
    pub(super) fn clear(&self) {
        let Some(live) = self.env.live.clone() else { return };
        let (parts, env) = (self.parts.clone(), self.env.name.clone());
        self.hands.give(async move {
            // What stays is found by the reconciliation.
            if let Err(error) = parts.engine.remove(&live.container).await {
                tracing::warn!(%env, %error, "failed to take an environment off the disk");
            }
        });
    }

    /// Moves the memory of what is frozen out of the way, until somebody comes.
    pub(super) fn offload(&mut self, depth: Depth) {
        let Some(live) = self.env.live.clone() else { return };
        let (parts, disturbed, moved) = (self.parts.clone(), self.disturb.clone(), self.moved.clone());
        let (id, env, release) = (self.env.id, self.env.name.clone(), live.release);
        self.hands.give(async move {
            if disturbed.is_cancelled() {
                return;
            }
            let turns = async {
                let alone = match depth {
                    Depth::Shallow => None,
                    Depth::Deep => Some(DEEP_MOVES.acquire().await),
                };
                (alone, MOVES.acquire().await)
            };
            let _turns = tokio::select! {
                turns = turns => turns,
                () = disturbed.cancelled() => return,
            };
            // Whoever takes this up after a crash is to know that it had not come to its end.
            moved.forget();
            if let Err(error) = parts.store.note_held(id, None).await {
                tracing::warn!(%env, %error, "failed to note that its memory is being moved");
            }
            crate::fault::point("offload.begun");
            let offloaded = tokio::select! {
                offloaded = parts.engine.offload(&live.container, depth) => offloaded,
                () = disturbed.cancelled() => return,
            };
            match offloaded {
                Ok(held) => {
                    crate::fault::point("offload.done");
                    tracing::debug!(%env, ?held, "asleep");
                    if let Err(error) = parts.store.note_held(id, Some(held)).await {
                        tracing::warn!(%env, %error, "failed to note what it holds");
                    }
                    if let Some(kept) = moved.note(depth, &held) {
                        let kept_mib = held.resident.div_ceil(1 << 20);
                        let text = format!("{release} sleeps and keeps {kept_mib} MiB of memory: {kept}");
                        tell(&parts, &env, EventKind::MemoryKept, &text).await;
                    }
                    if depth == Depth::Shallow {
                        // Beside this one, which may be among those that make room.
                        tokio::spawn(async move { parts.admission.relieve().await });
                    }
                }
                Err(EngineError::NoContainer(_) | EngineError::NotFrozen(_) | EngineError::NotRunning(_)) => {}
                // It sleeps all the same.
                Err(error) => tracing::warn!(%env, %error, "failed to move memory out of the way"),
            }
        });
    }
}
