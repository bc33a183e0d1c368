//! `flyloft logs` and `flyloft events`.

use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;

use super::reply::{Reply, time};
use super::{Api, Call, Ending};
use crate::command::{Events, Logs, Target};
use crate::error::{Error, OrFailed, Result};
use crate::store::EventRow;

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

impl Api {
    pub(super) async fn logs(&self, call: &mut Call<'_>, logs: Logs) -> Result<Ending> {
        call.must_use(&logs.env.app)?;
        let (row, _) = self.loft.find(&logs.env).await?;
        let failed = || format!("failed to read the logs of `{}`", logs.env);
        let parts = &self.loft.parts;
        let mut from: Box<dyn tokio::io::AsyncRead + Send + Unpin> = if logs.build {
            let releases = parts.store.releases(row.id).await.or_failed(failed)?;
            let newest = releases.first().ok_or_else(|| Error::not_found(format!("`{}` was never built", logs.env)))?;
            let path = parts.settings.transcript(row.id, newest.number);
            Box::new(tokio::fs::File::open(path).await.or_failed(failed)?)
        } else {
            let live = row.live.as_ref().ok_or_else(|| {
                Error::not_found(format!("nothing of `{}` has run yet", logs.env))
                    .hint(format!("flyloft logs {} --build", logs.env))
            })?;
            parts.engine.logs(&live.container, logs.lines, logs.follow).await.or_failed(failed)?
        };
        tokio::io::copy(&mut from, &mut call.io.stdout).await.or_failed(failed)?;
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
        let mut newest = found.last().map_or(0, |event| event.id);
        let list = EventList { events: found.into_iter().map(EventItem::from).collect() };
        if !events.follow {
            return Ok(list.into());
        }
        let mut text = list.text();
        loop {
            call.io.stdout.write_all(text.as_bytes()).await.or_failed(failed)?;
            call.io.stdout.flush().await.or_failed(failed)?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let found = store.events(app, env, newest, 1000).await.or_failed(failed)?;
            newest = found.last().map_or(newest, |event| event.id);
            text = found.into_iter().map(|event| EventItem::from(event).line()).collect();
        }
    }
}
