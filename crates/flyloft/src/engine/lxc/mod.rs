//! The engine on LXC.

pub mod net;
pub mod slots;
