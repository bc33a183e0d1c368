//! Why a build failed, and what its user can do about it.

use flyloft_core::app_json::AppJsonError;
use flyloft_core::plan::{PlanError, Unreadable};
use flyloft_core::procfile::ProcfileError;
use thiserror::Error;

use super::layering::{Content, Layer};
use crate::engine::EngineError;
use crate::error::Error;

#[derive(Debug, Error)]
pub enum BuildError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Procfile(#[from] ProcfileError),
    #[error(transparent)]
    AppJson(#[from] AppJsonError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Unset(#[from] Unset),
    #[error("the server's configuration chooses the stack `{0}`, which does not exist")]
    NoSuchStack(String),
    #[error("failed to install {title}")]
    Dependencies { title: String, source: Box<EngineError> },
    /// What the repository's own steps were doing, and how it ended.
    #[error("a build step failed: {title}")]
    Steps { title: String, source: Box<EngineError> },
    /// Something that no app can do anything about.
    #[error("failed to make the layer `{title}`")]
    Layer { title: String, source: Box<EngineError> },
    #[error("failed to {doing}")]
    Engine { doing: &'static str, source: Box<EngineError> },
    #[error("failed to {doing}")]
    Io { doing: String, source: std::io::Error },
}

/// Variables that `app.json` requires and nobody has set, with what it says they are for. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`app.json` requires {}", listed(.0))]
pub struct Unset(pub Vec<(String, Option<String>)>);

impl Unset {
    /// Refuses where not all of these are set.
    pub fn check(
        required: impl IntoIterator<Item = (String, Option<String>)>,
        is_set: impl Fn(&str) -> bool,
    ) -> Result<(), Self> {
        let unset: Vec<_> = required.into_iter().filter(|(name, _)| !is_set(name)).collect();
        if unset.is_empty() { Ok(()) } else { Err(Self(unset)) }
    }

    /// What each is for, as far as that is said.
    pub fn hints(&self) -> Vec<String> {
        self.0.iter().filter_map(|(name, text)| Some(format!("{name}: {}", text.as_ref()?))).collect()
    }
}

impl BuildError {
    pub(super) fn engine(doing: &'static str, source: EngineError) -> Self {
        BuildError::Engine { doing, source: Box::new(source) }
    }

    pub(super) fn of_layer(layer: &Layer, source: EngineError) -> Self {
        let (title, source) = (layer.title.clone(), Box::new(source));
        match layer.content {
            Content::Dependencies(_) => BuildError::Dependencies { title, source },
            Content::Built(_) => BuildError::Steps { title, source },
            _ => BuildError::Layer { title, source },
        }
    }

    /// What to do, a sentence each.
    pub fn hints(&self) -> Vec<String> {
        let hint = |text: &str| vec![text.to_owned()];
        match self {
            BuildError::Plan(error) => error.hints(),
            BuildError::Unreadable(_) => hint("make it a regular file of a usual size"),
            BuildError::Unset(unset) => unset.hints(),
            BuildError::NoSuchStack(_) => hint("there are debian-13 and debian-12"),
            BuildError::Dependencies { source, .. } | BuildError::Steps { source, .. } => match &**source {
                EngineError::StepFailed { .. } => hint("the lines above say why"),
                EngineError::OutOfMemory { .. } => hint("raise `memory` under `[build]` in the server's configuration"),
                EngineError::OutOfDisk { .. } => {
                    hint("raise `disk` or `inodes` under `[build]` in the server's configuration")
                }
                EngineError::OutOfProcesses { .. } => {
                    hint("raise `pids` under `[build]` in the server's configuration")
                }
                EngineError::DiskFull { .. } => {
                    hint("destroy environments that nobody needs, or make room on the server's disk beside them")
                }
                EngineError::TimedOut { .. } => hint("raise `time` under `[build]` in the server's configuration"),
                EngineError::Missing { hint, .. } => vec![hint.clone()],
                _ => Vec::new(),
            },
            BuildError::Layer { source, .. } => match &**source {
                EngineError::Missing { hint, .. } => vec![hint.clone()],
                EngineError::StepFailed { .. } => {
                    hint("the lines above say why: does the server reach the language's package registry?")
                }
                _ => hint("`flyloft doctor` on the server says whether it reaches a Debian mirror"),
            },
            BuildError::Procfile(_) | BuildError::AppJson(_) | BuildError::Engine { .. } | BuildError::Io { .. } => {
                Vec::new()
            }
        }
    }
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        let hints = error.hints();
        hints.into_iter().fold(Error::because("the build failed", &error), Error::hint)
    }
}

fn listed(variables: &[(String, Option<String>)]) -> String {
    let names: Vec<String> = variables.iter().map(|(name, _)| format!("`{name}`")).collect();
    match names.as_slice() {
        [name] => format!("the variable {name}, and nobody set it"),
        names => format!("the variables {}, and nobody set them", names.join(", ")),
    }
}
