//! What an environment is, as far as its life goes.
//!
//! The store keeps a [`State`] as the JSON that serde makes of it. A snapshot test holds that form: whoever changes it
//! writes a migration.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Deaths;
use crate::name::ReleaseNumber;
use crate::policy::Excess;

/// What counts at most of the time in which no daemon saw whether somebody came.
const UNSEEN: Duration = Duration::from_secs(24 * 3600);

/// A moment: milliseconds since 1970 by the machine's clock, which may be set back and forth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Live(Live),
    /// Final. The store forgets the environment when [`Remove`](super::Effect::Remove) has been carried out, which
    /// waits for the deploy `ending` to end if one was under way.
    Destroyed {
        ending: Option<ReleaseNumber>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub runs: Runs,
    pub deploying: Deploying,
    /// Time neither turns it off nor destroys it.
    pub pinned: bool,
    pub last_used: Timestamp,
    /// When it was last to fall asleep and could not, since it last did. That is no use of it: it is tried again as if
    /// somebody had used it then, and time goes on towards everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stayed_awake: Option<Timestamp>,
    /// As if pinned, until then.
    pub kept_until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deaths: Option<Deaths>,
}

/// The first axis: what runs. `since` is when it came to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// No deploy has succeeded yet.
    None,
    Awake {
        release: ReleaseNumber,
        since: Timestamp,
    },
    /// Frozen, its memory pushed out.
    Asleep {
        release: ReleaseNumber,
        since: Timestamp,
        depth: Depth,
    },
    /// Stopped, its disk kept as long as there is room for it.
    Off {
        release: ReleaseNumber,
        since: Timestamp,
        why: WhyOff,
        /// Its image and its disk were given up to make room: it is built anew before it starts.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cleared: bool,
    },
    /// Being thawed or started, until it answers or fails to.
    Waking {
        release: ReleaseNumber,
        since: Timestamp,
    },
}

/// Where the memory of an environment that is asleep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// In compressed memory, where the machine has it.
    Shallow,
    /// On disk.
    Deep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhyOff {
    Asked,
    /// Nobody used it for its `ttl`.
    Unused,
    /// It died, or did not answer when it was woken.
    Crashed,
    Rebooted,
    /// Its image was gone, and could not be built anew. No visit tries that again before `until`.
    Unbuilt {
        until: Timestamp,
    },
    /// There was no memory for it when it was to start by itself. What is pinned is tried again then.
    NoRoom {
        until: Timestamp,
    },
    /// The engine stopped it. It would only be stopped again, so that nothing wakes it: it needs a fresh disk.
    Over(Excess),
}

/// The second axis: what is being deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deploying {
    No,
    Yes {
        release: ReleaseNumber,
        /// Pushed meanwhile: starts when `release`, which is being cancelled, has ended.
        newest: Option<ReleaseNumber>,
    },
}

impl Timestamp {
    /// How long ago `earlier` was; nothing if it lies ahead.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn minus(self, duration: Duration) -> Timestamp {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_sub(millis))
    }

    pub fn plus(self, duration: Duration) -> Timestamp {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(millis))
    }

    /// The time at which life goes on that was seen at this one last. `unseen` milliseconds have passed since then, as
    /// somebody's clock says, which may be wrong now, or may have been then.
    ///
    /// So a day of it counts at most. What is destroyed late costs a little of the disk, and what is destroyed early is
    /// lost. Nobody could have visited anything in that time, either.
    pub fn resumed(self, unseen: i64) -> Timestamp {
        let unseen = Duration::from_millis(u64::try_from(unseen).unwrap_or(0));
        self.plus(unseen.min(UNSEEN))
    }
}

impl State {
    /// An environment that has just been asked for.
    pub fn new(now: Timestamp) -> Self {
        State::Live(Live {
            runs: Runs::None,
            deploying: Deploying::No,
            pinned: false,
            last_used: now,
            stayed_awake: None,
            kept_until: None,
            deaths: None,
        })
    }
}

impl State {
    /// Until when no visit has it built anew, where that failed.
    pub fn unbuilt_until(&self) -> Option<Timestamp> {
        match self {
            State::Live(Live { runs: Runs::Off { why: WhyOff::Unbuilt { until }, .. }, .. }) => Some(*until),
            _ => None,
        }
    }
}

impl Live {
    /// Since when it could be asleep: nobody has used it, and it has not refused to.
    pub fn idle_since(&self) -> Timestamp {
        self.last_used.max(self.stayed_awake.unwrap_or(self.last_used))
    }

    /// The highest release that it knows of.
    pub fn newest(&self) -> Option<ReleaseNumber> {
        let deploying = match self.deploying {
            Deploying::No => None,
            Deploying::Yes { release, newest } => newest.or(Some(release)),
        };
        deploying.max(self.runs.release())
    }
}

impl Runs {
    /// The release that serves, or would if it were awake.
    pub fn release(self) -> Option<ReleaseNumber> {
        match self {
            Runs::None => None,
            Runs::Awake { release, .. }
            | Runs::Asleep { release, .. }
            | Runs::Off { release, .. }
            | Runs::Waking { release, .. } => Some(release),
        }
    }

    /// What it was stopped for, and must not be woken for.
    pub fn excess(self) -> Option<Excess> {
        match self {
            Runs::Off { why: WhyOff::Over(excess), .. } => Some(excess),
            _ => None,
        }
    }

    /// Whether it is to be built anew.
    pub fn is_cleared(self) -> bool {
        matches!(self, Runs::Off { cleared: true, .. })
    }

    pub(super) fn is_waking(self, which: ReleaseNumber) -> bool {
        matches!(self, Runs::Waking { release, .. } if release == which)
    }
}

impl Deploying {
    pub fn release(self) -> Option<ReleaseNumber> {
        match self {
            Deploying::No => None,
            Deploying::Yes { release, .. } => Some(release),
        }
    }

    /// What is being deployed once `which` has ended; `None` if `which` is not being deployed.
    pub(super) fn ended(self, which: ReleaseNumber) -> Option<Deploying> {
        match self {
            Deploying::Yes { release, newest: None } if release == which => Some(Deploying::No),
            Deploying::Yes { release, newest: Some(next) } if release == which => {
                Some(Deploying::Yes { release: next, newest: None })
            }
            _ => None,
        }
    }
}

/// As in `flyloft ls`: `asleep v2, deploying v3, pinned`.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Live(live) => live.fmt(f),
            State::Destroyed { ending: None } => f.write_str("destroyed"),
            State::Destroyed { ending: Some(release) } => write!(f, "destroyed, {release} ending"),
        }
    }
}

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.runs.fmt(f)?;
        match self.deploying {
            Deploying::No => {}
            Deploying::Yes { release, newest: None } => write!(f, ", deploying {release}")?,
            Deploying::Yes { release, newest: Some(newest) } => write!(f, ", deploying {release}, then {newest}")?,
        }
        if self.pinned { f.write_str(", pinned") } else { Ok(()) }
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Runs::None => f.write_str("none"),
            Runs::Awake { release, .. } => write!(f, "awake {release}"),
            Runs::Asleep { release, depth: Depth::Shallow, .. } => write!(f, "asleep {release}"),
            Runs::Asleep { release, depth: Depth::Deep, .. } => write!(f, "deep asleep {release}"),
            Runs::Off { release, why: WhyOff::Unbuilt { .. }, .. } => {
                write!(f, "off {release} (could not be built anew)")
            }
            Runs::Off { release, why: WhyOff::NoRoom { .. }, .. } => write!(f, "off {release} (no memory for it)"),
            Runs::Off { release, why: WhyOff::Over(Excess::Disk), .. } => {
                write!(f, "off {release} (over its disk limit)")
            }
            Runs::Off { release, why: WhyOff::Over(Excess::Inodes), .. } => {
                write!(f, "off {release} (over its limit of files)")
            }
            Runs::Off { release, why: WhyOff::Over(Excess::Volume), .. } => {
                write!(f, "off {release} (over a volume's size)")
            }
            Runs::Off { release, why: WhyOff::Over(Excess::Floor), .. } => {
                write!(f, "off {release} (wrote to a nearly full disk)")
            }
            Runs::Off { release, cleared: true, .. } => write!(f, "off {release} (to be built anew)"),
            Runs::Off { release, why: WhyOff::Crashed, .. } => write!(f, "off {release} (crashed)"),
            Runs::Off { release, .. } => write!(f, "off {release}"),
            Runs::Waking { release, .. } => write!(f, "waking {release}"),
        }
    }
}
