//! Commands inside a running container: `lxc-attach`, then `/flyloft/init exec`, which drops to the app's user.
//!
//! `lxc-attach` gets nothing of the daemon's environment, and hands nothing of its own on. The command's variables go
//! as arguments, never as its environment: there an `LD_PRELOAD` would work on the host.

use std::collections::BTreeMap;
use std::process::Stdio;

use async_trait::async_trait;
use tokio::process::Child;

use super::places::{Home, RUN};
use crate::engine::{EngineError, Exec, ExecControl, ExecSpec};
use crate::exec::{Cmd, ending};

/// What `lxc-attach` is found with, and all that it sees.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tool of LXC, about one container.
pub fn tool(program: &str, home: &Home) -> Cmd {
    Cmd::new(program).clear_env().env("PATH", PATH).env("LC_ALL", "C").args(["-P", RUN, "-n", &home.name])
}

/// The command line that runs `argv` in the container as the app's user. `dir` is the app's own if there is none.
pub fn command(home: &Home, argv: &[String], env: &BTreeMap<String, String>, dir: Option<&str>) -> Cmd {
    let mut cmd = tool("lxc-attach", home).arg("--clear-env");
    for (name, value) in env {
        cmd = cmd.arg("--set-var").arg(format!("{name}={value}"));
    }
    cmd = cmd.args(["--", "/flyloft/init", "exec"]);
    if let Some(dir) = dir {
        cmd = cmd.args(["--dir", dir]);
    }
    cmd.arg("--").args(argv)
}

/// Starts a command whose streams are pipes.
pub fn piped(home: &Home, spec: &ExecSpec) -> Result<Exec, EngineError> {
    let cmd = command(home, &spec.argv, &spec.env, None);
    let doing = || format!("run `{}` in container `{}`", spec.argv.join(" "), home.name);
    let mut child = cmd.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped()).map_err(EngineError::exec(doing()))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were asked for");
    };
    Ok(Exec {
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        control: Box::new(Piped { child, doing: doing() }),
    })
}

/// `lxc-attach` dies with this value, and the command with it.
struct Piped {
    child: Child,
    doing: String,
}

#[async_trait]
impl ExecControl for Piped {
    fn resize(&mut self, _columns: u16, _rows: u16) {}

    async fn wait(&mut self) -> Result<i32, EngineError> {
        let status = self.child.wait().await.map_err(EngineError::io(&self.doing))?;
        status.code().ok_or_else(|| {
            EngineError::io(&self.doing)(std::io::Error::other(format!("`lxc-attach` {}", ending(status))))
        })
    }
}
