//! The programs that the daemon runs, and the Debian packages that they come from.

use std::path::PathBuf;
use std::time::Duration;

use semver::Version;

use crate::exec::Cmd;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
    pub for_what: &'static str,
    pub found: Found,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Missing,
    /// There, of a version that it does not tell.
    Unversioned,
    Version(Version),
    /// Older than is known to work.
    TooOld {
        have: Version,
        need: Version,
    },
}

/// Program, how it is asked for its version, oldest version that is known to work, package, purpose.
const TOOLS: [(&str, Option<&str>, &str, &str, &str); 10] = [
    ("lxc-start", Some("--version"), "4.0.0", "lxc", "containers"),
    ("lxc-attach", None, "", "lxc", "commands in containers"),
    ("newuidmap", None, "", "uidmap", "unprivileged containers"),
    ("mmdebstrap", Some("--version"), "1.0.0", "mmdebstrap", "stacks"),
    ("nft", Some("--version"), "0.9.8", "nftables", "the network of containers"),
    ("ip", None, "", "iproute2", "the network of containers"),
    ("git", Some("--version"), "2.30.0", "git", "pushes and pull requests"),
    ("modprobe", None, "", "kmod", "kernel modules"),
    ("tar", Some("--version"), "1.20.0", "tar", "layers"),
    ("update-ca-certificates", None, "", "ca-certificates", "HTTPS to package mirrors and git hosts"),
];

pub async fn look() -> Vec<Tool> {
    futures_util::future::join_all(TOOLS.iter().map(|(program, ask, oldest, package, for_what)| async move {
        Tool { program, package, for_what, found: find(program, *ask, oldest).await }
    }))
    .await
}

/// Debian packages that tools are missing from, each once.
pub fn missing_packages(tools: &[Tool]) -> Vec<&'static str> {
    let missing = tools.iter().filter(|tool| tool.found == Found::Missing).map(|tool| tool.package);
    let mut packages: Vec<&str> = missing.collect();
    packages.dedup();
    packages
}

async fn find(program: &str, ask: Option<&str>, oldest: &str) -> Found {
    if !in_path(program) {
        return Found::Missing;
    }
    let Some(ask) = ask else { return Found::Unversioned };
    let output = Cmd::new(program).arg(ask).timeout(Duration::from_secs(10)).run().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match (version(&text), version(oldest)) {
        (Some(have), Some(need)) if have < need => Found::TooOld { have, need },
        (Some(have), _) => Found::Version(have),
        (None, _) => Found::Unversioned,
    }
}

pub fn in_path(program: &str) -> bool {
    path(program).is_some()
}

/// Where the program is that is started by this name.
pub fn path(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(executable)
}

/// The first thing in a text that looks like a version, such as `git version 2.39.5` or `nftables v1.0.6 (…)`.
fn version(text: &str) -> Option<Version> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let numbers: Vec<u64> = word.split('.').map_while(|part| part.parse().ok()).collect();
        match numbers[..] {
            [major, minor] => Some(Version::new(major, minor, 0)),
            [major, minor, patch, ..] => Some(Version::new(major, minor, patch)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_print() {
        let is =
            |text, (major, minor, patch)| assert_eq!(version(text), Some(Version::new(major, minor, patch)), "{text}");
        is("5.0.2\n", (5, 0, 2));
        is("nftables v1.0.6 (Lester Gooch #5)\n", (1, 0, 6));
        is("git version 2.39.5\n", (2, 39, 5));
        is("tar (GNU tar) 1.34\n", (1, 34, 0));
        assert_eq!(version("no version here"), None);
    }

    #[tokio::test]
    async fn a_program_is_missing_there_or_too_old() {
        assert_eq!(find("flyloft-no-such-program", None, "").await, Found::Missing);
        assert!(matches!(find("tar", Some("--version"), "1.0.0").await, Found::Version(_)));
        assert!(matches!(find("tar", Some("--version"), "99.0.0").await, Found::TooOld { .. }));
        assert_eq!(find("true", None, "").await, Found::Unversioned);
    }

    #[test]
    fn a_package_is_named_once() {
        let tool = |program, package, found| Tool { program, package, for_what: "", found };
        let tools = [
            tool("lxc-start", "lxc", Found::Missing),
            tool("lxc-attach", "lxc", Found::Missing),
            tool("git", "git", Found::Unversioned),
            tool("nft", "nftables", Found::Missing),
        ];
        assert_eq!(missing_packages(&tools), ["lxc", "nftables"]);
    }
}
