//! The nginx of the site: a master process, which others started, and its workers. All that is done to it is to tell it
//! that its configuration has changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flyloft_core::nginx::{is_leaving, is_worker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

use crate::config;
use crate::exec::Cmd;
use crate::machine::tools;

/// How often one looks whether nginx has taken up a change.
const LOOK: Duration = Duration::from_millis(3);

/// After this much time nginx is asked whether there is anything wrong with its configuration.
const DOUBT: Duration = Duration::from_secs(1);

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How long `nginx -t` may take, which looks up the names of upstreams.
const TEST: Duration = Duration::from_secs(30);

/// Where an nginx is.
#[derive(Clone, Debug)]
pub struct Master {
    pub pid_file: PathBuf,
    pub conf: PathBuf,
}

/// Why nginx does not do what it is to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    #[error("nginx does not run: there is no process of it in `{}`", .0.display())]
    NotRunning(PathBuf),
    #[error("nginx does not run: it is not installed")]
    NotInstalled,
    #[error("nginx goes on with its old configuration, because it refuses the one that is there now: {0}")]
    Refused(String),
    #[error("nginx has not taken up its configuration within {} s", LIMIT.as_secs())]
    Slow,
    #[error("the configuration of nginx does not include `{}`", .0.display())]
    NotIncluded(PathBuf),
    #[error("failed to read snippets in `{}`: {}", .0.display(), .1)]
    Unreadable(PathBuf, String),
    #[error("failed to write `{}`: {}", .0.display(), .1)]
    Unwritable(PathBuf, String),
    #[error("nginx does not take the certificate for {0}: {1}")]
    Certificate(String, String),
    #[error("nginx goes without a new certificate: failed to write its copy in `{}`: {}", .0.display(), .1)]
    Uncopied(PathBuf, String),
    #[error("nginx does not take TLS for flyloft beside what its site has there: {0}")]
    NoTls(String),
}

impl Trouble {
    /// What nginx itself says, where it says something.
    pub fn why(&self) -> String {
        match self {
            Trouble::Refused(why) | Trouble::Certificate(_, why) | Trouble::NoTls(why) => why.clone(),
            other => other.to_string(),
        }
    }

    /// Whether `flyloft doctor` finds it, and what to do about it.
    pub fn is_seen_by_doctor(&self) -> bool {
        match self {
            Trouble::NotRunning(_) | Trouble::NotInstalled | Trouble::Refused(_) | Trouble::NotIncluded(_) => true,
            Trouble::Certificate(..) | Trouble::NoTls(_) | Trouble::Uncopied(..) => true,
            Trouble::Slow | Trouble::Unreadable(..) | Trouble::Unwritable(..) => false,
        }
    }

    /// nginx runs, and goes on as it was told before.
    pub fn keeps_the_old(&self) -> bool {
        match self {
            Trouble::Refused(_) | Trouble::Slow | Trouble::Unwritable(..) => true,
            Trouble::NotRunning(_) | Trouble::NotInstalled => false,
            Trouble::NotIncluded(_) | Trouble::Unreadable(..) => false,
            Trouble::Certificate(..) | Trouble::NoTls(_) | Trouble::Uncopied(..) => false,
        }
    }

    /// What nginx shows is all that it is about.
    pub fn is_about_certificates(&self) -> bool {
        matches!(self, Trouble::Certificate(..) | Trouble::NoTls(_) | Trouble::Uncopied(..))
    }
}

/// A process of nginx's, which no other one is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pid: i32,
    /// In ticks since the machine has started, see proc_pid_stat(5).
    since: u64,
}

impl Running {
    /// Whether its program is not there any more, since another one was installed in its place.
    pub fn is_outdated(self) -> bool {
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        program.is_ok_and(|program| program.to_string_lossy().ends_with(" (deleted)"))
    }

    #[cfg(test)]
    pub fn trial(pid: i32) -> Self {
        Self { pid, since: 0 }
    }
}

impl Master {
    pub fn of(config: &config::Nginx) -> Self {
        Self { pid_file: config.pid.clone(), conf: config.conf.clone() }
    }

    pub fn find(&self) -> Option<Running> {
        let pid = std::fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok().filter(|pid| *pid > 1)?;
        title(pid)?.starts_with("nginx: master process").then_some(())?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may have spaces and parentheses in it. Behind it comes field 3.
        let (_, fields) = stat.rsplit_once(") ")?;
        Some(Running { pid, since: fields.split(' ').nth(22 - 3)?.parse().ok()? })
    }

    /// Why there is none.
    pub fn absent(&self) -> Trouble {
        match tools::in_path("nginx") {
            true => Trouble::NotRunning(self.pid_file.clone()),
            false => Trouble::NotInstalled,
        }
    }

    /// Has nginx read its configuration, and comes back when nobody who comes from then on is treated by the old one.
    pub async fn reload(&self) -> Result<Running, Trouble> {
        let gone = || self.absent();
        let running = self.find().ok_or_else(gone)?;
        let before = workers(running);
        kill(Pid::from_raw(running.pid), Signal::SIGHUP).map_err(|_| gone())?;
        let begun = Instant::now();
        let mut doubted = false;
        loop {
            tokio::time::sleep(LOOK).await;
            if self.find() != Some(running) {
                return Err(gone());
            }
            let now = workers(running);
            let has_new = now.iter().any(|(pid, leaving)| !leaving && !before.contains_key(pid));
            let has_old = before.iter().any(|(pid, leaving)| !leaving && now.get(pid) == Some(&false));
            if has_new && !has_old {
                return Ok(running);
            }
            if begun.elapsed() > DOUBT && !std::mem::replace(&mut doubted, true) {
                self.test().await?;
            }
            if begun.elapsed() > LIMIT {
                return Err(Trouble::Slow);
            }
        }
    }

    /// Whether workers are there that take nobody new and have not ended yet.
    pub fn has_leaving(&self) -> bool {
        self.find().is_some_and(|running| workers(running).values().any(|leaving| *leaving))
    }

    /// The user of its workers, where it has some.
    pub fn runs_as(&self) -> Option<u32> {
        use std::os::unix::fs::MetadataExt;
        let worker = workers(self.find()?).into_keys().next()?;
        std::fs::metadata(format!("/proc/{worker}")).ok().map(|process| process.uid())
    }

    /// Whether nginx would start with the configuration that is there.
    pub async fn test(&self) -> Result<(), Trouble> {
        let tested = Cmd::new("nginx").args(["-t", "-q", "-c"]).arg(&self.conf).timeout(TEST).run().await;
        tested.map(drop).map_err(|error| Trouble::Refused(complaint(error.tail()).unwrap_or_else(|| error.to_string())))
    }

    /// The whole of the site's configuration, as nginx prints it.
    pub async fn dump(&self) -> Result<String, Trouble> {
        let dumped = Cmd::new("nginx").args(["-T", "-q", "-c"]).arg(&self.conf).timeout(TEST).run().await;
        match dumped {
            Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(error) => Err(Trouble::Refused(complaint(error.tail()).unwrap_or_else(|| error.to_string()))),
        }
    }
}

/// What is wrong, out of what `nginx -t` says.
fn complaint(said: &str) -> Option<String> {
    let line = said.lines().find(|line| line.contains("[emerg]"))?;
    let complaint = line.rsplit_once("[emerg] ").map_or(line, |(_, complaint)| complaint).trim();
    // A line of its log names its process and thread first.
    let is_numbers = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '#');
    let numbered = complaint.split_once(": ").filter(|(numbers, _)| is_numbers(numbers));
    Some(numbered.map_or(complaint, |(_, rest)| rest).to_owned())
}

/// nginx's workers, and whether each takes nobody new any more.
fn workers(running: Running) -> BTreeMap<i32, bool> {
    let pid = running.pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    let worker = |pid| title(pid).filter(|title| is_worker(title)).map(|title| (pid, is_leaving(&title)));
    children.filter_map(worker).collect()
}

/// What a process says of itself.
fn title(pid: i32) -> Option<String> {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&title).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_none_of_nginx_is_not_taken_for_its_master() {
        let dir = tempfile::tempdir().unwrap();
        let master = Master { pid_file: dir.path().join("pid"), conf: "/nonexistent".into() };
        assert_eq!(master.find(), None);
        for text in ["", "1\n", "-1\n", "nginx\n", &format!("{}\n", std::process::id())] {
            std::fs::write(&master.pid_file, text).unwrap();
            assert_eq!(master.find(), None, "{text}");
        }
    }

    #[test]
    fn what_nginx_complains_of_is_told_without_the_rest() {
        let said = "2026/11/24 10:00:00 [warn] 1#1: never mind\n\
                    nginx: [emerg] unknown directive \"lisen\" in /etc/nginx/sites-enabled/other:3\n\
                    nginx: configuration file /etc/nginx/nginx.conf test failed";
        let told = "unknown directive \"lisen\" in /etc/nginx/sites-enabled/other:3";
        assert_eq!(complaint(said).unwrap(), told);
        assert_eq!(complaint(&format!("2026/11/24 10:00:00 [emerg] 7#7: {told}\n")).unwrap(), told);
    }
}
