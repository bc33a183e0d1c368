//! Who watches over others wakes last.
//!
//! The first process of a server kills workers that have not been heard of for some time (gunicorn, Puma, uWSGI), and of
//! one that was frozen nothing has been heard. Which of the two runs first after a thaw is chance. So whoever has
//! children is stopped before, and goes on once they have run and wait for something again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::advice::Process;
use super::cgroup::Groups;
use super::stat::Stat;

/// How long children are waited for, whose memory may have to come from a busy disk.
const PATIENCE: Duration = Duration::from_secs(3);

/// Ticks of processor time, a hundredth of a second each, after which a child has done more than to wake.
const AT_WORK: u64 = 5;

/// Those that are stopped until this goes.
#[derive(Default)]
pub struct HeldBack {
    /// By their distance from the container's first process.
    levels: BTreeMap<usize, Vec<Member>>,
}

struct Member {
    pid: i32,
    /// Ticks that it had run before.
    ran: u64,
    /// Of those that are stopped.
    held: Option<Process>,
}

impl Member {
    fn go_on(&self) {
        if let Some(process) = &self.held {
            // It may have ended, and nobody else may be told.
            let _ = process.signal(Signal::SIGCONT);
        }
    }
}

/// Stops the parents of a frozen container, but for `init`. They stop at the thaw, before they do anything else.
pub fn hold_back(groups: &Groups, init: i32) -> io::Result<HeldBack> {
    let members = members(groups)?;
    let parents: BTreeMap<_, _> = members.iter().map(|(pid, stat)| (*pid, stat.parent)).collect();
    let mut held_back = HeldBack::default();
    for (pid, stat) in members.into_iter().filter(|(pid, _)| *pid != init) {
        let up = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        let depth = up.take_while(|pid| *pid != init).take(parents.len()).count();
        let level = held_back.levels.entry(depth).or_default();
        level.push(Member { pid, ran: stat.ran, held: None });
        // What the app has stopped itself stays so.
        if parents.values().any(|parent| *parent == pid) && stat.state != 'T' {
            let process = Process::open(pid)?;
            if let Some(process) = process.filter(|process| process.signal(Signal::SIGSTOP).is_ok()) {
                level.last_mut().expect("it has just been put there").held = Some(process);
            }
        }
    }
    Ok(held_back)
}

/// Has those go on that a daemon has left stopped which died in the middle of a wake.
pub fn let_go(groups: &Groups) -> io::Result<()> {
    let members = members(groups)?;
    let parents: BTreeSet<_> = members.values().map(|stat| stat.parent).collect();
    for (pid, _) in members.iter().filter(|(pid, stat)| stat.state == 'T' && parents.contains(pid)) {
        Process::open(*pid)?.map_or(Ok(()), |process| process.signal(Signal::SIGCONT))?;
    }
    Ok(())
}

impl HeldBack {
    /// Lets one after the other go, when those below it have settled. For a thread that may wait.
    pub fn release(mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut below = Vec::new();
        while let Some((_, level)) = self.levels.pop_last() {
            level.iter().for_each(Member::go_on);
            below.extend(level.into_iter().map(|member| (member.pid, member.ran)));
            if self.levels.values().flatten().any(|member| member.held.is_some()) {
                settle(&below, deadline);
            }
        }
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.levels.values().flatten().for_each(Member::go_on);
    }
}

/// Waits until all of them, each with the ticks that it had run before, have woken.
fn settle(below: &[(i32, u64)], deadline: Instant) {
    let mut pause = Duration::from_millis(1);
    loop {
        std::thread::sleep(pause);
        if below.iter().all(|(pid, ran)| has_woken(*pid, *ran)) || Instant::now() >= deadline {
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
