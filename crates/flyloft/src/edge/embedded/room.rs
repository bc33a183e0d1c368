//! How much room there is for clients, and for what they ask: a part of this machine's memory and descriptors.

use nix::sys::resource::{Resource, getrlimit};

/// What a client's connection takes, while its head is read and while its request waits.
pub const SPOT: usize = 16 << 10;

/// What a client's connection may hold of the daemon's memory, beside requests: the most of a head, and what HTTP/2
/// lets a client send ahead ([`WINDOW`](super::worker)) with all of its streams.
pub const MEMORY_OF_ONE: usize = 24 << 10;
pub const MEMORY_OF_HTTP2: usize = 384 << 10;

/// What TLS adds to that: a record that comes, what is in it, and what is to be sent, each of them once.
pub const MEMORY_OF_TLS: usize = 56 << 10;

/// What a request may hold beside what is lent to it: its head as it is sent to the app, and small pieces of bodies.
pub const MEMORY_OF_REQUEST: usize = 40 << 10;

/// What there is for all threads of the edge together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Connections of clients, and requests that are under way.
    pub connections: usize,
    /// Those of one client address.
    pub of_one: usize,
    /// Bytes that connections of clients may hold. Those of one client address may hold a quarter of them.
    pub memory: usize,
    /// Connections to apps, idle ones included.
    pub lines: usize,
    /// Spots for requests that wait until an environment is awake, each of [`SPOT`] bytes: a request takes one, and as
    /// many more as the edge may have to keep of it meanwhile.
    pub held: usize,
    /// Those for one host name.
    pub held_for_one: usize,
    /// Those to one app.
    pub lines_of_one: usize,
    /// Bytes that are lent for large answers.
    pub lent: usize,
}

/// What waits for one host name goes on at once when it wakes. More than this many do not fit into the queue in which a
/// server keeps new connections (listen(2)).
const HELD_FOR_ONE: usize = 1024;

impl Room {
    /// Of the descriptors that this process may have and the memory of this machine.
    pub fn here() -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let memory = nix::sys::sysinfo::sysinfo().map_or(512 << 20, |info| info.ram_total());
        Self::of(descriptors, memory)
    }

    /// A quarter of the descriptors for clients and one for apps, so that half of them is left to the rest of the
    /// daemon. Of the memory a sixteenth for connections, at most two for requests, and half of one to lend: all of it
    /// together is less than a quarter.
    pub fn of(descriptors: u64, memory: u64) -> Self {
        let memory = (memory / 16).max(16 * MEMORY_OF_ONE as u64) as usize;
        let connections = ((descriptors / 4).max(16) as usize).min(memory / MEMORY_OF_ONE);
        Self {
            connections,
            of_one: connections / 4,
            memory,
            lines: connections,
            lines_of_one: connections / 4,
            lent: memory / 2,
            held: connections / 2,
            held_for_one: (connections / 8).clamp(2, HELD_FOR_ONE),
        }
    }

    /// Connections that may still be closing beside those that are open.
    pub fn leaving(&self) -> usize {
        self.connections / 8 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_descriptors_and_most_of_the_memory_are_left_to_others() {
        let gib = 1 << 30;
        let memory = 32 << 20;
        let small = Room {
            connections: 1_365,
            of_one: 341,
            memory,
            lines: 1_365,
            lines_of_one: 341,
            lent: memory / 2,
            held: 682,
            held_for_one: 170,
        };
        assert_eq!(Room::of(1_048_576, gib / 2), small);
        assert_eq!(Room::of(1_048_576, 24 * gib).held_for_one, HELD_FOR_ONE);
        for (descriptors, memory) in [(256, 64), (1_024, 1), (20_000, 64), (65_536, 4), (1_048_576, 1)] {
            let room = Room::of(descriptors, memory * gib);
            // One that waits may need a second descriptor.
            let taken = room.connections + room.leaving() + room.lines + room.held;
            assert!(taken as u64 <= descriptors * 2 / 3, "{descriptors}: {room:?}");
            let held = room.memory + room.connections * MEMORY_OF_REQUEST + room.held * SPOT + room.lent;
            assert!(held as u64 <= memory * gib / 4, "{memory} GiB: {room:?}");
        }
    }
}
