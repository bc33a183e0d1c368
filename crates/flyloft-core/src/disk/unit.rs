//! What a file system can run out of.

use crate::policy::Size;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    #[default]
    Bytes,
    /// One for each file. Some file systems make them as they go, and never run out of them.
    Inodes,
}

/// Inodes that stay free where there are so many: a fiftieth. A build takes thousands however few there are, but where
/// there are hardly more than that something must be allowed to be there.
pub fn inode_floor(total: u64) -> u64 {
    (total / 50).max(10_000).min(total / 4)
}

impl Unit {
    pub const ALL: [Self; 2] = [Unit::Bytes, Unit::Inodes];

    /// That of these which is meant.
    pub fn of(self, bytes: u64, inodes: u64) -> u64 {
        match self {
            Unit::Bytes => bytes,
            Unit::Inodes => inodes,
        }
    }

    /// An environment that would give back less than this is not worth that somebody waits until it is built anew.
    pub(super) fn least(self) -> u64 {
        self.of(1 << 20, 100)
    }

    /// What whoever is told that there is too little of it should know.
    pub fn hint(self) -> &'static str {
        match self {
            Unit::Bytes => "`floor` in `[disk]` of the server's configuration says how much is kept free",
            Unit::Inodes => {
                "each file takes an inode, and of many small ones the disk is full before its bytes are taken"
            }
        }
    }

    /// For reading.
    pub fn about(self, amount: u64) -> String {
        match self {
            Unit::Bytes => Size(amount).about(),
            Unit::Inodes => format!("{amount} inodes"),
        }
    }
}
