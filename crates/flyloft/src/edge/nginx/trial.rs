//! What nginx would say to a configuration, before it is there.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use super::master::{Master, Trouble};
use super::{files, includes};

/// Whether nginx would start with what is in `aside` in the place of `dir`, and everything else as it is. Nobody else sees
/// it there: the thread that asks has mounts of its own, and so has the nginx that it starts. An nginx that does not read
/// our files has nothing to say about them.
pub async fn of(master: &Master, aside: &Path, dir: &Path) -> Result<(), Trouble> {
    let (answer, answered) = oneshot::channel();
    let (master, aside, dir) = (master.clone(), aside.to_owned(), dir.to_owned());
    let failed = |error: &dyn std::fmt::Display| Trouble::Refused(format!("it could not be tried: {error}"));
    let asks = move || {
        let _ = answer.send(ask(&master, &aside, &dir));
    };
    std::thread::Builder::new().name("nginx-trial".to_owned()).spawn(asks).map_err(|error| failed(&error))?;
    answered.await.unwrap_or_else(|error| Err(failed(&error)))
}

fn ask(master: &Master, aside: &Path, dir: &PathBuf) -> Result<(), Trouble> {
    let failed = |error: &dyn std::fmt::Display| Trouble::Refused(format!("it could not be tried: {error}"));
    let put = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        mount(Some(aside), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    put().map_err(|error| failed(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let dump = runtime.block_on(master.dump())?;
    let file = dir.join(files::HTTP);
    if includes(&dump, &file) { Ok(()) } else { Err(Trouble::NotIncluded(file)) }
}
