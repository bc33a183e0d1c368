//! What a client sends in a push: first what it wants of the branches, then the objects, as a pack. The pack waits here
//! until there is a place for it, since git takes memory for it. A client that is still packing holds no place, and one
//! that stops in the middle loses its place to whoever waits.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_buf};

use crate::source::{Place, Room};

const WAITING: &str = "Waiting: other pushes are being received.\r\n";
const STALLED: &str = "The push stopped in the middle, and others wait for its place. Push again.\r\n";

pub struct Entry {
    room: Room,
    patience: Duration,
    place: Mutex<Option<Place>>,
}

impl Entry {
    pub fn new(room: Room, patience: Duration) -> Self {
        Self { room, patience, place: Mutex::default() }
    }

    /// Everything has come: the place is free for another push.
    pub fn leave(&self) {
        self.held().take();
    }

    /// Passes on what the client sends, until it ends or has to make way. What it is to know goes to `notes`.
    pub async fn pass(
        &self,
        mut from: impl AsyncBufRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut notes: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        commands(&mut from, &mut to).await?;
        // A push that only deletes has no objects.
        if from.fill_buf().await?.is_empty() {
            return Ok(());
        }
        let place = match self.room.find() {
            Some(place) => place,
            None => {
                say(&mut notes, WAITING).await?;
                self.room.enter().await
            }
        };
        *self.held() = Some(place);
        loop {
            let bytes = match tokio::time::timeout(self.patience, from.fill_buf()).await {
                Ok(bytes) => bytes?,
                Err(_) if self.held().is_some() && self.room.is_wanted() => return say(&mut notes, STALLED).await,
                Err(_) => continue,
            };
            if bytes.is_empty() {
                return Ok(());
            }
            to.write_all(bytes).await?;
            let count = bytes.len();
            from.consume(count);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Place>> {
        self.place.lock().expect("not poisoned")
    }
}

/// Passes on lines up to the one without length that ends them, see gitprotocol-common(5), "pkt-line Format". Where they
/// are none, git is who says so.
async fn commands(from: &mut (impl AsyncBufRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length).await?;
        to.write_all(&length).await?;
        let length = str::from_utf8(&length).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match length.and_then(|length| length.checked_sub(4)) {
            Some(rest) => copy_buf(&mut from.take(rest), to).await?,
            None => return Ok(()),
        };
    }
}

async fn say(notes: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    notes.write_all(text.as_bytes()).await?;
    notes.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_passed_on_up_to_their_end_and_what_follows_is_left() {
        for (sent, left) in [("0009hello0000PACK", "PACK"), ("0000", ""), ("nonsense", "ense"), ("0001PACK", "PACK")] {
            let (mut from, mut to) = (sent.as_bytes(), Vec::new());
            commands(&mut from, &mut to).await.unwrap();
            assert_eq!(String::from_utf8(to).unwrap() + str::from_utf8(from).unwrap(), sent);
            assert_eq!(str::from_utf8(from).unwrap(), left);
        }
    }
}
