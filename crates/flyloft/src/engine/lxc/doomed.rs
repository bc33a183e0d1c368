//! What has been killed while it was frozen.
//!
//! On version 1 a process that is frozen does not die before it is thawed, and until then its sockets accept
//! connections: whoever looks at them alone takes it for alive. What the kernel kills for want of memory it thaws.

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
            Ok(processes.into_iter().any(|pid| pid != init && is_killed(pid)))
        })
        .await
    }
}

/// Whether a process has been killed and has yet to die of it (proc_pid_status(5)). One that is gone is not.
pub fn is_killed(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_kill_pending(&status))
}

fn has_kill_pending(status: &str) -> bool {
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    status.lines().filter_map(pending).any(|mask| mask & 1 << (libc::SIGKILL - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_is_pending_is_told_from_other_signals() {
        let status =
            |shared: &str| format!("Name:\tweb\nSigPnd:\t0000000000000000\nShdPnd:\t{shared}\nSigBlk:\t0100\n");
        assert!(has_kill_pending(&status("0000000000000100")));
        assert!(has_kill_pending(&status("0000000000004100")), "SIGTERM came as well");
        assert!(!has_kill_pending(&status("0000000000004000")));
        assert!(!is_killed(std::process::id() as i32));
    }
}
