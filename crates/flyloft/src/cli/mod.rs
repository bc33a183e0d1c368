//! The command line: what runs here, and what goes to the daemon.

mod archive;
mod client;
mod output;
mod progress;
mod upgrade;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::backup::restore::RestoreArgs;
use crate::command::{Command, Invocation};
use crate::config::{Config, DEFAULT_FILE, Overrides};
use crate::daemon;
use crate::doctor::DoctorArgs;
use crate::error::{Error, Kind};
use crate::handover::Inheritance;
use crate::setup::SetupArgs;

/// Just-in-time staging environments on LXC.
///
/// Every branch and pull request gets a URL of its own: push to it, or stage it with `flyloft up`.
#[derive(Debug, Parser)]
#[command(
    name = "flyloft",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The daemon's unix socket.
    #[arg(long, global = true, value_name = "PATH", env = "FLYLOFT_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
    /// Print the result as JSON; output that goes on, such as that of `logs`, as an object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run the daemon.
    #[command(after_help = "Examples:
  flyloft serve
  flyloft serve --config /etc/flyloft/flyloft.toml
  flyloft serve --state-dir /srv/staging --domain localhost --http [::]:8080 --ssh [::]:2222")]
    Serve {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Only look whether it would start, beside a daemon that may be running: configuration, store, tools, ports.
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Let the installed version of the daemon, or a changed configuration, take over without an interruption.
    ///
    /// The daemon first has the new program look whether it would start, and goes on as it was if not. Then it lets what
    /// is under way end, deploys and pushes for a minute at most, and becomes the new program: by the same process id,
    /// with the same listening sockets. Environments run and sleep on, and requests that come meanwhile wait. Where the
    /// new program fails at its start nevertheless, the old one goes on with its old configuration, and that is an error.
    Upgrade {
        /// The daemon's configuration, which says where its socket is.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Bring back what `flyloft backup` wrote, on a machine that has no environments yet.
    ///
    /// Apps, environments, keys, variables, the SSH host key, repositories and the configuration. What environments were
    /// made from is not in a backup: each is off, and built anew for its next visitor.
    #[command(after_help = "Examples:
  flyloft restore /srv/flyloft.backup && flyloft setup
  flyloft restore /srv/flyloft.backup --config /srv/flyloft.toml --state-dir /srv/flyloft")]
    Restore(RestoreArgs),
    /// Make this machine ready: packages, ids, kernel parameters, swap, the service.
    #[command(after_help = "Examples:
  flyloft setup
  flyloft setup --install --domain staging.example.org")]
    Setup(SetupArgs),
    /// Say what is missing on this machine, and how to mend it.
    Doctor(DoctorArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "Examples:
  flyloft completions bash > /etc/bash_completion.d/flyloft")]
    Completions { shell: Shell },
    /// Write the manual pages into a directory, for packages.
    #[command(hide = true)]
    Man { dir: PathBuf },
    #[command(flatten)]
    Daemon(Command),
}

/// Where the daemon listens if nobody says otherwise.
const SOCKET: &str = "/run/flyloft/flyloft.sock";

pub fn main() -> ExitCode {
    // Clap's own way to do this takes a variable such as FLYLOFT_SOCKET for an argument.
    if std::env::args_os().len() < 2 {
        eprint!("{}", Cli::command().render_help());
        return ExitCode::from(Kind::Usage.exit_code());
    }
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(code) => code,
        // Whoever read the output has enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            let error = error.downcast::<Error>().unwrap_or_else(|error| {
                let mut causes = error.chain().map(|cause| cause.to_string());
                let what = causes.next().unwrap_or_default();
                Error { kind: Kind::Failed, what, causes: causes.collect(), hints: Vec::new() }
            });
            let text = if json { error.json() } else { error.text() };
            // Nothing can be done about a stderr that is closed.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// As a shell says that a program ended by SIGPIPE: 128 + its number.
const BROKEN_PIPE: u8 = 141;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { socket, json, command } = cli;
    match command {
        Sub::Serve { config: file, check, overrides } => {
            let overrides = Overrides { socket: overrides.socket.or(socket), ..overrides };
            if check {
                let config = Config::load(file.as_deref(), overrides).map_err(Error::usage)?;
                runtime()?.block_on(daemon::check(&config))?;
                return Ok(ExitCode::SUCCESS);
            }
            log();
            serve(file.as_deref(), overrides)?;
        }
        Sub::Upgrade { config } => {
            let configured = || Config::load(config.as_deref(), Overrides::default()).map(upgrade::Places::of);
            let places = socket.map(upgrade::Places::from).map_or_else(configured, Ok).map_err(Error::usage)?;
            return runtime()?.block_on(upgrade::run(&places, json));
        }
        Sub::Restore(args) => return Ok(runtime()?.block_on(crate::backup::restore::run(&args, json))?),
        Sub::Setup(args) => {
            return runtime()?.block_on(crate::setup::run(SetupArgs { json: args.json || json, ..args }));
        }
        Sub::Doctor(args) => {
            return runtime()?.block_on(crate::doctor::run(DoctorArgs { json: args.json || json, ..args }));
        }
        Sub::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flyloft", &mut script);
            std::io::stdout().write_all(&script)?;
        }
        Sub::Man { dir } => clap_mangen::generate_to(Cli::command(), dir)?,
        Sub::Daemon(command) => {
            let socket = socket.unwrap_or_else(|| SOCKET.into());
            let client = client::send(&socket, Invocation { json, command });
            let local = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let code = local.block_on(client);
            // A read of the terminal that nobody waits for any more must not keep the process.
            local.shutdown_background();
            return code;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How long threads of the daemon may take to come to their end.
const ENDING: Duration = Duration::from_secs(2);

fn serve(file: Option<&Path>, overrides: Overrides) -> anyhow::Result<()> {
    crate::memory::keep_little();
    let Inheritance { sockets, mut way_back, back } = Inheritance::take();
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let read = match &back {
        Some(back) => Ok(back.configuration.clone()),
        None => Config::read(file),
    };
    let configured = read.and_then(|text| Ok((Config::parse(&text, path)?.with(overrides), text)));
    let runtime = runtime()?;
    let ended = configured.map_err(Error::usage).and_then(|(config, text)| {
        let failure = back.map(|back| back.failure);
        let start = daemon::Start { config, text, file: path.to_owned(), sockets, failure };
        runtime.block_on(daemon::serve(start, &mut way_back))
    });
    // What is still under way ends here.
    runtime.shutdown_timeout(ENDING);
    match (ended, way_back) {
        (Ok(None), _) => Ok(()),
        (Ok(Some(successor)), _) => {
            Err(Error::because("failed to become the new program", successor.take_over()).into())
        }
        (Err(error), None) => Err(error.into()),
        (Err(error), Some(way_back)) => {
            tracing::error!(%error, "this version does not start, so the one before goes on");
            let failed = way_back.go(&error);
            tracing::error!(error = %failed, "failed to become the program before");
            Err(error.into())
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// FLYLOFT_LOG takes the directives of `tracing_subscriber::EnvFilter`, such as `flyloft=debug`.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("FLYLOFT_LOG").unwrap_or_else(|_| EnvFilter::new("flyloft=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The help of a command and of all below it, as people read it.
    fn reference(command: &mut clap::Command, name: &str, text: &mut String) {
        text.push_str(&format!("──── {name}\n\n{}\n", command.clone().bin_name(name).render_long_help()));
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
            let name = format!("{name} {}", sub.get_name());
            reference(sub, &name, text);
        }
    }

    #[test]
    fn the_help_of_every_command_is_what_it_was() {
        let mut text = String::new();
        reference(&mut Cli::command(), "flyloft", &mut text);
        // Where clap breaks a line it may leave a space, which no editor keeps.
        let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn clap_finds_no_fault_with_the_command_line() {
        Cli::command().debug_assert();
    }
}
