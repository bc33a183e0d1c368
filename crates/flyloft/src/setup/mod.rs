//! `flyloft setup`: makes a Debian server ready, and says what it did and what was already so.
//!
//! Every step looks first and does nothing where there is nothing to do, so that it can be run again at any time. What
//! should be is decided in pure functions over the facts of [`crate::machine`]. A step that fails does not keep the
//! others from being tried.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

pub use self::place::EXAMPLE;
use crate::config::{self, Config, Overrides};
use crate::machine::{Machine, Memory, Storage};

mod accounts;
mod file;
mod nginx;
mod packages;
mod place;
mod swap;
mod sysctl;
mod unit;

#[derive(Clone, Debug, clap::Args)]
pub struct SetupArgs {
    /// Configuration file; made if it is not there
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
    /// Domain for a configuration that is made: environments are served at APP-ENV.DOMAIN
    #[arg(long, value_name = "DOMAIN", value_parser = config::parse_domain)]
    pub domain: Option<String>,
    /// Install missing Debian packages
    #[arg(long)]
    pub install: bool,
    /// Do one part alone
    #[arg(long, value_enum)]
    pub only: Option<Only>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    /// Compressed memory and a swap file, as at every start of the service
    Swap,
}

/// What became of one thing that should be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub about: &'static str,
    pub outcome: Outcome,
    pub what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    AlreadySo,
    /// It cannot be here, and environments run without it.
    Left,
    Failed,
}

impl Step {
    fn new(about: &'static str, outcome: Outcome, what: impl Into<String>) -> Self {
        Self { about, outcome, what: what.into(), hints: Vec::new() }
    }

    fn done(about: &'static str, what: impl Into<String>) -> Self {
        Self::new(about, Outcome::Done, what)
    }

    fn already(about: &'static str, what: impl Into<String>) -> Self {
        Self::new(about, Outcome::AlreadySo, what)
    }

    fn left(about: &'static str, what: impl Into<String>) -> Self {
        Self::new(about, Outcome::Left, what)
    }

    fn failed(about: &'static str, what: impl Into<String>) -> Self {
        Self::new(about, Outcome::Failed, what)
    }

    /// `what` failed because of `error` and its sources.
    fn because(about: &'static str, what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        Self::failed(about, text)
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.outcome {
            Outcome::Done => "done",
            Outcome::AlreadySo => "so",
            Outcome::Left => "left",
            Outcome::Failed => "failed",
        };
        write!(f, "{word:<7} {}: {}", self.about, self.what)?;
        for line in self.hints.iter().flat_map(|hint| hint.lines()) {
            write!(f, "\n        → {line}")?;
        }
        Ok(())
    }
}

/// Tells each step as it ends, or all of them at the end as JSON.
#[derive(Serialize)]
struct Progress {
    #[serde(skip)]
    json: bool,
    steps: Vec<Step>,
}

impl Progress {
    fn tell(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            if !self.json {
                say(&step);
            }
            self.steps.push(step);
        }
    }

    fn failed(&self) -> bool {
        self.steps.iter().any(|step| step.outcome == Outcome::Failed)
    }

    fn end(self) -> anyhow::Result<ExitCode> {
        if self.json {
            say(&serde_json::to_string_pretty(&self)?);
        }
        Ok(if self.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Goes on when nobody reads: what was begun should be finished.
fn say(text: &dyn fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub async fn run(args: SetupArgs) -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        return Err(crate::error::Error::forbidden("setup must run as root").hint("sudo flyloft setup").into());
    }
    let mut progress = Progress { json: args.json, steps: Vec::new() };
    if args.only != Some(Only::Swap) {
        progress.tell(packages::install(args.install).await);
        progress.tell([place::configuration(&args.config, args.domain.as_deref())]);
    }
    let overrides = Overrides { domain: args.domain, ..Overrides::default() };
    let path = args.config.exists().then_some(args.config.as_path());
    let config = Config::load(path, overrides)?;
    if args.only == Some(Only::Swap) {
        progress.tell(place::directories(&config));
        progress.tell(swap::arrange(&Memory::look(), &Storage::look(&config.state_dir)).await);
        return progress.end();
    }

    let machine = Machine::look(&config).await;
    progress.tell([accounts::group(&config.group).await]);
    progress.tell(accounts::id_ranges(&machine.ids));
    progress.tell(place::directories(&config));
    progress.tell([place::host_key(&config)]);
    progress.tell(nginx::arrange(machine.nginx.as_ref()));
    progress.tell(sysctl::arrange(&machine.network));
    progress.tell(swap::arrange(&machine.memory, &Storage::look(&config.state_dir)).await);
    // A daemon without its tools would only fail again and again.
    if progress.failed() {
        progress.tell([Step::left("service", "it is not started before the rest is mended").hint("flyloft setup")]);
    } else {
        progress.tell(unit::arrange(machine.systemd, &args.config).await);
    }
    progress.end()
}
