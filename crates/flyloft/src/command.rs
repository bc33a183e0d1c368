//! The one command surface. A command is plain data, defined once here, and reached through every door: the command
//! line over the unix socket, `ssh host COMMAND`, later the HTTP API. A door parses it, hands it to the
//! [api](crate::api), and passes on what that prints.
//!
//! The daemon never opens a file that a command names. Where a command takes one, the client opens it and sends its
//! content as standard input.

mod apps;
mod config;
mod environments;
mod gate;
mod keys;
mod ports;
mod services;
mod tls;
mod value;
mod volumes;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};

pub use self::apps::{Apps, AppsCreate, AppsRm, AppsSet};
pub use self::config::{Config, ConfigArgs, ConfigOf};
pub use self::environments::{Destroy, Events, Extend, Logs, Ls, OneEnv, Rollback, Run, Scale, Set, Sleep, Stats, Up};
pub use self::gate::{Gate, GatePassword, GateToken, Share};
pub use self::keys::{Keys, KeysAdd};
pub use self::ports::{Ports, PortsAdd, PortsRm};
pub use self::services::{
    Services, ServicesAdd, ServicesChange, ServicesDump, ServicesLs, ServicesOne, ServicesReset, ServicesRestore,
    ServicesRm, ServicesTemplate, ServicesUpgrade,
};
pub use self::tls::{Tls, TlsLocalCa};
pub use self::value::{Assignment, Concealed, Count, Target, Variable};
pub use self::volumes::{VolumeTemplates, Volumes, VolumesAdd, VolumesRm};

// What a door hands over, and how it reads over SSH. A documentation comment would be part of the help.
#[derive(Clone, Debug, PartialEq, Parser, Serialize, Deserialize)]
#[command(
    name = "flyloft",
    version,
    about = "Just-in-time staging environments, commanded over SSH",
    long_about = None,
    after_help = "Examples:
  ssh -p 2222 host ls
  ssh -p 2222 host logs shop/main --follow
  ssh -t -p 2222 host shell shop/main
  ssh -p 2222 host help up"
)]
pub struct Invocation {
    /// Print the result as JSON; output that goes on, such as that of `logs`, as an object a line.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// Create, list and remove apps.
    #[command(subcommand)]
    Apps(Apps),
    /// Add, list and remove the SSH keys that may push and command.
    #[command(subcommand)]
    Keys(Keys),
    /// Tell of servers of databases and the like, list, try and forget them.
    #[command(subcommand)]
    Services(Services),
    /// Give environments directories that outlive their deploys, list them and take them away.
    #[command(subcommand)]
    Volumes(Volumes),
    /// List and check the certificates that clients are shown, and make one for trying out.
    #[command(subcommand)]
    Tls(Tls),
    /// Publish ports of environments other than that of HTTP, list them and take them back.
    #[command(subcommand)]
    Ports(Ports),
    /// Stage a pull request, a branch, a commit or a directory.
    Up(Up),
    /// List environments.
    Ls(Ls),
    /// Show one environment.
    Show(OneEnv),
    /// Say why an environment is as it is: what keeps it awake, what woke it last, what it holds, and what comes next.
    Why(OneEnv),
    /// Show how environments sleep: memory held, wakes, and how long these took.
    Stats(Stats),
    /// Print what an environment's processes, or its last build, wrote.
    Logs(Logs),
    /// Run a command in an environment's container.
    Run(Run),
    /// Open a shell in an environment's container.
    Shell(OneEnv),
    /// Start an environment's processes anew, without an interruption.
    ///
    /// The new ones serve from the moment on in which they answer. Requests that are under way to the old ones have 30 s
    /// to end after that, and nobody waits for them.
    ///
    /// They see the variables that are set now. The Procfile's `release` command does not run: nothing that it prepares
    /// has changed.
    Restart(OneEnv),
    /// Put an environment to sleep: frozen, its memory out of the way. Whoever visits it wakes it.
    ///
    /// Requests that are under way have 30 s to end before that. Where they do not, or a command runs in it, it stays
    /// awake.
    Sleep(Sleep),
    /// Wake an environment, and wait until it answers.
    Wake(OneEnv),
    /// Stop an environment's processes and keep its disk. Whoever visits it starts them again.
    ///
    /// Requests that are under way have 30 s to end before that, and then processes have 10 s.
    Off(OneEnv),
    /// Keep an environment: time neither turns it off nor destroys it. It sleeps when nobody uses it.
    Pin(OneEnv),
    /// Leave an environment to time again, which does not destroy it within a day.
    Unpin(OneEnv),
    /// Keep an environment for a while, as if it were pinned.
    Extend(Extend),
    /// Show or change what holds for an environment: when it sleeps, how much of the machine it may take, who may look.
    ///
    /// What is set here goes before what its app, its `app.json` and the server say. `KEY=` gives a setting back to them.
    Set(Set),
    /// Print a link that opens an environment's gate for a while, to whoever has it.
    ///
    /// The browser that visits it may look for as long as the link is good, and so may whoever it is passed on to. It
    /// opens nothing else.
    Share(Share),
    /// Set the password of gates, and let automated tests in.
    #[command(subcommand)]
    Gate(Gate),
    /// Show or set how many processes of each type run.
    ///
    /// The Procfile's `release` command does not run.
    Scale(Scale),
    /// Read and set variables of an app or an environment.
    Config(ConfigArgs),
    /// List an environment's releases.
    Releases(OneEnv),
    /// Go back to an earlier release.
    ///
    /// The same image with the variables that it had. The Procfile's `release` command of that release runs first. How
    /// many releases are kept for it is up to the server's configuration; `flyloft releases` lists them.
    Rollback(Rollback),
    /// Destroy an environment, or an app with all its environments.
    Destroy(Destroy),
    /// Print what happened.
    Events(Events),
    /// Write all that cannot be made anew into one file, while everything runs on. For `flyloft restore`.
    ///
    /// Apps, environments with their releases and settings, variables, keys, the SSH host key, repositories and the
    /// configuration. Not in it: what environments are made from and what they have written, which goes with their
    /// containers, caches and logs. It holds secrets: FILE is readable by its owner alone. Over SSH it is the client's shell
    /// that makes the file, which needs a `umask`, and only a status of 0 says that it is whole.
    Backup(Backup),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft backup /srv/flyloft.backup
  (umask 077; ssh -p 2222 host backup > new.backup) && mv new.backup flyloft.backup")]
pub struct Backup {
    /// The file, which is replaced once the new one is whole; standard output if none is named. Where it is a link, the
    /// file that it leads to.
    pub file: Option<PathBuf>,
}

impl Command {
    /// The file that the client must open and send as standard input. Taken out, so that it never reaches the daemon.
    pub fn take_file(&mut self) -> Option<PathBuf> {
        let file = match self {
            Command::Apps(Apps::Create(create)) if create.token_from.is_some() => create.token_from.as_mut(),
            Command::Apps(Apps::Create(create)) => create.deploy_key_from.as_mut(),
            Command::Keys(Keys::Add(add)) => add.file.as_mut(),
            Command::Services(Services::Add(add)) => add.ca.as_mut(),
            Command::Services(Services::Change(change)) => change.ca.as_mut(),
            Command::Services(Services::Template(template)) => template.from_dump.as_mut(),
            Command::Services(Services::Restore(restore)) => Some(&mut restore.file),
            Command::Volumes(Volumes::Templates(VolumeTemplates::Add { file, .. })) => file.as_mut(),
            Command::Up(up) => up.path.as_mut(),
            _ => None,
        }?;
        let named = std::mem::replace(file, PathBuf::from("-"));
        (named.as_os_str() != "-").then_some(named)
    }

    /// The file that the client writes what it is sent to. Taken out, as with [`Command::take_file`].
    pub fn take_output(&mut self) -> Option<PathBuf> {
        let file = match self {
            Command::Backup(backup) => backup.file.take(),
            Command::Services(Services::Dump(dump)) => dump.file.take(),
            _ => None,
        };
        file.filter(|file| file.as_os_str() != "-")
    }

    /// Whether the client's terminal is that of a command inside a container, and passes every key as it is.
    pub fn hands_terminal_over(&self) -> bool {
        match self {
            Command::Run(_) | Command::Shell(_) => true,
            Command::Services(services) => services.is_client(),
            _ => false,
        }
    }

    /// Whether what is typed is not to be seen.
    pub fn conceals_input(&self) -> bool {
        matches!(self, Command::Gate(Gate::Password(_)))
    }

    /// Whether it has no end of its own, so that nobody should wait for one.
    pub fn goes_on(&self) -> bool {
        match self {
            Command::Logs(logs) => logs.follow,
            Command::Events(events) => events.follow,
            Command::Shell(_) => true,
            Command::Services(services) => services.is_client(),
            _ => false,
        }
    }

    /// Whether standard input means something to the command.
    pub fn reads_stdin(&self) -> bool {
        match self {
            Command::Apps(Apps::Create(create)) => create.token_from.is_some() || create.deploy_key_from.is_some(),
            Command::Services(services) => services.reads_stdin(),
            Command::Gate(Gate::Password(_)) => true,
            Command::Keys(Keys::Add(_)) | Command::Run(_) | Command::Shell(_) => true,
            // The answer to "are you sure".
            Command::Apps(Apps::Rm(_)) | Command::Destroy(_) | Command::Volumes(Volumes::Rm(_)) => true,
            Command::Volumes(volumes) => matches!(volumes, Volumes::Templates(VolumeTemplates::Add { .. })),
            Command::Up(up) => up.path.is_some(),
            Command::Config(ConfigArgs { verb: Some(Config::Set { variables, .. }), .. }) => {
                variables.iter().any(Variable::is_from_stdin)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn help_over_ssh_is_written_for_whoever_asks_for_it() {
        let help = Invocation::command().render_long_help().to_string();
        assert!(help.starts_with("Just-in-time staging environments, commanded over SSH\n"), "{help}");
        assert!(!help.contains("door"), "{help}");
    }
}
