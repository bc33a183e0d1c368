//! `flyloft apps`: the words of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use flyloft_core::name::AppName;
use serde::{Deserialize, Serialize};

use super::value::Assignment;

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
#[command(after_help = "Examples:
  flyloft apps set shop
  flyloft apps set shop idle=5m ttl=never memory=512MiB
  flyloft apps set shop idle=
  flyloft apps set shop services=postgres,postgres:REPORTS,redis,redis/database:JOBS

Settings: idle, ttl, expire, memory, swap, pids, cpu_weight, disk, inodes, services, gate")]
pub struct AppsSet {
    pub app: AppName,
    /// What is to change; what is not named stays.
    #[arg(value_name = "KEY=VALUE")]
    pub settings: Vec<Assignment>,
    /// Do not ask, where a shorter `expire` destroys what is there.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct AppsRm {
    pub app: AppName,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}
