//! nginx is to be the edge: whether it could be, before anybody relies on that.
//!
//! What must hold: no edge that serves ends for an nginx that would bring nobody here.

use flyloft_core::host::Domain;
use flyloft_core::nginx::Site;

use super::{front, state};
use crate::config::Config;
use crate::doctor::{Verdict, nginx};
use crate::edge::nginx::{files, would_begin};
use crate::error::{Error, OrFailed, Result};
use crate::handover;
use crate::machine::nginx::Nginx;
use crate::machine::{ports, tools};

/// Refuses an nginx that could not take the place of the edge that serves now. One that has it already, and has come into
/// trouble since, keeps nobody from a newer version.
pub async fn check(config: &Config, instance: &str) -> Result<()> {
    front::check_nginx(config)?;
    if !tools::in_path("nginx") {
        return Err(Error::failed("`nginx` is not installed, and the configuration says that it is the edge")
            .hint("apt-get install --no-install-recommends nginx-light"));
    }
    let dir = files::dir(&config.state_dir);
    if !serves(config) || files::says_something(&dir) {
        return Ok(());
    }
    // What a site includes has to be there before it takes its configuration.
    files::prepare(&dir, Site::nothing()).or_failed(|| format!("failed to prepare `{}` for nginx", dir.display()))?;
    let found = nginx::judge(Nginx::look(config).await.as_ref());
    if let Some(problem) = found.into_iter().find(|check| check.verdict == Verdict::Problem) {
        let refused = refused(&problem.what);
        return Err(match problem.remedy {
            Some(remedy) => refused.hint(remedy),
            None => refused,
        });
    }
    let domain = Domain::parse(&config.domain).map_err(Error::usage)?;
    let place = front::place(config, instance, &domain, None)?;
    would_begin(&place).await.map_err(|trouble| {
        let line = format!("include {};", dir.join(files::HTTP).display());
        refused(&format!("beside what its site has, it would not take what flyloft has for it: {}", trouble.why()))
            .hint(format!("`{line}` belongs into the `http` block of `{}`", config.nginx.conf.display()))
    })
}

fn refused(why: &str) -> Error {
    Error::failed(format!("nginx cannot take the place of the edge that serves now: {why}"))
}

/// Whether a daemon serves in this state directory: the one that asks, or another one.
fn serves(config: &Config) -> bool {
    let lock = config.state_dir.join(state::LOCK);
    handover::asking().is_some() || ports::look_at(&config.socket, &lock).is_some_and(|holder| holder.ours)
}
