//! A request for an environment that is not awake: it waits until that is, or for as long as is good for it.
//!
//! ```text
//!   comes ─► the daemon is told, once ─► waits ─┬─ awake ─────► goes through
//!                                               ├─ failed ────► 503, with why
//!                                               ├─ 1.5 s ─────► a browser gets a page that comes back by itself
//!                                               ├─ 30 s ──────► 503 + Retry-After
//!                                               └─ client gone, or the edge ends
//! ```
//!
//! What must hold: who waits takes a bounded room of the edge and nobody else's, and a body stays where it is: with its
//! client, but for what HTTP/2 lets it send ahead. That is paid for in spots.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::harmless::{self, Colours};
use flyloft_core::name::EnvRef;
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, StatusCode, Version};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::exchange::Client;
use super::half_closed;
use super::headers;
use super::host::{Aim, Host, Pass, Place, Sleep};
use super::page::{Form, Notice};
use super::room::SPOT;
use super::routes::Admission;
use super::waiting::{Joined, Ticket, Verdict};
use super::witness::Witness;
use super::worker::{WINDOW, Worker};

/// What is left of the time in which the edge ends, for the answers to those who waited.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A path is told up to this length.
const PATH_MAX: usize = 100;

/// What a request that waits is like.
pub struct Wish {
    /// In words for people.
    by: String,
    /// A person looks at it, in a browser that can come back by itself.
    page: bool,
    spots: u32,
    /// The socket on which the end of its client shows. hyper sees it only where nothing of the client is left to read.
    socket: Option<RawFd>,
    /// How long it waits on when its client has ended, which may only have shut its sending side.
    lingers: Duration,
}

impl Wish {
    pub fn of(client: &Client, request: &Request<Incoming>) -> Self {
        // A stream of HTTP/2 is watched by hyper, and has no socket of its own.
        let socket = (request.version() != Version::HTTP_2).then_some(client.socket);
        let lingers = match half_closed::is_whole(request) {
            true => client.patience,
            false => Duration::ZERO,
        };
        Self { by: told(client, request), page: is_of_a_page(request), spots: spots(request), socket, lingers }
    }
}

/// `GET /cart from 203.0.113.7`. The query stays out: it may have secrets.
pub fn told<B>(client: &Client, request: &Request<B>) -> String {
    let path: String = request.uri().path().chars().take(PATH_MAX).collect();
    let by = format!("{} {path} from {}", request.method(), client.visitor(request.headers()).address());
    harmless::line(&by, Colours::Dropped)
}

/// Whether the answer is for the window of a browser (Fetch Metadata, where there is some). A frame within another page
/// would not show a page of the edge.
fn is_of_a_page<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    matches!(*request.method(), Method::GET | Method::HEAD)
        && Form::of(headers) == Form::Html
        && headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
        && headers.get("sec-fetch-dest").is_none_or(|destination| destination == "document")
        && headers::upgrade(headers).is_none()
}

/// What the edge may have to keep: the head, and what HTTP/2 lets a client send of the body before anybody takes it.
fn spots(request: &Request<Incoming>) -> u32 {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let ahead = match request.version() {
        Version::HTTP_2 => request.body().size_hint().upper().unwrap_or(u64::MAX).min(WINDOW.into()) as usize,
        _ => 0,
    };
    ((fields.sum::<usize>() + ahead) / SPOT + 1) as u32
}

/// Waits until the request for `name` may go on. Gives who is to know of its further way as well.
pub async fn hold(
    client: &Client,
    wish: Wish,
    name: &str,
    mut host: Arc<Host>,
    mut place: Arc<Place>,
) -> Result<(Pass, Option<Witness>), Notice> {
    let shared = &client.worker.shared;
    let _use = place.begin();
    place.note(|| wish.by.clone());
    let Some(_spots) = shared.crowd.spots(wish.spots) else {
        return Err(refused(&place, |env| Notice::Crowded { env, comes_back: wish.page }));
    };
    let patience = if wish.page { shared.limits.page } else { shared.limits.held };
    let mut end = End { at: Instant::now() + patience, brought_forward: false };
    let mut gone = std::pin::pin!(gone(wish.socket, wish.lingers));
    let mut known = false;
    let mut witness = None;
    loop {
        if let Aim::Held(sleep) = &place.aim {
            if wish.page
                && !std::mem::replace(&mut known, true)
                && let Some(why) = sleep.browser_comes()
            {
                return Err(failed(&place, &why));
            }
            let verdict = match host.wait(&place, wish.spots, shared.crowd.room.held_for_one) {
                Joined::Full => return Err(refused(&place, |env| Notice::Crowded { env, comes_back: wish.page })),
                Joined::Moved => Some(Verdict::LookAgain),
                Joined::Waits(ticket) => {
                    client.worker.tell(&place.env, sleep, true, || wish.by.clone());
                    witness = sleep.witness().or(witness);
                    tokio::select! {
                        verdict = waited(ticket, &client.worker, &mut end) => verdict,
                        () = gone.as_mut() => None,
                    }
                }
            };
            match verdict {
                Some(Verdict::LookAgain) => {}
                Some(Verdict::Failed(why)) => return Err(failed(&place, &why)),
                None => return Err(refused(&place, |env| waking(env, sleep, wish.page))),
            }
        }
        (host, place) = match shared.routes.admit(name, false) {
            Some(Admission::Entered(pass)) => {
                witness.iter().for_each(Witness::passed);
                return Ok((pass, witness));
            }
            Some(Admission::Held(host, place)) => (host, place),
            Some(Admission::Refused(place)) => return Err(place.refusal()),
            None => return Err(Notice::UnknownHost { host: name.to_owned() }),
        };
    }
}

/// When a wait ends in any case.
struct End {
    at: Instant,
    /// The edge ends, and has moved it.
    brought_forward: bool,
}

/// What ends the wait, if it is not over before.
async fn waited(mut ticket: Ticket, worker: &Worker, end: &mut End) -> Option<Verdict> {
    let halt = &worker.shared.halt;
    loop {
        tokio::select! {
            biased;
            verdict = ticket.verdict() => return Some(verdict),
            () = tokio::time::sleep_until(end.at) => return None,
            () = halt.leaving.cancelled(), if !end.brought_forward => {
                let last = halt.leave_by().and_then(|deadline| deadline.checked_sub(LAST_WORDS));
                end.at = last.map_or_else(Instant::now, Instant::from_std).min(end.at);
                end.brought_forward = true;
            }
        }
    }
}

/// Resolves when the client has closed its side of the connection, and `lingers` has passed since. It does not read: what
/// has come stays where it is.
async fn gone(socket: Option<RawFd>, lingers: Duration) {
    let Some(socket) = socket else { return std::future::pending().await };
    // SAFETY: whoever waits for this is the service of the connection that the socket belongs to, which closes it only
    // after it has dropped its service.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let watched = socket.try_clone_to_owned().and_then(|own| TcpStream::from_std(own.into()));
    let Ok(watched) = watched else { return std::future::pending().await };
    while let Ok(ready) = watched.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return tokio::time::sleep(lingers).await;
        }
        // Bytes have come. From here on the next event counts.
        let _ = watched.try_io(Interest::READABLE, || Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
    }
}

fn waking(env: EnvRef, sleep: &Sleep, page: bool) -> Notice {
    if page {
        sleep.browser_gets_page();
    }
    Notice::Waking { env, waking_for: sleep.waking_for(), doing: sleep.doing(), comes_back: page }
}

fn failed(place: &Place, why: &str) -> Notice {
    place.count(StatusCode::BAD_GATEWAY.as_u16());
    Notice::Failed { env: place.env.clone(), why: why.to_owned() }
}

fn refused(place: &Place, notice: impl FnOnce(EnvRef) -> Notice) -> Notice {
    place.count(StatusCode::SERVICE_UNAVAILABLE.as_u16());
    notice(place.env.clone())
}
