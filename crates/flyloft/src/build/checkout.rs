//! The files of a repository on disk, read as what they are: something that a stranger made.
//!
//! The kernel resolves every path below the checkout's directory (openat2(2), `RESOLVE_BENEATH`): a link that leaves
//! it is an error, whatever it is called. Only regular files are read, up to a size, and all of them together up to
//! another.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use flyloft_core::plan::{Tree, Unreadable};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// The largest lock files that are seen have a few megabytes.
const FILE_MAX: u64 = 16 << 20;
/// Of everything that is read for one build.
const TOTAL_MAX: u64 = 128 << 20;
/// Names in one directory.
const NAMES_MAX: usize = 10_000;

pub struct Checkout {
    root: OwnedFd,
    /// Bytes that may still be read.
    left: Cell<u64>,
}

impl Checkout {
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(dir, flags, Mode::empty())?;
        Ok(Self { root, left: Cell::new(TOTAL_MAX) })
    }

    /// A regular file's content; `None` where there is none.
    pub fn content(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        let refuse = |why: String| Unreadable { path: path.to_owned(), why };
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let file = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(Errno::EXDEV) => return Err(refuse("it is a link that leaves the repository".to_owned())),
            Err(Errno::ELOOP) => return Err(refuse("it is a link to itself".to_owned())),
            Err(error) => return Err(refuse(error.desc().to_lowercase())),
        };
        let meta = file.metadata().map_err(|error| refuse(error.to_string()))?;
        if !meta.is_file() {
            return Ok(None);
        }
        if meta.len() > FILE_MAX {
            return Err(refuse(format!("it has {} MiB, and {} are allowed here", meta.len() >> 20, FILE_MAX >> 20)));
        }
        let Some(left) = self.left.get().checked_sub(meta.len()) else {
            return Err(refuse(format!("the files that describe the app have more than {} MiB", TOTAL_MAX >> 20)));
        };
        self.left.set(left);
        let mut content = Vec::with_capacity(meta.len() as usize);
        file.take(FILE_MAX).read_to_end(&mut content).map_err(|error| refuse(error.to_string()))?;
        Ok(Some(content))
    }

    fn resolve(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = CString::new(path).map_err(|_| Errno::ENOENT)?;
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.root.as_fd(), path.as_c_str(), how)
    }
}

impl Tree for Checkout {
    fn read(&self, path: &str) -> Result<Option<String>, Unreadable> {
        // A stray byte in a comment does not stop a package manager, so it does not stop a plan.
        Ok(self.content(path)?.map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    fn exists(&self, path: &str) -> bool {
        // What is there and leads out of the repository is there, so that reading it says what is wrong.
        !matches!(self.resolve(path, OFlag::O_PATH), Err(Errno::ENOENT | Errno::ENOTDIR))
    }

    fn list(&self, dir: &str) -> Vec<String> {
        let dir = if dir.is_empty() { "." } else { dir };
        let Ok(dir) = self.resolve(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return Vec::new() };
        let Ok(dir) = Dir::from_fd(dir) else { return Vec::new() };
        let names = dir.into_iter().flatten().take(NAMES_MAX);
        let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn checkout() -> (tempfile::TempDir, Checkout) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let checkout = Checkout::open(&inside).unwrap();
        (dir, checkout)
    }

    #[test]
    fn links_that_leave_the_repository_are_refused_in_every_form() {
        let (dir, checkout) = checkout();
        let inside = dir.path().join("inside");
        symlink("../secret", inside.join("up")).unwrap();
        symlink("/etc/hostname", inside.join("absolute")).unwrap();
        symlink("..", inside.join("parent")).unwrap();
        for path in ["up", "absolute", "parent/secret", "../secret"] {
            let error = checkout.content(path).unwrap_err();
            assert_eq!(error.why, "it is a link that leaves the repository", "{path}");
            assert!(checkout.exists(path), "{path} is not passed over in silence");
        }
        assert_eq!(checkout.list("parent"), Vec::<String>::new());
    }

    #[test]
    fn a_link_within_the_repository_is_followed() {
        let (dir, checkout) = checkout();
        fs::write(dir.path().join("inside/base.txt"), "flask").unwrap();
        symlink("base.txt", dir.path().join("inside/requirements.txt")).unwrap();
        assert_eq!(checkout.read("requirements.txt").unwrap().as_deref(), Some("flask"));
    }

    #[test]
    fn a_file_of_5_gb_is_refused_without_reading_it() {
        let (dir, checkout) = checkout();
        let file = File::create(dir.path().join("inside/package.json")).unwrap();
        file.set_len(5 << 30).unwrap();
        let error = checkout.content("package.json").unwrap_err();
        assert_eq!(error.to_string(), "failed to read `package.json`: it has 5120 MiB, and 16 are allowed here");
    }

    #[test]
    fn many_files_are_read_up_to_a_total() {
        let (dir, checkout) = checkout();
        let file = File::create(dir.path().join("inside/big")).unwrap();
        file.set_len(FILE_MAX).unwrap();
        for _ in 0..TOTAL_MAX / FILE_MAX {
            assert!(checkout.content("big").unwrap().is_some());
        }
        assert!(checkout.content("big").unwrap_err().why.starts_with("the files that describe the app have more than"));
    }

    #[test]
    fn what_is_no_regular_file_is_not_there() {
        let (dir, checkout) = checkout();
        nix::unistd::mkfifo(&dir.path().join("inside/pipe"), Mode::S_IRWXU).unwrap();
        fs::create_dir(dir.path().join("inside/dir")).unwrap();
        assert_eq!(checkout.content("pipe").unwrap(), None);
        assert_eq!(checkout.content("dir").unwrap(), None);
        assert_eq!(checkout.content("dir/nothing").unwrap(), None);
    }

    #[test]
    fn strange_names_are_listed_or_left_out_but_never_a_problem() {
        use std::os::unix::ffi::OsStrExt;
        let (dir, checkout) = checkout();
        for name in [&b"a\nb"[..], b"-rf", b"\xff\xfe", "🦀".as_bytes()] {
            fs::write(dir.path().join("inside").join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
        }
        assert_eq!(checkout.list(""), ["-rf", "a\nb", "🦀"]);
    }
}
