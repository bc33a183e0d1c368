//! Connections to a published port that come to the daemon: from the host itself, in a family in which nothing listens
//! in the container, and while it rests.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use flyloft_core::address::of_one;
use flyloft_core::port::Port;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::door::{Door, Opening};
use super::places::Place;
use super::socket::keepalive;
use crate::engine::{ContainerId, SharedEngine};

/// How long somebody waits until what they came for is awake and listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a connection to a container may take.
const CONNECT: Duration = Duration::from_secs(2);

/// What was started may listen a little later than it answers HTTP.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection over which nothing has gone for so long makes way.
const IDLE: Duration = Duration::from_secs(3600);

/// Connections of one client that are relayed at a time to one port.
pub(super) const MOST_OF_CLIENT: usize = 64;

/// For as long as this goes on. Whoever is connected is cut with it.
pub(super) async fn serve(listener: TcpListener, port: Port, door: Arc<Door>, opening: Opening) {
    let mut carried = JoinSet::new();
    let mut clients: HashMap<IpAddr, usize> = HashMap::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, from)) => {
                    let whose = of_one(from.ip());
                    let others = clients.get(&whose).copied().unwrap_or_default();
                    // Nobody makes way for who has enough.
                    let may_stay = others < MOST_OF_CLIENT;
                    match may_stay.then(|| door.place(port, &opening.room)).flatten() {
                        Some(place) => {
                            clients.insert(whose, others + 1);
                            let carry = carry(client, from, port, door.clone(), opening.engine.clone(), place);
                            carried.spawn(async move {
                                carry.await;
                                whose
                            });
                        }
                        None => {
                            // It wakes what it is for all the same, and finds the way straight then.
                            door.note(&called(port, from), false);
                            refuse(client);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(port = port.host, %error, "failed to take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = carried.join_next() => {
                if let Ok(whose) = ended
                    && let Entry::Occupied(mut count) = clients.entry(whose)
                {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
        }
    }
}

fn called(port: Port, from: SocketAddr) -> String {
    format!("a connection to port {} from {}", port.port, from.ip().to_canonical())
}

async fn carry(client: TcpStream, from: SocketAddr, port: Port, door: Arc<Door>, engine: SharedEngine, place: Place) {
    let by = called(port, from);
    // What is awake has its ports, or has them not. What has just been woken may need a moment.
    let until = (!door.is_open()).then(|| Instant::now() + PATIENCE);
    let Some(container) = door.opened(&by, PATIENCE).await else { return refuse(client) };
    match connected(&engine, &container, port.port, until).await {
        Some(app) => relay(client, app, &door, &by, &place).await,
        None => refuse(client),
    }
}

/// A connection to whatever listens in the container, in whichever family; tried until then, if there is a limit.
async fn connected(
    engine: &SharedEngine,
    container: &ContainerId,
    port: u16,
    until: Option<Instant>,
) -> Option<TcpStream> {
    let addresses = engine.find(container).await.ok()??.addresses.both();
    loop {
        for address in addresses {
            if let Ok(Ok(app)) = tokio::time::timeout(CONNECT, TcpStream::connect((address, port))).await {
                return Some(app);
            }
        }
        until.filter(|until| Instant::now() < *until)?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// As if nobody listened.
fn refuse(client: TcpStream) {
    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
}

async fn relay(client: TcpStream, mut app: TcpStream, door: &Door, by: &str, place: &Place) {
    let _ = app.set_nodelay(true);
    let _ = SockRef::from(&app).set_tcp_keepalive(&keepalive());
    place.note();
    let mut client = Client { stream: client, door, by, place };
    let both_ways = copy_bidirectional(&mut client, &mut app);
    tokio::select! {
        ended = both_ways => {
            if let Err(error) = ended {
                tracing::debug!(by, %error, "a relayed connection was broken off");
                refuse(client.stream);
            }
        }
        () = idle(place) => {}
        () = place.lost() => tracing::debug!(by, "a relayed connection over which nothing went makes way"),
    }
}

/// Comes back when nothing has gone over a connection for long.
async fn idle(place: &Place) {
    while let Some(left) = IDLE.checked_sub(place.quiet_for()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left).await;
    }
}

/// A client's side of a connection, of whom is noted that they say something.
struct Client<'a> {
    stream: TcpStream,
    door: &'a Door,
    by: &'a str,
    place: &'a Place,
}

impl AsyncRead for Client<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.place.note();
            self.door.said(self.by);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.place.note();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
