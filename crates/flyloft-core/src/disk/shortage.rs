//! What there is to say about a disk on which too little is free.

use std::fmt;

use super::{Spared, Unit, inode_floor};

/// The file system on which everything lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub unit: Unit,
    pub free: u64,
    /// By us and by others.
    pub taken: u64,
}

/// What is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ours {
    pub own: u64,
    /// Of these, what could go at most; `None` where that is not known.
    pub most: Option<u64>,
    pub spared: Option<Spared>,
}

/// Less than `floor` is free, although what can go has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub space: Space,
    pub floor: u64,
    /// Not known where it could not be looked at.
    pub ours: Option<Ours>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [free, floor] = [self.space.free, self.floor].map(|amount| self.space.unit.about(amount));
        write!(f, "{free} are free, and {floor} are kept free")
    }
}

impl Space {
    /// What of it is kept free, where that is so many bytes.
    pub fn floor(self, bytes: u64) -> u64 {
        self.unit.of(bytes, inode_floor(self.free.saturating_add(self.taken)))
    }

    /// Who fills it, where so much of it is ours.
    pub fn filled(self, own: u64) -> String {
        let what = if own < self.taken / 2 { "something else fills it: " } else { "" };
        let [own, taken] = [own, self.taken].map(|amount| self.unit.about(amount));
        format!("{what}Flyloft has {own} of the {taken} that are taken")
    }
}

impl Ours {
    /// Who fills the disk, and what that means for what is off.
    pub fn said(self, space: Space) -> String {
        let mut text = space.filled(self.own);
        if let Some(most) = self.most {
            text.push_str(&format!(", and could free {} at most", space.unit.about(most)));
        }
        text.push_str(match self.spared {
            None => "",
            Some(Spared::InVain) => "; what is off is kept, since to give it up would be in vain",
            Some(Spared::Lost) => {
                "; what is off is kept, since others have taken what was given up for this within a day"
            }
        });
        text
    }
}
