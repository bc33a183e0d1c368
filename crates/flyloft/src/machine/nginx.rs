//! The nginx that is the edge, where the configuration says so.

use std::path::{Path, PathBuf};

use flyloft_core::nginx::others_speak;
use nix::unistd::{Uid, User};

use super::tools;
use crate::config::{Config, EdgeKind};
use crate::edge::nginx::{Master, Refusals, files, includes};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nginx {
    /// What the site's configuration has to include, and which file that begins with.
    pub file: PathBuf,
    pub conf: PathBuf,
    pub pid_file: PathBuf,
    pub installed: bool,
    pub runs: bool,
    /// What is wrong with the site's configuration, as nginx says it.
    pub refuses: Option<String>,
    pub includes_ours: bool,
    /// A server of the site's own speaks TLS for host names of ours.
    pub site_speaks_tls: bool,
    /// `worker_shutdown_timeout` of the site, if it has one.
    pub cuts_after: Option<String>,
    /// Whom its workers run as, and whether that is whom the configuration names. None where there are none.
    pub workers: Option<(String, bool)>,
    /// Where the administrator's snippets are, and those that it does not follow, with why.
    pub snippets: PathBuf,
    pub refused: Refusals,
    /// What of TLS it does not take.
    pub refused_tls: Option<String>,
}

impl Nginx {
    /// None where something else is the edge.
    pub async fn look(config: &Config) -> Option<Self> {
        if config.edge.kind != EdgeKind::Nginx {
            return None;
        }
        let (master, dir) = (Master::of(&config.nginx), files::dir(&config.state_dir));
        let file = dir.join(files::HTTP);
        let installed = tools::in_path("nginx");
        let (dump, refuses) = match installed {
            false => (String::new(), None),
            true => match master.dump().await {
                Ok(dump) => (dump, None),
                Err(trouble) => (String::new(), Some(trouble.why())),
            },
        };
        let named = User::from_name(&config.nginx.user).ok().flatten().map(|user| user.uid.as_raw());
        let workers = master.runs_as().map(|uid| (called(uid), named == Some(uid)));
        Some(Self {
            conf: config.nginx.conf.clone(),
            pid_file: config.nginx.pid.clone(),
            installed,
            runs: master.find().is_some(),
            refuses,
            includes_ours: includes(&dump, &file),
            site_speaks_tls: others_speak(&dump, &text(&file), &text(&dir.join(files::SERVER))),
            cuts_after: cuts_after(&dump, &file),
            workers,
            snippets: config.nginx.snippets.clone(),
            refused: files::texts(&dir.join(files::REFUSED), ""),
            refused_tls: std::fs::read_to_string(dir.join(files::REFUSED_TLS)).ok(),
            file,
        })
    }

    /// The one line that the site's configuration needs.
    pub fn line(&self) -> String {
        format!("include {};", self.file.display())
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn called(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// The value of `worker_shutdown_timeout`, in what `nginx -T` prints, but for our own file.
fn cuts_after(dump: &str, ours: &Path) -> Option<String> {
    let marked = format!("# configuration file {}:", ours.display());
    let mut is_ours = false;
    dump.lines().find_map(|line| {
        if line.starts_with("# configuration file ") {
            is_ours = line == marked;
        }
        let value = line.trim().strip_prefix("worker_shutdown_timeout")?.trim().strip_suffix(';')?;
        (!is_ours).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_site_says_of_old_workers_is_found() {
        let ours = Path::new("/var/lib/flyloft/nginx/flyloft.conf");
        let dump = "# configuration file /etc/nginx/nginx.conf:\nuser www-data;\n  worker_shutdown_timeout 10s;\n";
        assert_eq!(cuts_after(dump, ours).as_deref(), Some("10s"));
        assert_eq!(
            cuts_after("# configuration file /etc/nginx/nginx.conf:\n# worker_shutdown_timeout 10s;\n", ours),
            None
        );
        assert!(!includes(dump, ours));
        assert!(includes("# configuration file /var/lib/flyloft/nginx/flyloft.conf:\nmap a b {}\n", ours));
    }
}
