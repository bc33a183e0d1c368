//! The ways in for clients, which are to be alike to whoever means no good: plain HTTP, and TLS.

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::secure::{Lock, connect};
use super::*;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A client that came in by any of them.
pub type Client = Peer<Box<dyn Stream>>;

/// An edge of its own, and the way in.
pub struct Door {
    pub stage: Stage,
    tls: Option<Arc<ClientConfig>>,
}

/// Both of them, to one app behind `shop.test`.
pub async fn doors<F>(change: impl Fn(&mut EdgeConfig), serve: impl Fn(Peer) -> F + Send + 'static) -> [Door; 2]
where
    F: Future<Output = ()> + Send + 'static,
{
    let app = App::start(serve).await;
    let Lock { stage, client, .. } = Lock::with(&["shop.test"], &change);
    let doors = [Door { stage: Stage::with(&change), tls: None }, Door { stage, tls: Some(client) }];
    for door in &doors {
        door.stage.route("shop.test", app.address).await;
    }
    // It lives as long as the runtime of the test.
    std::mem::forget(app);
    doors
}

impl Door {
    pub fn address(&self) -> SocketAddr {
        match self.tls {
            None => self.stage.address(),
            Some(_) => self.stage.edge.secure_addresses()[0],
        }
    }

    /// Whoever is refused has no connection over TLS, and an end of one over plain HTTP.
    pub async fn try_connect(&self) -> std::io::Result<Client> {
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(TcpStream::connect(self.address()).await?),
            Some(client) => Box::new(connect(self.address().port(), "shop.test", client).await?),
        };
        Ok(Peer { stream, unread: Vec::new() })
    }

    pub async fn connect(&self) -> Client {
        self.try_connect().await.unwrap()
    }

    /// The whole answer to one request over a connection of its own. `\n` in the request stands for CRLF.
    pub async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.say(&request.replace('\n', "\r\n")).await;
        client.read_answer().await
    }

    /// How clients come in, for messages.
    pub fn name(&self) -> &'static str {
        if self.tls.is_some() { "TLS" } else { "plain HTTP" }
    }
}
