//! Datagrams to a published port that come to the daemon. Each client has a socket to the container for as long as
//! something comes by it, so that answers find their way back.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flyloft_core::port::Port;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::door::{Door, Opening};
use super::places::Place;
use crate::engine::{ContainerId, SharedEngine};

/// Datagrams of one client that wait until what they are for is awake. What comes beyond them is lost, as datagrams are.
const QUEUE: usize = 64;

/// Bytes that wait so of all clients of a port.
const QUEUED: usize = 256 << 10;

/// How long a client waits for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two attempts to reach what does not listen yet.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it takes at most to be told that nothing listens.
const REFUSAL: Duration = Duration::from_millis(20);

/// A client of whom nothing is heard, and who hears nothing, for so long is another one when they come again. The kernel
/// remembers a flow for two minutes.
const IDLE: Duration = Duration::from_secs(120);

/// The largest datagram that there is.
const LARGEST: usize = 65_535;

/// Who sent a datagram, and to which of the host's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    at: SocketAddr,
    to: Option<Local>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Local {
    address: Ipv6Addr,
    /// Of the link, where the address means nothing without it.
    link: u32,
}

/// A datagram, and what it takes of the bytes that may wait.
type Waiting = (Vec<u8>, OwnedSemaphorePermit);

/// For as long as this goes on.
pub(super) async fn serve(socket: UdpSocket, port: Port, door: Arc<Door>, opening: Opening) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<Client, mpsc::Sender<Waiting>> = HashMap::new();
    let mut carried = JoinSet::new();
    let bytes = Arc::new(Semaphore::new(QUEUED));
    let mut datagram = vec![0; LARGEST];
    loop {
        while let Some(ended) = carried.try_join_next() {
            if let Ok(client) = ended
                && clients.get(&client).is_some_and(mpsc::Sender::is_closed)
            {
                clients.remove(&client);
            }
        }
        let (length, client) = match receive(&socket, &mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(port = port.host, %error, "failed to take a datagram");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Ok(room) = bytes.clone().try_acquire_many_owned(length as u32) else { continue };
        let content = (datagram[..length].to_vec(), room);
        let content = match clients.get(&client) {
            None => content,
            Some(known) => match known.try_send(content) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => continue,
                Err(mpsc::error::TrySendError::Closed(content)) => content,
            },
        };
        let Some(place) = door.place(port, &opening.room) else {
            // It wakes what it is for all the same, and the client sends again.
            door.note(&called(port, client.at), false);
            continue;
        };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let _ = queue.try_send(content);
        clients.insert(client, queue);
        let session =
            Session { client, port, door: door.clone(), engine: opening.engine.clone(), socket: socket.clone() };
        carried.spawn(async move {
            session.carry(waiting, place).await;
            client
        });
    }
}

fn called(port: Port, from: SocketAddr) -> String {
    format!("a datagram to port {} from {}", port.port, from.ip().to_canonical())
}

/// What goes on between one client and the container.
struct Session {
    client: Client,
    port: Port,
    door: Arc<Door>,
    engine: SharedEngine,
    socket: Arc<UdpSocket>,
}

/// The socket to a container.
struct App {
    container: ContainerId,
    socket: UdpSocket,
    /// The other address that it could be connected to.
    other: Option<SocketAddr>,
    /// What was sent by it was not refused.
    proven: bool,
}

impl Session {
    async fn carry(&self, mut waiting: mpsc::Receiver<Waiting>, place: Place) {
        let by = called(self.port, self.client.at);
        let mut app = None;
        let mut answer = vec![0; LARGEST];
        loop {
            let heard = async {
                match &app {
                    Some(App { socket, .. }) => socket.recv(&mut answer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                datagram = waiting.recv() => {
                    let Some((datagram, _room)) = datagram else { return };
                    place.note();
                    // What has just been woken may need a moment until it listens.
                    let patience = if self.door.is_open() { Duration::ZERO } else { PATIENCE };
                    let until = Instant::now() + patience;
                    let Some(container) = self.door.opened(&by, PATIENCE).await else { return };
                    self.deliver(&mut app, container, &datagram, until).await;
                }
                received = heard => match received {
                    Ok(length) => {
                        place.note();
                        if let Err(error) = reply(&self.socket, &answer[..length], self.client).await {
                            tracing::debug!(by, %error, "failed to answer a datagram");
                        }
                    }
                    // It listens no more.
                    Err(_) => app = None,
                },
                () = tokio::time::sleep(IDLE) => return,
                () = place.lost() => return,
            }
        }
    }

    /// Sends a datagram to the container, in whichever family something listens; tried until then, as long as it is
    /// refused.
    async fn deliver(&self, app: &mut Option<App>, container: ContainerId, datagram: &[u8], until: Instant) {
        loop {
            if app.as_ref().is_none_or(|app| app.container != container) {
                *app = self.reach(container.clone()).await;
            }
            let Some(known) = app else { return };
            let sent = known.socket.send(datagram).await;
            if known.proven && sent.is_ok() {
                return;
            }
            // What the kernel tells of one that was proven is about a datagram before.
            if known.proven {
                *app = None;
                continue;
            }
            known.proven = !known.is_refused().await;
            if known.proven {
                return;
            }
            *app = match known.other.take() {
                Some(other) => {
                    let socket = connected(other).await;
                    socket.map(|socket| App { container: container.clone(), socket, other: None, proven: false })
                }
                None if Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                    None
                }
                None => {
                    *app = None;
                    return;
                }
            };
        }
    }

    async fn reach(&self, container: ContainerId) -> Option<App> {
        let addresses = self.engine.find(&container).await.ok()??.addresses;
        let [first, other] = addresses.both().map(|ip| SocketAddr::from((ip, self.port.port)));
        Some(App { container, socket: connected(first).await?, other: Some(other), proven: false })
    }
}

impl App {
    /// Whether what has just been sent found nobody, which the container's kernel says at once.
    async fn is_refused(&self) -> bool {
        // An error alone makes a socket not readable.
        let told = self.socket.ready(Interest::READABLE | Interest::ERROR);
        tokio::time::timeout(REFUSAL, told).await.is_ok() && matches!(self.socket.take_error(), Ok(Some(_)) | Err(_))
    }
}

async fn connected(to: SocketAddr) -> Option<UdpSocket> {
    let any =
        if to.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(to).await.ok()?;
    Some(socket)
}

async fn receive(socket: &UdpSocket, into: &mut [u8]) -> io::Result<(usize, Client)> {
    let receive = || -> io::Result<(usize, Client)> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(&mut *into)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let to = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(local(info)),
            _ => None,
        });
        let at = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
        Ok((message.bytes, Client { at, to }))
    };
    socket.async_io(Interest::READABLE, receive).await
}

async fn reply(socket: &UdpSocket, answer: &[u8], client: Client) -> io::Result<()> {
    let to = SockaddrStorage::from(client.at);
    let from = client.to.map(|local| libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: local.address.octets() },
        ipi6_ifindex: local.link,
    });
    let send = || -> io::Result<()> {
        let control: Vec<ControlMessage<'_>> = from.iter().map(ControlMessage::Ipv6PacketInfo).collect();
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(answer)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, send).await
}

fn local(info: libc::in6_pktinfo) -> Local {
    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
    let link = if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
    Local { address, link }
}

fn address(of: &SockaddrStorage) -> Option<SocketAddr> {
    match (of.as_sockaddr_in(), of.as_sockaddr_in6()) {
        (Some(at), _) => Some(SocketAddr::from((at.ip(), at.port()))),
        (_, Some(at)) => Some(SocketAddrV6::new(at.ip(), at.port(), at.flowinfo(), at.scope_id()).into()),
        _ => None,
    }
}
