//! Words of commands that are more than names, each checked when it is parsed.

use std::str::FromStr;

use flyloft_core::name::{AppName, EnvRef, NameError, ReleaseNumber};
use flyloft_core::policy::{SettingError, Settings};
use serde::{Deserialize, Serialize};

/// `app` or `app/env`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Target {
    App(AppName),
    Env(EnvRef),
}

impl Target {
    pub fn app(&self) -> &AppName {
        match self {
            Target::App(app) => app,
            Target::Env(env) => &env.app,
        }
    }
}

impl FromStr for Target {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('/') { text.parse().map(Target::Env) } else { text.parse().map(Target::App) }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::App(app) => app.fmt(f),
            Target::Env(env) => env.fmt(f),
        }
    }
}

/// `worker=2`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Count {
    pub process: String,
    pub count: u32,
}

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (process, count) = text.split_once('=').ok_or("is not of the form TYPE=COUNT")?;
        match count.parse() {
            Ok(count @ 0..=50) => Ok(Self { process: process.to_owned(), count }),
            _ => Err(format!("`{count}` is not a count from 0 to 50")),
        }
    }
}

/// `idle=5m`, or `idle=` to give it back. Checked when it is parsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment(pub String);

impl FromStr for Assignment {
    type Err = SettingError;
    fn from_str(text: &str) -> Result<Self, SettingError> {
        Settings::default().assign(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// Text that is not shown where it is printed for debugging.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Concealed(pub String);

impl FromStr for Concealed {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Concealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// `NAME=VALUE`, or `NAME=-` for a value from standard input. Shows only its name where it is printed for debugging.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl FromStr for Variable {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("is not of the form NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl Variable {
    pub fn is_from_stdin(&self) -> bool {
        self.value == "-"
    }
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

pub(super) fn parse_release(text: &str) -> Result<ReleaseNumber, String> {
    match text.strip_prefix('v').unwrap_or(text).parse() {
        Ok(number @ 1..) => Ok(ReleaseNumber(number)),
        _ => Err(format!("`{text}` is not a release such as v3")),
    }
}
