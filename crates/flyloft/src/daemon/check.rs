//! `flyloft serve --check`: would a daemon start?

use std::fs::read_to_string;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use flyloft_core::host::Domain;
use nix::unistd::{AccessFlags, access};
use socket2::{Socket, Type};

use super::state::{INSTANCE, LOCK, must_be_restored};
use super::{change, front, lxc_config, must_be_root, no_logins, not_started};
use crate::config::{Config, EdgeKind};
use crate::door::ssh::host_key;
use crate::engine::lxc::LxcEngine;
use crate::error::{Error, OrFailed, Result};
use crate::handover;
use crate::machine::Port;
use crate::machine::ports::{self, Holder};
use crate::machine::tools::{self, Found};
use crate::sso;
use crate::store::{self, Store};
use crate::tls::{self, Pair};

/// Looks whether a daemon would start with this configuration, beside one that may be running. Nothing is changed, but for
/// files without content that an nginx is to include.
///
/// What is not looked at is what only the start itself tells: whether the store can be made into a newer one, and what the
/// kernel says to mounts and rules. For that there is a way back, see `handover.rs`.
pub async fn check(config: &Config) -> Result<()> {
    must_be_root()?;
    Domain::parse(&config.domain).map_err(Error::usage)?;
    let dir = &config.state_dir;
    must_be_the_same(dir, handover::asking().as_deref())?;
    can_be_made(dir).or_failed(|| format!("failed to use the state directory `{}`", dir.display()))?;
    must_be_restored(dir)?;
    Store::check(&dir.join(store::FILE)).or_failed(|| "failed to read the store")?;
    let key = dir.join(host_key::FILE);
    if key.exists() {
        host_key::load_or_make(&key).or_failed(|| "failed to start the SSH door")?;
    }
    let instance = read_to_string(dir.join(INSTANCE)).ok().map(|text| text.trim().to_owned());
    let instance = instance.filter(|text| !text.is_empty()).unwrap_or_else(|| "000000".to_owned());
    LxcEngine::check(&lxc_config(config, dir, instance.clone(), &[])?).map_err(not_started)?;
    check_certificates(config)?;
    sso::identity(&config.sso).map_err(no_logins)?;
    front::proxies(config)?;
    let tools = tools::look().await;
    if let Some(tool) = tools.iter().find(|tool| tool.found == Found::Missing) {
        return Err(Error::failed(format!("`{}` is not installed", tool.program))
            .hint(format!("apt-get install --no-install-recommends {}", tool.package)));
    }
    let lock = dir.join(LOCK);
    check_socket(&config.socket, &lock)?;
    let doors = [
        ("HTTP", &config.http_addresses()),
        ("HTTPS", &config.https.listen),
        ("SSH", &config.ssh.listen),
        ("metrics", &config.metrics.listen),
    ];
    let mut ports = doors.into_iter().flat_map(|(door, addresses)| ports::look(door, addresses, &lock));
    if config.edge.kind == EdgeKind::Nginx {
        change::check(config, &instance).await?;
    }
    ports.try_for_each(|port| match &port.holder {
        // It has them for itself, or for us and lets go of them.
        Some(holder) if port.door.starts_with("HTTP") && is_nginx_s(config, holder) => Ok(()),
        _ => check_port(&port),
    })
}

/// Whether there could be TLS. What only time has made wrong is no reason to stay with what there was before.
fn check_certificates(config: &Config) -> Result<()> {
    let judge = |files| Pair::load(files, tls::now()).err().filter(|error| !error.is_about_time());
    tls::acme::Asked::of(config)?;
    match config.tls.certificates.iter().find_map(judge) {
        None => Ok(()),
        Some(error) => Err(Error::failed(&error).hint(error.hint())),
    }
}

/// Whether nginx has a port that clients of the edge come to, and may have it.
fn is_nginx_s(config: &Config, holder: &Holder) -> bool {
    match config.edge.kind {
        EdgeKind::Nginx => holder.name == "nginx",
        EdgeKind::Embedded => front::is_for_us(config, holder),
    }
}

/// The daemon that asks goes on in its own state directory: there is all that it has.
fn must_be_the_same(dir: &Path, asking: Option<&Path>) -> Result<()> {
    let real = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    match asking.filter(|asking| real(asking) != real(dir)) {
        None => Ok(()),
        Some(asking) => Err(Error::failed("`state_dir` cannot be changed by an upgrade")
            .hint(format!("leave it at `{}`", asking.display()))
            .hint("what is there moves with `flyloft backup` and `flyloft restore`")),
    }
}

/// Whether a directory is there, or could be.
fn can_be_made(dir: &Path) -> io::Result<()> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(there, AccessFlags::W_OK)?)
}

/// What the daemon has that runs in this state directory is handed over; what any other process has is not, whatever it
/// is called.
fn check_holder(holder: &Holder, failed: impl FnOnce() -> String) -> Result<()> {
    match holder.ours {
        true => Ok(()),
        false => Err(Error::failed(failed()).hint(format!("`{}` (process {}) has it", holder.name, holder.pid))),
    }
}

fn check_socket(path: &Path, lock: &Path) -> Result<()> {
    let failed = || format!("failed to listen at `{}`", path.display());
    if let Some(holder) = ports::look_at(path, lock) {
        return check_holder(&holder, failed);
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there")).or_failed(failed),
        Err(_) => can_be_made(path.parent().unwrap_or(Path::new("/"))).or_failed(failed),
    }
}

fn check_port(port: &Port) -> Result<()> {
    let Port { address, door, holder } = port;
    let failed = || format!("failed to listen on `{address}` for {door}");
    match holder {
        Some(holder) => check_holder(holder, failed),
        None => {
            let bound = Socket::new(socket2::Domain::for_address(*address), Type::STREAM, None)
                .and_then(|socket| socket.set_reuse_address(true).and_then(|()| socket.bind(&(*address).into())));
            bound.or_failed(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_stays_the_same_in_an_upgrade_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other) = (dir.path().join("state"), dir.path().join("other"));
        std::fs::create_dir(&state).unwrap();
        must_be_the_same(&state, None).unwrap();
        must_be_the_same(&dir.path().join("state/../state"), Some(&state)).unwrap();
        let refused = must_be_the_same(&other, Some(&state)).unwrap_err();
        assert_eq!(refused.what, "`state_dir` cannot be changed by an upgrade");
        assert_eq!(refused.hints[0], format!("leave it at `{}`", state.display()));
    }
}
