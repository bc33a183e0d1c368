//! A connection to a server, encrypted where that is asked for.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Fault, Server, ServiceError, tls};

/// Who does not know the protocol may wait for the rest of it for ever.
const PATIENCE: Duration = Duration::from_secs(8);

pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// To one of the server's ports.
pub async fn open(server: &Server, port: u16) -> Result<Box<dyn Stream>, ServiceError> {
    let nobody = |what: &str| format!("{what} in {} s", PATIENCE.as_secs());
    let failed = |fault| ServiceError::new(server, fault);
    let host = server.url.host.as_str();
    let connected = timeout(PATIENCE, TcpStream::connect((host, port))).await;
    let stream = connected
        .map_err(|_| failed(Fault::Down).said(nobody("nobody answered")))?
        .map_err(|error| failed(Fault::Down).said(error))?;
    // What is sent is small, and waited for.
    stream.set_nodelay(true).map_err(|error| failed(Fault::Down).said(error))?;
    if !server.is_encrypted() {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(Fault::Certificate).said(error))?;
    let connector = TlsConnector::from(Arc::new(tls::config(server)?));
    let encrypted = timeout(PATIENCE, connector.connect(name, stream)).await;
    let encrypted = encrypted
        .map_err(|_| failed(Fault::NoTls).said(nobody("it did not answer to what begins encryption")))?
        .map_err(|error| failed(tls::fault_of(&error).unwrap_or(Fault::NoTls)).said(error))?;
    Ok(Box::new(encrypted))
}
