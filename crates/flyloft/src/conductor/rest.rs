//! What is put to rest, and what its memory does then. What must hold: whatever is under way for that, somebody who comes
//! ends it at once, and does not wait for it.

use std::sync::{Arc, Mutex, PoisonError};

use flyloft_core::lifecycle::{Depth, Timestamp};
use flyloft_core::name::ReleaseNumber;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::effect::{DRAIN, GRACE, tell};
use super::{End, Message, Task};
use crate::engine::EngineError;
use crate::store::EventKind;

/// How a container takes no processor time.
pub(super) enum Rest {
    Frozen,
    Stopped,
}

impl Rest {
    /// Where a test has the daemon die.
    fn places(&self) -> [&'static str; 2] {
        match self {
            Rest::Frozen => ["freeze.begun", "freeze.done"],
            Rest::Stopped => ["off.begun", "off.done"],
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

impl Task {
    /// Lets the requests to what serves end, and then has it rest. Whoever comes before that keeps it awake.
    pub(super) fn rest(&mut self, release: ReleaseNumber, rest: Rest) {
        let (Some(live), Some(myself)) = (self.env.live.clone(), self.myself.upgrade()) else { return };
        let parts = self.parts.clone();
        // Only what is decided last is to be done, and whoever comes ends just that.
        self.disturb.cancel();
        self.disturb = CancellationToken::new();
        let disturbed = self.disturb.clone();
        let (env, parted, memory, moved) = (self.env.id, self.parted.clone(), self.memory.clone(), self.moved.clone());
        self.hands.give(async move {
            if let Some(upstream) = live.upstream {
                tokio::select! {
                    _ = parts.edge.drained(upstream, DRAIN) => {}
                    () = disturbed.cancelled() => return,
                }
            }
            let noted = match parted.take() {
                Some(at) => {
                    let awake = parts.engine.stats(&live.container).await.ok().map(|stats| stats.memory + stats.swap);
                    // What has ended meanwhile holds nothing, which is not what it needs.
                    let awake = awake.filter(|bytes| *bytes > 0);
                    awake.inspect(|bytes| memory.set(*bytes));
                    parts.store.note_rest(env, awake, at).await
                }
                None => parts.store.note_held(env, None).await,
            };
            if let Err(error) = noted {
                tracing::warn!(container = %live.container, %error, "failed to note what it held");
            }
            if disturbed.is_cancelled() {
                return;
            }
            let [begun, done] = rest.places();
            crate::fault::point(begun);
            let rested = match rest {
                Rest::Frozen => {
                    moved.forget();
                    parts.engine.freeze(&live.container).await
                }
                Rest::Stopped => parts.engine.stop(&live.container, GRACE).await,
            };
            crate::fault::point(done);
            match rested {
                // It is being destroyed, a newer release has taken its place, or it has ended while requests did: then
                // its next visitor finds that out.
                Ok(()) | Err(EngineError::NoContainer(_) | EngineError::NotRunning(_)) => {}
                Err(error) => {
                    tracing::warn!(container = %live.container, %error, "failed to have a container rest");
                    if let Rest::Frozen = rest {
                        let end = End::Restless { release, why: error.to_string() };
                        let _ = myself.send(Message::JobEnded { end, heard: oneshot::channel().0 }).await;
                    }
                }
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
