//! Who watches over others wakes last.
//!
//! The first process of a server kills workers that have not been heard of for some time (gunicorn, uWSGI), and of one
//! that was frozen nothing has been heard. Which of the two runs first after a thaw is chance. So whoever has children
//! is stopped before, and goes on once they have run and wait for something again.
//!
//! What must hold: nobody stays stopped who was not. So who is to be stopped is on record before, and goes on when the
//! wake has settled, when the daemon ends, or when the next one starts. And nobody is signalled whose container is not
//! known for sure.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::advice::Process;
use super::cgroup::Groups;
use super::notes;
use super::places::Home;
use super::stat::Stat;

/// How long children are waited for. A parent may be what serves, and then a visitor waits as well.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same where memory has to come from a disk.
const PATIENCE_ON_DISK: Duration = Duration::from_secs(1);

/// Ticks of processor time, a hundredth of a second each, after which a child has done more than to wake. What the
/// machine's own host took meanwhile counts as well.
const AT_WORK: u64 = 10;

/// Nobody takes a worker for dead that was silent for so short a time.
const SHORT: Duration = Duration::from_secs(1);

/// A process, and not another one that was given its number since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    pid: i32,
    /// Ticks from the boot to its start.
    started: u64,
}

/// What a container was doing when it was frozen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Before {
    /// Since the boot.
    at: Duration,
    /// Those that the app had stopped itself, and those that waited for the kernel, as whoever called vfork does. Of one
    /// that is frozen the kernel does not tell.
    stopped: Vec<Known>,
    waiting: Vec<Known>,
}

/// Those that are stopped until this goes.
#[derive(Default)]
pub struct HeldBack {
    /// By their distance from the container's first process.
    levels: BTreeMap<usize, Vec<Member>>,
    patience: Duration,
    /// Where it is on record that they are.
    record: Option<Home>,
}

struct Member {
    known: Known,
    /// Ticks that it had run before.
    ran: u64,
    /// Whether it is waited for.
    awaited: bool,
    /// Of those that are stopped.
    held: Option<Process>,
}

/// Notes what the processes of a container do that is about to be frozen. If it fails, nothing is known of that.
pub fn note(home: &Home, groups: &Groups) -> io::Result<()> {
    notes::remove(&home.before())?;
    let mut before = Before { at: since_boot()?, ..Before::default() };
    for (pid, stat) in members(groups)? {
        match stat.state {
            'T' => before.stopped.push(Known::of(pid, &stat)),
            'D' => before.waiting.push(Known::of(pid, &stat)),
            _ => {}
        }
    }
    notes::write(&home.before(), &before)
}

/// Stops the parents of a frozen container, but for `init`. They stop at the thaw, before they do anything else.
pub fn hold_back(home: &Home, groups: &Groups, init: i32, on_disk: bool) -> io::Result<HeldBack> {
    let_go(home)?;
    let before: Option<Before> = notes::read(&home.before())?;
    if let Some(before) = &before
        && since_boot()?.saturating_sub(before.at) < SHORT
    {
        return Ok(HeldBack::default());
    }
    let before = before.unwrap_or_default();
    let members = members(groups)?;
    // It ends just now, and whose the others are is not known.
    if !members.contains_key(&init) {
        return Ok(HeldBack::default());
    }
    let parents: BTreeMap<_, _> = members.iter().map(|(pid, stat)| (*pid, stat.parent)).collect();
    let is_held = |known: &Known| {
        parents.values().any(|parent| *parent == known.pid) && known.pid != init && !before.stopped.contains(known)
    };
    let all: Vec<Known> = members.iter().map(|(pid, stat)| Known::of(*pid, stat)).collect();
    let held: Vec<Known> = all.iter().copied().filter(is_held).collect();
    if held.is_empty() {
        return Ok(HeldBack::default());
    }
    notes::write(&home.held_back(), &held)?;
    crate::fault::point("thaw.noted");
    let patience = if on_disk { PATIENCE_ON_DISK } else { PATIENCE };
    let mut held_back = HeldBack { levels: BTreeMap::new(), patience, record: Some(home.clone()) };
    for known in all.into_iter().filter(|known| known.pid != init) {
        let up = std::iter::successors(Some(known.pid), |pid| parents.get(pid).copied());
        let depth = up.take_while(|pid| *pid != init).take(parents.len()).count();
        let stopped = if held.contains(&known) { known.signal(Signal::SIGSTOP)? } else { None };
        let awaited = !before.waiting.contains(&known);
        let member = Member { known, ran: members[&known.pid].ran, awaited, held: stopped };
        held_back.levels.entry(depth).or_default().push(member);
    }
    Ok(held_back)
}

/// Has those go on that are on record as held back: a daemon has died in the middle of a wake.
pub fn let_go(home: &Home) -> io::Result<()> {
    let held: Option<Vec<Known>> = notes::read(&home.held_back())?;
    for known in held.into_iter().flatten() {
        known.signal(Signal::SIGCONT)?;
    }
    notes::remove(&home.held_back())
}

impl HeldBack {
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Lets one after the other go, when those below it have settled. For a thread that may wait.
    pub fn release(mut self) {
        let deadline = Instant::now() + self.patience;
        let mut below = Vec::new();
        while let Some((_, level)) = self.levels.pop_last() {
            level.iter().for_each(Member::go_on);
            below.extend(level.into_iter().filter(|member| member.awaited).map(|member| (member.known, member.ran)));
            if self.levels.values().flatten().any(|member| member.held.is_some()) {
                settle(&below, deadline);
            }
        }
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.levels.values().flatten().for_each(Member::go_on);
        if let Some(home) = &self.record
            && let Err(error) = notes::remove(&home.held_back())
        {
            // At worst they are told once more.
            tracing::warn!(container = home.name, %error, "failed to note that nobody is held back any more");
        }
    }
}

impl Member {
    fn go_on(&self) {
        if let Some(process) = &self.held {
            // It may have ended, and nobody else may be told.
            let _ = process.signal(Signal::SIGCONT);
        }
    }
}

impl Known {
    fn of(pid: i32, stat: &Stat) -> Self {
        Self { pid, started: stat.started }
    }

    /// Gives the process, unless it has ended.
    fn signal(self, signal: Signal) -> io::Result<Option<Process>> {
        let Some(process) = Process::open(self.pid)? else { return Ok(None) };
        // From here on the number is not given to another.
        if Stat::of(self.pid).is_none_or(|stat| stat.started != self.started) {
            return Ok(None);
        }
        process.signal(signal).map(|()| Some(process))
    }
}

/// Waits until all of them, each with the ticks that it had run before, have woken.
fn settle(below: &[(Known, u64)], deadline: Instant) {
    let mut pause = Duration::from_millis(1);
    while Instant::now() < deadline {
        std::thread::sleep(pause);
        if below.iter().all(|(known, ran)| has_woken(known.pid, *ran)) {
            return;
        }
        pause = (pause * 2).min(Duration::from_millis(16));
    }
}

/// Whether it waits for something again, and not for the disk, or is at work. So is one that has ended.
fn has_woken(pid: i32, ran: u64) -> bool {
    let is_at_work = || Stat::of(pid).is_none_or(|stat| stat.ran >= ran + AT_WORK);
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| Stat::of_thread(&thread.path())).all(|thread| match thread.state {
        'D' => false,
        'R' => is_at_work(),
        _ => true,
    })
}

fn members(groups: &Groups) -> io::Result<BTreeMap<i32, Stat>> {
    let stat = |pid: i32| Some((pid, Stat::of(pid)?));
    Ok(groups.processes()?.into_iter().filter_map(stat).collect())
}

fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}
