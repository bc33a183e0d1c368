//! Tells when swap is turned on or off.

use std::fs::File;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `/proc/swaps`, on which poll(2) reports changes (`swaps_poll` in the kernel's mm/swapfile.c).
pub struct SwapWatch(Option<AsyncFd<File>>);

impl SwapWatch {
    /// Of this machine. Where it cannot be watched, nothing ever changes.
    pub fn open() -> Self {
        let Ok(file) = File::open("/proc/swaps") else { return Self(None) };
        // SAFETY: the file goes by the same descriptor until it is dropped, which it is not before the registration.
        Self(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.ok())
    }

    /// Comes back when that has happened since this last came back.
    pub async fn changed(&self) {
        if let Some(watched) = &self.0
            && let Ok(mut change) = watched.ready(Interest::PRIORITY).await
        {
            return change.clear_ready();
        }
        std::future::pending().await
    }
}
