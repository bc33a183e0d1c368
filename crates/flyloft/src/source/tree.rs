//! What a commit contains, known before a byte of it is written.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flyloft_core::name::CommitId;

/// A listing by `git ls-tree -r -l -z`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) submodules: Vec<(PathBuf, CommitId)>,
    /// `.gitattributes` files.
    attributes: Vec<PathBuf>,
    /// Files that are small enough to be Git LFS pointers.
    small: Vec<PathBuf>,
}

/// The longest that a Git LFS pointer may be, by its specification.
const POINTER: u64 = 1024;

impl Tree {
    /// `MODE SP TYPE SP OBJECT SP+ SIZE TAB PATH NUL`, see git-ls-tree(1). `None` if it is anything else.
    pub(super) fn parse(listing: &[u8]) -> Option<Self> {
        let mut tree = Self::default();
        for entry in listing.split(|b| *b == 0).filter(|entry| !entry.is_empty()) {
            let tab = entry.iter().position(|b| *b == b'\t')?;
            let (head, path) =
                (str::from_utf8(&entry[..tab]).ok()?, PathBuf::from(OsStr::from_bytes(&entry[tab + 1..])));
            let mut fields = head.split_ascii_whitespace();
            let (mode, _, object, size) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            tree.files += 1;
            if mode == "160000" {
                tree.submodules.push((path, CommitId::parse(object).ok()?));
                continue;
            }
            let size: u64 = size.parse().ok()?;
            tree.bytes = tree.bytes.saturating_add(size);
            if mode.starts_with("100") {
                if path.file_name().is_some_and(|name| name == ".gitattributes") {
                    tree.attributes.push(path.clone());
                }
                if (1..=POINTER).contains(&size) {
                    tree.small.push(path);
                }
            }
        }
        Some(tree)
    }

    /// The files that are Git LFS pointers instead of what they point at, once the tree is in `dir`. Only a
    /// repository that says that it uses Git LFS is looked through.
    pub(super) fn lfs_pointers(&self, dir: &Path) -> Vec<PathBuf> {
        let uses_lfs = |path: &PathBuf| {
            read(&dir.join(path), 1 << 20).is_some_and(|text| text.windows(10).any(|w| w == b"filter=lfs"))
        };
        if !self.attributes.iter().any(uses_lfs) {
            return Vec::new();
        }
        let pointer = |path: &&PathBuf| {
            read(&dir.join(path), POINTER)
                .is_some_and(|text| text.starts_with(b"version https://git-lfs.github.com/spec/"))
        };
        self.small.iter().filter(pointer).cloned().collect()
    }
}

/// The beginning of a regular file; a symlink is not followed.
fn read(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = "1111111111111111111111111111111111111111";

    #[test]
    fn a_listing_is_summed_up() {
        let listing = format!(
            "100644 blob {OBJECT}    2000\tapp.py\0120000 blob {OBJECT}      11\tlink\0\
             160000 commit {OBJECT}       -\tlib/theme\0100755 blob {OBJECT}      30\ta\tb\n\0"
        );
        let tree = Tree::parse(listing.as_bytes()).unwrap();
        assert_eq!((tree.files, tree.bytes), (4, 2041));
        assert_eq!(tree.submodules, [(PathBuf::from("lib/theme"), CommitId::parse(OBJECT).unwrap())]);
        assert_eq!(tree.small, [PathBuf::from("a\tb\n")]);
    }

    #[test]
    fn anything_else_is_no_listing() {
        for listing in ["x", "100644 blob\tx", "100644 blob 12 x\ty", "160000 commit xyz -\tlib"] {
            assert_eq!(Tree::parse(listing.as_bytes()), None, "{listing:?}");
        }
    }
}
