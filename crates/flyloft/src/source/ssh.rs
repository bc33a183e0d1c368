//! SSH to where repositories live. The daemon is the client, and git gets a socket to talk through: so a deploy key
//! is never in a file that git's user could read, and nothing of the machine's own SSH configuration counts.
//!
//! A host's key is written down at the first contact and must be the same from then on.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::client::{self, AuthResult, Handle, Msg};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, known_hosts};
use russh::{Channel, ChannelMsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::refusal::Refusal;
use super::remote::RemoteUrl;

const DIAL: Duration = Duration::from_secs(20);
/// Bytes that are kept of what the server says on its standard error.
const SAID: usize = 4096;

/// A channel in which the server runs `git-upload-pack`.
pub(super) struct Link {
    channel: Channel<Msg>,
    /// Ends the connection when it is dropped.
    session: Handle<Host>,
}

/// Reaches the repository, or says why not.
pub(super) async fn dial(url: &RemoteUrl, key: Option<&str>, known_hosts: &Path) -> Result<Link, Refusal> {
    let key = key.ok_or(Refusal::NoDeployKey)?;
    let key = russh::keys::decode_secret_key(key, None).map_err(|_| Refusal::BadDeployKey)?;
    tokio::time::timeout(DIAL, connect(url, key, known_hosts)).await.unwrap_or(Err(Refusal::TooSlow))
}

async fn connect(url: &RemoteUrl, key: russh::keys::PrivateKey, known_hosts: &Path) -> Result<Link, Refusal> {
    let port = url.port.unwrap_or(22);
    let addresses = tokio::net::lookup_host((url.host.as_str(), port)).await.map_err(|_| Refusal::UnknownHost)?;
    let changed = Arc::new(Mutex::new(false));
    let host = Host { name: url.host.clone(), port, known_hosts: known_hosts.to_owned(), changed: changed.clone() };
    let config =
        client::Config { nodelay: true, keepalive_interval: Some(Duration::from_secs(30)), ..Default::default() };
    let addresses: Vec<_> = addresses.collect();
    let connected = client::connect(Arc::new(config), &addresses[..], host).await;
    let mut session = connected.map_err(|error| match error {
        _ if *changed.lock().expect("not poisoned") => Refusal::HostKeyChanged,
        russh::Error::IO(_) => Refusal::Unreachable,
        error => Refusal::Other(error.to_string()),
    })?;
    let failed = |error: russh::Error| Refusal::Other(error.to_string());
    let hash = match key.algorithm().is_rsa() {
        true => session.best_supported_rsa_hash().await.map_err(failed)?.flatten(),
        false => None,
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    let user = url.user.as_deref().unwrap_or("git");
    match session.authenticate_publickey(user, key).await.map_err(failed)? {
        AuthResult::Success => {}
        AuthResult::Failure { .. } => return Err(Refusal::Denied),
    }
    let channel = session.channel_open_session().await.map_err(failed)?;
    channel.set_env(false, "GIT_PROTOCOL", "version=2").await.map_err(failed)?;
    // The path has no quote in it: see `RemoteUrl`.
    channel.exec(false, format!("git-upload-pack '{}'", url.path)).await.map_err(failed)?;
    Ok(Link { channel, session })
}

impl Link {
    /// The socket for git, and the work of carrying bytes until git has closed it. What the server said on its
    /// standard error comes out of that.
    pub(super) fn open(self) -> (io::Result<OwnedFd>, impl Future<Output = String>) {
        let pair = std::os::unix::net::UnixStream::pair();
        let (theirs, ours) = match pair {
            Ok((theirs, ours)) => (Ok(theirs.into()), Ok(ours)),
            Err(error) => (Err(error), Err(())),
        };
        let carry = async move {
            let mut said = Vec::new();
            if let Ok(ours) = ours {
                let _ = self.carry(ours, &mut said).await;
            }
            String::from_utf8_lossy(&said).into_owned()
        };
        (theirs, carry)
    }

    async fn carry(self, socket: std::os::unix::net::UnixStream, said: &mut Vec<u8>) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let (mut from_git, mut to_git) = UnixStream::from_std(socket)?.into_split();
        let (mut from_server, to_server) = self.channel.split();
        let upward = async {
            let mut piece = vec![0; 32 << 10];
            loop {
                match from_git.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) if to_server.data(&piece[..count]).await.is_err() => break,
                    Ok(_) => {}
                }
            }
            // A server that does not answer this closes the channel when the session is dropped.
            let _ = to_server.eof().await;
        };
        let downward = async {
            while let Some(message) = from_server.wait().await {
                let delivered = match message {
                    ChannelMsg::Data { data } => to_git.write_all(&data).await,
                    ChannelMsg::ExtendedData { data, .. } => {
                        said.extend(data.iter().take(SAID.saturating_sub(said.len())));
                        Ok(())
                    }
                    ChannelMsg::Close => break,
                    _ => Ok(()),
                };
                if delivered.is_err() {
                    break;
                }
            }
            drop(to_git);
        };
        tokio::pin!(upward, downward);
        tokio::select! {
            () = &mut downward => {}
            () = &mut upward => {
                let _ = tokio::time::timeout(Duration::from_secs(5), &mut downward).await;
            }
        }
        drop(self.session);
        Ok(())
    }
}

/// Checks who is at the other end.
struct Host {
    name: String,
    port: u16,
    known_hosts: PathBuf,
    changed: Arc<Mutex<bool>>,
}

/// Two first contacts at a time must not write into each other's lines.
static WRITING: Mutex<()> = Mutex::new(());

impl client::Handler for Host {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        let _writing = WRITING.lock().expect("not poisoned");
        let recorded = known_hosts::known_host_keys_path(&self.name, self.port, &self.known_hosts)?;
        if recorded.is_empty() {
            tracing::info!(host = self.name, port = self.port, "first contact with an SSH host");
            known_hosts::learn_known_hosts_path(&self.name, self.port, key, &self.known_hosts)?;
            return Ok(true);
        }
        // A key of another kind is another key: who sits in between would offer one.
        let known = recorded.iter().any(|(_, recorded)| recorded.key_data() == key.key_data());
        *self.changed.lock().expect("not poisoned") = !known;
        Ok(known)
    }
}
