//! A tar archive that a client sends, unpacked while it arrives: all of it, or none.
//!
//! It is held to what a push is held to, by what tar says of each member before it writes it. A stream that breaks off
//! between two members is a whole archive to tar, so the mark at its end is asked for.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use flyloft_core::disk::{Shortage, Unit};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::Child;

use super::reply::size;
use crate::engine::lxc;
use crate::error::{Error, OrFailed, Result};
use crate::exec::Cmd;
use crate::source::SourceLimits;

/// Of what tar complains about.
const COMPLAINT: u64 = 4096;
/// The free space is looked at after as many bytes.
const STRETCH: usize = 1 << 20;

/// Where it goes, and how much of it may.
pub(super) struct Unpacking {
    pub(super) dir: PathBuf,
    /// What is written belongs to this user id.
    pub(super) user: u32,
    pub(super) limits: SourceLimits,
    /// Bytes that stay free on the file system.
    pub(super) floor: u64,
}

impl Unpacking {
    /// Whether there is room for anything.
    pub(super) fn check_space(&self, dir: &Path) -> Result<()> {
        for unit in Unit::ALL {
            let space = lxc::space(dir, unit).or_failed(|| "failed to ask for the free space")?;
            let floor = space.floor(self.floor);
            if space.free < floor {
                let shortage = Shortage { space, floor, ours: None };
                return Err(Error::failed(format!("the disk is full: {shortage}"))
                    .hint("destroy environments that nobody needs, or make room on the server's disk beside them")
                    .hint(unit.hint()));
            }
        }
        Ok(())
    }

    /// After an error, the directory holds some of it.
    pub(super) async fn unpack(&self, archive: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        let failed = || "failed to unpack the archive";
        let tar = Cmd::new("tar")
            .args(["--extract", "--file=-", "--no-same-owner", "--no-same-permissions", "--delay-directory-restore"])
            .args(["--verbose", "--verbose", "--block-number", "--numeric-owner", "--quoting-style=escape"])
            .dir(&self.dir)
            .user(self.user)
            .clear_env()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C");
        let mut child = tar.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped()).or_failed(failed)?;
        let read = self.read(&mut child, archive).await;
        if read.is_err() {
            // What it writes after the directory is gone would stay.
            let _ = child.kill().await;
        }
        let (whole, complaint) = read?;
        let status = child.wait().await.or_failed(failed)?;
        if status.success() && whole {
            return Ok(());
        }
        if status.success() || complaint.contains("Unexpected EOF in archive") {
            return Err(Error::failed("the archive breaks off before its end")
                .hint("nothing was deployed; send it again: what made it has failed, or the connection"));
        }
        let mut error = Error::usage("standard input is not a tar archive that can be unpacked");
        error.causes.push(complaint);
        Err(error)
    }

    /// Whether the archive's end was seen, and what tar complained about.
    async fn read(&self, tar: &mut Child, archive: &mut (impl AsyncRead + Unpin)) -> Result<(bool, String)> {
        let (Some(stdin), Some(stdout), Some(mut stderr)) = (tar.stdin.take(), tar.stdout.take(), tar.stderr.take())
        else {
            return Err(Error::failed("failed to talk to `tar`"));
        };
        let complain = async {
            let mut text = Vec::new();
            let _ = (&mut stderr).take(COMPLAINT).read_to_end(&mut text).await;
            // Or tar would wait for somebody to read the rest.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            Ok(String::from_utf8_lossy(&text).trim().to_owned())
        };
        let ((), whole, complaint) = tokio::try_join!(self.feed(archive, stdin), self.charge(stdout), complain)?;
        Ok((whole, complaint))
    }

    async fn feed(&self, archive: &mut (impl AsyncRead + Unpin), mut tar: impl AsyncWrite + Unpin) -> Result<()> {
        let mut piece = vec![0; 64 << 10];
        let (mut sent, mut looked) = (0, 0);
        loop {
            let count = archive.read(&mut piece).await.or_failed(|| "failed to read the archive")?;
            sent += count as u64;
            if sent > self.limits.tree {
                return Err(self.too_large());
            }
            looked += count;
            if looked >= STRETCH {
                self.check_space(&self.dir)?;
                looked = 0;
            }
            // What tar does not read it has no use for; its status says why.
            if count == 0 || tar.write_all(&piece[..count]).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Adds up the members as tar names them. Says whether it came to the archive's end.
    async fn charge(&self, listing: impl AsyncRead + Unpin) -> Result<bool> {
        let mut listing = BufReader::new(listing);
        let (mut line, mut sum) = (Vec::new(), Sum::default());
        while (&mut listing).take(64 << 10).read_until(b'\n', &mut line).await.or_failed(|| "failed to read of tar")?
            > 0
        {
            sum.add(&String::from_utf8_lossy(&line));
            line.clear();
            if sum.bytes > self.limits.tree {
                return Err(self.too_large());
            }
            if sum.files > self.limits.files {
                return Err(Error::usage(format!("the archive has more than {} files", self.limits.files))
                    .hint("leave out what the app does not need: what .gitignore names is not sent"));
            }
        }
        Ok(sum.ended)
    }

    fn too_large(&self) -> Error {
        Error::usage(format!("the archive is larger than {}", size(self.limits.tree)))
            .hint("leave out what the app does not need: what .gitignore names is not sent")
    }
}

/// What an archive has so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    files: u64,
    bytes: u64,
    ended: bool,
    /// Of the newest member.
    path: Vec<String>,
}

impl Sum {
    /// `block 4: -rw-r--r-- 0/0 2 2026-11-24 10:31 app.py`, and `block 9: ** Block of NULs **` at the end (GNU tar's
    /// manual, "--block-number" and "--verbose").
    fn add(&mut self, line: &str) {
        let member = line.split_once(": ").map_or(line, |(_, member)| member).trim_end();
        if member == "** Block of NULs **" {
            self.ended = true;
            return;
        }
        let mut fields = member.splitn(2, char::is_whitespace);
        let kind = fields.next().unwrap_or_default();
        let mut rest = fields.next().unwrap_or_default();
        let mut field = || {
            let (field, after) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest, ""));
            rest = after;
            field
        };
        let (_owner, bytes, _date, _time) = (field(), field(), field(), field());
        // A device has numbers here.
        self.bytes = self.bytes.saturating_add(bytes.parse().unwrap_or_default());
        let name = match kind.as_bytes().first() {
            Some(b'l') => rest.split_once(" -> ").map_or(rest, |(name, _)| name),
            Some(b'h') => rest.split_once(" link to ").map_or(rest, |(name, _)| name),
            _ => rest,
        };
        // Directories above it that were not named themselves are made as well.
        let path: Vec<String> = name.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect();
        let known = path.iter().zip(&self.path).take_while(|(new, old)| new == old).count();
        self.files += (path.len() - known).max(1) as u64;
        self.path = path;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn unpacking(dir: &Path) -> Unpacking {
        let dir = dir.join("into");
        fs::create_dir(&dir).unwrap();
        let limits = SourceLimits { tree: 1 << 20, files: 20, ..SourceLimits::default() };
        Unpacking { dir, user: nix::unistd::geteuid().as_raw(), limits, floor: 0 }
    }

    /// An archive of what `make` puts into a directory.
    async fn archive(make: impl Fn(&Path)) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let tar = Cmd::new("tar").args(["--create", "--sparse", "--sort=name", "--file=-", "."]).dir(dir.path());
        tar.run().await.unwrap().stdout
    }

    async fn unpacked(archive: &[u8], change: impl Fn(&mut Unpacking)) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let mut unpacking = unpacking(dir.path());
        change(&mut unpacking);
        unpacking.unpack(&mut &*archive).await?;
        let mut names: Vec<String> = fs::read_dir(&unpacking.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        Ok(names)
    }

    fn two_files(dir: &Path) {
        fs::write(dir.join("a.py"), "one").unwrap();
        fs::write(dir.join("b.py"), "two").unwrap();
    }

    #[tokio::test]
    async fn an_archive_that_breaks_off_anywhere_is_not_taken_for_a_whole_one() {
        let whole = archive(two_files).await;
        assert_eq!(unpacked(&whole, |_| ()).await.unwrap(), ["a.py", "b.py"]);
        // The directory has one block, each file two: 2560 is the border between the last and the mark.
        for length in [512, 1024, 1100, 1536, 2048, 2500, 2560] {
            let error = unpacked(&whole[..length], |_| ()).await.unwrap_err();
            assert_eq!(error.what, "the archive breaks off before its end", "{length}: {error}");
        }
        // The rest only fills up tar's last record.
        assert!(unpacked(&whole[..2560 + 1024], |_| ()).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_archive_is_told_so() {
        for archive in [&b""[..], &[7; 4096]] {
            let error = unpacked(archive, |_| ()).await.unwrap_err();
            assert_eq!(error.what, "standard input is not a tar archive that can be unpacked");
        }
    }

    #[tokio::test]
    async fn files_are_counted_before_they_fill_the_disk() {
        let many = archive(|dir| (0..30).for_each(|n| fs::write(dir.join(n.to_string()), "").unwrap())).await;
        assert_eq!(unpacked(&many, |_| ()).await.unwrap_err().what, "the archive has more than 20 files");
        assert_eq!(unpacked(&many, |unpacking| unpacking.limits.files = 31).await.unwrap().len(), 30);
    }

    #[tokio::test]
    async fn a_hole_counts_like_what_it_stands_for() {
        let sparse = archive(|dir| fs::File::create(dir.join("hole")).unwrap().set_len(2 << 20).unwrap()).await;
        assert!(sparse.len() < 64 << 10);
        assert_eq!(unpacked(&sparse, |_| ()).await.unwrap_err().what, "the archive is larger than 1.0 MiB");
    }

    #[tokio::test]
    async fn a_disk_that_fills_up_meanwhile_ends_it() {
        let large = archive(|dir| fs::write(dir.join("large"), vec![1; STRETCH]).unwrap()).await;
        let full = |unpacking: &mut Unpacking| (unpacking.floor, unpacking.limits.tree) = (u64::MAX, u64::MAX);
        let error = unpacked(&large, full).await.unwrap_err();
        assert!(error.what.starts_with("the disk is full"), "{error}");
    }

    #[test]
    fn members_are_added_up_with_the_directories_that_they_need() {
        let mut sum = Sum::default();
        for (line, files, bytes) in [
            ("block 1: drwxr-xr-x 0/0               0 2026-11-24 10:31 ./", 1, 0),
            ("block 2: -rw-r--r-- 0/0      1073741824 2026-11-24 10:31 ./a/b/c d: e", 4, 1 << 30),
            ("block 3: lrwxrwxrwx 0/0               0 2026-11-24 10:35 a/b/sl -> /x/y/z", 5, 1 << 30),
            ("block 4: hrw-r--r-- 0/0               0 2026-11-24 10:31 a/b/hard link to q/r/s", 6, 1 << 30),
            ("block 5: crw-r--r-- 0/0             1,3 2026-11-24 10:35 a/dev", 7, 1 << 30),
            ("block 6: -rw-r--r-- 0/0               7 2026-11-24 10:31 new\\nline", 8, (1 << 30) + 7),
            ("whatever", 9, (1 << 30) + 7),
        ] {
            sum.add(line);
            assert_eq!((sum.files, sum.bytes, sum.ended), (files, bytes, false), "{line}");
        }
        sum.add("block 14: ** Block of NULs **\n");
        assert!(sum.ended);
    }

    #[tokio::test]
    async fn links_arrive_as_links() {
        let linked = archive(|dir| symlink("/etc/passwd", dir.join("link")).unwrap()).await;
        assert_eq!(unpacked(&linked, |_| ()).await.unwrap(), ["link"]);
    }
}
