//! `flyloft logs` and `flyloft events`.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use flyloft_core::harmless::{self, Colours};
use flyloft_core::name::EnvRef;
use futures_util::{Stream, stream};
use serde::Serialize;
use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio_util::io::StreamReader;

use super::reply::{Reply, time};
use super::{Api, Call, Ending};
use crate::command::{Events, Logs, Target};
use crate::conductor::Conductor;
use crate::engine::ContainerId;
use crate::error::{Error, OrFailed, Result};
use crate::store::{EnvRow, EventRow};
use crate::transcript::Follower;

/// Of a log, unless somebody says how many.
const LINES: usize = 100;

#[derive(Serialize)]
struct EventList {
    events: Vec<EventItem>,
}

#[derive(Serialize)]
struct EventItem {
    at: String,
    app: String,
    env: Option<String>,
    kind: String,
    by: String,
    text: String,
}

impl From<EventRow> for EventItem {
    fn from(row: EventRow) -> Self {
        Self {
            at: time(row.at),
            app: row.app.to_string(),
            env: row.env.map(|env| env.to_string()),
            kind: row.kind,
            by: row.by,
            text: row.text,
        }
    }
}

impl EventItem {
    fn line(&self) -> String {
        let what = match &self.env {
            Some(env) => format!("{}/{env}", self.app),
            None => self.app.clone(),
        };
        // A text of several lines would look like several events.
        let text = self.text.lines().next().unwrap_or_default();
        format!("{} {what} {} by {} {text}", self.at, self.kind, self.by).trim_end().to_owned() + "\n"
    }
}

impl Reply for EventList {
    fn text(&self) -> String {
        self.events.iter().map(EventItem::line).collect()
    }
}

/// A line of an environment's log, such as `2026-11-24T06:00:00.123Z web.1 | hello`.
#[derive(Serialize)]
struct LogItem<'a> {
    at: Option<&'a str>,
    /// `web.1`, or `flyloft` for what is said about the processes.
    process: Option<&'a str>,
    text: &'a str,
}

impl<'a> LogItem<'a> {
    fn parse(line: &'a str) -> Self {
        match line.split_once(" | ").and_then(|(head, text)| Some((head.split_once(' ')?, text))) {
            Some(((at, process), text)) => Self { at: Some(at), process: Some(process), text },
            None => Self { at: None, process: None, text: line },
        }
    }
}

#[derive(Serialize)]
struct BuildItem<'a> {
    text: &'a str,
}

/// Whose lines they are.
#[derive(Clone, Copy)]
enum Written {
    ByProcesses,
    ByDeploy,
}

impl Written {
    /// The line for people, harmless to their terminal: with the colours of an app, and without those of a build.
    fn line(self, line: &str) -> String {
        match (self, LogItem::parse(line)) {
            (Self::ByDeploy, _) => harmless::line(line, Colours::Dropped),
            (Self::ByProcesses, LogItem { at: Some(at), process: Some(process), text }) => {
                format!("{at} {process} | {}", harmless::line(text, Colours::Kept))
            }
            (Self::ByProcesses, item) => harmless::line(item.text, Colours::Kept),
        }
    }

    /// The line as it is, as an object.
    fn json(self, line: &str) -> String {
        let item = match self {
            Self::ByProcesses => json!(LogItem::parse(line)),
            Self::ByDeploy => json!(BuildItem { text: line }),
        };
        harmless::json(&item.to_string())
    }
}

type Text = Box<dyn AsyncRead + Send + Unpin>;

impl Api {
    pub(super) async fn logs(&self, call: &mut Call<'_>, logs: Logs) -> Result<Ending> {
        call.must_use(&logs.env.app)?;
        let (row, conductor) = self.loft.find(&logs.env).await?;
        let failed = || format!("failed to read the logs of `{}`", logs.env);
        if logs.build {
            return self.build_output(call, &logs, &row, &conductor).await;
        }
        let live = row.live.ok_or_else(|| {
            Error::not_found(format!("nothing of `{}` has run yet", logs.env))
                .hint(format!("flyloft logs {} --build", logs.env))
        })?;
        let (mut container, mut lines) = (live.container, logs.lines.unwrap_or(LINES));
        loop {
            let text = self.loft.parts.engine.logs(&container, lines, logs.follow).await.or_failed(failed)?;
            print(call, text, 0, Written::ByProcesses).await.or_failed(failed)?;
            match self.successor(&logs.env, &container).await?.filter(|_| logs.follow) {
                // All of it: nothing of the new one was seen yet.
                Some(next) => (container, lines) = (next, usize::MAX),
                None => return Ok(Ending::Code(0)),
            }
        }
    }

    /// The container that has taken the place of one, if any has.
    async fn successor(&self, name: &EnvRef, container: &ContainerId) -> Result<Option<ContainerId>> {
        let found =
            self.loft.parts.store.environment(name).await.or_failed(|| format!("failed to look up `{name}`"))?;
        Ok(found.and_then(|env| env.live).map(|live| live.container).filter(|next| next != container))
    }

    /// What the newest deploy said, and why it failed if it did.
    async fn build_output(
        &self,
        call: &mut Call<'_>,
        logs: &Logs,
        row: &EnvRow,
        conductor: &Conductor,
    ) -> Result<Ending> {
        let failed = || format!("failed to read the output of the last deploy of `{}`", logs.env);
        let parts = &self.loft.parts;
        let releases = parts.store.releases(row.id).await.or_failed(failed)?;
        let newest = releases.first().ok_or_else(|| Error::not_found(format!("`{}` was never built", logs.env)))?;
        let path = parts.settings.transcript(row.id, newest.number);
        let skipped = match logs.lines {
            Some(lines) => count(&path).await.or_failed(failed)?.saturating_sub(lines),
            None => 0,
        };
        let text: Text = match conductor.transcript().await?.filter(|_| logs.follow) {
            Some(reading) => Box::new(Box::pin(StreamReader::new(pieces(reading.follow().or_failed(failed)?)))),
            None => Box::new(File::open(path).await.or_failed(failed)?),
        };
        print(call, text, skipped, Written::ByDeploy).await.or_failed(failed)?;
        let release = parts.store.release(row.id, newest.number).await.or_failed(failed)?;
        if let Some(failure) = release.and_then(|release| release.failure) {
            let text = Error::failed(failure).push_text();
            print(call, text.as_bytes(), 0, Written::ByDeploy).await.or_failed(failed)?;
        }
        Ok(Ending::Code(0))
    }

    pub(super) async fn events(&self, call: &mut Call<'_>, events: Events) -> Result<Ending> {
        match &events.target {
            Some(target) => call.must_use(target.app())?,
            None => call.must_be_admin()?,
        }
        let (app, env) = match &events.target {
            None => (None, None),
            Some(Target::App(app)) => (Some(app), None),
            Some(Target::Env(env)) => (Some(&env.app), Some(&env.env)),
        };
        let store = &self.loft.parts.store;
        let failed = || "failed to read events";
        let found = store.events(app, env, 0, events.lines).await.or_failed(failed)?;
        if found.is_empty() {
            // What is gone has its events still; what never was has none.
            self.must_be_there(&events.target).await?;
        }
        let mut newest = found.last().map_or(0, |event| event.id);
        let list = EventList { events: found.into_iter().map(EventItem::from).collect() };
        if !events.follow {
            return Ok(list.into());
        }
        let shown = |event: EventItem| match call.json {
            true => harmless::json(&format!("{}\n", json!(event))),
            false => harmless::text(&event.line()),
        };
        let mut text: String = list.events.into_iter().map(shown).collect();
        loop {
            call.io.stdout.write_all(text.as_bytes()).await.or_failed(failed)?;
            call.io.stdout.flush().await.or_failed(failed)?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let found = store.events(app, env, newest, 1000).await.or_failed(failed)?;
            newest = found.last().map_or(newest, |event| event.id);
            text = found.into_iter().map(EventItem::from).map(shown).collect();
        }
    }
}

impl Api {
    async fn must_be_there(&self, target: &Option<Target>) -> Result<()> {
        match target {
            None => Ok(()),
            Some(Target::App(app)) => self.must_exist(app).await,
            Some(Target::Env(env)) => self.loft.find(env).await.map(drop),
        }
    }
}

/// Prints lines as they come, but for the first few.
async fn print(
    call: &mut Call<'_>,
    text: impl AsyncRead + Unpin,
    skipped: usize,
    written: Written,
) -> std::io::Result<()> {
    let mut text = BufReader::new(text);
    let mut line = Vec::new();
    let mut number = 0;
    while text.read_until(b'\n', &mut line).await? > 0 {
        number += 1;
        if number > skipped {
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\n').unwrap_or(&line);
            let shown = if call.json { written.json(line) } else { written.line(line) };
            call.io.stdout.write_all(format!("{shown}\n").as_bytes()).await?;
            if text.buffer().is_empty() {
                call.io.stdout.flush().await?;
            }
        }
        line.clear();
    }
    Ok(())
}

fn pieces(follower: Follower) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(follower, |mut follower| async {
        let piece = follower.next().await?;
        Ok(piece.map(|piece| (Bytes::from(piece), follower)))
    })
}

/// How many lines there are.
async fn count(path: &Path) -> std::io::Result<usize> {
    let mut file = BufReader::new(File::open(path).await?);
    let mut lines = 0;
    loop {
        let piece = file.fill_buf().await?;
        if piece.is_empty() {
            return Ok(lines);
        }
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
        let length = piece.len();
        file.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log_has_its_colours_and_does_nothing_else() {
        let line = "2026-11-24T06:00:00.123Z web.1 | \u{1b}[31mred\u{1b}]0;owned\u{7}\u{1b}[2J";
        assert_eq!(Written::ByProcesses.line(line), "2026-11-24T06:00:00.123Z web.1 | \u{1b}[31mred\u{1b}[0m");
        assert_eq!(Written::ByProcesses.line("a\r\u{1b}[Kb"), "b");
        assert_eq!(Written::ByDeploy.line("       \u{1b}[31mred"), "       red");
        assert_eq!(Written::ByDeploy.json("a\u{9b}2J"), r#"{"text":"a\u009b2J"}"#);
    }

    #[test]
    fn a_line_of_a_log_is_taken_apart_and_anything_else_is_text() {
        let parsed = |line| json!(LogItem::parse(line)).to_string();
        assert_eq!(
            parsed("2026-11-24T06:00:00.123Z web.1 | a | b"),
            r#"{"at":"2026-11-24T06:00:00.123Z","process":"web.1","text":"a | b"}"#
        );
        assert_eq!(parsed("Killed"), r#"{"at":null,"process":null,"text":"Killed"}"#);
    }
}
