//! Tells of containers that have ended, whoever ended them.
//!
//! LXC's monitor of a container ends when PID 1 has and it has cleaned up, and the kernel tells of that by the
//! descriptor of a process (pidfd_open(2)). What cannot be watched is found by whoever looks at it next.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, mpsc};

use super::advice::Process;
use super::container::Running;
use crate::engine::ContainerId;

pub struct Ends {
    tell: mpsc::UnboundedSender<ContainerId>,
    told: Mutex<mpsc::UnboundedReceiver<ContainerId>>,
}

impl Default for Ends {
    fn default() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self { tell, told: Mutex::new(told) }
    }
}

impl Ends {
    /// The next one of those that are watched.
    pub async fn next(&self) -> ContainerId {
        self.told.lock().await.recv().await.expect("the other end is in here")
    }

    /// Has the end of a container told.
    pub fn watch(&self, id: &ContainerId, running: Running) {
        let (tell, id) = (self.tell.clone(), id.clone());
        let monitor = match Process::open(running.monitor) {
            Ok(Some(monitor)) => OwnedFd::from(monitor),
            // It has ended just now.
            Ok(None) => return drop(tell.send(id)),
            Err(error) => return tracing::warn!(container = %id, %error, "cannot watch a container"),
        };
        // SAFETY: the process goes by the same descriptor until it is dropped, which it is not before the registration.
        match unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) } {
            Ok(monitor) => drop(tokio::spawn(async move {
                let _ = monitor.readable().await;
                let _ = tell.send(id);
            })),
            Err(error) => tracing::warn!(container = %id, %error, "cannot watch a container"),
        }
    }
}
