//! Places where a test makes the daemon die, to prove that it may die anywhere.
//!
//! `FLYLOFT_FAULT=launch.begun` kills the process with SIGKILL when it comes to that place. Without the variable a
//! place costs one comparison.

use std::sync::LazyLock;

static WANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FLYLOFT_FAULT").ok());

pub fn point(place: &str) {
    if WANTED.as_deref() == Some(place) {
        tracing::warn!(place, "dying here, as FLYLOFT_FAULT asks");
        let _ = nix::sys::signal::raise(nix::sys::signal::SIGKILL);
    }
}
