//! Where things lie: the configuration and the directories.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use russh::keys::HashAlg;

use super::{Step, file};
use crate::config::Config;
use crate::door::ssh::host_key;

/// What a package puts where the configuration belongs.
pub const EXAMPLE: &str = include_str!("../../../../flyloft.example.toml");

/// Makes a configuration out of the example, with the domain in it. One that is there is left as it is.
pub fn configuration(path: &Path, domain: Option<&str>) -> Step {
    let shown = path.display();
    match fs::read_to_string(path) {
        // What a package brought may still be given a domain.
        Ok(text) if text != EXAMPLE || domain.is_none() => kept(path, &text, domain),
        _ => match file::ensure(path, &example_for(domain), 0o644) {
            Ok(_) => Step::done("configuration", format!("`{shown}` for {}", domain.unwrap_or("localhost"))),
            Err(error) => Step::because("configuration", format!("failed to write `{shown}`"), &error),
        },
    }
}

fn kept(path: &Path, text: &str, domain: Option<&str>) -> Step {
    let shown = path.display();
    match Config::parse(text, path) {
        Err(error) => Step::failed("configuration", error.to_string()),
        Ok(config) => match domain {
            Some(domain) if config.domain != domain => {
                Step::failed("configuration", format!("`{shown}` says domain `{}`, not `{domain}`", config.domain))
                    .hint(format!("write `domain = \"{domain}\"` there"))
            }
            _ => Step::already("configuration", format!("`{shown}` for {}", config.domain)),
        },
    }
}

fn example_for(domain: Option<&str>) -> String {
    match domain {
        Some(domain) => EXAMPLE.replacen("#domain = \"localhost\"", &format!("domain = \"{domain}\""), 1),
        None => EXAMPLE.to_owned(),
    }
}

/// Others may pass through the state directory, since git runs as a user of its own in a directory below, and no more:
/// what lies below it may have been written by containers.
pub fn directories(config: &Config) -> Vec<Step> {
    vec![match closed_dir(&config.state_dir) {
        Ok(true) => Step::done("state directory", format!("`{}`", config.state_dir.display())),
        Ok(false) => Step::already("state directory", format!("`{}`", config.state_dir.display())),
        Err(error) => {
            Step::because("state directory", format!("failed to make `{}`", config.state_dir.display()), &error)
        }
    }]
}

/// The key by which clients recognise this server, with the fingerprint that they are shown at first.
pub fn host_key(config: &Config) -> Step {
    let path = config.state_dir.join(host_key::FILE);
    let there = path.exists();
    match host_key::load_or_make(&path) {
        Err(error) => Step::because("SSH host key", "failed to make it", &error),
        Ok(key) => {
            let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
            if there { Step::already("SSH host key", fingerprint) } else { Step::done("SSH host key", fingerprint) }
        }
    }
}

/// True if something was changed.
fn closed_dir(dir: &Path) -> io::Result<bool> {
    let made = !dir.is_dir();
    DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
    let open_to_others = fs::metadata(dir)?.permissions().mode() & 0o066 != 0;
    if open_to_others {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    }
    Ok(made || open_to_others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Outcome;

    #[test]
    fn a_configuration_is_made_with_the_domain_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flyloft.toml");
        assert_eq!(configuration(&path, Some("staging.example.org")).outcome, Outcome::Done);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(Config::parse(&text, &path).unwrap().domain, "staging.example.org");
        assert_eq!(configuration(&path, Some("staging.example.org")).outcome, Outcome::AlreadySo);
        assert_eq!(configuration(&path, None).outcome, Outcome::AlreadySo);
        assert_eq!(configuration(&path, Some("other.example.org")).outcome, Outcome::Failed);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn the_example_that_a_package_brought_takes_the_domain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flyloft.toml");
        fs::write(&path, EXAMPLE).unwrap();
        assert_eq!(configuration(&path, None).outcome, Outcome::AlreadySo);
        assert_eq!(configuration(&path, Some("staging.example.org")).outcome, Outcome::Done);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(Config::parse(&text, &path).unwrap().domain, "staging.example.org");
    }

    #[test]
    fn a_configuration_that_is_wrong_is_told_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flyloft.toml");
        fs::write(&path, "domian = \"x\"\n").unwrap();
        let step = configuration(&path, None);
        assert_eq!(step.outcome, Outcome::Failed);
        assert!(step.what.contains("unknown field `domian`"), "{}", step.what);
    }

    #[test]
    fn a_host_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { state_dir: dir.path().to_owned(), ..Config::default() };
        let first = host_key(&config);
        assert_eq!(first.outcome, Outcome::Done);
        assert!(first.what.starts_with("SHA256:"), "{}", first.what);
        let second = host_key(&config);
        assert_eq!((second.outcome, second.what), (Outcome::AlreadySo, first.what));
    }

    #[test]
    fn nobody_else_reads_or_writes_in_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let mode = || fs::metadata(&state).unwrap().permissions().mode() & 0o777;
        assert!(closed_dir(&state).unwrap());
        assert!(!closed_dir(&state).unwrap());
        assert_eq!(mode(), 0o711);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(closed_dir(&state).unwrap());
        assert_eq!(mode(), 0o711);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!closed_dir(&state).unwrap(), "stricter is fine");
    }
}
