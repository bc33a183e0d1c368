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

/// What is understood here. Manifests that people write have some kilobytes, and to understand one takes up to a hundred
/// times its size.
const MANIFEST_MAX: u64 = 1 << 20;
/// What is searched line by line, or only hashed and shown to a build step. The largest lock files that are seen have a
/// few megabytes.
const LOCK_MAX: u64 = 16 << 20;
/// Of all manifests of a build, and of all that its steps are shown beside the tree: both are kept until it ends.
const TOTAL_MAX: u64 = 32 << 20;
/// Of all source files that are searched.
const SOURCES_MAX: u64 = 64 << 20;
/// Names in one directory.
const NAMES_MAX: usize = 10_000;

pub struct Checkout {
    root: OwnedFd,
    /// Bytes that may still be read of each.
    left: Cell<u64>,
    sources_left: Cell<u64>,
}

impl Checkout {
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(dir, flags, Mode::empty())?;
        Ok(Self { root, left: Cell::new(TOTAL_MAX), sources_left: Cell::new(SOURCES_MAX) })
    }

    /// The content of a manifest; `None` where there is no such regular file.
    pub fn content(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        self.keep(path, MANIFEST_MAX)?.map(|found| found.read(path)).transpose()
    }

    /// The content of a file that a build step is shown.
    pub fn kept(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        self.keep(path, LOCK_MAX)?.map(|found| found.read(path)).transpose()
    }

    /// How much was read that is kept.
    pub fn kept_bytes(&self) -> u64 {
        TOTAL_MAX - self.left.get()
    }

    /// Opens a regular file that has no more than `max` bytes.
    fn find(&self, path: &str, max: u64) -> Result<Option<Found>, Unreadable> {
        match self.open_file(path)? {
            Some(found) if found.length > max => {
                let (found, max) = (grouped(found.length), grouped(max));
                Err(unreadable(path, format!("it has {found} bytes, and {max} are allowed")))
            }
            found => Ok(found),
        }
    }

    fn open_file(&self, path: &str) -> Result<Option<Found>, Unreadable> {
        let refuse = |why: &str| Err(unreadable(path, why.to_owned()));
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let file = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(Errno::EXDEV) => return refuse("it is a link that leaves the repository"),
            Err(Errno::ELOOP) => return refuse("it is a link to itself"),
            Err(error) => return refuse(&error.desc().to_lowercase()),
        };
        let meta = file.metadata().map_err(|error| unreadable(path, error.to_string()))?;
        Ok(meta.is_file().then(|| Found { file, length: meta.len() }))
    }

    /// Opens one whose content is going to be kept, and counts it.
    fn keep(&self, path: &str, max: u64) -> Result<Option<Found>, Unreadable> {
        let Some(found) = self.find(path, max)? else { return Ok(None) };
        let left = self.left.get().checked_sub(found.length);
        let max = grouped(TOTAL_MAX);
        let why =
            || format!("with it, the files that describe the app have more than the {max} bytes that are allowed");
        self.left.set(left.ok_or_else(|| unreadable(path, why()))?);
        Ok(Some(found))
    }

    fn resolve(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = CString::new(path).map_err(|_| Errno::ENOENT)?;
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.root.as_fd(), path.as_c_str(), how)
    }
}

/// An open regular file.
struct Found {
    file: File,
    length: u64,
}

impl Found {
    fn read(self, path: &str) -> Result<Vec<u8>, Unreadable> {
        let mut content = Vec::with_capacity(self.length as usize);
        let read = self.file.take(self.length).read_to_end(&mut content);
        read.map_err(|error| unreadable(path, error.to_string()))?;
        Ok(content)
    }

    /// A stray byte in a comment does not stop a package manager, so it does not stop a plan.
    fn text(self, path: &str) -> Result<String, Unreadable> {
        let content = self.read(path)?;
        Ok(String::from_utf8(content).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

fn unreadable(path: &str, why: String) -> Unreadable {
    Unreadable { path: path.to_owned(), why }
}

/// `1,048,576`: two sizes of which one is a little larger must not read the same.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

impl Tree for Checkout {
    fn read(&self, path: &str) -> Result<Option<String>, Unreadable> {
        self.keep(path, MANIFEST_MAX)?.map(|found| found.text(path)).transpose()
    }

    fn lock(&self, path: &str) -> Result<Option<String>, Unreadable> {
        self.find(path, LOCK_MAX)?.map(|found| found.text(path)).transpose()
    }

    fn peek(&self, path: &str) -> Result<Option<String>, Unreadable> {
        // Nothing depends on it: a link that leads elsewhere is an entry like any other.
        let Ok(Some(found)) = self.open_file(path) else { return Ok(None) };
        if found.length > MANIFEST_MAX {
            return Ok(None);
        }
        let Some(left) = self.sources_left.get().checked_sub(found.length) else { return Ok(None) };
        self.sources_left.set(left);
        found.text(path).map(Some)
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
        assert_eq!(
            error.to_string(),
            "failed to read `package.json`: it has 5,368,709,120 bytes, and 1,048,576 are allowed"
        );
    }

    #[test]
    fn a_manifest_may_have_a_mebibyte_and_a_lock_file_more() {
        let (dir, checkout) = checkout();
        let sized = |name: &str, length| File::create(dir.path().join("inside").join(name)).unwrap().set_len(length);
        sized("app.json", MANIFEST_MAX).unwrap();
        sized("large.json", MANIFEST_MAX + 1).unwrap();
        assert_eq!(checkout.content("app.json").unwrap().unwrap().len(), 1 << 20);
        assert!(checkout.read("app.json").unwrap().is_some());
        let too_large = "it has 1,048,577 bytes, and 1,048,576 are allowed";
        assert_eq!(checkout.content("large.json").unwrap_err().why, too_large);
        assert_eq!(checkout.read("large.json").unwrap_err().why, too_large);
        assert!(checkout.lock("large.json").unwrap().is_some());
        assert!(checkout.kept("large.json").unwrap().is_some());
        sized("package-lock.json", LOCK_MAX + 1).unwrap();
        let too_large = "it has 16,777,217 bytes, and 16,777,216 are allowed";
        assert_eq!(checkout.lock("package-lock.json").unwrap_err().why, too_large);
        assert_eq!(checkout.kept("package-lock.json").unwrap_err().why, too_large);
    }

    #[test]
    fn source_that_is_too_large_to_be_searched_is_not_an_error() {
        let (dir, checkout) = checkout();
        let file = File::create(dir.path().join("inside/app.py")).unwrap();
        file.set_len(MANIFEST_MAX).unwrap();
        for _ in 0..SOURCES_MAX / MANIFEST_MAX {
            assert!(checkout.peek("app.py").unwrap().is_some());
        }
        assert_eq!(checkout.peek("app.py").unwrap(), None, "what is searched has a bound in all");
        file.set_len(MANIFEST_MAX + 1).unwrap();
        let another = Checkout::open(&dir.path().join("inside")).unwrap();
        assert_eq!(another.peek("app.py").unwrap(), None);
    }

    #[test]
    fn many_files_are_read_up_to_a_total() {
        let (dir, checkout) = checkout();
        let file = File::create(dir.path().join("inside/big")).unwrap();
        file.set_len(LOCK_MAX).unwrap();
        for _ in 0..TOTAL_MAX / LOCK_MAX {
            assert!(checkout.kept("big").unwrap().is_some());
        }
        let why = checkout.kept("big").unwrap_err().why;
        assert!(why.starts_with("with it, the files that describe the app have more than"), "{why}");
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
