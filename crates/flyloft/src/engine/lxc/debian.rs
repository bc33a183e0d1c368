//! Layers of Debian packages: the base, made by mmdebstrap, and what is installed on top of it.
//!
//! Both run Debian's own maintainer scripts as the host's root, in a chroot: these packages are trusted as the host's
//! own are. Nothing of an app takes part.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use super::container::APP;
use super::mounts;
use super::sources::Sources;
use crate::engine::EngineError;
use crate::exec::Cmd;
use crate::transcript::Transcript;

/// Files that no container needs.
const DPKG_EXCLUDES: &[&str] = &[
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/info/*",
];

/// A policy-rc.d(8) that lets no service start while packages are installed.
const NO_SERVICES: &str = "#!/bin/sh\nexit 101\n";

/// Namespaces of their own, so that no process and no mount of an installation outlives it, even if it is called off.
const ALONE: [&str; 7] = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"];

/// Makes a minimal Debian in `tree`.
pub async fn bootstrap(
    suite: &str,
    packages: &[String],
    tree: &Path,
    transcript: &Transcript,
) -> Result<(), EngineError> {
    let doing = || format!("make a Debian `{suite}`");
    let mirror =
        Sources::of_host().map_err(EngineError::io(doing()))?.mirror().ok_or_else(|| EngineError::Missing {
            what: "this host's apt has no mirror of Debian to make a stack from".to_owned(),
            hint: "name one in `/etc/apt/sources.list`; see sources.list(5)".to_owned(),
        })?;
    let mut cmd = Cmd::new("unshare").clear_env().env("PATH", super::attach::PATH).env("LC_ALL", "C.UTF-8");
    for (name, value) in proxies().await {
        cmd = cmd.env(name, value);
    }
    cmd = cmd.args(ALONE).arg("mmdebstrap").args(["--mode=root", "--variant=minbase", "--format=directory", "--quiet"]);
    for option in DPKG_EXCLUDES {
        cmd = cmd.arg(format!("--dpkgopt={option}"));
    }
    if !packages.is_empty() {
        cmd = cmd.arg(format!("--include={}", packages.join(",")));
    }
    cmd = cmd.arg(suite).arg(tree).args(mirror.lines(suite));
    cmd.stream(transcript).await.map_err(EngineError::exec(doing()))?;
    let tree = tree.to_owned();
    super::blocking(doing(), move || finish_base(&tree)).await
}

/// What a container expects of its base: the app's user, a resolver, no trace of the host.
fn finish_base(tree: &Path) -> io::Result<()> {
    let append =
        |file: &str, line: &str| OpenOptions::new().append(true).open(tree.join(file))?.write_all(line.as_bytes());
    append("etc/passwd", &format!("app:x:{APP}:{APP}::/app:/bin/bash\n"))?;
    append("etc/group", &format!("app:x:{APP}:\n"))?;
    append("etc/shadow", "app:*:1::::::\n")?;
    append("etc/gshadow", "app:!::\n")?;
    let home = tree.join("app");
    fs::DirBuilder::new().mode(0o755).create(&home)?;
    chown(&home, Some(APP), Some(APP))?;
    fs::DirBuilder::new().mode(0o755).create(tree.join("flyloft"))?;
    fs::write(tree.join("etc/resolv.conf"), format!("nameserver {RESOLVER}\n"))?;
    fs::write(tree.join("etc/hostname"), "flyloft\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
}

/// The address inside a container that answers for DNS.
const RESOLVER: &str = "169.254.1.1";

/// An overlay of the host, outside of any container, for the time of an installation.
pub struct Chroot {
    /// Has `upper` and `work`, and `root`, where all of it is mounted.
    dir: PathBuf,
    apt: PathBuf,
}

impl Chroot {
    /// `dir` is empty; the new layer will be its `upper`. `apt` keeps lists and downloads for the next time.
    pub fn open(dir: &Path, lower: &[PathBuf], apt: &Path) -> io::Result<Self> {
        let chroot = Self { dir: dir.to_owned(), apt: apt.to_owned() };
        for name in ["upper", "work", "root"] {
            fs::DirBuilder::new().mode(0o755).create(dir.join(name))?;
        }
        mounts::overlay(dir, lower, &chroot.root(), MsFlags::empty())?;
        for (name, inside) in [("lists", "var/lib/apt/lists"), ("archives", "var/cache/apt/archives")] {
            let shared = apt.join(name);
            fs::create_dir_all(shared.join("partial"))?;
            mount(Some(&shared), &chroot.root().join(inside), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        Ok(chroot)
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The files that the installation needs and the layer must not have.
    fn props(&self) -> [PathBuf; 4] {
        ["usr/sbin/policy-rc.d", "etc/resolv.conf", "etc/flyloft-apt.conf", "etc/flyloft-ca.crt"]
            .map(|file| self.root().join(file))
    }

    fn place_props(&self, apt_conf: &str) -> io::Result<()> {
        let place = |path: &Path, content: &[u8], mode: u32| {
            // Never through a link that may be there: it would lead into the host.
            let _ = fs::remove_file(path);
            OpenOptions::new().create_new(true).write(true).mode(mode).open(path)?.write_all(content)
        };
        let [policy, resolver, conf, authorities] = self.props();
        place(&policy, NO_SERVICES.as_bytes(), 0o755)?;
        place(&resolver, &fs::read("/etc/resolv.conf").unwrap_or_default(), 0o644)?;
        place(&conf, apt_conf.as_bytes(), 0o644)?;
        place(&authorities, &fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default(), 0o644)
    }

    fn lists_are_fresh(&self) -> bool {
        // apt touches this directory whenever it fetches lists.
        let touched = fs::metadata(self.apt.join("lists/partial")).and_then(|meta| meta.modified());
        let has_lists = fs::read_dir(self.apt.join("lists")).is_ok_and(|entries| entries.count() > 2);
        let age = touched.ok().and_then(|at| at.elapsed().ok());
        has_lists && age.is_some_and(|age| age < LISTS_AGE)
    }

    /// Unmounts everything and gives the upper directory, without what was there for the installation only.
    fn close(self) -> io::Result<PathBuf> {
        mounts::unmount(&self.root())?;
        let upper = self.dir.join("upper");
        for prop in self.props() {
            let prop = upper.join(prop.strip_prefix(self.root()).expect("a prop lies in the root"));
            match fs::remove_file(prop) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for scratch in ["tmp", "run", "var/tmp", "var/log", "var/cache/apt", "var/lib/apt/lists"] {
            super::tree::purge(&upper.join(scratch))?;
        }
        Ok(upper)
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        // After `close` nothing is mounted any more.
        let _ = mounts::unmount(&self.root());
    }
}

/// How long package lists are good for, unless they turn out not to be.
const LISTS_AGE: Duration = Duration::from_secs(3600);

/// Installs packages over the layers below `chroot` and gives the directory that has what is new.
pub async fn install(packages: &[String], chroot: Chroot) -> Result<PathBuf, EngineError> {
    let doing = || format!("install the Debian packages `{}`", packages.join(" "));
    let proxies = proxies().await;
    chroot.place_props(&apt_conf()).map_err(EngineError::io(doing()))?;
    let apt = |args: &[&str], packages: &[String]| {
        let mut cmd = Cmd::new("unshare").clear_env();
        for (name, value) in &proxies {
            cmd = cmd.env(name, value);
        }
        cmd.env("PATH", super::attach::PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("APT_CONFIG", "/etc/flyloft-apt.conf")
            .args(ALONE)
            .arg("--root")
            .arg(chroot.root())
            // What it prints is of no use to whoever pushes; an error has what apt says about it.
            .args(["apt-get", "--quiet=2", "-oDpkg::Use-Pty=0", "--yes", "--no-install-recommends"])
            .args(args)
            .args(packages)
    };
    let fresh = chroot.lists_are_fresh();
    if !fresh {
        apt(&["update"], &[]).run().await.map_err(EngineError::exec(doing()))?;
    }
    let mut installed = apt(&["install"], packages).run().await;
    if installed.is_err() && fresh {
        apt(&["update"], &[]).run().await.map_err(EngineError::exec(doing()))?;
        installed = apt(&["install"], packages).run().await;
    }
    installed.map_err(EngineError::exec(doing()))?;
    super::blocking(doing(), move || chroot.close()).await
}

/// Settings for the apt in the chroot.
fn apt_conf() -> String {
    [
        "Acquire::https::CAInfo \"/etc/flyloft-ca.crt\";",
        "Acquire::Languages \"none\";",
        "Acquire::Retries \"3\";",
        "APT::Sandbox::User \"root\";",
        // Kept for the next layer that wants them.
        "Binary::apt-get::APT::Keep-Downloaded-Packages \"true\";",
        // The layer is flushed as a whole when it is done.
        "DPkg::Options { \"--force-unsafe-io\"; };",
        "",
    ]
    .join("\n")
}

/// The variables that say how this host gets out: its own, or what its apt is set up with.
async fn proxies() -> BTreeMap<String, String> {
    let known = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    let mut found: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| known.contains(&name.to_ascii_lowercase().as_str())).collect();
    let dump = Cmd::new("apt-config").args(["dump", "Acquire"]).run().await;
    let dump = dump.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for (name, value) in apt_proxies(&dump) {
        found.entry(name).or_insert(value);
    }
    found
}

/// `Acquire::http::Proxy "http://10.0.0.5:3128";` in what `apt-config dump` prints.
fn apt_proxies(dump: &str) -> Vec<(String, String)> {
    let setting = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        let value = value.trim_end_matches(';').trim_matches('"');
        let scheme = name.strip_prefix("Acquire::")?.strip_suffix("::Proxy")?;
        let is_proxy = matches!(scheme, "http" | "https") && !value.is_empty() && value != "DIRECT";
        is_proxy.then(|| (format!("{scheme}_proxy"), value.to_owned()))
    };
    dump.lines().filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes whose root directory is `tree`.
    fn inside(tree: &Path) -> usize {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter(|process| fs::read_link(process.path().join("root")).is_ok_and(|root| root == tree)).count()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_base_that_is_called_off_leaves_neither_mounts_nor_processes() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let tree = dir.path().join("tree");
        let transcript = Transcript::discard();
        let under_way = async {
            while inside(&tree) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            made = bootstrap("bookworm", &[], &tree, &transcript) => panic!("it ended before it was called off: {made:?}"),
            () = under_way => {}
        }
        assert_eq!(mounts::mounted_below(dir.path()).unwrap(), Vec::<PathBuf>::new());
        let gone = async {
            while inside(&tree) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[test]
    fn apts_own_proxy_is_found_in_its_dump() {
        let dump = "Acquire::cdrom::mount \"/media/cdrom/\";\nAcquire::http::Proxy \"http://10.0.0.5:3128\";\n\
                    Acquire::https::Proxy \"DIRECT\";\n";
        assert_eq!(apt_proxies(dump), [("http_proxy".to_owned(), "http://10.0.0.5:3128".to_owned())]);
    }
}
