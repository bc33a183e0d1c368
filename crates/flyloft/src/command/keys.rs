//! `flyloft keys`: the words of it.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use flyloft_core::name::AppName;
use serde::{Deserialize, Serialize};

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
