//! What has been sent its end while it was frozen.
//!
//! On version 1 a process that is frozen does not die before it is thawed, and on version 2 neither does one that is to
//! dump core. Until then its sockets accept connections: whoever looks at them alone takes it for alive. What the kernel
//! kills for want of memory it thaws.

use std::fs;

use super::container::Running;
use super::{LxcEngine, blocking};
use crate::engine::{ContainerId, EngineError};

impl LxcEngine {
    pub(super) async fn has_doomed(&self, id: &ContainerId) -> Result<bool, EngineError> {
        let (_, running) = self.running(id)?;
        let layout = self.layout;
        blocking(format!("look at the processes of container `{id}`"), move || {
            let Running { init, .. } = running;
            // What becomes of the first one is seen to by the thaw.
            let processes = running.groups(layout)?.processes()?;
            Ok(processes.into_iter().any(|pid| pid != init && is_doomed(pid)))
        })
        .await
    }
}

/// What a process does about these by itself is no end: it goes on, or stops (signal(7)).
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Whether a process ends as soon as it goes on (proc_pid_status(5)). One that is gone does not.
///
/// For most signals that end it at once the kernel makes SIGKILL out of what comes, for each of its threads. Those with
/// which it dumps core wait until it goes on, as they came, on both versions of control groups.
pub fn is_doomed(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| ends_at_once(&status))
}

fn ends_at_once(status: &str) -> bool {
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    let mask = |name: &str| u64::from_str_radix(of(name), 16).unwrap_or(0);
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    let seen_to = mask("SigBlk:") | mask("SigIgn:") | mask("SigCgt:");
    let harmless = HARMLESS.iter().fold(0, |mask, signal| mask | 1_u64 << (signal - 1));
    pending & !seen_to & !harmless != 0 || of("CoreDumping:") == "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_ends_it_is_told_from_one_that_it_sees_to_and_from_those_that_end_nobody() {
        let status = |shared: &str, caught: &str| {
            let none = "0000000000000000";
            format!(
                "Name:\tweb\nSigPnd:\t{none}\nShdPnd:\t{shared}\nSigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{caught}\n"
            )
        };
        let ends = |shared, caught| ends_at_once(&status(shared, caught));
        let (none, abort, terminate) = ("0000000000000000", "0000000000000020", "0000000000004000");
        assert!(!ends(none, none));
        assert!(ends("0000000000000100", "fffffffffffbfeff"), "a kill, whatever it would like to see to");
        assert!(ends("0000000000004100", terminate), "SIGTERM came as well");
        assert!(!ends(terminate, terminate));
        assert!(ends(abort, terminate) && !ends(abort, abort), "it is the app's to see to it");
        assert!(!ends("00000000087f0000", none), "children that ended, stops, and a window of another size");
        assert!(ends_at_once("Name:\tweb\nCoreDumping:\t1\n"));
        assert!(!is_doomed(std::process::id() as i32));
    }
}
