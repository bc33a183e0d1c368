//! Whether there is memory for one more environment that is awake, and who makes room for it: whoever is awake falls
//! asleep, and what is asleep in compressed memory is written out.

use std::time::Duration;

use crate::lifecycle::Timestamp;

/// Whoever was used this shortly ago does not make room for others: it would only be woken again.
pub const RESPITE: Duration = Duration::from_secs(3);

/// What falling asleep gives back of what an environment holds, in per cent. The rest is what compressed memory takes.
const GAIN: u64 = 60;

/// The memory of a machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel says that new work can have.
    pub available: u64,
    /// Of that, what was promised to those who have not taken it yet.
    pub promised: u64,
    /// What stays free for everything else.
    pub reserve: u64,
    /// Whether those who have work to do wait for memory already.
    pub pressed: bool,
}

impl Memory {
    /// What a newcomer can have.
    pub fn free(&self) -> u64 {
        self.available.saturating_sub(self.promised).saturating_sub(self.reserve)
    }
}

/// An environment that is awake, and that nobody uses at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idler<Id> {
    pub id: Id,
    pub last_used: Timestamp,
    /// Bytes that it holds.
    pub memory: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<Id> {
    Enter,
    /// When these have fallen asleep, the longest idle first.
    After(Vec<Id>),
    /// Not even then.
    Full,
}

/// Decides about a newcomer that needs so many bytes. `alone` where nobody else is awake: to keep the only one out
/// would help nobody.
pub fn admit<Id: Copy>(
    memory: Memory,
    need: u64,
    alone: bool,
    mut idlers: Vec<Idler<Id>>,
    now: Timestamp,
) -> Decision<Id> {
    let free = memory.free();
    if alone || (free >= need && !memory.pressed) {
        return Decision::Enter;
    }
    idlers.retain(|idler| now.since(idler.last_used) >= RESPITE);
    idlers.sort_by_key(|idler| idler.last_used);
    let (mut room, mut asleep) = (free, Vec::new());
    // Under pressure one goes in any case, whatever the kernel says is free.
    for idler in idlers {
        if room >= need && (!memory.pressed || !asleep.is_empty()) {
            break;
        }
        room = room.saturating_add(idler.memory / 100 * GAIN);
        asleep.push(idler.id);
    }
    match (room >= need, asleep.is_empty()) {
        (true, true) => Decision::Enter,
        (true, false) => Decision::After(asleep),
        (false, _) => Decision::Full,
    }
}

/// Compressed memory from which a way leads on to a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub taken: u64,
    /// What it may take.
    pub most: u64,
}

/// From where on compressed memory counts as full, in per cent of what it may take. The kernel begins to write out at
/// the end: page by page, whoever's they are, and what it has written stays in memory as well.
const FULL: u64 = 80;

/// An environment whose memory is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleeper<Id> {
    pub id: Id,
    pub since: Timestamp,
}

/// Whose memory is to be written out, so that compressed memory is not full, and gives so many bytes to others: the
/// longest asleep first. For more than there is in it nobody is, since that would help nobody.
pub fn write_out<Id: Copy>(pool: Pool, wanted: u64, mut sleepers: Vec<Sleeper<Id>>) -> Vec<Id> {
    let wanted = if wanted > pool.taken { 0 } else { wanted };
    let missing = pool.taken.saturating_sub(pool.most / 100 * FULL).max(wanted);
    sleepers.sort_by_key(|sleeper| sleeper.since);
    // What each takes of it is not known. More are asked where this was not enough.
    let each = (pool.taken / sleepers.len().max(1) as u64).max(1);
    let count = usize::try_from(missing.div_ceil(each)).unwrap_or(usize::MAX);
    sleepers.into_iter().take(count).map(|sleeper| sleeper.id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const NOW: Timestamp = Timestamp(10_000_000);

    fn memory(available: u64) -> Memory {
        Memory { available: available * MIB, promised: 0, reserve: 100 * MIB, pressed: false }
    }

    /// Each idle for so many seconds, and of 100 MiB.
    fn idle(seconds: &[u64]) -> Vec<Idler<usize>> {
        let idler = |(id, seconds): (usize, &u64)| Idler {
            id,
            last_used: Timestamp(NOW.0 - seconds * 1000),
            memory: 100 * MIB,
        };
        seconds.iter().enumerate().map(idler).collect()
    }

    #[test]
    fn where_there_is_room_everybody_comes_in() {
        assert_eq!(admit(memory(200), 100 * MIB, false, idle(&[900]), NOW), Decision::Enter);
    }

    #[test]
    fn what_was_promised_to_others_is_not_promised_again() {
        let memory = Memory { promised: MIB, ..memory(200) };
        assert_eq!(admit(memory, 100 * MIB, false, idle(&[]), NOW), Decision::Full);
    }

    #[test]
    fn the_longest_idle_make_room_and_no_more_of_them_than_it_takes() {
        assert_eq!(admit(memory(100), 100 * MIB, false, idle(&[60, 900, 300]), NOW), Decision::After(vec![1, 2]));
    }

    /// Each asleep for so many seconds.
    fn asleep(seconds: &[u64]) -> Vec<Sleeper<usize>> {
        let sleeper = |(id, seconds): (usize, &u64)| Sleeper { id, since: Timestamp(NOW.0 - seconds * 1000) };
        seconds.iter().enumerate().map(sleeper).collect()
    }

    #[test]
    fn nobody_is_written_out_while_compressed_memory_has_room() {
        let pool = Pool { taken: 80 * MIB, most: 100 * MIB };
        assert_eq!(write_out(pool, 0, asleep(&[10, 20])), [0; 0]);
        assert_eq!(write_out(Pool { taken: 0, most: 0 }, 0, asleep(&[10])), [0; 0]);
    }

    #[test]
    fn the_longest_asleep_are_written_out_and_no_more_of_them_than_it_takes() {
        let pool = Pool { taken: 90 * MIB, most: 100 * MIB };
        // Each has 30 MiB of it, if all have the same.
        assert_eq!(write_out(pool, 0, asleep(&[10, 30, 20])), [1]);
        assert_eq!(write_out(pool, 40 * MIB, asleep(&[10, 30, 20])), [1, 2]);
        assert_eq!(write_out(pool, 90 * MIB, asleep(&[10, 30, 20])), [1, 2, 0]);
        assert_eq!(write_out(pool, 90 * MIB, asleep(&[])), [0; 0]);
    }

    #[test]
    fn nobody_is_written_out_for_who_needs_more_than_that_would_give() {
        let pool = Pool { taken: 70 * MIB, most: 100 * MIB };
        assert_eq!(write_out(pool, 71 * MIB, asleep(&[10, 20])), [0; 0]);
        assert_eq!(write_out(Pool { taken: 0, ..pool }, 1, asleep(&[10, 20])), [0; 0]);
        assert_eq!(write_out(Pool { taken: 90 * MIB, ..pool }, 91 * MIB, asleep(&[10, 20])), [1], "it is full as well");
    }

    #[test]
    fn who_was_used_just_now_is_let_alone() {
        assert_eq!(admit(memory(150), 100 * MIB, false, idle(&[2]), NOW), Decision::Full);
        assert_eq!(admit(memory(150), 100 * MIB, false, idle(&[3]), NOW), Decision::After(vec![0]));
    }

    #[test]
    fn under_pressure_one_goes_to_sleep_even_if_memory_seems_free() {
        let pressed = Memory { pressed: true, ..memory(900) };
        assert_eq!(admit(pressed, 100 * MIB, false, idle(&[60, 900]), NOW), Decision::After(vec![1]));
        assert_eq!(admit(pressed, 100 * MIB, false, idle(&[]), NOW), Decision::Enter, "nobody could make room");
    }

    #[test]
    fn the_only_one_is_never_kept_out() {
        assert_eq!(admit(memory(0), 100 * MIB, true, idle(&[]), NOW), Decision::Enter);
    }

    proptest! {
        #[test]
        fn whoever_comes_in_has_room_once_the_others_sleep(
            available in 0..4096u64, need in 0..1024u64, idles in prop::collection::vec(0..2000u64, 0..20),
        ) {
            let (memory, idlers) = (memory(available), idle(&idles));
            let free = memory.available.saturating_sub(memory.reserve);
            let asleep = match admit(memory, need * MIB, false, idlers, NOW) {
                Decision::Enter => vec![],
                Decision::After(asleep) => asleep,
                Decision::Full => return Ok(()),
            };
            prop_assert!(free + asleep.len() as u64 * 60 * MIB + MIB >= need * MIB);
            let shortest = asleep.iter().map(|id| idles[*id]).min();
            let longest_awake = (0..idles.len()).filter(|id| !asleep.contains(id)).map(|id| idles[id]).max();
            prop_assert!(shortest.is_none_or(|shortest| longest_awake.is_none_or(|awake| awake <= shortest)));
        }
    }
}
