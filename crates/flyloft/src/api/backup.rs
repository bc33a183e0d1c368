//! `flyloft backup`. The file is the client's, which sees to it that it is whole; here it is a stream.

use super::{Api, Call, Ending};
use crate::error::{Error, Result};

impl Api {
    pub(super) async fn backup(&self, call: &mut Call<'_>) -> Result<Ending> {
        call.must_be_admin()?;
        if call.io.terminal.is_some() {
            return Err(Error::usage("a backup is nothing for a terminal")
                .hint("name a file: flyloft backup FILE")
                .hint("or redirect it: (umask 077; ssh HOST backup > FILE)"));
        }
        crate::backup::write(&self.loft.parts, &mut call.io.stdout).await?;
        Ok(Ending::Code(0))
    }
}
