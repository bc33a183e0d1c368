//! `flyloft tls`: the words of it.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Tls {
    /// List the certificates that clients are shown, for which names, and for how long.
    Ls,
    /// Look at the files of all certificates now, take what has changed, and say what is wrong with them.
    Check,
    /// Make an authority of this server's own, and a certificate for all environments, for trying TLS out.
    ///
    /// Nobody believes it before somebody has told their machine to trust the authority, which can vouch for names below
    /// the domain alone. The certificate is shown at once and renewed by itself. Said once more, it makes another
    /// certificate by the same authority.
    #[command(after_help = "Examples:
  flyloft tls local-ca
  ssh -p 2222 host tls local-ca --pem > flyloft.crt")]
    LocalCa(TlsLocalCa),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct TlsLocalCa {
    /// Print the authority's certificate, which is what people trust, and make nothing.
    #[arg(long)]
    pub pem: bool,
}
