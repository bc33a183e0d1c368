//! The words of the commands that open gates.

use clap::{Args, Subcommand};
use flyloft_core::name::EnvRef;
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
    /// Make none, but have all links to it, their cookies and its tokens open nothing any more.
    #[arg(long, conflicts_with = "span")]
    pub revoke: bool,
}

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Gate {
    /// Print a token with which automated tests pass the gate of an environment, whatever it asks of people.
    Token(GateToken),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(after_help = "Examples:
  flyloft gate token shop/pr-42
  flyloft gate token shop/pr-42 --for 90d

A test says it in the header `X-Flyloft-Bypass`, or with `flyloft-bypass=TOKEN` in the query.
`flyloft share shop/pr-42 --revoke` ends it.")]
pub struct GateToken {
    /// APP/ENV.
    pub env: EnvRef,
    /// For how long it is good. For as long as the environment is there if nothing is said.
    #[arg(long = "for", value_name = "DURATION")]
    pub span: Option<Span>,
}
