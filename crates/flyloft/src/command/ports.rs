//! `flyloft ports`.

use clap::{Args, Subcommand};
use flyloft_core::name::EnvRef;
use flyloft_core::port::Protocol;
use serde::{Deserialize, Serialize};

use super::Target;

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Ports {
    /// Publish a port of an environment on this machine, over IPv4 and IPv6.
    ///
    /// Whoever reaches this machine reaches it, and the first who comes wakes the environment. Its other environments do
    /// not. It stays so until it is taken back, or until the environment is destroyed.
    #[command(after_help = "Examples:
  flyloft ports add shop/main 5432
  flyloft ports add shop/main 5432 --host-port 25432
  flyloft ports add shop/pr-42 5353 --protocol udp")]
    Add(PortsAdd),
    /// List the ports that are published.
    Ls {
        /// app or app/env
        target: Target,
    },
    /// Take a port back. Who is connected by it is not any more.
    Rm(PortsRm),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct PortsAdd {
    /// app/env
    pub env: EnvRef,
    /// Where the environment's processes listen.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Where others find it on this machine; one of those that the configuration gives out if none is named.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub host_port: Option<u16>,
    #[arg(long, value_name = "tcp|udp", default_value = "tcp")]
    pub protocol: Protocol,
    /// Take one of the system's ports, below 1024.
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct PortsRm {
    /// app/env
    pub env: EnvRef,
    /// Of the environment, as with `ports add`.
    pub port: u16,
    #[arg(long, value_name = "tcp|udp", default_value = "tcp")]
    pub protocol: Protocol,
}
