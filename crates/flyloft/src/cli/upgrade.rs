//! `flyloft upgrade`: asks the daemon to let a newer version take over, and waits until that answers.
//!
//! The client is of the newer version most often, and the daemon of an older one: what they say to each other here never
//! changes, see [`frame`].

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::client::unreachable;
use crate::door::frame::{self, Hello, Tag};
use crate::error::{Error, Kind};

/// How long the old daemon may take to end, and the new one to answer: with all that it waits for, and room beside that.
const LIMIT: Duration = Duration::from_secs(180);

/// What the daemon says, and what keeps the connection open.
struct Talk {
    read: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    _write: FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
}

pub async fn run(socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let mut old = ask(socket, Tag::Upgrade).await?;
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
        ask(socket, Tag::Version).await?.hear().await.map_or_else(
            || Err(gone("the new daemon does not answer")),
            |(_, json)| {
                serde_json::from_slice(&json).map_err(|error| gone("the new daemon said nonsense").cause(error))
            },
        )
    };
    let late = |_| gone(&format!("the new daemon does not answer after {} s", LIMIT.as_secs()));
    let Hello { version, .. } = tokio::time::timeout(LIMIT, taken_over).await.map_err(late)??;
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
