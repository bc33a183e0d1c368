//! What happens between `git receive-pack` and the daemon when a push arrives.
//!
//! ```text
//!   client ══ ssh ══ door ── stdin/stdout ── git receive-pack ── pre-receive (a few lines of sh)
//!                     │                                              │
//!                     └───── socket pair, made for this push ────────┘
//!                             ◄── quarantine, refs        (descriptor 3)
//!                             ──► lines for the client    (descriptor 3)
//!                             ──► exit status             (descriptor 4)
//! ```
//!
//! The descriptors are inherited: there is no path and no secret by which another process could speak for a push.
//! The hook is not believed: everything that comes from it is parsed here.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use flyloft_core::name::{BranchName, CommitId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::Output;
use crate::error::{Error, OrFailed, Result};
use crate::exec::Cmd;
use crate::source::{BranchUpdate, Push, Quarantine, Turn};

/// Names pass through this as bytes; the shell looks at none of them.
const SCRIPT: &str = r#"#!/bin/sh
# Tells flyloft what is being pushed (3), shows what it answers (3), and ends as it says (4).
{ printf '%s\n' "${GIT_QUARANTINE_PATH-}"; cat; echo end; } >&3
cat <&3
read -r status <&4
exit "${status:-1}"
"#;

/// More than this from a hook is no honest push.
const MAX_BYTES: u64 = 1 << 20;
const MAX_UPDATES: usize = 64;

/// Puts the hook into `dir`, which git is told to take its hooks from and cannot write to.
pub fn install(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let (hook, aside) = (dir.join("pre-receive"), dir.join("pre-receive.new"));
    fs::write(&aside, SCRIPT)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
    fs::rename(aside, hook)
}

/// The daemon's end of the connection to one push's hook.
pub struct HookEnd {
    socket: UnixStream,
    status: OwnedFd,
}

impl HookEnd {
    /// Gives a `git receive-pack` its end. The command must be dropped once it is started, or the end of git is
    /// never seen here.
    pub fn attach(cmd: Cmd) -> io::Result<(Cmd, Self)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (status_theirs, status) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let cmd = cmd.pass(theirs.into(), 3)?.pass(status_theirs, 4)?;
        Ok((cmd, Self { socket: UnixStream::from_std(ours)?, status }))
    }

    /// Waits for the hook to say what is pushed. `None` if git ended without running it: there was nothing to push.
    pub async fn push(&mut self, objects: &Path, turn: &Turn) -> Result<Option<Push>> {
        let mut said = Vec::new();
        let mut reader = BufReader::new((&mut self.socket).take(MAX_BYTES));
        loop {
            let before = said.len();
            let failed = || "failed to read what is being pushed";
            if reader.read_until(b'\n', &mut said).await.or_failed(failed)? == 0 {
                return match said.len() as u64 {
                    MAX_BYTES => Err(Error::usage("the push names too many refs")),
                    _ => Ok(None),
                };
            }
            if said[before..] == *b"end\n" {
                said.truncate(before);
                let push = parse(&said, objects, turn)?;
                fits(&push, &objects.with_file_name("refs").join("heads"))?;
                return Ok(Some(push));
            }
        }
    }

    /// Lines that the client sees, each after `remote: `.
    pub fn output(&self) -> io::Result<Output> {
        let copy = StdUnixStream::from(self.socket.as_fd().try_clone_to_owned()?);
        Ok(Box::new(UnixStream::from_std(copy)?))
    }

    /// Accepts the push, or rejects it with an error that the client sees.
    pub async fn answer(mut self, verdict: &Result<()>) -> io::Result<()> {
        if let Err(error) = verdict {
            self.socket.write_all(error.push_text().as_bytes()).await?;
        }
        self.socket.shutdown().await?;
        let status: &[u8] = if verdict.is_ok() { b"0\n" } else { b"1\n" };
        nix::unistd::write(&self.status, status)?;
        Ok(())
    }
}

/// The quarantine's path on a line, then `old new ref` on a line each. See githooks(5), "pre-receive".
fn parse(said: &[u8], objects: &Path, turn: &Turn) -> Result<Push> {
    let garbled = || Error::failed("the hook of the push said something that makes no sense");
    let said = str::from_utf8(said).map_err(|_| Error::usage("the name of a branch must be UTF-8"))?;
    let (quarantine, refs) = said.split_once('\n').ok_or_else(garbled)?;
    let quarantine = match quarantine {
        "" => None,
        dir => Some(Quarantine::parse(dir, objects).ok_or_else(garbled)?),
    };
    let mut updates: Vec<BranchUpdate> = Vec::new();
    for line in refs.lines() {
        let mut fields = line.splitn(3, ' ');
        let (Some(old), Some(new), Some(name)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(garbled());
        };
        let update = BranchUpdate {
            branch: branch(name)?,
            old: commit(old).ok_or_else(garbled)?,
            new: commit(new).ok_or_else(garbled)?,
        };
        if updates.iter().any(|earlier| earlier.branch == update.branch) {
            return Err(garbled());
        }
        updates.push(update);
    }
    match updates.len() {
        0 => Err(garbled()),
        1..=MAX_UPDATES => Ok(Push { updates, quarantine, turn: turn.clone() }),
        many => Err(Error::usage(format!("the push has {many} branches, {MAX_UPDATES} are allowed"))
            .hint("push the branches that you want to stage by name: `git push staging main`")),
    }
}

/// Git keeps a branch as a file below `heads`, so there can be no `feature` beside `feature/login`. It finds that out
/// when all is staged already; here it is found before.
fn fits(push: &Push, heads: &Path) -> Result<()> {
    for update in push.updates.iter().filter(|update| update.new.is_some()) {
        let name = update.branch.as_str();
        let pushed = push.updates.iter().filter(|other| other.new.is_some());
        let beside = pushed.map(|other| other.branch.as_str()).find(|other| lies_below(other, name));
        let above = name.match_indices('/').map(|(end, _)| &name[..end]);
        let taken = above.filter(|above| heads.join(above).is_file()).map(str::to_owned).next();
        let below = || has_files(&heads.join(name)).then(|| format!("{name}/…"));
        if let Some(other) = beside.map(str::to_owned).or(taken).or_else(below) {
            return Err(Error::conflict(format!("branch `{name}` cannot be there beside branch `{other}`"))
                .hint("git allows no branch below another one: delete one, or rename one"));
        }
    }
    Ok(())
}

fn lies_below(name: &str, above: &str) -> bool {
    name.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

fn has_files(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        _ => true,
    })
}

/// The inner `None` is git's "no commit".
#[allow(clippy::option_option)]
fn commit(text: &str) -> Option<Option<CommitId>> {
    let commit = CommitId::parse(text).ok()?;
    Some((!commit.is_zero()).then_some(commit))
}

fn branch(name: &str) -> Result<BranchName> {
    if let Some(branch) = name.strip_prefix("refs/heads/") {
        return BranchName::parse(branch).map_err(Error::usage);
    }
    let by_name = "push a branch by its name: `git push staging main`";
    Err(match name.strip_prefix("refs/tags/") {
        Some(tag) => Error::usage(format!("tag `{tag}` cannot be staged: an environment is made from a branch"))
            .hint(format!("to stage what it points at: `git push staging '{tag}^{{commit}}:refs/heads/BRANCH'`"))
            .hint(format!("without tags: {by_name}, and see `push.followTags` in git's configuration")),
        None => Error::usage(format!("`{name}` is not a branch")).hint(by_name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn parsed(refs: &str) -> Result<Push> {
        let said = format!("/srv/shop.git/objects/tmp_objdir-incoming-abc\n{refs}");
        parse(said.as_bytes(), Path::new("/srv/shop.git/objects"), &Turn::default())
    }

    #[test]
    fn a_push_of_several_branches_is_read_as_one() {
        let push = parsed(&format!("{ZERO} {NEW} refs/heads/main\n{OLD} {ZERO} refs/heads/old\n")).unwrap();
        let told: Vec<_> = push.updates.iter().map(|u| (u.branch.as_str(), u.old.is_some(), u.new.is_some())).collect();
        assert_eq!(told, [("main", false, true), ("old", true, false)]);
        assert!(push.quarantine.is_some());
    }

    #[test]
    fn a_tag_is_refused_with_the_way_to_stage_it() {
        let error = parsed(&format!("{ZERO} {NEW} refs/tags/v1\n")).unwrap_err();
        assert_eq!(error.what, "tag `v1` cannot be staged: an environment is made from a branch");
    }

    #[test]
    fn whatever_is_not_a_branch_is_refused() {
        for name in ["refs/notes/x", "refs/flyloft/pr-1", "HEAD", "refs/heads/", "refs/heads/a..b", "refs/heads/-x"] {
            assert!(parsed(&format!("{ZERO} {NEW} {name}\n")).is_err(), "{name} was accepted");
        }
    }

    #[test]
    fn a_hook_that_talks_nonsense_is_not_believed() {
        let twice = format!("{OLD} {NEW} refs/heads/main\n").repeat(2);
        let many: String = (0..65).map(|n| format!("{ZERO} {NEW} refs/heads/b{n}\n")).collect();
        for refs in ["", "\n", "a b c\n", &format!("{OLD} refs/heads/main\n"), &twice, &many] {
            assert!(parsed(refs).is_err(), "{refs:?} was accepted");
        }
        assert!(parse(b"/etc\n", Path::new("/srv/shop.git/objects"), &Turn::default()).is_err());
        assert!(parse(b"", Path::new("/srv/shop.git/objects"), &Turn::default()).is_err());
    }
}
