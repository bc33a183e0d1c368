//! How git is run: as an unprivileged user, with a configuration that is all its own.
//!
//! Nothing that a repository, a push or the machine's own git configuration says makes git run a program, ask a
//! question, or speak another protocol than those listed here.

use std::path::{Path, PathBuf};

use crate::exec::Cmd;

/// Holds for every git process. See git-config(1).
const HARDENED: &[(&str, &str)] = &[
    ("protocol.allow", "never"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.protectNTFS", "true"),
    ("core.protectHFS", "true"),
    ("core.symlinks", "true"),
    // Files beyond this pass through git piece by piece, and are not compared with others. It would hold whatever is
    // smaller than 512 MB in memory.
    ("core.bigFileThreshold", "8m"),
    ("core.deltaBaseCacheLimit", "32m"),
    ("pack.deltaCacheSize", "32m"),
    ("pack.threads", "2"),
    ("pack.windowMemory", "32m"),
    ("credential.helper", ""),
    ("fetch.recurseSubmodules", "false"),
    ("gc.auto", "0"),
    // The door looks at branches as files.
    ("gc.packRefs", "false"),
    ("maintenance.auto", "false"),
    // A redirect could carry a token to another host, and the address check of a submodule past itself.
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("init.defaultBranch", "main"),
    ("init.templateDir", ""),
    ("submodule.recurse", "false"),
    ("transfer.fsckObjects", "true"),
    // Refs that the project keeps for itself; nobody sees them over the wire.
    ("transfer.hideRefs", "refs/flyloft"),
];

/// Defects that old and honest histories have, and that harm nobody. Everything else that fsck knows is refused,
/// which keeps `.git` entries, `..` and malicious `.gitmodules` files out.
const FORGIVEN: &[&str] = &[
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "multipleAuthors",
    "nulInCommit",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// A git that is about to be run in one repository, or in none.
#[derive(Clone, Debug)]
pub(super) struct Git {
    user: u32,
    /// Bytes that each process may have.
    memory: u64,
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
    repository: Option<PathBuf>,
}

impl Git {
    pub(super) fn new(user: u32, memory: u64) -> Self {
        let mut settings: Vec<_> = HARDENED.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        for section in ["fetch.fsck", "receive.fsck"] {
            settings.extend(FORGIVEN.iter().map(|defect| (format!("{section}.{defect}"), "ignore".to_owned())));
        }
        Self { user, memory, settings, env: Vec::new(), repository: None }
    }

    pub(super) fn within(mut self, repository: &Path) -> Self {
        self.repository = Some(repository.to_owned());
        self
    }

    /// The last setting of a name holds.
    pub(super) fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub(super) fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Reads objects of a push that is not accepted yet.
    pub(super) fn reading(self, quarantine: Option<&Quarantine>) -> Self {
        let Some(Quarantine { dir, objects }) = quarantine else { return self };
        self.env("GIT_OBJECT_DIRECTORY", dir.to_string_lossy())
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", objects.to_string_lossy())
            .env("GIT_QUARANTINE_PATH", dir.to_string_lossy())
    }

    /// `git COMMAND`, to which the caller adds the arguments. Settings go by the environment, where `ps` does not
    /// show them: one of them may be a token.
    pub(super) fn command(&self, command: &str) -> Cmd {
        let mut cmd = Cmd::new("git")
            .clear_env()
            .user(self.user)
            .most_memory(self.memory)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_COUNT", self.settings.len().to_string());
        for (number, (name, value)) in self.settings.iter().enumerate() {
            cmd = cmd.env(format!("GIT_CONFIG_KEY_{number}"), name).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        for (name, value) in &self.env {
            cmd = cmd.env(name, value);
        }
        match &self.repository {
            Some(repository) => cmd.dir(repository).env("GIT_DIR", repository).arg(command),
            None => cmd.dir("/").arg(command),
        }
    }
}

/// Where git keeps the objects of a push until its hook has accepted them. See git-receive-pack(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    dir: PathBuf,
    objects: PathBuf,
}

impl Quarantine {
    /// `dir` as the hook was told it, if it is one of the repository whose objects are in `objects`.
    pub(crate) fn parse(dir: &str, objects: &Path) -> Option<Self> {
        let dir = PathBuf::from(dir);
        let name = dir.file_name()?.to_str()?;
        let random = name.strip_prefix("tmp_objdir-incoming-")?;
        let sound = dir.parent()? == objects && random.bytes().all(|b| b.is_ascii_alphanumeric());
        sound.then(|| Self { dir, objects: objects.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantine_lies_in_the_repository_that_is_pushed_to() {
        let objects = Path::new("/srv/shop.git/objects");
        let accept = |dir: &str| Quarantine::parse(dir, objects).is_some();
        assert!(accept("/srv/shop.git/objects/tmp_objdir-incoming-aB3xYz"));
        assert!(!accept("/srv/blog.git/objects/tmp_objdir-incoming-aB3xYz"));
        assert!(!accept("/srv/shop.git/objects/../../blog.git/objects/tmp_objdir-incoming-a"));
        assert!(!accept("/srv/shop.git/objects/pack"));
        assert!(!accept("/srv/shop.git/objects/tmp_objdir-incoming-a:/etc"));
        assert!(!accept(""));
    }
}
