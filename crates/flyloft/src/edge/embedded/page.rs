//! The edge's own pages: what a visitor sees where no app answers. Pure.
//!
//! A browser gets HTML without anything to fetch, other clients plain text. Text from outside is escaped, and the
//! headers forbid scripts besides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flyloft_core::gate::{FORM, Refusal};
use flyloft_core::name::EnvRef;
use flyloft_core::policy::Size;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use super::headers;
use super::quiet::ROBOTS;
use super::snag::Snag;

/// Why the edge answers itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    UnknownHost {
        host: String,
    },
    NoHost,
    /// It came over TLS to another name, with a certificate that is not for this one.
    Misdirected {
        host: String,
    },
    /// What came over plain HTTP is served over TLS, there.
    OverTls {
        at: String,
    },
    /// The body of a request that broke off, or is not what its head says.
    BadBody,
    /// The body of a request that takes too long to come.
    Slow,
    /// The body of a request that has more bytes than it may.
    TooLarge {
        most: u64,
    },
    /// There are too many requests at a time.
    Busy,
    /// A request that the edge does not serve at all.
    NotServed {
        what: &'static str,
    },
    Unavailable {
        env: EnvRef,
        why: String,
    },
    /// It wakes, and is not awake yet. Where the page comes back by itself, somebody is looking at it.
    Waking {
        env: EnvRef,
        waking_for: Duration,
        /// What takes so long, where that is known.
        doing: Option<Arc<str>>,
        comes_back: bool,
    },
    /// It did not wake.
    Failed {
        env: EnvRef,
        why: String,
    },
    /// It is asleep, and stays so for this client.
    Asleep {
        env: EnvRef,
    },
    /// As many wait for it as may.
    Crowded {
        env: EnvRef,
        comes_back: bool,
    },
    /// Who asks may not look.
    Barred {
        env: EnvRef,
        why: Refusal,
    },
    /// Who asks may look with a password. A page has a form for it, which leads `to` what was asked for.
    Locked {
        env: EnvRef,
        to: String,
        /// What was said by the form was not the password.
        again: bool,
        /// To somebody who can say it with the same request.
        challenge: bool,
    },
    /// Who asks has tried passwords too often.
    TooOften {
        seconds: u32,
    },
    /// Who asks may look from now on, at the same address without what opened the gate.
    Enter {
        cookie: String,
        to: String,
    },
    /// Who asks is sent to where it logs in, or comes back from there.
    Sent {
        cookies: Vec<String>,
        to: String,
    },
    /// A login does not go on. Where there is such a place, it can be begun again.
    Snag {
        snag: Snag,
        again: Option<String>,
    },
    /// Not a page, but what crawlers ask first.
    Robots,
    /// Nor this: what is answered to who checks that a name is ours.
    Ours {
        answer: String,
    },
    /// The app did not answer.
    Dead {
        env: EnvRef,
        how: Death,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Refused,
    Unreachable,
    Broke,
    /// It switched to another protocol.
    Unasked,
    /// In a few words.
    Malformed(&'static str),
}

/// The form that a client reads best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Html,
    Text,
}

impl Form {
    pub fn of(headers: &HeaderMap) -> Self {
        let html = |value: &HeaderValue| value.to_str().is_ok_and(|accept| accept.contains("text/html"));
        if headers.get(ACCEPT).is_some_and(html) { Form::Html } else { Form::Text }
    }
}

impl Notice {
    pub fn status(&self) -> StatusCode {
        match self {
            Notice::UnknownHost { .. } => StatusCode::NOT_FOUND,
            Notice::NoHost | Notice::BadBody => StatusCode::BAD_REQUEST,
            Notice::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Notice::OverTls { .. } => StatusCode::PERMANENT_REDIRECT,
            Notice::Slow => StatusCode::REQUEST_TIMEOUT,
            Notice::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Notice::NotServed { .. } => StatusCode::NOT_IMPLEMENTED,
            Notice::Busy
            | Notice::Unavailable { .. }
            | Notice::Waking { .. }
            | Notice::Failed { .. }
            | Notice::Asleep { .. }
            | Notice::Crowded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Notice::Dead { .. } => StatusCode::BAD_GATEWAY,
            Notice::Robots | Notice::Ours { .. } => StatusCode::OK,
            Notice::Locked { challenge: true, .. } => StatusCode::UNAUTHORIZED,
            Notice::Barred { .. } | Notice::Locked { .. } => StatusCode::FORBIDDEN,
            Notice::TooOften { .. } => StatusCode::TOO_MANY_REQUESTS,
            Notice::Enter { .. } | Notice::Sent { .. } => StatusCode::SEE_OTHER,
            Notice::Snag { snag, .. } => snag.status(),
        }
    }

    fn title(&self) -> String {
        match self {
            Notice::UnknownHost { .. } => "Nothing is staged here".to_owned(),
            Notice::NoHost => "No host name".to_owned(),
            Notice::Misdirected { .. } => "Another connection is needed".to_owned(),
            Notice::OverTls { .. } => "Served over HTTPS".to_owned(),
            Notice::BadBody => "Not a whole request".to_owned(),
            Notice::Slow => "Too slow".to_owned(),
            Notice::TooLarge { .. } => "Too large".to_owned(),
            Notice::Busy => "Too much at a time".to_owned(),
            Notice::NotServed { .. } => "Not served here".to_owned(),
            Notice::Unavailable { env, .. } => format!("{env} is not available"),
            Notice::Waking { env, .. } => format!("{env} is waking up"),
            Notice::Failed { env, .. } => format!("{env} did not wake"),
            Notice::Asleep { env } => format!("{env} is asleep"),
            Notice::Crowded { env, .. } => format!("{env} is waking up, and many wait"),
            Notice::Robots => "robots.txt".to_owned(),
            Notice::Ours { .. } => "It is ours".to_owned(),
            Notice::TooOften { .. } => "Too many wrong passwords".to_owned(),
            Notice::Barred { env, .. } | Notice::Locked { env, .. } => format!("{env} is not public"),
            Notice::Enter { .. } => "Come in".to_owned(),
            Notice::Sent { .. } => "A moment".to_owned(),
            Notice::Snag { snag, .. } => snag.title(),
            Notice::Dead { env, .. } => format!("{env} did not answer"),
        }
    }

    fn sentence(&self) -> String {
        match self {
            Notice::UnknownHost { host } => {
                format!("No environment has the host name {host}. It may have been destroyed, or never pushed.")
            }
            Notice::NoHost => "The request does not say clearly which host it is for.".to_owned(),
            Notice::Misdirected { host } => {
                format!("The certificate of this connection is not for {host}. Over a new one it may be.")
            }
            Notice::OverTls { at } => format!("It is at {at}"),
            Notice::BadBody => "The request's body broke off, or it is not HTTP/1.1.".to_owned(),
            Notice::Slow => "The request's body has stopped coming, or all but stopped.".to_owned(),
            Notice::TooLarge { most } => format!("The body of a request may have {} here.", Size(*most)),
            Notice::Busy => "As many requests are under way as this machine takes. Try again.".to_owned(),
            Notice::NotServed { what } => format!("{what}."),
            Notice::Unavailable { why, .. } => why.clone(),
            Notice::Waking { waking_for, doing, comes_back, .. } => format!(
                "{} It has been waking for {} s. {}",
                doing.as_deref().unwrap_or("Nobody had visited it for a while."),
                waking_for.as_secs(),
                again(*comes_back),
            ),
            Notice::Failed { why, .. } => format!("{}.", why.trim_end_matches('.')),
            Notice::Asleep { .. } => "Crawlers, link previews and monitors do not wake it. A visitor does.".to_owned(),
            Notice::Crowded { comes_back, .. } => {
                format!("No more requests are kept until it is awake. {}", again(*comes_back))
            }
            Notice::Robots => ROBOTS.to_owned(),
            Notice::Ours { answer } => answer.clone(),
            Notice::Barred { why, .. } => match why {
                Refusal::NoLink => "Whoever works on it can give you a link that opens it.".to_owned(),
                Refusal::Expired => "Your link has expired. Whoever works on it can give you another one.".to_owned(),
                // Where one is set, that is asked for.
                Refusal::NoPassword | Refusal::NoneSet => "Its password has not been set yet.".to_owned(),
                Refusal::Address => "It is there for some addresses only, and yours is none of them.".to_owned(),
                Refusal::NoLogin | Refusal::NoProvider => {
                    "Whoever logs in may look, and this server has nobody to log in with.".to_owned()
                }
            },
            Notice::Locked { again: true, .. } => "That is not its password.".to_owned(),
            Notice::Locked { .. } => "It opens with its password.".to_owned(),
            Notice::TooOften { seconds } => format!("Another one may be tried in {seconds} s."),
            Notice::Enter { .. } => "It is open to this browser.".to_owned(),
            Notice::Sent { to, .. } => format!("It goes on at {to}"),
            Notice::Snag { snag, .. } => snag.sentence(),
            Notice::Dead { how, .. } => match how {
                Death::Refused => "Its web process does not listen: it has ended, or is still starting.".to_owned(),
                Death::Unreachable => "Its web process could not be reached.".to_owned(),
                Death::Broke => "Its web process closed the connection before it had answered.".to_owned(),
                Death::Unasked => "Its web process switched to a protocol that nobody asked for.".to_owned(),
                Death::Malformed(how) => format!("What its web process answered is not HTTP/1.1: {how}."),
            },
        }
    }

    /// What to type to find out more, where there is something.
    fn command(&self) -> Option<String> {
        match self {
            Notice::UnknownHost { .. } => Some("flyloft ls".to_owned()),
            Notice::Failed { env, .. } => Some(format!("flyloft why {env}")),
            Notice::Barred { env, why: Refusal::NoneSet } => Some(format!("flyloft gate password {}", env.app)),
            Notice::Barred { env, why: Refusal::NoLink | Refusal::Expired } => Some(format!("flyloft share {env}")),
            Notice::Dead { env, .. } => Some(format!("flyloft logs {env}")),
            Notice::Snag { snag, .. } => snag.command(),
            _ => None,
        }
    }

    /// After how many seconds it is worth asking again, where that is known.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Notice::Busy | Notice::Waking { comes_back: true, .. } => Some(1),
            Notice::Waking { .. } | Notice::Failed { .. } | Notice::Crowded { .. } => Some(5),
            Notice::Asleep { .. } => Some(3600),
            Notice::TooOften { seconds } | Notice::Snag { snag: Snag::TooMany { seconds }, .. } => Some(*seconds),
            _ => None,
        }
    }

    pub fn response(&self, form: Form) -> Response<Full<Bytes>> {
        let (kind, text) = match (self, form) {
            (Notice::Robots | Notice::Ours { .. }, _) => ("text/plain; charset=utf-8", self.sentence()),
            (_, Form::Html) => ("text/html; charset=utf-8", self.html()),
            (_, Form::Text) => ("text/plain; charset=utf-8", self.text()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let policy = match self {
            Notice::Locked { .. } => FORM_POLICY,
            _ => POLICY,
        };
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        if let Notice::Locked { challenge: true, .. } = self {
            let challenge = "Basic realm=\"staging\", charset=\"UTF-8\"";
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Notice::OverTls { at } = self
            && let Ok(at) = HeaderValue::from_bytes(at.as_bytes())
        {
            headers.insert(LOCATION, at);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Notice::Snag { snag: Snag::Needed { .. }, .. } = self {
            // A 401 says how it would not be one (RFC 9110 section 15.5.2).
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Flyloft-Bypass realm=\"staging\""));
        }
        if let Some((cookies, to)) = self.leads() {
            let value = |text: &str, other| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(other));
            for cookie in cookies {
                headers.append(SET_COOKIE, value(cookie, ""));
            }
            headers.insert(LOCATION, value(to, "/"));
            // Nobody else is told what the address was.
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        headers::forbid_indexing(headers);
        response
    }

    /// Where it leads, and what a browser keeps for that.
    fn leads(&self) -> Option<(&[String], &str)> {
        match self {
            Notice::Enter { cookie, to } => Some((std::slice::from_ref(cookie), to)),
            Notice::Sent { cookies, to } => Some((cookies, to)),
            _ => None,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.title(), self.sentence());
        if let Some(command) = self.command() {
            text += &format!("\n    {command}\n");
        }
        if let Notice::Snag { again: Some(again), .. } = self {
            text += &format!("\nTry again: {again}\n");
        }
        text
    }

    fn html(&self) -> String {
        let command = self.command().map(|command| format!("\n<pre>$ {}</pre>", escape(&command)));
        let (title, status) = (escape(&self.title()), self.status().as_u16());
        let comes_back = match (self, self.retry_after()) {
            (Notice::Waking { comes_back: true, .. } | Notice::Crowded { comes_back: true, .. }, Some(seconds)) => {
                format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">\n")
            }
            _ => String::new(),
        };
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n{comes_back}<title>{title}</title>\n<style>{STYLE}</style>\n\
             <main>\n<small>{status}</small>\n<h1>{title}</h1>\n<p>{}</p>{}{}\n</main>\n",
            escape(&self.sentence()),
            command.unwrap_or_default(),
            self.form().or_else(|| self.link()).unwrap_or_default(),
        )
    }

    fn link(&self) -> Option<String> {
        let Notice::Snag { again: Some(again), .. } = self else { return None };
        Some(format!("\n<p><a href=\"{}\">Try again</a></p>", escape(again)))
    }

    fn form(&self) -> Option<String> {
        let Notice::Locked { to, .. } = self else { return None };
        Some(format!(
            "\n<form method=\"post\" action=\"{FORM}\">\n<input type=\"hidden\" name=\"to\" value=\"{}\">\n\
             <input type=\"password\" name=\"password\" aria-label=\"Password\" autocomplete=\"current-password\" \
             required autofocus>\n<button>Open</button>\n</form>",
            escape(to)
        ))
    }
}

/// Nothing comes from elsewhere, and nothing is shown within another page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
const FORM_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'";

const STYLE: &str = "\
    :root{color-scheme:light dark}\
    body{margin:0;min-height:100vh;display:grid;place-items:center;font:1.05rem/1.6 system-ui,sans-serif;\
    background:light-dark(#f6f4f0,#17181c);color:light-dark(#23242a,#e6e4df)}\
    main{max-width:34rem;padding:2rem;border-top:4px solid #c8553d;overflow-wrap:anywhere}\
    h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0 .6rem}p{margin:0}\
    small{color:#c8553d;font-weight:600;letter-spacing:.08em}\
    pre{margin:1.4rem 0 0;padding:.7rem 1rem;border-radius:.4rem;background:light-dark(#eae6df,#23252b);\
    white-space:pre-wrap}\
    form{margin:1.4rem 0 0;display:flex;gap:.6rem}\
    input,button{font:inherit;padding:.5rem .8rem;border-radius:.4rem;border:1px solid #c8553d}\
    button{background:#c8553d;color:#fff}\
    p+p{margin:1.4rem 0 0}a{color:#c8553d}";

fn again(comes_back: bool) -> &'static str {
    if comes_back { "This page comes back by itself." } else { "Try again in a moment." }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
