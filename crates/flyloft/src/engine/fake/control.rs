//! What a test tells the engine in memory, and asks of it.

use std::net::SocketAddr;

use flyloft_core::disk::{Space, Unit};
use flyloft_core::policy::{Excess, Limits};

use super::{Container, Fake};
use crate::engine::{ContainerId, ContainerSpec, ContainerState, Kept, Published, Usage, VolumeId};

impl Fake {
    /// What was asked of it, in order: `derive aa01`, `create web-1`, `start web-1` …
    pub fn calls(&self) -> Vec<String> {
        self.memory().calls.clone()
    }

    /// The next `times` calls of a verb fail, without doing anything.
    pub fn fail(&self, verb: &'static str, times: usize) {
        self.memory().failures.insert(verb, times);
    }

    /// Whoever starts this program sees it end with that status, and without a word.
    pub fn ends(&self, program: &'static str, code: i32) {
        self.memory().ill.insert(program, code);
    }

    /// No layer comes to be as long as this is so.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// No memory is moved to its end as long as this is so.
    pub fn stall_moves(&self, stalled: bool) {
        self.unmoved.send_replace(stalled);
    }

    /// The app of a frozen container is killed, and its PID 1 is not.
    pub fn doom(&self, id: &ContainerId) {
        self.memory().containers.get_mut(id).unwrap().doomed = true;
    }

    /// What every running container listens on from now on.
    pub fn listen(&self, on: Vec<SocketAddr>) {
        self.memory().listening = on;
    }

    /// The ports that lead to containers.
    pub fn published(&self) -> Vec<Published> {
        self.memory().published.clone()
    }

    /// So much has been said to a container by its ports.
    pub fn say(&self, id: &ContainerId, much: u64) {
        self.memory().said.insert(id.clone(), much);
    }

    /// From now on offloading moves nothing, for this reason.
    pub fn keep(&self, why: Option<Kept>) {
        self.memory().kept = why;
    }

    /// From now on containers have, or have no more, a process that the kernel cannot hold.
    pub fn set_unfreezable(&self, unfreezable: bool) {
        self.memory().unfreezable = unfreezable;
    }

    /// How often a container was looked at: what it is, or what it holds.
    pub fn looks(&self) -> usize {
        self.memory().looks
    }

    /// Makes others like a container, without that any verb was called.
    pub fn copy(&self, original: &ContainerId, copies: impl Iterator<Item = ContainerId>) {
        let mut memory = self.memory();
        for id in copies {
            let Container { spec, state, excess, asleep, addresses, .. } = &memory.containers[original];
            let spec = ContainerSpec { id: id.clone(), ..spec.clone() };
            let (state, excess, asleep, addresses) = (*state, *excess, *asleep, *addresses);
            let (log, followers, doomed) = Default::default();
            memory.containers.insert(id, Container { spec, state, excess, doomed, asleep, addresses, log, followers });
        }
    }

    /// What a container is made of by now.
    pub fn spec(&self, id: &ContainerId) -> ContainerSpec {
        self.memory().containers[id].spec.clone()
    }

    /// What a container was made to be allowed.
    pub fn limits(&self, id: &ContainerId) -> Limits {
        self.memory().containers[id].spec.limits.clone()
    }

    /// Ends a container as if its PID 1 had been killed.
    pub fn kill(&self, id: &ContainerId) {
        let mut memory = self.memory();
        let container = memory.containers.get_mut(id).unwrap();
        (container.state, container.asleep) = (ContainerState::Stopped, None);
        self.ended.1.lock().unwrap().push_back(id.clone());
        self.ended.0.notify_one();
    }

    /// Stops a container as one that has gone beyond a bound.
    pub fn stop_for(&self, id: &ContainerId, excess: Excess) {
        let mut memory = self.memory();
        let container = memory.containers.get_mut(id).unwrap();
        (container.state, container.excess) = (ContainerState::Stopped, Some(excess));
        self.excess.notify_one();
    }

    /// The writable layer of a container takes so much from now on.
    pub fn grow(&self, id: &ContainerId, usage: Usage) {
        self.memory().sizes.insert(id.clone(), usage);
    }

    /// A volume takes so much from now on.
    pub fn grow_volume(&self, id: &VolumeId, usage: Usage) {
        self.memory().volumes.insert(id.clone(), usage);
    }

    /// The disk is so full from now on, and what becomes free on it is taken by somebody else if it `is_lost`.
    pub fn fill(&self, space: Space, is_lost: bool) {
        let disk = &mut self.memory().disk;
        disk.is_lost = is_lost;
        match space.unit {
            Unit::Bytes => disk.bytes = space,
            Unit::Inodes => disk.inodes = space,
        }
    }
}
