//! What a container touched when it last woke, so that the next wake brings it in while the container runs already.
//!
//! Without it each page is waited for alone. Every few wakes what was touched is learnt anew, and what the container has
//! no use for any more is left where it is.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::advice::{Advice, Process};
use super::cgroup::Groups;
use super::pagemap::{self, PAGE, Place, Sight};
use super::places::Home;
use super::{notes, pages};
use crate::engine::Held;

/// How long after a wake it has touched what it needed to answer.
pub const SETTLED: Duration = Duration::from_secs(1);

/// Bytes that are brought in at most: what a large app needs first is not all that it has.
const MOST: u64 = 256 << 20;

/// Bytes that are brought in at a time. In between it is looked whether the container sleeps again: from a slow disk that
/// is a millisecond.
const PIECE: u64 = 256 << 10;

/// Threads that touch pages, beside the app. A page that it finds missing costs it nearly twice of what it costs one of
/// these, who go from page to page in one call.
const HANDS: usize = 2;

/// Wakes after which the next one shows anew what is needed. What is brought in looks like what the container has touched,
/// so until then what is known only grows.
const LEARNT: u32 = 8;

/// `touched.json` of a home.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Touched {
    /// Since it was learnt.
    #[serde(default)]
    wakes: u32,
    /// The process that touched most comes first.
    processes: Vec<Of>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    pid: i32,
    /// Numbers of pages: of the first, and how many.
    pages: Vec<(u64, u64)>,
}

impl Touched {
    /// Whether the next wake shows what the container touches of itself.
    fn is_due(&self) -> bool {
        self.wakes >= LEARNT
    }
}

impl Of {
    fn count(&self) -> u64 {
        self.pages.iter().map(|(_, count)| count).sum()
    }
}

/// Notes what is in memory of a container that woke a moment ago.
pub fn note(home: &Home, groups: &Groups) -> io::Result<()> {
    let last: Option<Touched> = notes::read(&home.touched())?;
    let wakes = last.filter(|last| !last.is_due()).map_or(0, |last| last.wakes + 1);
    let mut touched = Touched { wakes, processes: Vec::new() };
    let sight = Sight::default();
    for pid in groups.processes()? {
        let mut mappings = pages::mappings(pid)?;
        mappings.retain(|mapping| mapping.present > 0);
        let runs = pagemap::runs(pid, &mappings, &sight)?;
        let present = pagemap::addresses(&runs, |place| matches!(place, Place::Own | Place::Shared));
        let pages = present.iter().map(|range| (range.start / PAGE, (range.end - range.start) / PAGE)).collect();
        touched.processes.push(Of { pid, pages });
    }
    // It has been put to sleep again meanwhile: this is not what it needed.
    if groups.frozen()? {
        return Ok(());
    }
    touched.processes.retain(|of| !of.pages.is_empty());
    touched.processes.sort_by_key(|of| std::cmp::Reverse(of.count()));
    notes::write(&home.touched(), &touched)
}

/// Brings in what was touched the last time, of a container of which this is where its memory is. Says whether anything
/// of that is known.
///
/// What is on a disk is asked for all at once first, or each page would be waited for alone; then page after page is
/// touched, which spares the app the fault. Where everything is in compressed memory the first step only costs.
///
/// It ends early when nobody `reads` any more: pages that came back after the next sleep had moved them would stay.
pub fn prefetch(home: &Home, held: &Held, reads: &CancellationToken) -> io::Result<bool> {
    let Some(touched) = notes::read::<Touched>(&home.touched())? else { return Ok(false) };
    let mut left = MOST;
    let mut wanted = Vec::new();
    for of in &touched.processes {
        let ranges = from_the_end(&of.pages, &mut left);
        // One that has been given the number since is told of addresses that it does not have, or does not need.
        let Some(process) = Process::open(of.pid)? else { continue };
        wanted.push((process, pagemap::pieces(&ranges, PIECE).collect()));
    }
    let ask = touched.is_due() || is_on_disk(MOST - left, held.compressed);
    let way = Way { ask, touch: if touched.is_due() { 0 } else { HANDS } };
    bring_in(&wanted, way, reads, |act, process, piece| match act {
        Act::Ask => process.advise(Advice::WillNeed, piece),
        Act::Touch => process.touch(piece),
    })?;
    Ok(true)
}

/// What is done to bring pages in.
#[derive(Clone, Copy)]
enum Act {
    Ask,
    Touch,
}

/// What of that is meant to be done.
#[derive(Clone, Copy)]
struct Way {
    ask: bool,
    /// By so many threads.
    touch: usize,
}

/// Of each process, piece after piece. Where nobody may touch another's memory, not even root (`ptrace_scope` 3 of Yama),
/// asking for it is what is left.
fn bring_in<P: Sync>(
    wanted: &[(P, Vec<Vec<Range<u64>>>)],
    way: Way,
    reads: &CancellationToken,
    do_it: impl Fn(Act, &P, &[Range<u64>]) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let pieces: Vec<_> =
        wanted.iter().flat_map(|(process, pieces)| pieces.iter().map(move |piece| (process, piece))).collect();
    let each = |act, hands| {
        let next = AtomicUsize::new(0);
        let take = || pieces.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !reads.is_cancelled());
        let work = || std::iter::from_fn(take).try_for_each(|(process, piece)| do_it(act, process, piece));
        std::thread::scope(|threads| {
            let others: Vec<_> = (1..hands).map(|_| threads.spawn(work)).collect();
            let others = others.into_iter().map(|thread| thread.join().expect("nothing panics while it touches"));
            work().and(others.collect())
        })
    };
    if way.ask {
        each(Act::Ask, 1)?;
    }
    if way.touch == 0 {
        return Ok(());
    }
    match each(Act::Touch, way.touch) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => match way.ask {
            true => Ok(()),
            false => each(Act::Ask, 1),
        },
        touched => touched,
    }
}

/// Whether more of it is on a disk than what a page here and there makes out.
fn is_on_disk(wanted: u64, compressed: u64) -> bool {
    wanted.saturating_sub(compressed) > wanted / 8
}

/// An app goes through its memory from the start as a rule. Whoever began there too would wait for the app, and the app
/// for it; so the two meet in the middle.
fn from_the_end(pages: &[(u64, u64)], left: &mut u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    for &(first, count) in pages.iter().rev() {
        let (start, mut end) = (first * PAGE, (first + count) * PAGE);
        while start < end && *left > 0 {
            let from = start.max(end.saturating_sub(PIECE.min(*left)));
            *left -= end - from;
            ranges.push(from..end);
            end = from;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_last_pages_are_brought_in_first_and_never_more_than_the_bound() {
        let piece = PIECE / PAGE;
        let mut left = 2 * PIECE;
        let ranges = from_the_end(&[(0, piece), (4 * piece, 2 * piece)], &mut left);
        assert_eq!(ranges, [5 * PIECE..6 * PIECE, 4 * PIECE..5 * PIECE]);
        assert_eq!(left, 0);
    }

    /// What is done to two processes with two pieces each: `a` asked for, `t` touched. The token goes after so many steps.
    fn done(way: Way, touched: impl Fn() -> io::Result<()> + Sync, steps: usize) -> (String, io::Result<()>) {
        let pieces = || vec![vec![0..PIECE], vec![PIECE..2 * PIECE]];
        let (said, reads) = (Mutex::new(String::new()), CancellationToken::new());
        let ended = bring_in(&[((), pieces()), ((), pieces())], way, &reads, |act, _, _| {
            let mut said = said.lock().unwrap();
            said.push(if matches!(act, Act::Ask) { 'a' } else { 't' });
            if said.len() == steps {
                reads.cancel();
            }
            if matches!(act, Act::Ask) { Ok(()) } else { touched() }
        });
        (said.into_inner().unwrap(), ended)
    }

    #[test]
    fn what_may_not_be_touched_is_asked_for_and_only_once() {
        let forbidden = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let (said, ended) = done(Way { ask: false, touch: 1 }, forbidden, usize::MAX);
        assert_eq!(said, "taaaa");
        ended.unwrap();
        let (said, ended) = done(Way { ask: true, touch: 1 }, forbidden, usize::MAX);
        assert_eq!(said, "aaaat");
        ended.unwrap();
        let (said, ended) = done(Way { ask: false, touch: 1 }, || Err(io::ErrorKind::Other.into()), usize::MAX);
        assert_eq!(said, "t");
        ended.unwrap_err();
    }

    #[test]
    fn nothing_more_is_brought_in_of_what_sleeps_again() {
        assert_eq!(done(Way { ask: true, touch: 1 }, || Ok(()), usize::MAX).0, "aaaatttt");
        assert_eq!(done(Way { ask: true, touch: 1 }, || Ok(()), 3).0, "aaa");
        assert_eq!(done(Way { ask: true, touch: 1 }, || Ok(()), 6).0, "aaaatt");
        assert_eq!(done(Way { ask: true, touch: 0 }, || Ok(()), usize::MAX).0, "aaaa");
    }

    #[test]
    fn each_piece_is_touched_once_however_many_do_it() {
        let all: Vec<(usize, Vec<Vec<Range<u64>>>)> = (0..3)
            .map(|process| (process, (0..50).map(|at| std::iter::once(at..at + 1).collect()).collect()))
            .collect();
        let seen = Mutex::new(Vec::new());
        let touch = |_, process: &usize, piece: &[Range<u64>]| {
            seen.lock().unwrap().push((*process, piece[0].start));
            Ok(())
        };
        bring_in(&all, Way { ask: false, touch: 4 }, &CancellationToken::new(), touch).unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        let expected: Vec<_> = (0..3).flat_map(|process| (0..50).map(move |at| (process, at))).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_compressed_but_for_a_little_is_not_taken_for_a_disks() {
        assert!(is_on_disk(800, 0) && is_on_disk(800, 699));
        assert!(!is_on_disk(800, 700) && !is_on_disk(800, 5000) && !is_on_disk(0, 0));
    }
}
