//! What a container touched when it last woke, so that the next wake brings it in while the container runs already.
//!
//! Without it each page is waited for alone. What is not touched again is not looked for the time after.

use std::fs;
use std::io;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::advice::{Advice, Process};
use super::cgroup::Groups;
use super::pagemap::{self, PAGE, Place};
use super::pages;
use super::places::Home;

/// How long after a wake it has touched what it needed to answer.
pub const SETTLED: Duration = Duration::from_secs(1);

/// Bytes that are brought in at most: what a large app needs first is not all that it has.
const MOST: u64 = 256 << 20;

/// Bytes that are brought in at a time.
const PIECE: u64 = 256 << 10;

/// `touched.json` of a home.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Touched {
    /// The process that touched most comes first.
    processes: Vec<Of>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    pid: i32,
    /// Numbers of pages: of the first, and how many.
    pages: Vec<(u64, u64)>,
}

impl Of {
    fn count(&self) -> u64 {
        self.pages.iter().map(|(_, count)| count).sum()
    }
}

/// Notes what is in memory of a container that woke a moment ago.
pub fn note(home: &Home, groups: &Groups) -> io::Result<()> {
    let mut touched = Touched::default();
    for pid in groups.processes()? {
        let mut mappings = pages::mappings(pid)?;
        mappings.retain(|mapping| mapping.present > 0);
        let runs = pagemap::runs(pid, &mappings)?;
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
    let aside = home.dir.join("touched.json.new");
    fs::write(&aside, serde_json::to_vec(&touched)?)?;
    fs::rename(aside, home.touched())
}

/// Has the kernel bring in what was touched the last time. Where nothing is known, nothing is done.
pub fn prefetch(home: &Home) -> io::Result<()> {
    let touched: Touched = match fs::read(home.touched()) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut left = MOST;
    for of in touched.processes {
        // One that has been given the number since is told of addresses that it does not have, or does not need.
        let Some(process) = Process::open(of.pid)? else { continue };
        let ranges = from_the_end(&of.pages, &mut left);
        process.advise(Advice::WillNeed, &ranges)?;
    }
    Ok(())
}

/// An app goes through its memory from the start as a rule. Whoever began there too would wait for the app, and the app
/// for it; so the two meet in the middle.
fn from_the_end(pages: &[(u64, u64)], left: &mut u64) -> Vec<Range<u64>> {
    let ranges: Vec<_> = pages.iter().map(|&(first, count)| first * PAGE..(first + count) * PAGE).collect();
    let mut ranges: Vec<_> = pagemap::pieces(&ranges, PIECE).into_iter().rev().flatten().collect();
    ranges.retain(|range| {
        let size = range.end - range.start;
        let fits = size <= *left;
        *left -= if fits { size } else { 0 };
        fits
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pages_are_brought_in_first_and_never_more_than_the_bound() {
        let piece = PIECE / PAGE;
        let mut left = 2 * PIECE;
        let ranges = from_the_end(&[(0, piece), (4 * piece, 2 * piece)], &mut left);
        assert_eq!(ranges, [5 * PIECE..6 * PIECE, 4 * PIECE..5 * PIECE]);
        assert_eq!(left, 0);
    }
}
