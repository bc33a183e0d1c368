//! `flyloft share` and `flyloft gate`: what opens the gate of an environment.

use std::time::Duration;

use flyloft_core::gate::{self, NEVER, Purpose};
use flyloft_core::name::{AppName, EnvRef};
use flyloft_core::policy::Span;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::reply::{Reply, as_time, as_time_if_any, done};
use super::{Api, Call, Ending};
use crate::command::{Gate, GateToken, Share};
use crate::error::{Error, OrFailed, Result};
use crate::store::{self, EventKind};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a link is good where nothing is said, and at most: it is in the histories of those who were given it.
const LINK: Duration = DAY.saturating_mul(7);
const LINK_MAX: Duration = DAY.saturating_mul(366);

/// What is shorter is found by trying.
const PASSWORD_MIN: usize = 8;
const PASSWORD_MAX: u64 = 1 << 10;

#[derive(Serialize)]
struct Link {
    url: String,
    #[serde(serialize_with = "as_time")]
    until: i64,
}

/// The link alone, so that it can be handed on.
impl Reply for Link {
    fn text(&self) -> String {
        format!("{}\n", self.url)
    }
}

#[derive(Serialize)]
struct Token {
    token: String,
    header: &'static str,
    /// None: for as long as the environment is there.
    #[serde(serialize_with = "as_time_if_any")]
    until: Option<i64>,
}

impl Reply for Token {
    fn text(&self) -> String {
        format!("{}\n", self.token)
    }
}

impl Api {
    pub(super) async fn share(&self, call: &mut Call<'_>, share: Share) -> Result<Ending> {
        let Share { env: name, span, revoke } = share;
        call.must_use(&name.app)?;
        if revoke {
            return self.revoke_links(call, &name).await;
        }
        let span = span.map_or(Some(LINK), |span| span.0);
        let span = span.filter(|span| !span.is_zero() && *span <= LINK_MAX).ok_or_else(|| {
            Error::usage("a link is good for a span of time such as `2d`, 366d at most")
                .hint(format!("`flyloft set {name} gate=public` opens it to everybody for good"))
        })?;
        let (row, _) = self.loft.find(&name).await?;
        let parts = &self.loft.parts;
        let url = parts.settings.url(&row.host);
        match parts.gates.gate(&row) {
            gate::Gate::Link => {}
            gate::Gate::Public => {
                return Err(Error::conflict(format!("`{name}` is public, so there is nothing to open")).hint(url));
            }
            gate => {
                return Err(Error::conflict(format!("`{name}` is not opened by links: its gate is `{gate}`"))
                    .hint(format!("flyloft set {name} gate=link")));
            }
        }
        let until = seconds() + span.as_secs();
        let token = parts.gates.key(&row).sign(Purpose::Link, until);
        self.tell(call.by(), &name, EventKind::Shared, &format!("a link for {}", Span(Some(span)))).await?;
        Ok(Link { url: format!("{url}/?{}={token}", gate::LINK), until: until as i64 * 1000 }.into())
    }

    pub(super) async fn gate(&self, call: &mut Call<'_>, command: Gate) -> Result<Ending> {
        match command {
            Gate::Password(password) => self.gate_password(call, password.app).await,
            Gate::Token(token) => self.gate_token(call, token).await,
        }
    }

    async fn gate_password(&self, call: &mut Call<'_>, app: AppName) -> Result<Ending> {
        call.must_use(&app)?;
        self.must_exist(&app).await?;
        let password = self.asked_password(call, &app).await?.trim_end_matches(['\r', '\n']).to_owned();
        if password.chars().count() < PASSWORD_MIN {
            return Err(Error::usage(format!("a password has {PASSWORD_MIN} characters at least")));
        }
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the kernel has random numbers");
        let hashed = tokio::task::spawn_blocking(move || gate::Hashed::new(&password, &salt)).await;
        let failed = || format!("failed to set the password of `{app}`");
        let parts = &self.loft.parts;
        parts.store.set_gate_password(&app, hashed.or_failed(failed)?).await.or_failed(failed)?;
        let told = parts.store.tell(
            &app,
            None,
            EventKind::SettingsChanged,
            call.by(),
            "the password of its gates",
            store::now(),
        );
        told.await.or_failed(failed)?;
        self.loft.reload(&app, None).await?;
        let asks = self.environments_of(&app).await?.iter().any(|row| parts.gates.gate(row) == gate::Gate::Password);
        let text = match asks {
            true => format!("`{app}` has another password"),
            false => format!("`{app}` has a password; no gate asks for it yet: flyloft apps set {app} gate=password"),
        };
        Ok(done(text).into())
    }

    async fn asked_password(&self, call: &mut Call<'_>, app: &AppName) -> Result<String> {
        match &call.io.terminal {
            None => call.input("the password", PASSWORD_MAX).await,
            // Over SSH it is the daemon that shows what is typed.
            Some(terminal) if terminal.raw => {
                Err(Error::usage("here the password comes from standard input, where nobody reads along")
                    .hint(format!("pass show staging/{app} | ssh -p 2222 host gate password {app}")))
            }
            Some(_) => {
                let failed = |error| Error::because("failed to ask", error);
                call.io.stderr.write_all(format!("Password for `{app}`: ").as_bytes()).await.map_err(failed)?;
                call.io.stderr.flush().await.map_err(failed)?;
                let mut line = String::new();
                let mut input = BufReader::new((&mut call.io.stdin).take(PASSWORD_MAX));
                input.read_line(&mut line).await.map_err(failed)?;
                Ok(line)
            }
        }
    }

    async fn gate_token(&self, call: &mut Call<'_>, token: GateToken) -> Result<Ending> {
        let GateToken { env: name, span } = token;
        call.must_use(&name.app)?;
        let span = span.unwrap_or(Span::NEVER);
        if span.0.is_some_and(|span| span.is_zero()) {
            return Err(Error::usage("a token is good for a span of time such as `90d`"));
        }
        let (row, _) = self.loft.find(&name).await?;
        let until = span.0.map(|span| seconds() + span.as_secs());
        let token = self.loft.parts.gates.key(&row).sign(Purpose::Bypass, until.unwrap_or(NEVER));
        let text = span.0.map_or_else(|| "a token".to_owned(), |_| format!("a token for {span}"));
        self.tell(call.by(), &name, EventKind::Shared, &text).await?;
        Ok(Token { token, header: gate::BYPASS_HEADER, until: until.map(|until| until as i64 * 1000) }.into())
    }

    async fn revoke_links(&self, call: &mut Call<'_>, name: &EnvRef) -> Result<Ending> {
        let (row, conductor) = self.loft.find(name).await?;
        let revoked = self.loft.parts.store.revoke_links(row.id).await;
        revoked.or_failed(|| format!("failed to revoke the links to `{name}`"))?;
        conductor.reload().await?;
        self.tell(call.by(), name, EventKind::LinksRevoked, "all links and tokens").await?;
        Ok(done(format!("no link to `{name}` opens it any more, and no token and no cookie that was made before"))
            .into())
    }

    async fn tell(&self, by: &str, name: &EnvRef, kind: EventKind, text: &str) -> Result<()> {
        let told = self.loft.parts.store.tell(&name.app, Some(&name.env), kind, by, text, store::now());
        told.await.or_failed(|| format!("failed to record what was done with `{name}`"))
    }
}

/// Since the Unix epoch.
fn seconds() -> u64 {
    (store::now() / 1000) as u64
}
