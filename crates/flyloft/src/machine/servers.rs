//! The servers that the daemon of a state directory runs itself.

use std::path::Path;

use flyloft_core::policy::Excess;

use super::read;
use crate::daemon::INSTANCE;
use crate::engine::lxc::machine::look_at;
use crate::engine::lxc::tree;
use crate::managed;
use crate::store::{self, ServerRow};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As in `pg (postgres)`.
    pub name: String,
    pub runs: bool,
    /// What the engine has stopped it for.
    pub excess: Option<Excess>,
    /// Bytes that it may take of memory, and that its data take and may take.
    pub memory: u64,
    pub data: u64,
    pub most: u64,
}

impl Server {
    /// All of them, as far as that can be read.
    pub fn look(state_dir: &Path) -> Vec<Self> {
        let rows = store::servers_in(&state_dir.join(store::FILE)).unwrap_or_default();
        let instance = read(state_dir.join(INSTANCE));
        rows.into_iter().filter_map(|row| Self::of(state_dir, instance.trim(), &row)).collect()
    }

    fn of(state_dir: &Path, instance: &str, row: &ServerRow) -> Option<Self> {
        let row_of_ours = row.managed.as_ref()?;
        let share = row_of_ours.outfit.share;
        let (runs, excess) = look_at(state_dir, instance, &managed::container(&row.name, row_of_ours));
        let volume = state_dir.join("engine/volumes").join(managed::volume(row_of_ours).0);
        Some(Self {
            name: format!("{} ({})", row.name, row.url.kind),
            runs,
            excess,
            memory: share.memory,
            data: tree::measure(&volume).unwrap_or_default().bytes,
            most: share.disk,
        })
    }
}
