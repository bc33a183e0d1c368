//! `flyloft serve --check`: would a daemon start?

use flyloft_core::host::Domain;
use socket2::{Socket, Type};

use super::{init_binary, must_be_root};
use crate::config::Config;
use crate::error::{Error, OrFailed, Result};
use crate::machine::tools::{self, Found};
use crate::machine::{Port, ports};
use crate::store::{self, Store};

/// Looks whether a daemon would start with this configuration, beside one that may be running. Nothing is changed.
pub async fn check(config: &Config) -> Result<()> {
    must_be_root()?;
    Domain::parse(&config.domain).map_err(Error::usage)?;
    init_binary()?;
    Store::check(&config.state_dir.join(store::FILE)).or_failed(|| "failed to read the store")?;
    let tools = tools::look().await;
    if let Some(tool) = tools.iter().find(|tool| tool.found == Found::Missing) {
        return Err(Error::failed(format!("`{}` is not installed", tool.program))
            .hint(format!("apt-get install --no-install-recommends {}", tool.package)));
    }
    let doors = [("HTTP", &config.http.listen), ("SSH", &config.ssh.listen), ("metrics", &config.metrics.listen)];
    doors.into_iter().flat_map(|(door, addresses)| ports::look(door, addresses)).try_for_each(|port| check_port(&port))
}

/// What a running daemon has is handed over.
fn check_port(port: &Port) -> Result<()> {
    let Port { address, door, holder } = port;
    let failed = || format!("failed to listen on `{address}` for {door}");
    match holder {
        Some(holder) if holder.name == "flyloft" => Ok(()),
        Some(holder) => Err(Error::failed(failed()).hint(format!("`{}` (process {}) has it", holder.name, holder.pid))),
        None => {
            let bound = Socket::new(socket2::Domain::for_address(*address), Type::STREAM, None)
                .and_then(|socket| socket.set_reuse_address(true).and_then(|()| socket.bind(&(*address).into())));
            bound.or_failed(failed)
        }
    }
}
