//! `flyloft config`: the words of it.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::value::{Target, Variable};

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
    Ls {
        #[command(flatten)]
        of: ConfigOf,
    },
    /// Print one variable's value.
    Get {
        #[command(flatten)]
        of: ConfigOf,
        name: String,
    },
    /// Set variables, and redeploy what they touch.
    ///
    /// The Procfile's `release` command runs before what is redeployed serves. Of one name the variable of the environment
    /// counts, then that of all pull requests, then that of the app, then those of services, then what `app.json` says.
    #[command(after_help = "Examples:
  flyloft config set shop/pr-42 DEBUG=1 LOG_LEVEL=debug
  flyloft config set shop STRIPE_KEY=- < key.txt
  flyloft config set shop STRIPE_KEY=sk_test_abc --pull-requests
  flyloft config set shop MAPS_KEY=abc --share-with-pull-requests
  pass show stripe | ssh -p 2222 host config set shop STRIPE_KEY=-")]
    Set {
        #[command(flatten)]
        of: ConfigOf,
        /// With `-` as its value a variable takes standard input, without the newline at its end: an argument can be
        /// seen by others on the machine, and stays in the shell's history.
        #[arg(required = true, value_name = "NAME=VALUE")]
        variables: Vec<Variable>,
        /// Let pull requests have these variables of an app, which they do not get otherwise: their code may be a
        /// stranger's. Setting one again without this takes it from them.
        #[arg(long, conflicts_with = "pull_requests")]
        share_with_pull_requests: bool,
    },
    /// Remove variables, and redeploy what they touched.
    ///
    /// The Procfile's `release` command runs before what is redeployed serves. Where `app.json` requires one of them,
    /// and nobody else sets it, that fails, and what serves goes on as it is. One that is made at random is made anew.
    Unset {
        #[command(flatten)]
        of: ConfigOf,
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Whose variables.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ConfigOf {
    /// app or app/env
    pub target: Target,
    /// Those that all pull requests of the app have, and nobody else.
    #[arg(long)]
    pub pull_requests: bool,
}
