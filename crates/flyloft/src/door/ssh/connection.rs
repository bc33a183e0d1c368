//! One client: who it is, and which channels it has open. What runs in a channel is a [`Session`], a task of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Shared;
use super::keyboard::Keyboard;
use super::session::Session;
use super::words::{self, Request};
use crate::door::{Backend, CommandIo, LineMode, PublicKey, Terminal};
use crate::error::Result;
use crate::principal::Principal;

type Outcome<T = ()> = std::result::Result<T, russh::Error>;

const MAX_CHANNELS: usize = 16;
/// Bytes of a channel's input that wait for the command to take them.
const INPUT_BUFFER: usize = 256 << 10;
/// A command that takes none of its input for so long will not any more, and holds the whole connection up.
const STALLED: Duration = Duration::from_secs(3600);

pub struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    /// The key that was looked up last, and whose it is.
    offered: Option<(PublicKey, Option<Principal>)>,
    principal: Option<Arc<Principal>>,
    /// Told when the client has become known.
    known: Option<oneshot::Sender<Client>>,
    channels: HashMap<ChannelId, Slot>,
    /// Cancelled when nothing may run for the client any more.
    ended: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// A client that is known.
pub struct Client {
    pub principal: Arc<Principal>,
    key: PublicKey,
}

impl Client {
    /// Comes back when the key is not that of the same principal any more.
    pub async fn expelled(&self, backend: &dyn Backend, mut keys_changed: watch::Receiver<()>) {
        // An error says that the backend is gone, and the door closes.
        while keys_changed.changed().await.is_ok() {
            if backend.authenticate(&self.key).await.as_ref() != Some(&*self.principal) {
                return;
            }
        }
        std::future::pending().await
    }
}

enum Slot {
    Waiting(Waiting),
    Running(Running),
}

/// A channel in which nothing was asked for yet.
struct Waiting {
    write: ChannelWriteHalf<Msg>,
    terminal: Option<(String, u16, u16)>,
    git_protocol: Option<String>,
}

struct Running {
    /// None when the client has sent all, or the command wants no more.
    input: Option<DuplexStream>,
    size: watch::Sender<(u16, u16)>,
    lines: LineMode,
    keyboard: Keyboard,
    interrupted: CancellationToken,
    /// Calls off what runs, when the channel or the connection goes.
    _guard: DropGuard,
}

impl Connection {
    pub fn new(
        shared: Arc<Shared>,
        peer: SocketAddr,
        known: oneshot::Sender<Client>,
        ended: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let (known, channels) = (Some(known), HashMap::new());
        Self { shared, peer, offered: None, principal: None, known, channels, ended, _permit: permit }
    }

    async fn owner(&mut self, key: &russh::keys::PublicKey) -> Option<Principal> {
        let key = PublicKey::of(key);
        if let Some((offered, owner)) = &self.offered
            && *offered == key
        {
            return owner.clone();
        }
        let owner = self.shared.backend.authenticate(&key).await;
        self.offered = Some((key, owner.clone()));
        owner
    }

    fn waiting(&mut self, channel: ChannelId) -> Option<&mut Waiting> {
        match self.channels.get_mut(&channel)? {
            Slot::Waiting(waiting) => Some(waiting),
            Slot::Running(_) => None,
        }
    }

    fn running(&mut self, channel: ChannelId) -> Option<&mut Running> {
        match self.channels.get_mut(&channel)? {
            Slot::Running(running) => Some(running),
            Slot::Waiting(_) => None,
        }
    }

    /// Starts what the client asked for in a task of its own. A channel serves one request.
    fn start(&mut self, channel: ChannelId, request: Result<Option<Request>>, session: &mut russh::server::Session) {
        let (Some(principal), Some(Slot::Waiting(_))) = (&self.principal, self.channels.get(&channel)) else {
            let _ = session.channel_failure(channel);
            return;
        };
        let Some(Slot::Waiting(waiting)) = self.channels.remove(&channel) else { return };
        let (input, stdin) = duplex(INPUT_BUFFER);
        let (term, columns, rows) = waiting.terminal.clone().unwrap_or_default();
        let (size, resize) = watch::channel((columns, rows));
        let (gone, interrupted) = (self.ended.child_token(), CancellationToken::new());
        let lines = LineMode::default();
        let task = Session {
            shared: self.shared.clone(),
            principal: principal.clone(),
            handle: session.handle(),
            channel,
            git_protocol: waiting.git_protocol,
            io: CommandIo {
                stdin: Box::new(stdin),
                stdout: Box::new(waiting.write.make_writer()),
                stderr: Box::new(waiting.write.make_writer_ext(Some(1))),
                terminal: waiting.terminal.map(|_| Terminal {
                    term,
                    columns,
                    rows,
                    raw: true,
                    resize,
                    lines: lines.clone(),
                }),
            },
            notes: Box::new(waiting.write.make_writer_ext(Some(1))),
            gone: gone.clone(),
            interrupted: interrupted.clone(),
        };
        let (input, keyboard) = (Some(input), Keyboard::default());
        let running = Running { input, size, lines, keyboard, interrupted, _guard: gone.drop_guard() };
        self.channels.insert(channel, Slot::Running(running));
        let _ = session.channel_success(channel);
        tokio::spawn(task.run(request));
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Outcome<Auth> {
        let known = self.owner(offer.public_key).await.is_some();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Outcome<Auth> {
        let Some(owner) = self.owner(key.public_key).await else { return Ok(Auth::reject()) };
        tracing::debug!(peer = %self.peer, key = owner.name, "an SSH client is known");
        let principal = Arc::new(owner);
        self.principal = Some(principal.clone());
        if let Some(known) = self.known.take() {
            let _ = known.send(Client { principal, key: PublicKey::of(key.public_key) });
        }
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut russh::server::Session,
    ) -> Outcome {
        if self.channels.len() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let id = channel.id();
        let (_, write) = channel.split();
        self.channels.insert(id, Slot::Waiting(Waiting { write, terminal: None, git_protocol: None }));
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut russh::server::Session,
    ) -> Outcome {
        match self.waiting(channel) {
            Some(waiting) => {
                waiting.terminal = Some((terminal_name(term), side(columns, 80), side(rows, 24)));
                session.channel_success(channel)
            }
            None => session.channel_failure(channel),
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut russh::server::Session,
    ) -> Outcome {
        let sound = value.len() <= 64 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"=:.".contains(&b));
        match self.waiting(channel) {
            Some(waiting) if name == "GIT_PROTOCOL" && sound => {
                waiting.git_protocol = Some(value.to_owned());
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut russh::server::Session) -> Outcome {
        self.start(channel, Ok(None), session);
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut russh::server::Session,
    ) -> Outcome {
        self.start(channel, words::parse(command).map(Some), session);
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut russh::server::Session,
    ) -> Outcome {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut russh::server::Session,
    ) -> Outcome {
        session.channel_failure(channel)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        session: &mut russh::server::Session,
    ) -> Outcome {
        if let Some(running) = self.running(channel) {
            running.size.send_replace((side(columns, 80), side(rows, 24)));
        }
        session.channel_success(channel)
    }

    /// Whatever the signal, the client wants it to end.
    async fn signal(&mut self, channel: ChannelId, _: Sig, _session: &mut russh::server::Session) -> Outcome {
        if let Some(running) = self.running(channel) {
            running.interrupted.cancel();
        }
        Ok(())
    }

    /// Waits until the command takes the data. That holds the connection up, which is what tells the client to slow
    /// down: russh opens the channel's window again by itself. Output goes on in between, as the task that writes it
    /// does not wait for this one.
    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut russh::server::Session) -> Outcome {
        let Some(running) = self.running(channel) else { return Ok(()) };
        let (mut data, mut ends) = (data, false);
        let typed;
        if running.lines.is_asked() {
            typed = running.keyboard.press(data);
            session.data(channel, typed.echo)?;
            if typed.interrupt {
                running.interrupted.cancel();
            }
            (data, ends) = (&typed.input, typed.end);
        }
        let Some(input) = &mut running.input else { return Ok(()) };
        match tokio::time::timeout(STALLED, input.write_all(data)).await {
            Ok(Ok(())) if ends => {
                running.input = None;
                Ok(())
            }
            Ok(Ok(())) => Ok(()),
            // The command wants no more input; what it still says counts.
            Ok(Err(_)) => {
                running.input = None;
                Ok(())
            }
            Err(_) => {
                self.channels.remove(&channel);
                session.close(channel)
            }
        }
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut russh::server::Session) -> Outcome {
        if let Some(running) = self.running(channel) {
            running.input = None;
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut russh::server::Session) -> Outcome {
        self.channels.remove(&channel);
        Ok(())
    }
}

/// Only what a name in the terminfo database has.
fn terminal_name(term: &str) -> String {
    let sound = !term.is_empty()
        && term.len() <= 64
        && term.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b))
        && !term.starts_with(['.', '-']);
    if sound { term.to_owned() } else { "dumb".to_owned() }
}

fn side(length: u32, otherwise: u16) -> u16 {
    match u16::try_from(length) {
        Ok(length @ 1..=1000) => length,
        _ => otherwise,
    }
}
