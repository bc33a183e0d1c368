//! `flyloft run` and `flyloft shell`.

use std::collections::BTreeMap;

use flyloft_core::lifecycle::{Live, Runs, State};
use flyloft_core::name::EnvRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Api, Call, Ending};
use crate::command::Run;
use crate::engine::{EngineError, Exec, ExecSpec};
use crate::error::{Error, OrFailed, Result};

impl Api {
    pub(super) async fn run(&self, call: &mut Call<'_>, run: Run) -> Result<Ending> {
        self.exec(call, run.env, "run", run.argv).await
    }

    pub(super) async fn shell(&self, call: &mut Call<'_>, env: EnvRef) -> Result<Ending> {
        // No login shell: it would set a search path of its own, without the app's tools.
        let shell = "command -v bash >/dev/null && exec bash || exec sh";
        self.exec(call, env, "shell", ["sh", "-c", shell].map(str::to_owned).to_vec()).await
    }

    async fn exec(&self, call: &mut Call<'_>, name: EnvRef, verb: &str, argv: Vec<String>) -> Result<Ending> {
        call.must_use(&name.app)?;
        let (row, conductor) = self.loft.find(&name).await?;
        let live = row
            .live
            .as_ref()
            .ok_or_else(|| Error::conflict(format!("nothing of `{name}` runs yet")).hint("push to it first"))?;
        let _in_use = conductor.begin_use(&format!("`flyloft {verb}` by {}", call.by()));
        conductor.wake(call.by()).await?;
        super::life::awake(&name, &conductor).await?;
        let mut env = BTreeMap::from([("DYNO".to_owned(), "run.1".to_owned())]);
        let terminal = call.io.terminal.clone();
        if let Some(terminal) = &terminal {
            env.insert("TERM".to_owned(), terminal.term.clone());
        }
        let size = terminal.as_ref().map(|terminal| (terminal.columns, terminal.rows));
        let failed = || format!("failed to run a command in `{name}`");
        let spec = ExecSpec { argv, env, terminal: size };
        let exec = match self.loft.parts.engine.exec(&live.container, spec).await {
            Err(EngineError::Crowded { count, limit, .. }) => return Err(crowded(&name, count, limit)),
            Err(EngineError::NotRunning(_)) => return Err(not_running(&name, &row.state)),
            exec => exec.or_failed(failed)?,
        };
        attach(call, exec, failed).await
    }
}

/// Connects the client's streams and terminal to those of a command, until that ends.
pub(super) async fn attach(call: &mut Call<'_>, exec: Exec, failed: impl Fn() -> String + Copy) -> Result<Ending> {
    let (mut stdin, mut stdout, mut stderr, mut control) = (exec.stdin, exec.stdout, exec.stderr, exec.control);
    let mut resizes = call.io.terminal.as_ref().map(|terminal| terminal.resize.clone());
    let output = async {
        let out = pass(&mut stdout, &mut call.io.stdout);
        let err = pass(&mut stderr, &mut call.io.stderr);
        tokio::join!(out, err)
    };
    let input = async {
        // A command that does not read ends the copying, not the command.
        let _ = pass(&mut call.io.stdin, &mut stdin).await;
        let _ = stdin.shutdown().await;
        drop(stdin);
        std::future::pending::<()>().await
    };
    tokio::pin!(output, input);
    let code = loop {
        tokio::select! {
            (out, err) = &mut output => {
                out.and(err).or_failed(failed)?;
                break control.wait().await.or_failed(failed)?;
            }
            () = &mut input => {}
            size = resized(&mut resizes) => control.resize(size.0, size.1),
        }
    };
    Ok(Ending::Code(code.clamp(0, 255) as u8))
}

fn crowded(name: &EnvRef, count: u32, limit: u32) -> Error {
    Error::conflict(format!("`{name}` has {count} of {limit} processes"))
        .hint(format!("`flyloft restart {name}` ends them and starts it anew"))
        .hint(format!("if it needs so many, set another limit first: flyloft set {name} pids=COUNT"))
}

fn not_running(name: &EnvRef, state: &str) -> Error {
    let error = match serde_json::from_str(state) {
        Ok(State::Live(Live { runs: runs @ (Runs::Off { .. } | Runs::Waking { .. }), .. })) => {
            Error::conflict(format!("`{name}` does not run: it is {runs}"))
        }
        _ => Error::conflict(format!("`{name}` does not run at the moment")),
    };
    error.hint(format!("`flyloft restart {name}` starts it with a fresh disk"))
}

/// The next size of the client's terminal; never, without one.
async fn resized(sizes: &mut Option<tokio::sync::watch::Receiver<(u16, u16)>>) -> (u16, u16) {
    if let Some(receiver) = sizes
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow_and_update();
    }
    *sizes = None;
    std::future::pending().await
}

/// Copies, and lets the other side have each piece at once.
async fn pass(
    from: &mut (impl AsyncRead + Unpin + ?Sized),
    to: &mut (impl AsyncWrite + Unpin + ?Sized),
) -> std::io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(()),
            count => {
                to.write_all(&piece[..count]).await?;
                to.flush().await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_can_run_nothing_is_told_what_is_in_the_way_and_what_to_do() {
        let name = EnvRef::parse("hx/main").unwrap();
        insta::assert_snapshot!(crowded(&name, 512, 512).text(), @"
        error: `hx/main` has 512 of 512 processes
          hint: `flyloft restart hx/main` ends them and starts it anew
          hint: if it needs so many, set another limit first: flyloft set hx/main pids=COUNT
        ");
        let state = r#"{"live":{"runs":{"off":{"release":1,"since":0,"why":{"over":"disk"}}},"deploying":"no",
            "pinned":false,"last_used":0,"kept_until":null}}"#;
        insta::assert_snapshot!(not_running(&name, state).text(), @"
        error: `hx/main` does not run: it is off v1 (over its disk limit)
          hint: `flyloft restart hx/main` starts it with a fresh disk
        ");
    }
}
