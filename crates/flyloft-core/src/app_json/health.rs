//! Health checks as Dokku reads them (dokku/docker-container-healthchecker, "File Format"), with its defaults.

use std::time::Duration;

use super::Problem;
use super::document::{Node, Result};
use crate::name::excerpt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    pub name: Option<String>,
    pub when: Moment,
    pub probe: Probe,
    pub attempts: u32,
    /// For one attempt.
    pub timeout: Duration,
    /// Between two attempts.
    pub wait: Duration,
    /// Before the first attempt.
    pub initial_delay: Duration,
    /// A failure is only told.
    pub warn: bool,
}

/// When a check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before requests are routed to a new release.
    Startup,
    Liveness,
    Readiness,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET is answered with a status below 400, and the answer contains `content`.
    Http { path: String, content: Option<String>, headers: Vec<(String, String)> },
    /// A command in the container ends with status 0.
    Command(Vec<String>),
    /// The container is up for that long without a restart.
    Uptime(Duration),
    /// Something listens at `PORT`.
    Listening,
}

/// Nobody waits longer than an hour for anything.
const SECONDS_MAX: u32 = 3600;

pub fn read(node: &Node<'_>) -> Result<Healthcheck> {
    let mut check = Healthcheck {
        name: None,
        when: Moment::Startup,
        probe: Probe::Listening,
        attempts: 3,
        timeout: Duration::from_secs(5),
        wait: Duration::from_secs(5),
        initial_delay: Duration::ZERO,
        warn: false,
    };
    let (mut path, mut content, mut headers) = (None, None, Vec::new());
    let (mut command, mut uptime, mut listening) = (None, None, None);
    for member in node.object()? {
        let value = &member.value;
        match member.key.as_str() {
            "name" => check.name = Some(value.line()?),
            "type" => check.when = moment(value)?,
            "attempts" => check.attempts = value.number(1, 1000)?,
            "timeout" => check.timeout = seconds(value, 1)?,
            "wait" => check.wait = seconds(value, 0)?,
            "initialDelay" => check.initial_delay = seconds(value, 0)?,
            "warn" => check.warn = value.boolean()?,
            "path" => path = Some(request_path(value)?),
            "content" => content = Some(value.string()?).filter(|content| !content.is_empty()),
            "httpHeaders" => headers = value.array()?.iter().map(header).collect::<Result<_>>()?,
            "command" => command = Some(argv(value)?),
            "uptime" => uptime = Some(seconds(value, 1)?),
            "listening" => listening = value.boolean()?.then_some(Probe::Listening),
            _ => {}
        }
    }
    let http = path.is_some() || content.is_some() || !headers.is_empty();
    let http = http.then(|| Probe::Http { path: path.unwrap_or_else(|| "/".to_owned()), content, headers });
    let probes = [http, command.map(Probe::Command), uptime.map(Probe::Uptime), listening];
    let mut probes = probes.into_iter().flatten();
    // Without any of them, Dokku asks for `/`.
    let asked = || Probe::Http { path: "/".to_owned(), content: None, headers: Vec::new() };
    check.probe = probes.next().unwrap_or_else(asked);
    if probes.next().is_some() { node.fail(Problem::TwoProbes) } else { Ok(check) }
}

fn moment(node: &Node<'_>) -> Result<Moment> {
    match node.line()?.as_str() {
        "startup" | "" => Ok(Moment::Startup),
        "liveness" => Ok(Moment::Liveness),
        "readiness" => Ok(Moment::Readiness),
        found => {
            let expected = "`startup`, `liveness` or `readiness`";
            node.fail(Problem::Unknown { expected, found: excerpt(found) })
        }
    }
}

fn seconds(node: &Node<'_>, min: u32) -> Result<Duration> {
    Ok(Duration::from_secs(node.number(min, SECONDS_MAX)?.into()))
}

/// It goes into the first line of a request.
fn request_path(node: &Node<'_>) -> Result<String> {
    let path = node.string()?;
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(path)
    } else {
        node.fail(Problem::NotAPath)
    }
}

fn argv(node: &Node<'_>) -> Result<Vec<String>> {
    let argv = node.array()?.iter().map(Node::line).collect::<Result<Vec<String>>>()?;
    if argv.is_empty() { node.fail(Problem::Empty) } else { Ok(argv) }
}

/// RFC 9110, 5.1: a field name is a token.
fn header(node: &Node<'_>) -> Result<(String, String)> {
    let (mut name, mut value) = (None, String::new());
    for member in node.object()? {
        match member.key.as_str() {
            "name" => {
                let text = member.value.string()?;
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
                if text.is_empty() || !text.bytes().all(token) {
                    let found = excerpt(&text);
                    return member.value.fail(Problem::Unknown { expected: "the name of an HTTP header", found });
                }
                name = Some(text);
            }
            "value" => value = member.value.line()?,
            _ => {}
        }
    }
    match name {
        Some(name) => Ok((name, value)),
        None => node.fail(Problem::Missing("name")),
    }
}
