//! The words of the commands that open gates.

use clap::{Args, Subcommand};
use flyloft_core::name::{AppName, EnvRef};
use flyloft_core::policy::Span;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft share shop/pr-42
  flyloft share shop/pr-42 --for 2d
  flyloft share shop/pr-42 --revoke")]
pub struct Share {
    /// APP/ENV.
    pub env: EnvRef,
    /// For how long the link opens it: `2h`, `3d`, `2w`. A week if nothing is said.
    #[arg(long = "for", value_name = "DURATION")]
    pub span: Option<Span>,
    /// Make none, but have all links to it, its tokens and all cookies open nothing any more.
    #[arg(long, conflicts_with = "span")]
    pub revoke: bool,
}

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Gate {
    /// Set the password of an app's gates, where they ask for one. It comes from standard input, or is asked for.
    ///
    /// What the one before has opened is shut. No gate asks for it before somebody says so with `gate=password`.
    Password(GatePassword),
    /// Print a token with which automated tests pass the gate of an environment, whatever it asks of people.
    Token(GateToken),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  pass show staging/shop | flyloft gate password shop
  flyloft apps set shop gate=password")]
pub struct GatePassword {
    pub app: AppName,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft gate token shop/pr-42
  flyloft gate token shop/pr-42 --for 90d

A test says it in the header `X-Flyloft-Bypass`, or with `flyloft-bypass=TOKEN` in the query.
A browser that does so is led to the same address without it, and goes on with a cookie.
`flyloft share shop/pr-42 --revoke` ends it.")]
pub struct GateToken {
    /// APP/ENV.
    pub env: EnvRef,
    /// For how long it is good. For as long as the environment is there if nothing is said.
    #[arg(long = "for", value_name = "DURATION")]
    pub span: Option<Span>,
}
