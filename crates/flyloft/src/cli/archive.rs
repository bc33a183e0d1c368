//! What `up --path` sends: a tar archive of a directory. All of it, or an error: a file that cannot be read or that
//! vanishes meanwhile must not become a deploy without it.
//!
//! Where git is used, that is what git tracks or would track, so that what is ignored stays where it is. Symbolic links
//! are sent as links, wherever they point.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinHandle;

use crate::error::{Error, OrFailed, Result};
use crate::exec::{self, Cmd, ExecError};

/// Of what tar complains about.
const COMPLAINT: u64 = 4096;

/// An archive that is being written.
pub struct Archive {
    dir: PathBuf,
    tar: Child,
    complaint: JoinHandle<String>,
}

impl Archive {
    pub async fn of(dir: &Path) -> Result<(Self, ChildStdout)> {
        let failed = || failed(dir);
        let kind = match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::usage(format!("there is no directory `{}`", dir.display())));
            }
            kind => kind.or_failed(failed)?,
        };
        if !kind.is_dir() {
            return Err(Error::usage(format!("`{}` is not a directory", dir.display()))
                .hint("send an archive to standard input: flyloft up APP --path - < FILE"));
        }
        let names = names(dir).await?;
        if names.is_empty() {
            return Err(Error::usage(format!("there is nothing to send in `{}`", dir.display())));
        }
        let tar = Cmd::new("tar")
            .args(["--create", "--file=-", "--null", "--verbatim-files-from", "--no-recursion", "--files-from=-"])
            .env("TAR_OPTIONS", "")
            .env("LC_ALL", "C")
            .dir(dir);
        let mut tar = tar.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped()).or_failed(failed)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (tar.stdin.take(), tar.stdout.take(), tar.stderr.take())
        else {
            return Err(Error::failed(failed()));
        };
        tokio::spawn(async move {
            for name in names {
                // When tar ends before it has read all, its status says why.
                if stdin.write_all(&[name.as_os_str().as_bytes(), b"\0"].concat()).await.is_err() {
                    return;
                }
            }
        });
        let complaint = tokio::spawn(async move {
            let (mut text, mut stderr) = (Vec::new(), stderr);
            let _ = (&mut stderr).take(COMPLAINT).read_to_end(&mut text).await;
            // Or tar would wait for somebody to read the rest.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok((Self { dir: dir.to_owned(), tar, complaint }, stdout))
    }

    /// After its last byte: whether that was all of the directory.
    pub async fn end(&mut self) -> Result<()> {
        let failed = || failed(&self.dir);
        let status = self.tar.wait().await.or_failed(failed)?;
        if status.success() {
            return Ok(());
        }
        let mut error = Error::failed(failed());
        error.causes.push(format!(
            "`tar` {}: {}",
            exec::ending(status),
            (&mut self.complaint).await.unwrap_or_default()
        ));
        Err(error.hint("nothing was deployed"))
    }
}

fn failed(dir: &Path) -> String {
    format!("failed to read the directory `{}`", dir.display())
}

/// What is sent, relative to the directory.
async fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    match tracked(dir).await? {
        Some(listed) => {
            let mut listed = vec![(PathBuf::new(), listed)];
            while let Some((below, listing)) = listed.pop() {
                for name in listing.split(|byte| *byte == 0).filter(|name| !matches!(*name, b"" | b"./")) {
                    let name = below.join(OsStr::from_bytes(name));
                    let path = dir.join(&name);
                    let Ok(meta) = path.symlink_metadata() else { continue };
                    if !meta.is_dir() {
                        names.push(checked(name, &meta)?);
                    } else if path.join(".git").exists() {
                        // A submodule, or another repository that lies in this one.
                        listed.push((name, list(&path).await?));
                    } else if is_empty(&path) {
                        return Err(Error::usage(format!("submodule `{}` is not checked out", name.display()))
                            .hint("git submodule update --init --recursive"));
                    }
                }
            }
        }
        None => walk(dir, Path::new(""), &mut names)?,
    }
    Ok(names)
}

/// What git tracks or would track in the directory; `None` where it is not asked.
async fn tracked(dir: &Path) -> Result<Option<Vec<u8>>> {
    let whole = dir.canonicalize().or_failed(|| failed(dir))?;
    if !whole.ancestors().any(|above| above.join(".git").exists()) {
        return Ok(None);
    }
    // A directory that git ignores is what a build has made: all of it is wanted.
    let ignored = Cmd::new("git").args(["check-ignore", "--quiet", "."]).dir(dir).run().await;
    if ignored.is_ok() {
        return Ok(None);
    }
    list(dir).await.map(Some)
}

async fn list(dir: &Path) -> Result<Vec<u8>> {
    let git = Cmd::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"])
        .env("LC_ALL", "C")
        .dir(dir);
    let listing = git.run().await.map_err(|error| {
        let missing = matches!(&error, ExecError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let shown = Error::because(format!("failed to ask git what belongs to `{}`", dir.display()), error);
        if missing { shown.hint("install git, or send an archive: tar -c . | flyloft up APP --path -") } else { shown }
    });
    Ok(listing?.stdout)
}

/// Everything below a directory but git's own.
fn walk(dir: &Path, below: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let here = dir.join(below);
    let unreadable = || failed(&here);
    for entry in fs::read_dir(&here).or_failed(unreadable)? {
        let entry = entry.or_failed(unreadable)?;
        if entry.file_name() == ".git" {
            continue;
        }
        let name = below.join(entry.file_name());
        let meta = entry.metadata().or_failed(unreadable)?;
        names.push(checked(name.clone(), &meta)?);
        if meta.is_dir() {
            walk(dir, &name, names)?;
        }
    }
    Ok(())
}

/// What is no file, directory or link is nothing that could be deployed.
fn checked(name: PathBuf, meta: &Metadata) -> Result<PathBuf> {
    let kind = meta.file_type();
    let other = match () {
        () if kind.is_socket() => "a socket",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => return Ok(name),
    };
    Err(Error::usage(format!("`{}` is {other}, which cannot be sent", name.display()))
        .hint("remove it, or add it to .gitignore in a git repository"))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::Kind;

    fn git(dir: &Path, args: &[&str]) -> Cmd {
        let own = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"];
        Cmd::new("git").args(own).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").dir(dir)
    }

    /// What arrives of a directory, sorted.
    async fn sent(dir: &Path) -> Result<Vec<String>> {
        let (mut archive, mut output) = Archive::of(dir).await?;
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).await.unwrap();
        archive.end().await?;
        let listed = Cmd::new("tar").args(["--list", "--file=-"]).stdin(bytes).run().await.unwrap().stdout;
        let mut names: Vec<String> = String::from_utf8(listed).unwrap().lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn project(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    #[tokio::test]
    async fn everything_is_sent_where_git_is_not_used() {
        let dir = project(&["app.py", "-x", "a\nb", ".gitignore", "lib/b.py", "lib/.git/config"]);
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        let names = sent(dir.path()).await.unwrap();
        assert_eq!(names, ["-x", ".gitignore", "a\\nb", "app.py", "empty/", "lib/", "lib/b.py", "link"]);
    }

    #[tokio::test]
    async fn what_git_ignores_is_not_sent_and_what_it_does_not_know_yet_is() {
        let dir = project(&["app.py", "gone.py", "new.py", ".env", "dist/site.html", "nested/n.py"]);
        fs::write(dir.path().join(".gitignore"), ".env\ndist\n").unwrap();
        git(dir.path(), &["init", "--quiet"]).run().await.unwrap();
        git(dir.path(), &["add", "app.py", "gone.py", ".gitignore"]).run().await.unwrap();
        fs::remove_file(dir.path().join("gone.py")).unwrap();
        git(&dir.path().join("nested"), &["init", "--quiet"]).run().await.unwrap();
        assert_eq!(sent(dir.path()).await.unwrap(), [".gitignore", "app.py", "nested/n.py", "new.py"]);
        // Said by name, it is what is wanted.
        assert_eq!(sent(&dir.path().join("dist")).await.unwrap(), ["site.html"]);
    }

    #[tokio::test]
    async fn submodules_are_sent_with_their_files_or_not_at_all() {
        let theme = project(&["theme.css"]);
        for args in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message", "Theme"]] {
            git(theme.path(), args).run().await.unwrap();
        }
        let dir = project(&["index.html"]);
        git(dir.path(), &["init", "--quiet"]).run().await.unwrap();
        let url = theme.path().to_str().unwrap();
        let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, "theme"];
        git(dir.path(), &add).run().await.unwrap();
        assert_eq!(sent(dir.path()).await.unwrap(), [".gitmodules", "index.html", "theme/theme.css"]);
        git(dir.path(), &["submodule", "--quiet", "deinit", "--force", "theme"]).run().await.unwrap();
        assert_eq!(sent(dir.path()).await.unwrap_err().what, "submodule `theme` is not checked out");
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused_by_name() {
        let dir = project(&["app.py"]);
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = sent(dir.path()).await.unwrap_err();
        assert_eq!((error.kind, error.what.as_str()), (Kind::Usage, "`pipe` is a named pipe, which cannot be sent"));
        fs::remove_file(dir.path().join("pipe")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert_eq!(sent(dir.path()).await.unwrap_err().what, "`socket` is a socket, which cannot be sent");
    }

    #[tokio::test]
    async fn a_path_that_is_no_directory_or_an_empty_one_is_told_so() {
        let dir = project(&["app.py"]);
        let file = dir.path().join("app.py");
        assert_eq!(sent(&file).await.unwrap_err().what, format!("`{}` is not a directory", file.display()));
        let missing = dir.path().join("missing");
        assert_eq!(sent(&missing).await.unwrap_err().what, format!("there is no directory `{}`", missing.display()));
        fs::remove_file(&file).unwrap();
        assert!(sent(dir.path()).await.unwrap_err().what.starts_with("there is nothing to send"));
    }

    #[tokio::test]
    async fn a_file_that_vanishes_while_it_is_sent_is_an_error() {
        // More than the pipe holds, so that tar is still at the first when the second vanishes.
        let dir = project(&["a", "b"]);
        fs::write(dir.path().join("a"), vec![0; 4 << 20]).unwrap();
        git(dir.path(), &["init", "--quiet"]).run().await.unwrap();
        let (mut archive, mut output) = Archive::of(dir.path()).await.unwrap();
        fs::remove_file(dir.path().join("b")).unwrap();
        tokio::io::copy(&mut output, &mut tokio::io::sink()).await.unwrap();
        let error = archive.end().await.unwrap_err();
        assert!(error.to_string().contains("b: Cannot stat"), "{error}");
    }
}
