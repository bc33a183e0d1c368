//! The words of the commands that are about environments.

use std::path::PathBuf;

use clap::Args;
use flyloft_core::name::{AppName, BranchName, CommitId, EnvName, EnvRef, ReleaseNumber};
use flyloft_core::policy::Span;
use serde::{Deserialize, Serialize};

use super::value::{Assignment, Count, Target, parse_release};

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct OneEnv {
    /// app/env
    pub env: EnvRef,
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
    pub name: EnvName,
    /// Build every layer of the app anew.
    #[arg(long)]
    pub no_cache: bool,
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
  flyloft set shop/pr-42
  flyloft set shop/pr-42 idle=5m ttl=never memory=512MiB
  flyloft set shop/pr-42 idle=

Settings: idle, ttl, expire, memory, swap, pids, cpu_weight, disk, inodes, services, gate")]
pub struct Set {
    /// APP/ENV.
    pub env: EnvRef,
    /// What is to change; what is not named stays.
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<Assignment>,
    /// Do not ask, where a shorter `expire` destroys what is there.
    #[arg(long)]
    pub yes: bool,
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
