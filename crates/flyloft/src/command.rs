//! The one command surface. A command is plain data, defined once here, and reached through every door: the command
//! line over the unix socket, `ssh host COMMAND`, later the HTTP API. A door parses it, hands it to the
//! [api](crate::api), and passes on what that prints.
//!
//! The daemon never opens a file that a command names. Where a command takes one, the client opens it and sends its
//! content as standard input.

mod services;
mod value;
mod volumes;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use flyloft_core::name::{AppName, BranchName, CommitId, EnvRef, ReleaseNumber};
use flyloft_core::policy::Span;
use serde::{Deserialize, Serialize};

pub use self::services::{
    Services, ServicesAdd, ServicesDump, ServicesLs, ServicesOne, ServicesReset, ServicesRestore, ServicesTemplate,
};
use self::value::parse_release;
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
    /// Leave an environment to time again.
    Unpin(OneEnv),
    /// Keep an environment for a while, as if it were pinned.
    Extend(Extend),
    /// Show or change what holds for an environment: when it sleeps, how much of the machine it may take.
    ///
    /// What is set here goes before what its app, its `app.json` and the server say. `KEY=` gives a setting back to them.
    Set(Set),
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
pub struct Sleep {
    /// APP/ENV.
    pub env: EnvRef,
    /// Write its memory out to a disk, not only to compressed memory.
    #[arg(long)]
    pub deep: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft extend shop/pr-42
  flyloft extend shop/pr-42 3d")]
pub struct Extend {
    /// APP/ENV.
    pub env: EnvRef,
    /// For how long from now: `12h`, `3d`, `2w`. A day if nothing is said.
    #[arg(value_name = "DURATION")]
    pub by: Option<Span>,
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

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Apps {
    /// Create an app. Pushing to it does this as well.
    #[command(after_help = "Examples:
  flyloft apps create shop
  flyloft apps create shop --git https://git.example.com/team/shop.git
  flyloft apps create shop --git https://git.example.com/team/shop.git --token-from token.txt
  flyloft apps create shop --git git@git.example.com:team/shop.git --deploy-key-from id_ed25519")]
    Create(AppsCreate),
    /// List apps.
    Ls,
    /// Show or change what holds for an app's environments: when they sleep, how much of the machine each may take.
    ///
    /// What is set here goes before what `app.json` and the server say. `KEY=` gives a setting back to them.
    Set(AppsSet),
    /// Remove an app with all its environments.
    Rm(AppsRm),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft apps set shop
  flyloft apps set shop idle=5m ttl=never memory=512MiB
  flyloft apps set shop idle=
  flyloft apps set shop services=postgres,postgres:REPORTS,redis,redis/database:JOBS

Settings: idle, ttl, expire, memory, swap, pids, cpu_weight, disk, inodes, services")]
pub struct AppsSet {
    pub app: AppName,
    /// What is to change; what is not named stays.
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft set shop/pr-42
  flyloft set shop/pr-42 idle=5m ttl=never memory=512MiB
  flyloft set shop/pr-42 idle=

Settings: idle, ttl, expire, memory, swap, pids, cpu_weight, disk, inodes, services")]
pub struct Set {
    /// APP/ENV.
    pub env: EnvRef,
    /// What is to change; what is not named stays.
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct AppsCreate {
    pub app: AppName,
    /// Where pull requests and branches are fetched from: https://, ssh:// or git@host:path.
    #[arg(long, value_name = "URL")]
    pub git: Option<String>,
    /// A file with the HTTPS token that reads the repository; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "git", conflicts_with = "deploy_key_from")]
    pub token_from: Option<PathBuf>,
    /// The user name that goes with the token.
    #[arg(long, value_name = "NAME", default_value = "git", requires = "token_from")]
    pub token_user: String,
    /// A file with the private SSH key that reads the repository; `-` is standard input.
    #[arg(long, value_name = "FILE", requires = "git")]
    pub deploy_key_from: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct AppsRm {
    pub app: AppName,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Keys {
    /// Add a public key.
    #[command(after_help = "Examples:
  flyloft keys add alice ~/.ssh/id_ed25519.pub --admin
  flyloft keys add ci --app shop < ci.pub")]
    Add(KeysAdd),
    /// List keys.
    Ls,
    /// Remove a key.
    Rm { name: String },
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(group = ArgGroup::new("may").args(["admin", "app"]).required(true))]
pub struct KeysAdd {
    /// Who or what has the key; recorded with everything that it does.
    pub name: String,
    /// The public key's file; standard input if none is named.
    pub file: Option<PathBuf>,
    /// The key may do everything.
    #[arg(long)]
    pub admin: bool,
    /// The key may push and command this app. Can be given several times.
    #[arg(long, value_name = "APP")]
    pub app: Vec<AppName>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft up shop --pr 42
  flyloft up shop --branch feature/login
  flyloft up shop --commit 1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d
  flyloft up shop --path .
  tar -c . | ssh -p 2222 host up shop --path - --name try

A branch or a pull request is followed from then on: what moves is staged, and what is deleted goes.

It goes on when you leave; to see it again: flyloft logs shop/pr-42 --build --follow")]
pub struct Up {
    pub app: AppName,
    /// The pull or merge request's number.
    #[arg(long, value_name = "NUMBER", group = "what")]
    pub pr: Option<u64>,
    #[arg(long, value_name = "NAME", group = "what")]
    pub branch: Option<BranchName>,
    /// The full id of a commit.
    #[arg(long, value_name = "ID", group = "what")]
    pub commit: Option<CommitId>,
    /// A directory of the client; `-` takes a tar archive from standard input.
    #[arg(long, value_name = "DIR", group = "what")]
    pub path: Option<PathBuf>,
    /// The environment's name, where --path is used.
    #[arg(long, value_name = "ENV", requires = "path", default_value = "local")]
    pub name: flyloft_core::name::EnvName,
    /// Build every layer of the app anew.
    #[arg(long)]
    pub no_cache: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct Ls {
    /// Only this app's.
    pub app: Option<AppName>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct Stats {
    /// app or app/env; everything if none is named
    pub target: Option<Target>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct OneEnv {
    /// app/env
    pub env: EnvRef,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft logs shop/main
  flyloft logs shop/main --follow
  flyloft logs shop/pr-42 --build
  flyloft logs shop/main --json    one object a line: {\"at\": …, \"process\": \"web.1\", \"text\": …}")]
pub struct Logs {
    /// app/env
    pub env: EnvRef,
    /// How many of the last lines: 100 if not said, and all of a build.
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub lines: Option<usize>,
    /// Go on as more is written, also by the next release.
    #[arg(short, long)]
    pub follow: bool,
    /// The output of the last deploy instead: what was built, and how it ended.
    #[arg(long)]
    pub build: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft run shop/main -- python manage.py migrate
  echo 'print(1)' | flyloft run shop/main -- python -")]
pub struct Run {
    /// app/env
    pub env: EnvRef,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub argv: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft scale shop/main
  flyloft scale shop/main worker=2")]
pub struct Scale {
    /// app/env
    pub env: EnvRef,
    /// How many of a process type; what is not named stays.
    #[arg(value_name = "TYPE=COUNT")]
    pub counts: Vec<Count>,
}

// Not `args_conflicts_with_subcommands`: for clap, `--json` is such an argument too.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    override_usage = "flyloft config <TARGET>\n       flyloft config <COMMAND>"
)]
pub struct ConfigArgs {
    /// app or app/env: lists its variables, as `config ls` does
    #[arg(required = true)]
    pub target: Option<Target>,
    #[command(subcommand)]
    pub verb: Option<Config>,
}

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Config {
    /// List variables with their values.
    Ls { target: Target },
    /// Print one variable's value.
    Get { target: Target, name: String },
    /// Set variables, and redeploy what they touch.
    ///
    /// The Procfile's `release` command runs before what is redeployed serves.
    #[command(after_help = "Examples:
  flyloft config set shop/pr-42 DEBUG=1 LOG_LEVEL=debug
  flyloft config set shop STRIPE_KEY=- < key.txt
  flyloft config set shop MAPS_KEY=abc --share-with-pull-requests
  pass show stripe | ssh -p 2222 host config set shop STRIPE_KEY=-")]
    Set {
        target: Target,
        /// With `-` as its value a variable takes standard input, without the newline at its end: an argument can be
        /// seen by others on the machine, and stays in the shell's history.
        #[arg(required = true, value_name = "NAME=VALUE")]
        variables: Vec<Variable>,
        /// Let pull requests have these variables of an app, which they do not get otherwise: their code may be a
        /// stranger's. Setting one again without this takes it from them.
        #[arg(long)]
        share_with_pull_requests: bool,
    },
    /// Remove variables, and redeploy what they touched.
    ///
    /// The Procfile's `release` command runs before what is redeployed serves.
    Unset {
        target: Target,
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct Rollback {
    /// app/env
    pub env: EnvRef,
    /// Such as v3; the release before the one that serves if none is named.
    #[arg(value_parser = parse_release)]
    pub release: Option<ReleaseNumber>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct Destroy {
    /// app/env, or an app
    pub target: Target,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft events
  flyloft events shop/main --follow
  flyloft events shop --follow --json    one object a line")]
pub struct Events {
    /// app or app/env; everything if none is named
    pub target: Option<Target>,
    /// How many of the last.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    pub lines: u32,
    /// Go on as more happens.
    #[arg(short, long)]
    pub follow: bool,
}

impl Command {
    /// The file that the client must open and send as standard input. Taken out, so that it never reaches the daemon.
    pub fn take_file(&mut self) -> Option<PathBuf> {
        let file = match self {
            Command::Apps(Apps::Create(create)) if create.token_from.is_some() => create.token_from.as_mut(),
            Command::Apps(Apps::Create(create)) => create.deploy_key_from.as_mut(),
            Command::Keys(Keys::Add(add)) => add.file.as_mut(),
            Command::Services(Services::Add(add)) => add.ca.as_mut(),
            Command::Services(Services::Template(template)) => template.from_dump.as_mut(),
            Command::Services(Services::Restore(restore)) => Some(&mut restore.file),
            Command::Volumes(Volumes::Templates(VolumeTemplates::Add { file, .. })) => file.as_mut(),
            Command::Up(up) => up.path.as_mut(),
            _ => None,
        }?;
        let named = std::mem::replace(file, PathBuf::from("-"));
        (named.as_os_str() != "-").then_some(named)
    }
}

impl Command {
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
        matches!(self, Command::Run(_) | Command::Shell(_) | Command::Services(Services::Psql(_)))
    }

    /// Whether it has no end of its own, so that nobody should wait for one.
    pub fn goes_on(&self) -> bool {
        match self {
            Command::Logs(logs) => logs.follow,
            Command::Events(events) => events.follow,
            Command::Shell(_) | Command::Services(Services::Psql(_)) => true,
            _ => false,
        }
    }

    /// Whether standard input means something to the command.
    pub fn reads_stdin(&self) -> bool {
        match self {
            Command::Apps(Apps::Create(create)) => create.token_from.is_some() || create.deploy_key_from.is_some(),
            Command::Services(services) => services.reads_stdin(),
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
