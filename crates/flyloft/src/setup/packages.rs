//! The Debian packages that the daemon's tools come from.

use std::os::fd::AsFd;
use std::process::Stdio;

use super::Step;
use crate::exec::{Cmd, ExecError};
use crate::machine::tools;

/// Looks for the tools; installs what is missing if asked, and says the command if not.
pub async fn install(install: bool) -> Vec<Step> {
    let missing = tools::missing_packages(&tools::look().await);
    if missing.is_empty() {
        return vec![Step::already("packages", "all tools are there")];
    }
    let names = missing.join(" ");
    if !install {
        let step = Step::failed("packages", format!("{names} are missing"));
        return vec![
            step.hint(format!("apt-get install --no-install-recommends {names}")).hint("or: flyloft setup --install"),
        ];
    }
    vec![match apt_get(&missing).await {
        Ok(()) => Step::done("packages", format!("installed {names}")),
        Err(error) => Step::because("packages", format!("failed to install {names}"), &error),
    }]
}

/// Its output goes to stderr as it comes: it is long, and whoever waits wants to see it.
async fn apt_get(packages: &[&str]) -> Result<(), ExecError> {
    let apt = || Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    for cmd in [apt().arg("update"), apt().args(["install", "-y", "--no-install-recommends"]).args(packages)] {
        let argv = cmd.to_string();
        let pipe = |source| ExecError::Pipe { argv: argv.clone(), source };
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(pipe)?;
        let mut child = cmd.spawn(Stdio::null(), stderr.into(), Stdio::inherit())?;
        let status = child.wait().await.map_err(pipe)?;
        if !status.success() {
            let ending = crate::exec::ending(status);
            return Err(ExecError::Status { argv, ending, code: status.code(), tail: String::new() });
        }
    }
    Ok(())
}
