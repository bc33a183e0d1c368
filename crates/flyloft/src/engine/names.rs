//! What names there can be of what an engine has.

use std::fmt;

use super::{CacheId, ContainerId, EngineError, LayerId, VolumeId};

/// Names become parts of paths, of cgroups and of configurations: an engine checks each before it uses it.
fn check_name(name: &str, max: usize) -> Result<(), EngineError> {
    let plain = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if plain && !name.is_empty() && name.len() <= max { Ok(()) } else { Err(EngineError::BadName(name.to_owned())) }
}

impl ContainerId {
    pub(super) fn check(&self) -> Result<(), EngineError> {
        check_name(&self.0, 50)
    }
}

impl LayerId {
    pub(super) fn check(&self) -> Result<(), EngineError> {
        check_name(&self.0, 64)
    }
}

impl CacheId {
    pub(super) fn check(&self) -> Result<(), EngineError> {
        check_name(&self.0, 80)
    }
}

impl VolumeId {
    pub(super) fn check(&self) -> Result<(), EngineError> {
        check_name(&self.0, 80)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for CacheId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
