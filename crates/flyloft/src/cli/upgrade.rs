//! `flyloft upgrade`: asks the daemon to let a newer version take over, and waits until that answers.
//!
//! The client is of the newer version most often, and the daemon of an older one: what they say to each other here never
//! changes, see [`frame`].

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::client::unreachable;
use crate::config::Config;
use crate::daemon;
use crate::door::frame::{self, Hello, Tag};
use crate::error::{Error, Kind};

/// How long the old daemon may take to end, and the new one to answer: with all that it waits for, and room beside that.
const LIMIT: Duration = Duration::from_secs(240);

/// For how long nobody may be there at all.
const NOBODY: Duration = Duration::from_secs(10);

/// What the daemon says, and what keeps the connection open.
struct Talk {
    read: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    _write: FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
}

/// Where a daemon may be reached.
pub struct Places {
    /// Where the next one will be.
    next: PathBuf,
    /// A link to where this one is, should that be another place.
    now: Option<PathBuf>,
}

impl From<PathBuf> for Places {
    fn from(next: PathBuf) -> Self {
        Self { next, now: None }
    }
}

impl Places {
    pub fn of(config: Config) -> Self {
        Self { next: config.socket, now: Some(config.state_dir.join(daemon::SOCKET)) }
    }

    async fn ask(&self, what: Tag) -> Result<Talk, Error> {
        let asked = ask(&self.next, what).await;
        match &self.now {
            Some(now) if asked.is_err() => ask(now, what).await.or(asked),
            _ => asked,
        }
    }

    /// What the daemon says of itself that follows. Where its place is another one, nobody is there for a moment, and
    /// who waits at the old one is sent away.
    async fn hello(&self) -> Result<Hello, Error> {
        let begun = Instant::now();
        loop {
            let failed = match self.ask(Tag::Version).await {
                Ok(mut talk) => match talk.hear().await {
                    Some((_, json)) => {
                        let hello = serde_json::from_slice(&json);
                        return hello.map_err(|error| gone("the new daemon said nonsense").cause(error));
                    }
                    None => gone("the new daemon does not answer"),
                },
                Err(error) => error,
            };
            if begun.elapsed() > NOBODY {
                return Err(failed);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn run(places: &Places, json: bool) -> anyhow::Result<ExitCode> {
    let mut old = places.ask(Tag::Upgrade).await?;
    let mut stderr = tokio::io::stderr();
    let begun = loop {
        match old.hear().await {
            Some((Tag::Stderr, text)) => stderr.write_all(&text).await?,
            Some((Tag::Exit, code)) if code.first() != Some(&0) => {
                stderr.flush().await?;
                return Ok(ExitCode::from(code.first().copied().unwrap_or(1)));
            }
            Some((Tag::Exit, _)) => break Instant::now(),
            _ => return Err(gone("the daemon went away before it said whether another version takes over").into()),
        }
    };
    let taken_over = async {
        while old.hear().await.is_some() {}
        // It waits in the socket until somebody is there.
        places.hello().await
    };
    let late = |_| gone(&format!("the new daemon does not answer after {} s", LIMIT.as_secs()));
    let Hello { version, failure, .. } = tokio::time::timeout(LIMIT, taken_over).await.map_err(late)??;
    if let Some(failure) = failure {
        let mut failed = Error::failed("the new version did not start, and the daemon goes on as it was");
        failed.causes.push(failure);
        return Err(failed.hint("journalctl -u flyloft -n 50").into());
    }
    let seconds = begun.elapsed().as_secs_f64();
    if json {
        println!("{:#}", serde_json::json!({ "version": version, "seconds": seconds }));
    } else {
        println!("flyloft {version} has taken over, after {seconds:.1} s");
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(socket: &Path, what: Tag) -> Result<Talk, Error> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (read, write) = stream.into_split();
    let mut write = frame::writer(write);
    let hello = serde_json::to_vec(&Hello::own()).map_err(Error::failed)?;
    for (tag, payload) in [(Tag::Hello, hello.as_slice()), (what, &[])] {
        // A daemon that refuses the client closes early, and has said why.
        let _ = write.send(frame::encode(tag, payload)).await;
    }
    Ok(Talk { read: frame::reader(read), _write: write })
}

impl Talk {
    async fn hear(&mut self) -> Option<(Tag, bytes::Bytes)> {
        self.read.next().await?.ok().and_then(frame::decode)
    }
}

fn gone(what: &str) -> Error {
    Error::new(Kind::Unavailable, what).hint("journalctl -u flyloft -n 50")
}
