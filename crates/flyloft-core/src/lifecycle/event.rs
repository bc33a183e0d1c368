//! What can happen to an environment: requests, results of effects, and time.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::{Depth, Timestamp};
use crate::name::ReleaseNumber;
use crate::policy::Excess;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A push, an `up`, a change of configuration, a rollback: each is a release with a new number, chosen by the
    /// conductor, higher than any before it.
    Deploy { release: ReleaseNumber },
    /// The release is built, launched beside the old one and healthy, and not yet routed.
    DeploySucceeded { release: ReleaseNumber },
    /// The deploy has ended without a healthy release and has undone what it made. A cancelled one ends so too.
    DeployFailed { release: ReleaseNumber },

    /// Somebody has come to its URL.
    Visit,
    /// `flyloft wake`, and other commands that need it awake.
    Wake,
    /// A thaw or a start ended with an app that answers.
    Woke { release: ReleaseNumber },
    /// A thaw or a start was given up.
    WakeFailed { release: ReleaseNumber },
    /// What was to be started had to be built anew before, and could not be.
    BuildFailed { release: ReleaseNumber },
    /// What was to be started without anybody who waits for it has no memory to run in, and does not.
    NoRoom { release: ReleaseNumber },
    /// `flyloft sleep [--deep]`, or room is needed for another.
    Sleep { depth: Depth },
    /// Compressed memory is short of room.
    Deepen,
    /// The kernel cannot hold it where it is: it runs on.
    SleepFailed { release: ReleaseNumber },
    /// `flyloft off`.
    Off,
    /// The disk is short of room.
    Clear,

    /// Somebody used it at that time; told at the latest before [`Event::Clock`]. Use that goes on (a shell) is use now.
    Used { at: Timestamp },
    /// `flyloft pin`.
    Pin,
    /// `flyloft unpin`.
    Unpin,
    /// `flyloft extend`.
    Extend { until: Timestamp },

    /// Time has passed: the moment that [`next_rung`](super::next_rung) named may have come.
    Clock,
    /// The branch is deleted or the pull request closed, as the git host tells.
    SourceGone,
    /// `flyloft destroy`, or a push that deletes the branch.
    Destroy,

    /// The first event after a start of the daemon. `rebooted` when the machine has started since.
    DaemonStarted { rebooted: bool },
    /// What the engine has of the release that should run. At start, every minute, when it tells that a container has
    /// ended, and of what rests now and then.
    Found(Found),
}

/// A container as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    Gone,
    Stopped,
    Running,
    /// With its memory out of the way, as far as it can be.
    Frozen,
    /// Frozen, with its memory where it was: nobody has moved it, or it has come back.
    Resident,
    /// Stopped by the engine itself.
    Over(Excess),
}

impl Event {
    /// Whether somebody was told what comes of it. What runs, a power cut ends in any case.
    pub fn outlives_a_power_cut(&self) -> bool {
        match self {
            Event::Deploy { .. }
            | Event::DeploySucceeded { .. }
            | Event::DeployFailed { .. }
            | Event::Off
            | Event::Clear
            | Event::Pin
            | Event::Unpin
            | Event::Extend { .. }
            | Event::Clock
            | Event::SourceGone
            | Event::Destroy
            | Event::DaemonStarted { .. } => true,
            Event::Visit
            | Event::Wake
            | Event::Woke { .. }
            | Event::WakeFailed { .. }
            | Event::BuildFailed { .. }
            | Event::NoRoom { .. }
            | Event::Sleep { .. }
            | Event::Deepen
            | Event::SleepFailed { .. }
            | Event::Used { .. }
            | Event::Found(_) => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Deploy { release } => write!(f, "deploy {release}"),
            Event::DeploySucceeded { release } => write!(f, "deploy of {release} succeeded"),
            Event::DeployFailed { release } => write!(f, "deploy of {release} failed"),
            Event::Visit => f.write_str("visit"),
            Event::Wake => f.write_str("wake"),
            Event::Woke { release } => write!(f, "{release} woke"),
            Event::WakeFailed { release } => write!(f, "{release} failed to wake"),
            Event::BuildFailed { release } => write!(f, "build of {release} failed"),
            Event::NoRoom { release } => write!(f, "no room for {release}"),
            Event::Sleep { depth: Depth::Shallow } => f.write_str("sleep"),
            Event::Sleep { depth: Depth::Deep } => f.write_str("sleep deep"),
            Event::SleepFailed { release } => write!(f, "{release} failed to sleep"),
            Event::Off => f.write_str("off"),
            Event::Clear => f.write_str("clear"),
            Event::Deepen => f.write_str("deepen"),
            Event::Used { .. } => f.write_str("used"),
            Event::Pin => f.write_str("pin"),
            Event::Unpin => f.write_str("unpin"),
            Event::Extend { .. } => f.write_str("extend"),
            Event::Clock => f.write_str("clock"),
            Event::SourceGone => f.write_str("source gone"),
            Event::Destroy => f.write_str("destroy"),
            Event::DaemonStarted { rebooted: false } => f.write_str("daemon started"),
            Event::DaemonStarted { rebooted: true } => f.write_str("daemon started after a reboot"),
            Event::Found(Found::Gone) => f.write_str("found gone"),
            Event::Found(Found::Stopped) => f.write_str("found stopped"),
            Event::Found(Found::Running) => f.write_str("found running"),
            Event::Found(Found::Frozen) => f.write_str("found frozen"),
            Event::Found(Found::Resident) => f.write_str("found frozen with its memory"),
            Event::Found(Found::Over(Excess::Disk)) => f.write_str("found over its disk"),
            Event::Found(Found::Over(Excess::Inodes)) => f.write_str("found over its files"),
            Event::Found(Found::Over(Excess::Volume)) => f.write_str("found over a volume's size"),
            Event::Found(Found::Over(Excess::Floor)) => f.write_str("found below the floor"),
        }
    }
}
