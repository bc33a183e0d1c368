//! `app.json`: what an app says about itself, as Heroku documents it (devcenter.heroku.com, "app.json Schema"), with
//! health checks as Dokku reads them and a section `"flyloft"` of our own.
//!
//! Keys that are unknown are ignored, since the file is written for others too; only under `"flyloft"` are they errors.
//! What is understood but not done (buildpacks, most add-ons) gives a warning. What is wrong is an error that names the
//! place and the path of the key.

mod document;
mod health;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

pub use health::{Healthcheck, Moment, Probe};

use crate::place::Place;
use crate::plan::Stack;
use crate::policy::{SettingError, Settings, SizeError};
use crate::procfile::ProcessType;
use crate::service::AskError;
use crate::variable::{VariableError, VariableName};
use crate::volume::{self, MountPath, VolumeError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppJson {
    pub name: Option<String>,
    /// What holds for every environment; see [`AppJson::for_review`].
    pub manifest: Manifest,
    /// `environments.review`: what differs for pull requests.
    pub review: Manifest,
    /// What is not done although it is asked for.
    pub warnings: Vec<Warning>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub stack: Option<Stack>,
    /// One of Heroku's, which most files name: another is taken instead.
    pub herokus_stack: Option<String>,
    pub env: BTreeMap<VariableName, Variable>,
    /// How many of each process type run.
    pub formation: BTreeMap<ProcessType, u32>,
    pub scripts: Scripts,
    pub healthchecks: BTreeMap<ProcessType, Vec<Healthcheck>>,
    pub settings: Settings,
    /// Directories that outlive deploys, by where they are mounted.
    pub volumes: BTreeMap<MountPath, volume::Ask>,
}

/// A variable that the app knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub description: Option<String>,
    pub source: VariableSource,
}

/// Where the value comes from, unless somebody has set the variable by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableSource {
    Value(String),
    /// `"generator": "secret"`: random, made once for each environment.
    Secret,
    /// Somebody must set it, or no deploy succeeds.
    Required,
    Optional,
}

/// Shell commands, run in a container with the app's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// Once, after the first deploy of an environment.
    pub postdeploy: Option<String>,
    /// Before the environment of a pull request is destroyed.
    pub pr_predestroy: Option<String>,
}

/// Something that the file asks for and does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub place: Place,
    pub text: String,
}

/// Where and why an `app.json` is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct AppJsonError {
    pub place: Place,
    /// The path of the key, such as `env.PORT.value`; empty for the file as a whole.
    pub path: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("this is not UTF-8")]
    NotUtf8,
    #[error("this is not JSON: {0}")]
    Syntax(String),
    #[error("must be {expected}, not {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("must be a whole number from {min} to {max}")]
    OutOfRange { min: u32, max: u32 },
    #[error("is there twice")]
    Twice,
    #[error("contains a control character")]
    Control,
    #[error("{0}")]
    Variable(#[from] VariableError),
    #[error("is not a process type: letters, digits, `-` and `_`, 30 at most")]
    ProcessType,
    #[error("{0}")]
    Setting(#[from] SettingError),
    #[error("{0}")]
    Service(#[from] AskError),
    #[error("{0}")]
    Volume(#[from] VolumeError),
    #[error("{0}")]
    Size(#[from] SizeError),
    #[error("must be {expected}, not `{found}`")]
    Unknown { expected: &'static str, found: String },
    #[error("has more than one of `command`, `path`, `uptime` and `listening`")]
    TwoProbes,
    #[error("must start with `/` and have neither spaces nor control characters")]
    NotAPath,
    #[error("has no `{0}`")]
    Missing(&'static str),
    #[error("must not be empty")]
    Empty,
    #[error("is not for a repository to say; people do, with `flyloft apps set` or `flyloft set`")]
    Gate,
    #[error("has {found} {what}, and {max} are allowed")]
    TooMany { what: &'static str, found: usize, max: usize },
}

impl AppJson {
    pub fn parse(bytes: &[u8]) -> Result<Self, AppJsonError> {
        reader::read(bytes)
    }

    /// What holds for the environment of a pull request: `environments.review` wins variable by variable, process type
    /// by process type, script by script.
    pub fn for_review(&self) -> Manifest {
        let (mut merged, review) = (self.manifest.clone(), self.review.clone());
        merged.stack = review.stack.or(merged.stack);
        merged.herokus_stack = review.herokus_stack.or(merged.herokus_stack);
        merged.env.extend(review.env);
        merged.formation.extend(review.formation);
        merged.scripts.postdeploy = review.scripts.postdeploy.or(merged.scripts.postdeploy);
        merged.scripts.pr_predestroy = review.scripts.pr_predestroy.or(merged.scripts.pr_predestroy);
        merged.healthchecks.extend(review.healthchecks);
        merged.settings = review.settings.over(&merged.settings);
        merged.volumes.extend(review.volumes);
        merged
    }
}

impl Manifest {
    /// Variables that have a value where nobody sets another.
    pub fn defaults(&self) -> impl Iterator<Item = (&VariableName, &str)> {
        self.env.iter().filter_map(|(name, variable)| match &variable.source {
            VariableSource::Value(value) => Some((name, value.as_str())),
            _ => None,
        })
    }

    /// Variables that somebody must set, and what they are for.
    pub fn required(&self) -> impl Iterator<Item = (&VariableName, Option<&str>)> {
        self.env
            .iter()
            .filter(|(_, variable)| variable.source == VariableSource::Required)
            .map(|(name, variable)| (name, variable.description.as_deref()))
    }

    /// Variables that get a random value once.
    pub fn secrets(&self) -> impl Iterator<Item = &VariableName> {
        self.env.iter().filter(|(_, variable)| variable.source == VariableSource::Secret).map(|(name, _)| name)
    }
}

/// `app.json:3:14: text`
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "app.json:{}: {}", self.place, self.text)
    }
}

impl fmt::Display for AppJsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, path, problem } = self;
        match problem {
            Problem::NotUtf8 | Problem::Syntax(_) => write!(f, "app.json:{place}: {problem}"),
            // These name what they are about.
            Problem::Variable(_)
            | Problem::Setting(_)
            | Problem::Service(_)
            | Problem::Volume(_)
            | Problem::Size(_) => {
                write!(f, "app.json:{place}: {problem}")
            }
            _ if path.is_empty() => write!(f, "app.json:{place}: the file {problem}"),
            _ => write!(f, "app.json:{place}: `{path}` {problem}"),
        }
    }
}
