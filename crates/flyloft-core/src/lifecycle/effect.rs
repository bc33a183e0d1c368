//! What [`step`](super::step) answers: what is to be done, or why it is not.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::state::{Depth, State};
use crate::name::ReleaseNumber;
use crate::policy::Excess;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Store the state, then carry out the effects in their order. There may be none: a pin is only remembered.
    Done(State, Vec<Effect>),
    /// Nothing is to be done: it is as was asked, or the event is about something that is over.
    AlreadySo,
}

/// Something to do in the world. Each can be repeated, and finds done what is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Begin the deploy, up to a healthy container. Ends as `DeploySucceeded` or `DeployFailed`.
    StartDeploy { release: ReleaseNumber },
    /// Stop the deploy that is under way and let it undo what it made. Its end comes back as the event it always is.
    CancelDeploy { release: ReleaseNumber, cause: Cause },
    /// This deploy waited and will never begin; tell whoever waits for it. No event comes of it.
    SkipDeploy { release: ReleaseNumber, cause: Cause },
    /// The daemon died in this deploy: mark it failed. No event comes of it.
    AbandonDeploy { release: ReleaseNumber },

    /// From now on the edge sends requests to this release.
    Route { release: ReleaseNumber },
    /// From now on the edge holds requests, and a visit is a `Wake`. Those that are under way go on.
    Hold,
    /// The edge forgets the host name.
    Unroute,

    /// Freeze the container, when no request is under way to it any more. A `Thaw` that comes meanwhile takes its place,
    /// or follows it. Ends as `SleepFailed` if it cannot be done, and with no event if it is.
    Freeze { release: ReleaseNumber },
    /// Push the frozen container's memory out. Without swap there is nothing to do, which is no failure.
    Offload { release: ReleaseNumber, depth: Depth },
    /// Thaw the container and wait until it answers. Ends as `Woke` or `WakeFailed`.
    Thaw { release: ReleaseNumber },
    /// Start the container, whatever state it is in and made anew if it is gone, its image too, and wait until it
    /// answers. Where nobody has been promised memory for it, there must be some. Ends as `Woke`, `WakeFailed`,
    /// `BuildFailed` or `NoRoom`.
    Start { release: ReleaseNumber },
    /// Stop the container and keep its disk, when no request is under way to it any more.
    Stop { release: ReleaseNumber },

    /// Remove the container with its disk. Its image goes once nobody else needs its layers.
    Clear { release: ReleaseNumber },

    /// Let people know that the release was stopped, and for what.
    Report { release: ReleaseNumber, excess: Excess },
    /// Let people know that the release ended by itself, and that it is started `again` after so long: by the next who
    /// comes, if there is no such time.
    ReportEnd { release: ReleaseNumber, again: Option<Duration> },

    /// Let the requests to this release end, then remove its container. The release stays for a rollback.
    Retire { release: ReleaseNumber },
    /// Run the app's `pr-predestroy`, if it has one and this is a pull request. A failure stops nothing.
    Farewell { release: ReleaseNumber },
    /// Remove all that the environment has: containers, services, releases. Then forget it.
    Remove,
}

/// Why a deploy does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    Superseded { by: ReleaseNumber },
    Destroyed,
}

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the environment is being destroyed")]
    Destroyed,
    #[error("no release of it has been deployed yet")]
    NothingDeployed,
    #[error("it is waking up")]
    Waking,
    #[error("it is off, and so not even asleep")]
    Off,
    #[error("it is not off")]
    NotOff,
    #[error("something is being deployed to it")]
    Deploying,
    #[error("it could not be built anew a moment ago; visits wait {} s for the next attempt", wait.as_secs())]
    Unbuilt { wait: Duration },
    #[error("it was stopped: {0}")]
    Over(Excess),
    #[error("it is pinned")]
    Pinned,
    #[error("{release} is not newer than {than}")]
    NotNewer { release: ReleaseNumber, than: ReleaseNumber },
}

impl Refusal {
    /// What the caller can do about it, if anything.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Refusal::Destroyed => Some("push again in a moment to make it anew"),
            Refusal::NothingDeployed => {
                Some("push to it first; `flyloft logs --build` shows what the last deploy said")
            }
            Refusal::Waking => {
                Some("try again when it is awake, which `flyloft ls` shows; a start may take some minutes")
            }
            Refusal::Over(_) => Some("`flyloft restart` starts it with a fresh disk"),
            Refusal::Pinned => Some("`flyloft unpin` it first, or destroy it by hand"),
            Refusal::Unbuilt { .. } => Some("`flyloft wake` tries again at once"),
            Refusal::Off | Refusal::NotOff | Refusal::Deploying | Refusal::NotNewer { .. } => None,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::StartDeploy { release } => write!(f, "start deploy of {release}"),
            Effect::CancelDeploy { release, cause } => write!(f, "cancel deploy of {release}: {cause}"),
            Effect::SkipDeploy { release, cause } => write!(f, "skip deploy of {release}: {cause}"),
            Effect::AbandonDeploy { release } => write!(f, "abandon deploy of {release}"),
            Effect::Route { release } => write!(f, "route to {release}"),
            Effect::Hold => f.write_str("hold requests"),
            Effect::Unroute => f.write_str("unroute"),
            Effect::Freeze { release } => write!(f, "freeze {release}"),
            Effect::Offload { release, depth: Depth::Shallow } => write!(f, "offload {release}"),
            Effect::Offload { release, depth: Depth::Deep } => write!(f, "offload {release} to disk"),
            Effect::Thaw { release } => write!(f, "thaw {release}"),
            Effect::Start { release } => write!(f, "start {release}"),
            Effect::Stop { release } => write!(f, "stop {release}"),
            Effect::Clear { release } => write!(f, "clear {release}"),
            Effect::Report { release, excess } => write!(f, "report that {release} was stopped: {excess}"),
            Effect::ReportEnd { release, again: None } => write!(f, "report that {release} ended"),
            Effect::ReportEnd { release, again: Some(again) } if again.is_zero() => {
                write!(f, "report that {release} ended and is started again")
            }
            Effect::ReportEnd { release, again: Some(again) } => {
                write!(f, "report that {release} ended and is started again in {} s", again.as_secs())
            }
            Effect::Retire { release } => write!(f, "retire {release}"),
            Effect::Farewell { release } => write!(f, "farewell of {release}"),
            Effect::Remove => f.write_str("remove all"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Superseded { by } => write!(f, "superseded by {by}"),
            Cause::Destroyed => f.write_str("the environment is destroyed"),
        }
    }
}
