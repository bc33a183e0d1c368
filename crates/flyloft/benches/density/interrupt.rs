//! Ctrl-C ends what is measured, not the cleaning up after it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// From here on SIGINT and SIGTERM only set a flag.
pub fn listen() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let signals = runtime.block_on(async { [SignalKind::interrupt(), SignalKind::terminate()].map(signal) });
    let [mut int, mut term] = signals.map(|signal| signal.unwrap());
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                HAPPENED.store(true, Ordering::SeqCst);
                eprintln!("\ninterrupted; removing what was made, which may take some minutes");
            }
        });
    });
}

pub fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// An error once it has happened.
pub fn check() -> Result<()> {
    ensure!(!happened(), "interrupted");
    Ok(())
}
