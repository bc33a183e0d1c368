//! One request: find its place, hand it on, bring the answer back.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, EXPECT, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::body::{Answer, Over, Relayed, Stream};
use super::crowd::{Guest, Visit};
use super::framing::{Encoder, Framing};
use super::gate::{self, Stop};
use super::half_closed::Asked;
use super::headers::{self, Authority, Sender, Visitor};
use super::hold::{Wish, hold, told};
use super::host::{Host, Pass, Place};
use super::line::{Line, LineError, Question, READ_MAX};
use super::lines::Full;
use super::login::Login;
use super::pace::Busy;
use super::page::{Death, Form, Notice};
use super::password;
use super::quiet::Manner;
use super::routes::Admission;
use super::secure;
use super::standing::Standing;
use super::stream;
use super::switch::Switch;
use super::upload::{self, Upload};
use super::upstream::Upstream;
use super::witness::Witness;
use super::worker::Worker;
use crate::tls::Shown;

/// A request that cannot be asked a second time goes only over a connection that was in use this shortly ago. Servers
/// close idle ones after 2 s (gunicorn), 5 s (Node) or more, and may do so just when a request is on its way.
const SURELY_OPEN: Duration = Duration::from_secs(1);

/// As much of an answer is read at a time for a stream of HTTP/2, of which a connection may have many.
const STREAM_READ_MAX: usize = 32 << 10;

/// One client's connection, which many requests may come over.
pub struct Client {
    pub sender: Sender,
    /// By what it knows the edge, over TLS.
    pub shown: Option<Arc<Shown>>,
    /// How long it has for its answer when it has shut its sending side, which may have gone as well.
    pub patience: Duration,
    pub manner: Manner,
    pub asked: Asked,
    pub socket: RawFd,
    pub busy: Busy,
    pub guest: Arc<Guest>,
    /// The end of the edge waits for this; not for a stream of events, which gives it up.
    pub held: Mutex<Option<TaskTrackerToken>>,
    pub worker: Arc<Worker>,
}

impl Client {
    /// Who has sent a request with these headers.
    pub fn visitor(&self, headers: &HeaderMap) -> Cow<'_, Visitor> {
        match &self.sender {
            Sender::Client(visitor) => Cow::Borrowed(visitor),
            Sender::Proxy(proxy) => Cow::Owned(Visitor::told_by(headers, &self.worker.shared.proxies, proxy)),
        }
    }
}

/// Answers a request in one way or another.
pub async fn answer(client: Arc<Client>, mut request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let (form, version) = (Form::of(request.headers()), request.version());
    let found = match client.guest.visit() {
        Some(visit) => {
            let found = match find(&client, &mut request) {
                Err(Stop::Doubted(doubt)) => Box::pin(find_later(&client, &mut request, doubt)).await,
                Err(Stop::LogsIn(login)) => Err(Box::pin(login.go_on(&client)).await),
                Err(Stop::Answered(notice)) => Err(notice),
                Ok(found) => Ok(found),
            };
            found.map(|(authority, way)| (authority, way, visit))
        }
        None => Err(Notice::Busy),
    };
    client.asked.begin();
    let answer = match found {
        Ok((authority, Way::Open(pass), visit)) => relay(&client, request, authority, (pass, None), visit).await,
        // It has a box of its own, so that all the others do not carry what it takes.
        Ok((authority, Way::Held(host, place), visit)) => {
            Box::pin(relay_later(&client, request, authority, (host, place), visit)).await
        }
        Err(notice) => {
            discard(request).await;
            Err(notice)
        }
    };
    let mut answer = answer.unwrap_or_else(|notice| notice.response(form).map(Answer::Page));
    // So that the client's next request goes to whoever serves then.
    if client.worker.shared.halt.has_begun()
        && version != Version::HTTP_2
        && answer.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

/// What a request finds where it is to go.
enum Way {
    Open(Pass),
    Held(Arc<Host>, Arc<Place>),
}

/// Where a request goes, or why it goes nowhere.
fn find(client: &Client, request: &mut Request<Incoming>) -> Result<(Authority, Way), Stop> {
    if request.method() == Method::CONNECT {
        return Err(Notice::NotServed { what: "Tunnels are not made here" }.into());
    }
    if headers::has_unknown_coding(request.headers()) {
        return Err(Notice::NotServed { what: "The only transfer coding understood here is chunked" }.into());
    }
    let authority = Authority::of(request.uri(), request.headers()).map_err(|_| Notice::NoHost)?;
    let (shared, host) = (&client.worker.shared, authority.host());
    if let Some(answer) = shared.answers.to(&host, request.uri().path()) {
        return Err(Notice::Ours { answer }.into());
    }
    secure::ask(client, request, &host)?;
    if let Some(sso) = shared.login_at(&host) {
        return Err(Stop::LogsIn(Box::new(Login::of(client, request, &authority, sso))));
    }
    let is_robots = request.uri().path() == "/robots.txt" && matches!(*request.method(), Method::GET | Method::HEAD);
    if is_robots && shared.routes.knows(&host) {
        return Err(Notice::Robots.into());
    }
    gate::ask(client, request, &authority, &host)?;
    if let Some(most) = shared.body_max.filter(|most| request.body().size_hint().lower() > *most) {
        return Err(Notice::TooLarge { most }.into());
    }
    let quiet = client.manner.is_quiet(request.uri().path(), request.headers(), &shared.quiet);
    let way = match shared.routes.admit(&host, quiet) {
        Some(Admission::Entered(pass)) => {
            if !quiet {
                pass.place().note(|| told(client, request));
            }
            Way::Open(pass)
        }
        Some(Admission::Held(_, place)) if quiet => {
            place.count(StatusCode::SERVICE_UNAVAILABLE.as_u16());
            return Err(Notice::Asleep { env: place.env.clone() }.into());
        }
        Some(Admission::Held(host, place)) => Way::Held(host, place),
        Some(Admission::Refused(place)) => {
            if !quiet {
                place.touch();
                place.note(|| told(client, request));
            }
            return Err(place.refusal().into());
        }
        None => return Err(Notice::UnknownHost { host: host.into_owned() }.into()),
    };
    drop(host);
    Ok((authority, way))
}

/// Where a request goes that may have said the password.
async fn find_later(
    client: &Client,
    request: &mut Request<Incoming>,
    doubt: password::Doubt,
) -> Result<(Authority, Way), Notice> {
    password::settle(client, request, doubt).await?;
    match find(client, request) {
        Ok(found) => Ok(found),
        Err(Stop::Answered(notice)) => Err(notice),
        // The gate is another one by now.
        Err(Stop::Doubted(_) | Stop::LogsIn(_)) => Err(Notice::Busy),
    }
}

/// Waits until a request may go on, and goes on with it.
async fn relay_later(
    client: &Client,
    request: Request<Incoming>,
    authority: Authority,
    (host, place): (Arc<Host>, Arc<Place>),
    visit: Visit,
) -> Result<Response<Answer>, Notice> {
    let wish = Wish::of(client, &request);
    match hold(client, wish, &authority.host(), host, place).await {
        Ok(passed) => relay(client, request, authority, passed, visit).await,
        Err(notice) => {
            discard(request).await;
            Err(notice)
        }
    }
}

/// Where it has waited, somebody is to know how it gets through.
async fn relay(
    client: &Client,
    mut request: Request<Incoming>,
    authority: Authority,
    (mut pass, witness): (Pass, Option<Witness>),
    visit: Visit,
) -> Result<Response<Answer>, Notice> {
    let upstream = pass.upstream();
    let repeatable = request.body().is_end_stream() && request.method().is_idempotent();
    let age = if repeatable { Duration::MAX } else { SURELY_OPEN };
    let line = match upstream.pools[client.worker.thread].take(age) {
        Some(line) => line,
        None => match connect(&client.worker, upstream).await {
            Ok(line) => line,
            Err(error) => {
                discard(request).await;
                return Err(dead(&pass, &error, None));
            }
        },
    };
    witness.iter().for_each(Witness::connected);

    let upgrade = headers::upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11);
    let switch = upgrade.as_ref().map(|protocol| Switch::of(client, &mut request, &authority.host(), protocol));
    let (head, body) = request.into_parts();
    let (framing, stream, address) = (framing(&body), stream::current(), upstream.address);
    let (pace, most) = (client.worker.shared.crowd.paces.sender(address), client.worker.shared.body_max);
    let upload = |encoder| Upload::new(body, encoder, pace, most);
    if stream.is_none() {
        client.busy.with(address);
    }
    let mut question = Question {
        head: headers::to_upstream(&head, &authority, &client.visitor(&head.headers), upgrade.as_ref(), framing),
        method: head.method,
        upload: match framing {
            Framing::Empty => None,
            Framing::Length(length) => Some(upload(Encoder::Length(length))),
            Framing::Chunked | Framing::ToEnd => Some(upload(Encoder::Chunked(headers::trailers(&head.headers)))),
        },
        most: if stream.is_some() { STREAM_READ_MAX } else { READ_MAX },
    };
    let asked = ask(&client.worker, line, upstream, &mut question, repeatable).await;
    let (mut response, mut line) = asked.map_err(|error| dead(&pass, &error, most))?;
    headers::forbid_referring(response.headers_mut(), &head.uri);
    witness.iter().for_each(Witness::answered);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match switch {
            Some(switch) => {
                pass.place().count(response.status().as_u16());
                switch.go(line, pass, visit);
                Ok(response.map(|()| Answer::Page(Default::default())))
            }
            None => Err(dead(&pass, &LineError::Unasked, most)),
        };
    }
    pass.place().count(response.status().as_u16());
    let has_no_length = line.left().is_none();
    let has_no_end = has_no_length && headers::is_event_stream(response.headers());
    // What is not said to be a stream may be one all the same.
    let may_last = has_no_end || (has_no_length && client.worker.shared.routes.guard(&authority.host()).is_some());
    let standing =
        may_last.then(|| Standing::of_parts(client, &authority.host(), &head.uri, &head.headers, &head.extensions));
    if has_no_end {
        pass.detach();
        line.keep_watch();
        if stream.is_none() {
            client.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
    let upload = question.upload.filter(|upload| !upload.is_over()).and_then(|upload| line.part(upload));
    let over = match stream {
        Some(end) => {
            let pace = client.worker.shared.crowd.paces.taker();
            pace.busy().with(address);
            Over::Stream(Box::new(Stream::new(end, pace, visit)))
        }
        None => Over::Connection(visit),
    };
    let relayed = Relayed::new(line, upload, pass, client.worker.thread, over).while_good(standing);
    Ok(response.map(|()| Answer::Relayed(relayed)))
}

/// Opens a connection to an app. Where there are too many, idle ones make way, and then the slowest.
async fn connect(worker: &Worker, upstream: &Upstream) -> Result<Box<Line>, LineError> {
    let (lines, address) = (&worker.shared.crowd.lines, upstream.address);
    let permit = lines.permit(address).or_else(|full| {
        match full {
            Full::Everything => worker.shared.routes.close_idle(),
            Full::Share => upstream.pools.iter().for_each(|pool| pool.sweep(Duration::ZERO)),
        }
        lines.permit(address)
    });
    let permit = match permit {
        Ok(permit) => permit,
        Err(full) => {
            let app = (full == Full::Share).then_some(address);
            if !worker.shared.crowd.paces.cut_slowest(app) {
                return Err(LineError::TooMany);
            }
            lines.permit_soon(address).await.map_err(|_| LineError::TooMany)?
        }
    };
    Line::connect(address, permit).await
}

/// How the body of a request goes on: with its length where the client has said it.
fn framing(body: &Incoming) -> Framing {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Asks over `line`; a second time, over a new one, where it is an old one that turned out to be closed and the request
/// may be repeated: none of it was sent, or it is `repeatable` (idempotent by RFC 9110 section 9.2.2, and without a
/// body) and not a byte of an answer has come.
async fn ask(
    worker: &Worker,
    mut line: Box<Line>,
    upstream: &Upstream,
    question: &mut Question,
    repeatable: bool,
) -> Result<(Response<()>, Box<Line>), LineError> {
    match line.ask(question).await {
        Ok(response) => return Ok((response, line)),
        Err(LineError::Lost { unsent, unheard, .. }) if line.used && (unsent || (unheard && repeatable)) => {}
        Err(error) => return Err(error),
    }
    drop(line);
    let mut line = connect(worker, upstream).await?;
    Ok((line.ask(question).await?, line))
}

/// Takes in the body of a request that is answered without it. Whoever asked before sending is not made to send.
async fn discard(request: Request<Incoming>) {
    if !request.body().is_end_stream() && !request.headers().contains_key(EXPECT) {
        upload::discard(request.into_body()).await;
    }
}

/// Why there is no answer of the app. That a client did not end its request is not the app's doing.
fn dead(pass: &Pass, error: &LineError, most: Option<u64>) -> Notice {
    let place = pass.place();
    let how = match error {
        LineError::TooMany => return Notice::Busy,
        LineError::Request(error) if error.kind() == io::ErrorKind::TimedOut => {
            place.count(StatusCode::REQUEST_TIMEOUT.as_u16());
            return Notice::Slow;
        }
        LineError::Request(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            place.count(StatusCode::PAYLOAD_TOO_LARGE.as_u16());
            return Notice::TooLarge { most: most.unwrap_or_default() };
        }
        LineError::Request(_) => {
            place.count(StatusCode::BAD_REQUEST.as_u16());
            return Notice::BadBody;
        }
        LineError::Connect(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Death::Refused,
        LineError::Connect(_) | LineError::ConnectLimit => Death::Unreachable,
        LineError::Lost { .. } => Death::Broke,
        LineError::Unasked => Death::Unasked,
        LineError::Malformed(how) => Death::Malformed(how.0),
    };
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::debug!(env = %place.env, upstream = %pass.upstream().address, %error, cause, "no answer from an app");
    place.count(StatusCode::BAD_GATEWAY.as_u16());
    Notice::Dead { env: place.env.clone(), how }
}
