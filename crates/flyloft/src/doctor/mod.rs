//! `flyloft doctor`: what is missing on this machine, in plain words, and how to mend it.
//!
//! [`judge`] is pure: facts in, checks out. [`Machine::look`] gathers the facts.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::{Config, Overrides};
use crate::machine::Machine;

mod containers;
mod host;
mod network;
pub mod nginx;
mod servers;
mod sso;
mod tls;
mod visitors;

#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Configuration file of the daemon
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub about: &'static str,
    pub verdict: Verdict,
    pub what: String,
    /// What to do about it; a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Ok,
    /// It works, less well or less safely than it could.
    Warning,
    /// It does not work.
    Problem,
}

impl Check {
    fn ok(about: &'static str, what: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Ok, what: what.into(), remedy: None }
    }

    fn warning(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Warning, what: what.into(), remedy: Some(remedy.into()) }
    }

    fn problem(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Problem, what: what.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks, prints, and says by the exit code whether there is a problem.
pub async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref(), args.overrides)?;
    let report = Report { checks: judge(&Machine::look(&config).await, &config) };
    let text = if args.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { report.to_string() };
    // Whoever does not read on, as `head` does, has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if report.worst() == Verdict::Problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Everything that is right or wrong with a machine for this configuration.
pub fn judge(machine: &Machine, config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(host::judge(machine, config));
    checks.extend(nginx::judge(machine.nginx.as_ref()));
    checks.extend(visitors::judge(config, machine.nginx.as_ref()));
    checks.extend(tls::judge(machine.tls.as_ref(), config));
    checks.extend(sso::judge(machine.sso.as_ref()));
    checks.extend(containers::judge(machine));
    checks.extend(network::judge(machine));
    checks.extend(servers::judge(machine));
    checks
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    pub fn worst(&self) -> Verdict {
        self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

/// A check a line, its remedy below it, and how many of each kind at the end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { about, verdict, what, remedy } in &self.checks {
            writeln!(f, "{:<8} {about}: {what}", verdict.word())?;
            for line in remedy.iter().flat_map(|remedy| remedy.lines()) {
                writeln!(f, "         → {line}")?;
            }
        }
        let (problems, warnings) = (self.count(Verdict::Problem), self.count(Verdict::Warning));
        match (problems, warnings) {
            (0, 0) => writeln!(f, "everything is as it should be"),
            (0, 1) => writeln!(f, "it works; 1 thing could be better"),
            (0, _) => writeln!(f, "it works; {warnings} things could be better"),
            (1, _) => writeln!(f, "1 problem must be mended before environments can run"),
            _ => writeln!(f, "{problems} problems must be mended before environments can run"),
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        }
    }
}

/// Bytes as people say them: `512 MiB`, `1.5 GiB`.
fn bytes(count: u64) -> String {
    const MIB: u64 = 1 << 20;
    match count {
        0..1_048_576 => format!("{} KiB", count >> 10),
        MIB..1_073_741_824 => format!("{} MiB", count / MIB),
        _ => {
            let tenths = (count * 10) >> 30;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            if tenth == 0 || whole >= 10 { format!("{whole} GiB") } else { format!("{whole}.{tenth} GiB") }
        }
    }
}

#[cfg(test)]
mod tests;
