//! Dumps, and how they come into a database: from whoever sends one, or from another database where the server copies
//! none itself. Programs of its kind do it, in a container of their own. Whoever uses what is dumped is not disturbed.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};

use super::client::Client;
use super::made;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::service::{Client as Programs, Dumps, Server, Wanted};

/// Bytes that are kept of what a program says.
const SAID: usize = 4096;

/// Makes what is wanted, with the data of another one. Nothing is left of it if that fails.
pub(super) async fn provide(parts: &Parts, server: &Server, wanted: &Wanted, seed: &Wanted) -> Result<Option<u16>> {
    let driver = parts.services.of(server.url.kind);
    let number = made(driver, server, wanted).await?;
    let copied = async {
        // Where one was cut off in the middle, something is in it, and somebody may still be writing. Nobody has had it yet.
        driver.empty(server, &wanted.label).await?;
        pour(parts, server, &driver.client(server, seed)?, &driver.client(server, wanted)?).await
    };
    let copied = copied.await;
    if copied.is_err() {
        // Why it failed is told. What does not go now is on record, and the next one finds it.
        let _ = driver.remove(server, &wanted.label).await;
    }
    copied.map(|()| number)
}

/// Reads all that is in one database into another one, which is empty.
pub(super) async fn pour(parts: &Parts, server: &Server, from: &Programs, to: &Programs) -> Result<()> {
    let poured = copy(parts, server, from, to).await;
    poured.map_err(|error| error.hint(format!("look whether it is well: flyloft services check {}", server.name)))
}

async fn copy(parts: &Parts, server: &Server, from: &Programs, to: &Programs) -> Result<()> {
    let failed = || format!("failed to copy data on server `{}`", server.name);
    let Some(Dumps { dump, .. }) = &from.dumps else {
        return Err(Error::failed(failed()).hint("nothing takes a dump of that kind"));
    };
    let client = Client::open_in_turn(parts, server, from).await?;
    let mut exec = client.start(dump, None, None).await?;
    drop(exec.stdin);
    let (mut said, mut stdout, client) = (Vec::new(), BufReader::new(exec.stdout), &client);
    let errors = async { tail(&mut exec.stderr, &mut said).await.or_failed(failed) };
    // The pipe is closed with it: a dump that nobody reads to its end would wait for ever, and its turn with it.
    let data = async move {
        // Of one that has nothing to say it tells itself why.
        match stdout.fill_buf().await.or_failed(failed)?.is_empty() {
            true => Ok(()),
            false => read_in(client, server, to, &mut stdout).await,
        }
    };
    tokio::try_join!(data, errors)?;
    match exec.control.wait().await.or_failed(failed)? {
        0 => Ok(()),
        code => Err(ended(failed(), code, &said)),
    }
}

/// Reads a dump into a database. Ends with whoever sends it.
pub(super) async fn fill(
    parts: &Parts,
    server: &Server,
    programs: &Programs,
    dump: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<()> {
    let client = Client::open(parts, server, programs).await?;
    read_in(&client, server, programs, dump).await
}

async fn read_in(
    client: &Client,
    server: &Server,
    programs: &Programs,
    dump: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<()> {
    let failed = || format!("failed to restore the dump on server `{}`", server.name);
    let Some(Dumps { restore, .. }) = &programs.dumps else {
        return Err(Error::failed(failed()).hint("nothing reads one into a server of that kind"));
    };
    let mut exec = client.start_as(programs, restore).await?;
    let mut stdin = exec.stdin;
    let feed = async {
        // One that ends before it has read all says why.
        let _ = tokio::io::copy(dump, &mut stdin).await;
        let _ = stdin.shutdown().await;
        drop(stdin);
        std::future::pending::<()>().await
    };
    let (mut said, mut printed) = (Vec::new(), Vec::new());
    let output = async { tokio::join!(tail(&mut exec.stderr, &mut said), tail(&mut exec.stdout, &mut printed)) };
    tokio::select! {
        (errors, output) = output => errors.and(output).or_failed(failed)?,
        () = feed => {}
    }
    match exec.control.wait().await.or_failed(failed)? {
        0 => Ok(()),
        code => Err(ended(failed(), code, &said)),
    }
}

/// Why a program has failed, in its own words if it has said any.
pub fn ended(what: String, code: i32, said: &[u8]) -> Error {
    let mut error = Error::failed(what);
    let text = String::from_utf8_lossy(said).trim().to_owned();
    error.causes.push(if text.is_empty() { format!("it ended with status {code}") } else { text });
    error
}

/// The last of what is printed.
pub async fn tail(from: &mut (dyn AsyncRead + Send + Unpin), said: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = vec![0; 4096];
    loop {
        match from.read(&mut piece).await? {
            0 => return Ok(()),
            count => {
                said.extend_from_slice(&piece[..count]);
                let over = said.len().saturating_sub(SAID);
                said.drain(..over);
            }
        }
    }
}
