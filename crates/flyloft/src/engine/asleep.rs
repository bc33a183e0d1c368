//! What a container that sleeps still holds, and why it is not less.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a container's memory is, in bytes, as the kernel reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// In memory as it is, with what the kernel keeps for the container's processes.
    pub resident: u64,
    /// Moved to compressed memory: the size before it was compressed.
    pub compressed: u64,
    /// What that takes of the machine's memory: the container's own part where the kernel counts it, else what it comes
    /// to by the ratio of the whole pool.
    pub pool: u64,
    /// Moved to a disk.
    pub disk: u64,
    /// Why more is held than there would have to be.
    pub kept: Option<Kept>,
}

impl Held {
    /// Bytes of the machine's memory.
    pub fn memory(&self) -> u64 {
        self.resident + self.pool
    }

    /// Bytes that are not in memory as they are.
    pub fn moved(&self) -> u64 {
        self.compressed + self.disk
    }
}

/// Why memory of a sleeping container stayed where it was. It sleeps all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    NoSwap,
    /// All of the machine's swap is in use.
    SwapFull,
    /// The container has as much in swap as its limit allows.
    SwapLimit,
    /// It is locked, or its processes have it in common, and copies for each would take more.
    InCommon,
    /// Deep sleep was asked for, and what is in compressed memory cannot be written out to a disk here.
    NoDisk,
    /// The kernel cannot be asked to move the memory of other processes.
    Unsupported,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kept::NoSwap => "this machine has no swap",
            Kept::SwapFull => "the machine's swap is full",
            Kept::SwapLimit => "its limit of swap is reached",
            Kept::InCommon => "its processes have memory in common that cannot be moved",
            Kept::NoDisk => "compressed memory cannot be written out to a disk here",
            Kept::Unsupported => "this kernel cannot move the memory of other processes",
        })
    }
}
