//! What a conductor is told and asked.

use flyloft_core::lifecycle::Event;
use flyloft_core::name::ReleaseNumber;
use tokio::sync::oneshot;

use super::{Caller, End, Restless, Ticket, Told};
use crate::admission::Place;
use crate::deploy::Work;
use crate::engine::{ContainerId, Observed};
use crate::error::Result;
use crate::store::LiveRow;
use crate::transcript::Reading;

pub enum Message {
    Deploy {
        work: Box<Work>,
        answer: oneshot::Sender<Result<Ticket>>,
    },
    /// Somebody or something wants it awake.
    Wake {
        caller: Caller,
        answer: Option<oneshot::Sender<Result<Told>>>,
    },
    /// There is room for it to be awake, or there was none in time.
    Admitted {
        caller: Caller,
        place: Result<Place>,
    },
    Event {
        event: Event,
        answer: oneshot::Sender<Result<Told>>,
    },
    /// What is set for it has changed.
    Reload {
        answer: oneshot::Sender<Result<()>>,
    },
    /// Others need its memory. The answer says whether it falls asleep for them.
    MakeRoom {
        answer: oneshot::Sender<bool>,
    },
    /// When somebody last used it is to be on record.
    NoteUse {
        answer: oneshot::Sender<()>,
    },
    /// What kept it from its last rest?
    Restless {
        answer: oneshot::Sender<Option<Restless>>,
    },
    /// Answered when what takes time with the container that serves has come to its end.
    AtRest {
        answer: oneshot::Sender<()>,
    },
    Reconcile {
        observed: Vec<Observed>,
        /// Swap has been turned on or off since the last time.
        swap_changed: bool,
    },
    /// It runs no more, whoever ended it.
    ContainerEnded {
        container: ContainerId,
    },
    /// What does the newest deploy of this daemon's say?
    Transcript {
        answer: oneshot::Sender<Option<Reading>>,
    },
    /// A deploy has a healthy container and asks to be what serves. The answer says why not, if that is no longer
    /// wanted or could not be recorded.
    Healthy {
        release: ReleaseNumber,
        live: LiveRow,
        routed: oneshot::Sender<Result<()>>,
    },
    /// Something has ended that the conductor had begun. `heard` when that is recorded, or else will be.
    JobEnded {
        end: End,
        heard: oneshot::Sender<()>,
    },
}
