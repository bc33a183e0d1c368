//! What there is to say about a disk on which too little is free.

use std::fmt;

use super::Spared;
use crate::policy::Size;

/// Bytes of the file system on which everything lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    /// By us and by others.
    pub taken: u64,
}

/// Bytes of what is ours.
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
        let [free, floor] = [self.space.free, self.floor].map(|bytes| Size(bytes).about());
        write!(f, "{free} are free, and {floor} are kept free")
    }
}

impl Space {
    /// Who fills it, where so much of it is ours.
    pub fn filled(self, own: u64) -> String {
        let what = if own < self.taken / 2 { "something else fills it: " } else { "" };
        format!("{what}Flyloft has {} of the {} that are taken", Size(own).about(), Size(self.taken).about())
    }
}

impl Ours {
    /// Who fills the disk, and what that means for what is off.
    pub fn said(self, space: Space) -> String {
        let mut text = space.filled(self.own);
        if let Some(most) = self.most {
            text.push_str(&format!(", and could free {} at most", Size(most).about()));
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
