//! PID 1 of Flyloft's containers, and the way in for commands.
//!
//! ```text
//!   /flyloft/init                    as PID 1: keeps the processes of spec.json running
//!   /flyloft/init exec … -- ARGV…    run by lxc-attach: one command, as the app's user
//! ```
//!
//! One of it runs in every container, asleep ones included, so it is a static binary with one thread, one poll loop and
//! hardly any memory. It must never end while the container is to live, and nothing that an app does may make it write
//! a line in its own name.

mod allowance;
mod backoff;
mod child;
mod clock;
mod console;
mod enter;
mod lines;
mod reap;
mod spec;
mod supervisor;
mod system;

use std::ffi::OsString;
use std::process::ExitCode;

use spec::Spec;

/// Where the engine puts what this container is to be; root in the container alone can read it.
const SPEC: &str = "/flyloft/spec.json";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "exec" => enter::run(args.collect()),
        None if std::process::id() == 1 => init(),
        _ => {
            eprintln!("usage: init                                   (as PID 1 of a container)");
            eprintln!("       init exec [--root] [--dir DIR] [--variables FD] [--terminal FD] -- COMMAND [ARGUMENT]…");
            ExitCode::from(2)
        }
    }
}

fn init() -> ExitCode {
    let console = console::Console::open();
    let spec = match Spec::read(SPEC.as_ref()) {
        Ok(spec) => spec,
        Err(error) => return console.last_words(&error.to_string()),
    };
    let complaints = system::prepare(&spec);
    match supervisor::Supervisor::new(spec, console) {
        Ok(supervisor) => supervisor.run(complaints),
        Err((console, error)) => console.last_words(&format!("failed to wait for signals: {error}")),
    }
}

/// Names and values, as they are handed to a process.
type Env = std::collections::BTreeMap<OsString, OsString>;
