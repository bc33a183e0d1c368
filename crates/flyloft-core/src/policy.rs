//! Policy: how long an environment may idle, and how much of the machine it may take.
//!
//! [`Policy`] and [`Limits`] are what holds for one environment. [`Settings`] are what somebody has written down, in the
//! configuration (`[defaults]`), in `app.json` (`"flyloft"`), or by hand; what is not written is left to the level
//! below. The levels, the lowest first: what is built in, server, `app.json`, app,
//! environment.

mod levels;
mod settings;
mod size;
mod span;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use levels::{Level, Levels};
pub use settings::{Key, SettingError, Settings};
pub use size::{Size, SizeError};
pub use span::{Span, SpanError};

/// What one container may take. Every field is a hard bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap beside the memory.
    pub swap: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Relative CPU weight, 1–10,000; 100 is everybody's fair share.
    pub cpu_weight: u32,
    /// Bytes in the writable layer.
    pub disk: u64,
    /// Files and directories in the writable layer, and in the volumes of an environment.
    pub inodes: u64,
}

const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Self { memory: GIB, swap: GIB, pids: 512, cpu_weight: 100, disk: 5 * GIB, inodes: 500_000 }
    }
}

/// The bound of the disk that a container went beyond, for which it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Excess {
    /// [`Limits::disk`].
    Disk,
    /// [`Limits::inodes`].
    Inodes,
    /// The size of one of its volumes.
    Volume,
    /// What the machine keeps free for everybody: it went on writing when that had begun to be used up.
    Floor,
}

/// What it did, as the end of a sentence about it.
impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Excess::Disk => "it has outgrown its disk limit",
            Excess::Inodes => "it has more files than its limit allows",
            Excess::Volume => "one of its volumes has outgrown its size",
            Excess::Floor => "it went on writing to a disk that is nearly full",
        })
    }
}

/// When an environment steps down the ladder. `None` is never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub idle: Option<Duration>,
    pub ttl: Option<Duration>,
    pub expire: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(15 * 60)),
            ttl: Some(Duration::from_secs(4 * 3600)),
            expire: Some(Duration::from_secs(14 * 24 * 3600)),
        }
    }
}
