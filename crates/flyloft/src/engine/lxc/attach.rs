//! Commands inside a running container: `lxc-attach`, then `/flyloft/init exec`, which drops to the app's user.
//!
//! `lxc-attach` gets nothing of the daemon's environment, and hands nothing of its own on. The command's variables go
//! past it, as an open file.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::AsyncWrite;
use tokio::process::{Child, ChildStdin};

use super::places::{Home, RUN};
use super::terminal::{Keyboard, Terminal};
use super::variables;
use crate::engine::{EngineError, Exec, ExecControl, ExecSpec};
use crate::exec::{Cmd, ending};

/// What `lxc-attach` is found with, and all that it sees.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tool of LXC, about one container.
pub fn tool(program: &str, home: &Home) -> Cmd {
    Cmd::new(program).clear_env().env("PATH", PATH).env("LC_ALL", "C").args(["-P", RUN, "-n", &home.name])
}

/// The numbers under which `init exec` finds its variables and its terminal.
const VARIABLES: i32 = 3;
const TERMINAL: i32 = 4;

/// The command line that runs `argv` in the container as the app's user. `dir` is the app's own if there is none.
pub fn command(
    home: &Home,
    argv: &[String],
    env: &BTreeMap<String, String>,
    dir: Option<&str>,
) -> Result<Cmd, EngineError> {
    let cmd = entry(home, env).map_err(EngineError::io(doing(home, argv)))?;
    let cmd = if let Some(dir) = dir { cmd.args(["--dir", dir]) } else { cmd };
    Ok(cmd.arg("--").args(argv))
}

/// [`command`] up to its own options.
fn entry(home: &Home, env: &BTreeMap<String, String>) -> io::Result<Cmd> {
    let cmd = tool("lxc-attach", home).args(["--clear-env", "--", "/flyloft/init", "exec"]);
    cmd.arg("--variables").arg(VARIABLES.to_string()).pass(variables::file(env)?, VARIABLES)
}

fn doing(home: &Home, argv: &[String]) -> String {
    format!("run `{}` in container `{}`", argv.join(" "), home.name)
}

/// Starts a command with the streams that it asks for. `init` is PID 1 and `app` the app's user, as the host numbers
/// them.
pub fn start(home: &Home, init: i32, app: u32, spec: &ExecSpec) -> Result<Exec, EngineError> {
    let doing = doing(home, &spec.argv);
    let Some((columns, rows)) = spec.terminal else { return piped(home, spec, doing) };
    let ptmx = PathBuf::from(format!("/proc/{init}/root")).join("dev/pts/ptmx");
    let (terminal, slave) = Terminal::open(&ptmx, app, columns, rows).map_err(EngineError::io(&doing))?;
    on_terminal(home, spec, doing, terminal, slave)
}

fn piped(home: &Home, spec: &ExecSpec, doing: String) -> Result<Exec, EngineError> {
    let cmd = command(home, &spec.argv, &spec.env, None)?;
    let child = cmd.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped());
    let mut child = child.map_err(EngineError::exec(&doing))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were asked for");
    };
    Ok(Exec {
        stdin: Box::new(Input(Some(stdin))),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        control: Box::new(Control { child, doing, terminal: None }),
    })
}

fn on_terminal(
    home: &Home,
    spec: &ExecSpec,
    doing: String,
    terminal: Terminal,
    slave: OwnedFd,
) -> Result<Exec, EngineError> {
    let mut env = spec.env.clone();
    env.entry("TERM".to_owned()).or_insert_with(|| "xterm-256color".to_owned());
    let cmd = entry(home, &env).and_then(|cmd| cmd.pass(slave, TERMINAL)).map_err(EngineError::io(&doing))?;
    let cmd = cmd.arg("--terminal").arg(TERMINAL.to_string()).arg("--").args(&spec.argv);
    let child = cmd.spawn(Stdio::null(), Stdio::null(), Stdio::piped());
    let mut child = child.map_err(EngineError::exec(&doing))?;
    let Some(stderr) = child.stderr.take() else { unreachable!("it was asked for") };
    Ok(Exec {
        stdin: Box::new(Keyboard::of(&terminal)),
        stdout: Box::new(terminal.clone()),
        // What `lxc-attach` itself has to say.
        stderr: Box::new(stderr),
        control: Box::new(Control { child, doing, terminal: Some(terminal) }),
    })
}

/// A pipe that a shutdown closes: the command is to see the end of its input.
struct Input(Option<ChildStdin>);

impl Input {
    fn open(&mut self) -> io::Result<Pin<&mut ChildStdin>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// `lxc-attach` dies with this value, and the command with `lxc-attach`.
struct Control {
    child: Child,
    doing: String,
    terminal: Option<Terminal>,
}

#[async_trait]
impl ExecControl for Control {
    fn resize(&mut self, columns: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            // If it has gone, so has whoever would look at it.
            let _ = terminal.resize(columns, rows);
        }
    }

    async fn wait(&mut self) -> Result<i32, EngineError> {
        let status = self.child.wait().await.map_err(EngineError::io(&self.doing))?;
        status
            .code()
            .ok_or_else(|| EngineError::io(&self.doing)(io::Error::other(format!("`lxc-attach` {}", ending(status)))))
    }
}

#[cfg(test)]
mod tests;
