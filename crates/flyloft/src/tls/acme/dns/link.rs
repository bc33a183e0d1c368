//! Connections to DNS servers, over TCP, which every one of them speaks (RFC 7766 section 5).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_client::client::{Client, ClientHandle};
use hickory_client::proto::op::{MessageFinalizer, ResponseCode};
use hickory_client::proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_client::proto::runtime::TokioRuntimeProvider;
use hickory_client::proto::tcp::TcpClientStream;
use hickory_client::{ClientError, ClientErrorKind};
use tokio_util::task::AbortOnDropHandle;

/// How long a server may take for an answer.
const ANSWERS: Duration = Duration::from_secs(5);

/// One connection, which ends with this.
pub struct Link {
    pub client: Client,
    _background: AbortOnDropHandle<Result<(), hickory_client::proto::ProtoError>>,
}

impl Link {
    /// With a `signer`, changes are signed, and answers to them looked at.
    pub async fn open(
        server: SocketAddr,
        limit: Duration,
        signer: Option<Arc<dyn MessageFinalizer>>,
    ) -> Result<Self, String> {
        let (stream, sender) = TcpClientStream::new(server, None, Some(limit), TokioRuntimeProvider::new());
        let connected = Client::with_timeout(stream, sender, limit, signer).await;
        let (client, background) = connected.map_err(|error| format!("failed to reach `{server}`: {error}"))?;
        Ok(Self { client, _background: AbortOnDropHandle::new(tokio::spawn(background)) })
    }
}

/// A name that ends at the root.
pub fn absolute(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| format!("`{text}` is no name: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// What went wrong, and not in which part of the client.
fn words(error: &ClientError) -> String {
    match error.kind() {
        ClientErrorKind::Proto(error) => error.to_string(),
        ClientErrorKind::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What a server says of a name.
pub async fn query(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Vec<Record>, String> {
    let asked = async {
        let mut link = Link::open(server, ANSWERS, None).await?;
        let answer = link.client.query(name.clone(), DNSClass::IN, kind).await;
        let answer = answer.map_err(|error| format!("`{server}` failed: {}", words(&error)))?;
        match answer.response_code() {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer.answers().to_vec()),
            refused => Err(format!("`{server}` refused to tell of `{name}`: {refused}")),
        }
    };
    let late = |_| Err(format!("`{server}` did not answer within {} s", ANSWERS.as_secs()));
    tokio::time::timeout(ANSWERS, asked).await.unwrap_or_else(late)
}
