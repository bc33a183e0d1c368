//! `flyloft services`: the words of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use flyloft_core::service::Kind;
use serde::{Deserialize, Serialize};

use super::value::Concealed;

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Services {
    /// Tell of a server on which environments can have databases. It is tried before it is taken.
    ///
    /// The URL's user must be allowed to create roles and databases. The password is kept encrypted, with a key in the
    /// daemon's state directory.
    #[command(after_help = "Examples:
  pass show pg | flyloft services add pg --kind postgres --url -
  flyloft services add pg --kind postgres --url - --ca ca.pem < url.txt
  cat url.txt ca.pem | ssh -p 2222 host services add pg --kind postgres --url - --ca -")]
    Add(ServicesAdd),
    /// List servers.
    Ls(ServicesLs),
    /// Try whether servers can be reached, and let flyloft do what it has to.
    Check {
        /// A server; all if none is named.
        name: Option<String>,
    },
    /// Forget a server.
    Rm { name: String },
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesAdd {
    /// What it is to be called.
    pub name: String,
    /// What it is: postgres.
    #[arg(long)]
    pub kind: Kind,
    /// As in postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=require; `-` takes it from the first line of standard
    /// input, since an argument can be seen by others on the machine, and stays in the shell's history. What is not a
    /// letter, a digit or one of -._~ in the password is escaped, as `%40` for `@`.
    #[arg(long)]
    pub url: Concealed,
    /// A file with the certificate of who signed the server's. Connections are encrypted then. `-` is standard input, after
    /// the URL if that is there as well. Without it `sslmode=require` trusts those that the machine trusts.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesLs {
    /// Show passwords.
    #[arg(long)]
    pub reveal: bool,
}

impl ServicesAdd {
    pub fn reads_url(&self) -> bool {
        self.url.0 == "-"
    }
}
