//! What runs in one channel: a push, a fetch, or one of flyloft's commands.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::name::AppName;
use russh::ChannelId;
use russh::server::Handle;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::process::{Child, ChildStdin};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::entry::Entry;
use super::words::Request;
use crate::door::hook::HookEnd;
use crate::door::{CommandIo, Output};
use crate::error::{Error, OrFailed, Result};
use crate::exec::{self, Cmd};
use crate::principal::Principal;
use crate::source::ReceivePack;

pub struct Session {
    pub shared: Arc<Shared>,
    pub principal: Arc<Principal>,
    pub handle: Handle,
    pub channel: ChannelId,
    pub git_protocol: Option<String>,
    pub io: CommandIo,
    /// Another way to the client's standard error, beside that of `io`.
    pub notes: Output,
    /// Cancelled when the client has closed the channel or has gone away.
    pub gone: CancellationToken,
    /// Cancelled when somebody at the client's terminal has pressed Ctrl-C.
    pub interrupted: CancellationToken,
}

/// How long git gets to end by itself when its client has gone.
const GRACE: Duration = Duration::from_secs(5);

/// As a shell says that Ctrl-C ended a command: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

impl Session {
    /// Serves the request, then says how it ended. An error among the arguments goes to the client like any other.
    pub async fn run(self, request: Result<Option<Request>>) {
        let Self { shared, principal, handle, channel, git_protocol, io, notes, gone, interrupted } = self;
        let work = Work { shared: &shared, principal: &principal, git_protocol, gone: &gone };
        let raw = io.terminal.is_some();
        let served = async {
            match request {
                Ok(Some(Request::Command(argv))) if !argv.is_empty() => {
                    tokio::select! {
                        code = shared.backend.command(&principal, argv, io) => Some(code),
                        () = interrupted.cancelled() => Some(INTERRUPTED),
                        () = gone.cancelled() => None,
                    }
                }
                Ok(Some(Request::Receive(app))) => work.receive(&app, io, notes).await,
                Ok(Some(Request::Upload(app))) => work.upload(&app, io).await,
                Ok(_) => Some(greet(&principal, shared.port, io).await),
                Err(error) => Some(complain(&error, io).await),
            }
        };
        let code = tokio::select! {
            biased;
            code = served => code,
            () = shared.closing.cancelled() => {
                let error = Error::ending();
                let text = cooked(&error.text(), raw);
                let _ = handle.extended_data(channel, 1, text).await;
                Some(error.kind.exit_code().into())
            }
        };
        // Status, end of output, close: a client takes the order seriously. It may be gone, and then nobody listens.
        if let Some(code) = code {
            let _ = handle.exit_status_request(channel, code as u32).await;
            let _ = handle.eof(channel).await;
            let _ = handle.close(channel).await;
        }
    }
}

struct Work<'a> {
    shared: &'a Shared,
    principal: &'a Principal,
    git_protocol: Option<String>,
    gone: &'a CancellationToken,
}

impl Work<'_> {
    async fn receive(&self, app: &AppName, io: CommandIo, notes: Output) -> Option<i32> {
        let _errand = self.shared.errands.token();
        let started = async {
            let ReceivePack { cmd, objects, turn, room } = self.shared.backend.receive(self.principal, app).await?;
            let (cmd, hook) = HookEnd::attach(cmd).or_failed(|| "failed to connect the hook")?;
            Ok((self.spawn(cmd)?, hook, objects, turn, room))
        };
        // The turn is given back when git has ended.
        let (child, mut hook, objects, turn, room) = match started.await {
            Ok(started) => started,
            Err(error) => return Some(complain(&error, io).await),
        };
        let entry = Entry::new(room, self.shared.patience);
        let stage = async {
            let pushed = hook.push(&objects, &turn).await;
            entry.leave();
            let verdict = match pushed {
                Ok(None) => return,
                Ok(Some(push)) => match hook.output() {
                    Ok(output) => self.shared.backend.push(self.principal, app, push, output).await,
                    Err(error) => Err(error).or_failed(|| "failed to open the output of the push"),
                },
                Err(error) => Err(error),
            };
            if let Err(error) = hook.answer(&verdict).await {
                tracing::debug!(%app, %error, "the hook of a push has gone away");
            }
        };
        let CommandIo { stdin, stdout, stderr, .. } = io;
        let feed = async |to: ChildStdin| entry.pass(buffered(stdin), to, notes).await;
        self.relay(child, (stdout, stderr), feed, stage).await
    }

    async fn upload(&self, app: &AppName, io: CommandIo) -> Option<i32> {
        let _errand = self.shared.errands.token();
        let started = async { self.spawn(self.shared.backend.upload(self.principal, app).await?) };
        match started.await {
            Ok(child) => {
                let CommandIo { mut stdin, stdout, stderr, .. } = io;
                let feed = async |mut to: ChildStdin| copy_buf(&mut buffered(&mut stdin), &mut to).await.map(drop);
                self.relay(child, (stdout, stderr), feed, async {}).await
            }
            Err(error) => Some(complain(&error, io).await),
        }
    }

    fn spawn(&self, mut cmd: Cmd) -> Result<Child> {
        if let Some(protocol) = &self.git_protocol {
            cmd = cmd.env("GIT_PROTOCOL", protocol);
        }
        cmd.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped()).or_failed(|| "failed to start git")
    }

    /// Connects git with the client, and does `aside` at the same time. Ends when git has ended and all that it said
    /// is with the client: its exit code. `None` if the client went away first; then `aside` is dropped where it is.
    async fn relay(
        &self,
        mut child: Child,
        (stdout, stderr): (Output, Output),
        feed: impl AsyncFnOnce(ChildStdin) -> io::Result<()>,
        aside: impl Future<Output = ()>,
    ) -> Option<i32> {
        let (to_git, from_git, errors) = (child.stdin.take()?, child.stdout.take()?, child.stderr.take()?);
        let status = {
            let end = async {
                tokio::join!(self.deliver(from_git, stdout), self.deliver(errors, stderr));
                child.wait().await
            };
            let mut end = pin!(end);
            let feed = async {
                // Git closes its input when it has what it needs; its status tells more than the broken pipe.
                let _ = feed(to_git).await;
                pending::<Infallible>().await
            };
            let aside = async {
                aside.await;
                pending::<Infallible>().await
            };
            let status = tokio::select! {
                biased;
                () = self.gone.cancelled() => None,
                never = feed => match never {},
                never = aside => match never {},
                status = &mut end => Some(status),
            };
            match status {
                Some(status) => Some(status.ok()),
                // Without input and without a hook that accepts, git ends by itself and takes away what it has made
                // of half a push. A signal would make it leave that.
                None => tokio::time::timeout(GRACE, end).await.is_ok().then_some(None),
            }
        };
        if status.is_none() {
            exec::end(&mut child, GRACE).await;
        }
        status.flatten().map(exit_code)
    }

    /// Carries output to the client, and to nowhere once the client is gone: a full pipe would stop git.
    async fn deliver(&self, from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut from = buffered(from);
        if let Some(Ok(_)) = self.gone.run_until_cancelled(copy_buf(&mut from, &mut to)).await {
            return;
        }
        let _ = copy_buf(&mut from, &mut tokio::io::sink()).await;
    }
}

fn buffered<R: AsyncRead>(from: R) -> BufReader<R> {
    BufReader::with_capacity(32 << 10, from)
}

/// 128 + the signal's number if one ended it, as a shell says it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

async fn complain(error: &Error, io: CommandIo) -> i32 {
    say(&error.text(), io.stderr, io.terminal.is_some()).await;
    i32::from(error.kind.exit_code())
}

async fn greet(principal: &Principal, port: u16, io: CommandIo) -> i32 {
    let text = format!(
        "Hello {}. You are known here, but there is no shell to log in to.\n\n  \
           stage a branch   git push ssh://git@HOST:{port}/APP BRANCH\n  \
           run a command    ssh -p {port} HOST ls\n  \
           get help         ssh -p {port} HOST help\n",
        principal.name
    );
    say(&text, io.stdout, io.terminal.is_some()).await;
    0
}

/// A client with a terminal has it in raw mode, where a line ends with `\r\n`.
fn cooked(text: &str, raw: bool) -> String {
    if raw { text.replace('\n', "\r\n") } else { text.to_owned() }
}

async fn say(text: &str, mut to: impl AsyncWrite + Unpin, raw: bool) {
    // A client that is gone does not read it.
    let _ = to.write_all(cooked(text, raw).as_bytes()).await;
}
