//! What nginx reads of us, and the sockets by which it reaches us: all in one directory, below the state directory.
//!
//! Its workers run as a user of their own, who owns the two sockets; nobody else may connect there, since what comes in
//! says of itself where it is from.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use flyloft_core::name::AppName;
use flyloft_core::nginx::{Site, Told};
use nix::unistd::{Uid, chown};

use crate::config::{Config, EdgeKind};

/// For the site's `http` block.
pub const HTTP: &str = "flyloft.conf";
/// What holds for every host name.
pub const PROXY: &str = "proxy.conf";
/// What requests are passed on with, and where to: for a `location` block.
pub const HEADERS: &str = "headers.conf";
pub const PASS: &str = "pass.conf";
/// All of these, those first that others include.
pub const ALL: [&str; 5] = [HEADERS, PASS, PROXY, SERVER, HTTP];
/// A directory: lines of the administrator's for apps, each in a file of its own.
pub const SNIPPETS: &str = "snippets";
/// A directory: why those of an app are not used.
pub const REFUSED: &str = "refused";
/// What of TLS nginx does not take, and why, if there is anything.
pub const REFUSED_TLS: &str = "refused-tls";
/// For a `server` block: ours, and one of the site's that serves the same names.
pub const SERVER: &str = "server.conf";
/// Where requests come in that do not go straight.
pub const EDGE: &str = "edge.sock";
/// Where nginx logs those that did.
pub const LOG: &str = "log.sock";

/// The directory, in the state directory.
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("nginx")
}

/// Where nginx reads certificates and keys, in the state directory. It is no part of the other one, which is another one
/// where something is tried.
pub fn certificates(state_dir: &Path) -> PathBuf {
    state_dir.join("nginx-tls")
}

/// Removes copies of certificates that nginx reads no more.
pub fn remove_certificates(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "failed to remove the copies of certificates that nginx had");
    }
}

/// Where a socket of ours is, if this configuration has one.
pub fn expected(config: &Config, socket: &str) -> Option<PathBuf> {
    (config.edge.kind == EdgeKind::Nginx).then(|| dir(&config.state_dir).join(socket))
}

/// Makes the directory, and a file that says nothing where there is none, so that a site can include it.
pub fn prepare(dir: &Path, nothing: &str) -> io::Result<()> {
    // nginx's workers pass through it.
    DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
    for file in ALL {
        if !dir.join(file).exists() {
            write(dir, file, nothing)?;
        }
    }
    Ok(())
}

/// Whether nginx is told something: it is the edge, or was it last.
pub fn says_something(dir: &Path) -> bool {
    fs::read_to_string(dir.join(HTTP)).is_ok_and(|said| !said.is_empty() && said != Site::nothing())
}

/// Whoever reads it meanwhile sees the old or the new. After a power cut it is written anew.
pub fn write(dir: &Path, file: &str, text: &str) -> io::Result<()> {
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.persist(dir.join(file)).map(drop).map_err(|error| error.error)
}

/// Writes all that nginx reads of us but for snippets. It begins with the last of them to be written.
pub fn write_site(dir: &Path, site: Site<'_>, told: &Told) -> io::Result<()> {
    for (file, text) in ALL.into_iter().zip([site.headers(), site.pass(), site.proxy(), site.server(), site.http(told)])
    {
        write(dir, file, &text)?;
    }
    Ok(())
}

/// Has a directory hold these texts, each in a file that is called like its app.
pub fn put(dir: &Path, suffix: &str, texts: &BTreeMap<AppName, String>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
    for (app, text) in texts {
        let file = format!("{app}{suffix}");
        if fs::read_to_string(dir.join(&file)).ok().as_ref() != Some(text) {
            write(dir, &file, text)?;
        }
    }
    Ok(())
}

/// Has it hold nothing else.
pub fn keep_only(dir: &Path, suffix: &str, texts: &BTreeMap<AppName, String>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let app = name.to_str().and_then(|name| AppName::parse(name.strip_suffix(suffix)?).ok());
        if !app.is_some_and(|app| texts.contains_key(&app)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The texts that a directory holds.
pub fn texts(dir: &Path, suffix: &str) -> BTreeMap<AppName, String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let text = |path: PathBuf| {
        let app = AppName::parse(path.file_name()?.to_str()?.strip_suffix(suffix)?).ok()?;
        Some((app, fs::read_to_string(path).ok()?))
    };
    entries.filter_map(|entry| text(entry.path())).collect()
}

/// Listens where nginx brings requests, with the socket that was handed over if there is one.
pub fn listen(dir: &Path, user: Uid, inherited: Option<OwnedFd>) -> io::Result<UnixListener> {
    let path = dir.join(EDGE);
    let listener = match inherited {
        Some(socket) => socket.into(),
        None => {
            clear(&path)?;
            UnixListener::bind(&path)?
        }
    };
    hand_over(&path, user)?;
    Ok(listener)
}

/// Listens where nginx logs, in the same way.
pub fn hear(dir: &Path, user: Uid, inherited: Option<OwnedFd>) -> io::Result<UnixDatagram> {
    let path = dir.join(LOG);
    let socket = match inherited {
        Some(socket) => socket.into(),
        None => {
            clear(&path)?;
            UnixDatagram::bind(&path)?
        }
    };
    hand_over(&path, user)?;
    Ok(socket)
}

/// Removes what may be there: a socket that nobody has any more would be in the way of the next one.
pub fn clear(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn hand_over(path: &Path, user: Uid) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(chown(path, Some(user), None)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_directory_holds_the_texts_of_apps_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("snippets");
        let app = |name: &str| AppName::parse(name).unwrap();
        let names = || fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        keep_only(&dir, ".conf", &BTreeMap::new()).unwrap();
        put(&dir, ".conf", &BTreeMap::from([(app("shop"), "one".to_owned())])).unwrap();
        fs::write(dir.join("half"), "written").unwrap();
        let one = BTreeMap::from([(app("blog"), "two".to_owned())]);
        put(&dir, ".conf", &one).unwrap();
        keep_only(&dir, ".conf", &one).unwrap();
        assert_eq!(names(), ["blog.conf"]);
        assert_eq!(texts(&dir, ".conf"), one);
    }

    #[test]
    fn files_that_are_there_stay_and_sockets_are_one_user_s() {
        let state = tempfile::tempdir().unwrap();
        let dir = dir(state.path());
        assert!(!says_something(&dir));
        prepare(&dir, Site::nothing()).unwrap();
        assert!(!says_something(&dir));
        write(&dir, HTTP, "# something\n").unwrap();
        assert!(says_something(&dir));
        prepare(&dir, Site::nothing()).unwrap();
        assert_eq!(fs::read_to_string(dir.join(HTTP)).unwrap(), "# something\n");
        assert_eq!(fs::read_to_string(dir.join(SERVER)).unwrap(), Site::nothing());
        let own = nix::unistd::geteuid();
        for _ in 0..2 {
            let _sockets = (listen(&dir, own, None).unwrap(), hear(&dir, own, None).unwrap());
            for socket in [EDGE, LOG] {
                let found = dir.join(socket).metadata().unwrap();
                assert_eq!((found.uid(), found.mode() & 0o777), (own.as_raw(), 0o600), "{socket}");
            }
        }
    }
}
