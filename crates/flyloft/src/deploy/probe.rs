//! Whether a new container is healthy: its web process answers HTTP.
//!
//! An app that listens on another port than `PORT`, or on one family of addresses alone, is found all the same, since
//! the kernel says what listens in the container. One that listens on loopback alone, or not at all, gets an error
//! that says so, and one that exits is shown its last lines.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flyloft_core::name::EnvRef;
use http_body_util::Empty;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::spec;
use crate::engine::{Addresses, ContainerId};
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::store::{Content, EnvRow};
use crate::transcript::Transcript;

/// The port that apps are told to listen on.
pub const PORT: u16 = 5000;

/// How long a web process may take until it answers.
const LIMIT: Duration = Duration::from_secs(60);
/// How long an app may listen on loopback alone until that is not taken for a step of its start any more.
const LOOPBACK: Duration = Duration::from_secs(5);
/// How long the processes of an app without a web process must stay up.
const SETTLED: Duration = Duration::from_secs(2);
/// How often the container is looked at: at first often, since most apps are up in a third of a second.
const EAGER: Duration = Duration::from_millis(4);
const PATIENT: Duration = Duration::from_millis(50);
/// Lines of the app's output that an error shows.
const TAIL: usize = 20;

/// What has been started, and when.
#[derive(Clone, Copy)]
pub struct Started<'a> {
    pub env: &'a EnvRow,
    pub content: &'a Content,
    pub container: &'a ContainerId,
    /// What its log says of an earlier time is of an earlier run.
    pub at: OffsetDateTime,
}

/// Where the app answers; `None` if no web process runs.
pub async fn probe(parts: &Parts, started: Started<'_>, transcript: &Transcript) -> Result<Option<SocketAddr>> {
    let Started { env, content, container, at } = started;
    let failed = || format!("failed to look into the container of `{}`", env.name);
    let found = parts.engine.find(container).await.or_failed(failed)?.map(|found| found.addresses);
    let addresses = found.ok_or_else(|| Error::failed(format!("the container of `{}` is gone", env.name)))?;
    let has_web = spec::counts(content, &env.formation).any(|(name, _, count)| name == "web" && count > 0);
    let mut output = Output::follow(parts, container, at).await.or_failed(failed)?;
    if !has_web {
        transcript.step("No web process runs: the URL answers nothing");
        return match tokio::time::timeout(SETTLED, output.exit()).await {
            Ok(exit) => Err(exited(&exit, &output)),
            Err(_) => Ok(None),
        };
    }
    transcript.step("Waiting until it answers");
    let begun = Instant::now();
    let answer = tokio::time::timeout(LIMIT, answering(parts, started, addresses));
    tokio::select! {
        answer = answer => match answer {
            Ok(Err(Silence::Loopback(listening))) => Err(silent(&listening, &output, begun)),
            Ok(Err(Silence::Error(error))) => Err(error),
            Ok(Ok((upstream, status))) => {
                if upstream.port() != PORT {
                    transcript.detail(&format!("it listens on port {}, not on PORT ({PORT}): using that", upstream.port()));
                }
                if let Some(note) = doubt(status, &env.name) {
                    transcript.detail(&note);
                }
                Ok(Some(upstream))
            }
            Err(_) => {
                let listening = parts.engine.listening(container).await.or_failed(failed)?;
                Err(silent(&listening, &output, begun))
            }
        },
        exit = output.exit() => Err(exited(&exit, &output)),
    }
}

/// Why nothing will answer.
enum Silence {
    Loopback(Vec<SocketAddr>),
    Error(Error),
}

/// Tries until an address answers.
async fn answering(
    parts: &Parts,
    started: Started<'_>,
    addresses: Addresses,
) -> Result<(SocketAddr, StatusCode), Silence> {
    let Started { env, content, container, .. } = started;
    let begun = Instant::now();
    let mut loopback: Option<Instant> = None;
    loop {
        let listening = parts.engine.listening(container).await.or_failed(|| "failed to see what listens");
        let listening = listening.map_err(Silence::Error)?;
        let alone = !listening.is_empty() && listening.iter().all(|socket| socket.ip().is_loopback());
        if alone && loopback.get_or_insert_with(Instant::now).elapsed() > LOOPBACK {
            return Err(Silence::Loopback(listening));
        }
        for candidate in candidates(&listening, addresses) {
            if let Some(status) = answers(candidate, &env.host, content.health.as_deref()).await {
                return Ok((candidate, status));
            }
        }
        let pause = if begun.elapsed() < Duration::from_secs(3) { EAGER } else { PATIENT };
        tokio::time::sleep(pause).await;
    }
}

/// The container's addresses at which something listens that is not bound to loopback: the port it was told first,
/// then the lowest; IPv4 before IPv6.
fn candidates(listening: &[SocketAddr], addresses: Addresses) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for socket in listening {
        let port = socket.port();
        match socket.ip() {
            ip if ip.is_loopback() => {}
            IpAddr::V4(_) => found.push((addresses.ipv4, port).into()),
            // `::` takes IPv4 as well unless the app said otherwise; whether it does is found out by trying.
            IpAddr::V6(ip) if ip.is_unspecified() => {
                found.extend([SocketAddr::from((addresses.ipv4, port)), (addresses.ipv6, port).into()])
            }
            IpAddr::V6(_) => found.push((addresses.ipv6, port).into()),
        }
    }
    found.sort_by_key(|address| (address.port() != PORT, address.port(), address.is_ipv6()));
    found.dedup();
    found
}

/// What is answered there, if HTTP is spoken. Any answer will do, unless the app names a path that must be well.
async fn answers(address: SocketAddr, host: &str, health: Option<&str>) -> Option<StatusCode> {
    let ask = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get(health.unwrap_or("/"))
            .header(header::HOST, host)
            .header(header::USER_AGENT, "flyloft-probe")
            .body(Empty::<Bytes>::new())
            .ok()?;
        sender.send_request(request).await.ok().map(|response| response.status())
    };
    let status = tokio::time::timeout(Duration::from_secs(10), ask).await.ok().flatten()?;
    (health.is_none() || well(status)).then_some(status)
}

/// What to say of an app that is up and whose front page is not: a database that nobody migrated, a host name that a
/// framework does not expect. It is staged all the same, since seeing that is what staging is for.
fn doubt(status: StatusCode, env: &EnvRef) -> Option<String> {
    match status {
        StatusCode::BAD_REQUEST => {
            Some(format!("it answers {status} at `/`: does it know its host name? See `flyloft logs {env}`"))
        }
        status if status.is_server_error() => Some(format!("it answers {status} at `/`: see `flyloft logs {env}`")),
        _ => None,
    }
}

fn well(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// What the container prints while it is probed.
struct Output {
    since: OffsetDateTime,
    lines: tokio::io::Lines<BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>>,
    tail: std::collections::VecDeque<String>,
}

impl Output {
    async fn follow(
        parts: &Parts,
        container: &ContainerId,
        since: OffsetDateTime,
    ) -> Result<Self, crate::engine::EngineError> {
        let log = parts.engine.logs(container, 1000, true).await?;
        Ok(Self { since, lines: BufReader::new(log).lines(), tail: Default::default() })
    }

    /// Comes back when `flyloft-init` says that a process has ended or did not start, with what it says.
    async fn exit(&mut self) -> String {
        loop {
            match self.lines.next_line().await {
                Ok(Some(line)) => {
                    // `2026-11-24T06:00:00.123Z flyloft | web.1 exited with code 1`; no app can write the third word.
                    let mut words = line.splitn(3, ' ');
                    let time = words.next().and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
                    if time.is_some_and(|time| time < self.since) {
                        continue;
                    }
                    let own = words.next() == Some("flyloft");
                    let text = words.next().unwrap_or_default().trim_start_matches("| ").to_owned();
                    if own && says_the_end(&text) {
                        return text;
                    }
                    if self.tail.len() == TAIL {
                        self.tail.pop_front();
                    }
                    self.tail.push_back(line);
                }
                Ok(None) => return "the container stopped".to_owned(),
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Whether a line of `flyloft-init` is about a process that does not run.
fn says_the_end(text: &str) -> bool {
    [" exited ", " was killed ", " could not start "].iter().any(|end| text.contains(end))
}

fn exited(exit: &str, output: &Output) -> Error {
    if exit.contains(" could not start ") {
        // The app itself is not the reason, and has said nothing. The words are those of errno(3).
        let error = Error::failed(format!("the app does not stay up: {exit}"));
        return match () {
            () if exit.contains("No such file") => {
                error.hint("where `PATH` is set, it must lead to `sh`: end it with /usr/bin:/bin")
            }
            () if exit.contains("Argument list too long") => {
                error.hint("its command and its variables are more than Linux hands over to a process: shorten them")
            }
            () => error,
        };
    }
    let mut error = Error::failed(format!("the app does not stay up: {exit}"));
    if !output.tail.is_empty() {
        error.causes.push(format!("its last lines:\n{}", output.tail()));
    }
    // As `sh` ends where it finds no command, or may not run it.
    let hint = match () {
        () if exit.contains(" exited with code 126") => {
            "a script is run as a program: `git update-index --chmod=+x SCRIPT` makes it one"
        }
        () if exit.contains(" exited with code 127") => {
            "its command is not there: is it among the dependencies? A script is not found either if its lines end with CRLF"
        }
        () => "try the command of the Procfile locally with PORT=5000",
    };
    error.hint(hint)
}

fn silent(listening: &[SocketAddr], output: &Output, begun: Instant) -> Error {
    let seconds = begun.elapsed().as_secs();
    let error = if listening.is_empty() {
        Error::failed(format!("the web process listens on nothing after {seconds} s"))
            .hint(format!("let it listen on 0.0.0.0 and the port in PORT ({PORT})"))
    } else if let Some(socket) = listening.iter().find(|_| listening.iter().all(|socket| socket.ip().is_loopback())) {
        Error::failed(format!("the web process listens on {socket} alone, where nobody outside reaches it"))
            .hint(format!("bind 0.0.0.0:{port} or [::]:{port} instead", port = socket.port()))
    } else {
        let sockets = listening.iter().map(|socket| format!("`{socket}`")).collect::<Vec<_>>().join(", ");
        Error::failed(format!("the web process listens on {sockets} and does not answer HTTP after {seconds} s"))
            .hint("name a path that answers quickly in `healthchecks` of app.json")
    };
    if output.tail.is_empty() {
        error
    } else {
        Error { causes: vec![format!("its last lines:\n{}", output.tail())], ..error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: Addresses = Addresses {
        ipv4: std::net::Ipv4Addr::new(10, 0, 0, 9),
        ipv6: std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9),
    };

    #[track_caller]
    fn check(listening: &[&str], expected: &[&str]) {
        let listening: Vec<SocketAddr> = listening.iter().map(|text| text.parse().unwrap()).collect();
        let found: Vec<String> = candidates(&listening, ADDRESSES).iter().map(|address| address.to_string()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_port_that_was_told_comes_first() {
        check(&["0.0.0.0:3000", "0.0.0.0:5000"], &["10.0.0.9:5000", "10.0.0.9:3000"]);
    }

    #[test]
    fn an_app_that_listens_on_every_ipv6_address_is_tried_on_both_families() {
        check(&["[::]:5000"], &["10.0.0.9:5000", "[fd00::9]:5000"]);
    }

    #[test]
    fn an_app_that_is_up_but_not_well_is_pointed_at() {
        let env = EnvRef::parse("shop/main").unwrap();
        let said = |status| doubt(StatusCode::from_u16(status).unwrap(), &env);
        assert_eq!(said(500).unwrap(), "it answers 500 Internal Server Error at `/`: see `flyloft logs shop/main`");
        assert!(said(400).unwrap().contains("does it know its host name?"));
        assert_eq!([200, 302, 401, 404].map(said), [None, None, None, None]);
    }

    #[tokio::test]
    async fn a_command_that_the_shell_cannot_run_gets_the_hint_for_that() {
        let hint = async |code: u32| {
            let lines = [
                "web.1 | sh: 1: ./start.sh: no",
                &format!("flyloft | web.1 exited with code {code}; starting it again in 1 s"),
            ];
            let log = lines.map(|line| format!("2026-11-24T06:00:00.000Z {line}\n")).concat();
            let log: Box<dyn tokio::io::AsyncRead + Send + Unpin> = Box::new(std::io::Cursor::new(log));
            let since = OffsetDateTime::UNIX_EPOCH;
            let mut output = Output { since, lines: BufReader::new(log).lines(), tail: Default::default() };
            exited(&output.exit().await, &output).hints.join(" ")
        };
        assert!(hint(126).await.contains("git update-index --chmod=+x"));
        assert!(hint(127).await.contains("CRLF"));
        assert!(hint(1).await.contains("locally with PORT=5000"));
    }

    #[tokio::test]
    async fn a_process_that_could_not_start_ends_the_wait_with_its_own_reason() {
        let check = async |why: &str, hint: &str| {
            let log =
                format!("2026-11-24T06:00:00.000Z flyloft | web.1 could not start ({why}); starting it again in 1 s\n");
            let log: Box<dyn tokio::io::AsyncRead + Send + Unpin> = Box::new(std::io::Cursor::new(log));
            let since = OffsetDateTime::UNIX_EPOCH;
            let mut output = Output { since, lines: BufReader::new(log).lines(), tail: Default::default() };
            let error = exited(&output.exit().await, &output);
            let told = format!("the app does not stay up: web.1 could not start ({why}); starting it again in 1 s");
            assert_eq!(error.what, told);
            assert!(error.hints.iter().all(|said| said.contains(hint)) && error.hints.len() == 1, "{:?}", error.hints);
        };
        check("No such file or directory (os error 2)", "`PATH`").await;
        check("Argument list too long (os error 7)", "more than Linux hands over").await;
    }

    #[test]
    fn what_listens_on_loopback_alone_is_no_candidate() {
        check(&["127.0.0.1:5000", "[::1]:5000"], &[]);
    }
}
