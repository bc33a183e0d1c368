//! The way to a server of a test's own, on which somebody can be held up in the middle of what it does. For the server to be
//! gone then, it is stopped, and the way is shut as its port is.

use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::service::own_server::free_port;

pub(super) struct Way {
    pub port: u16,
    target: u16,
    bar: Arc<Bar>,
    open: Option<JoinHandle<()>>,
}

/// Who says these words gets no further, and neither do they.
#[derive(Default)]
struct Bar {
    words: Mutex<Option<&'static str>>,
    held: Notify,
}

impl Way {
    pub async fn to(target: u16) -> Self {
        let mut way = Self { port: free_port(), target, bar: Arc::default(), open: None };
        way.open().await;
        way
    }

    pub async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let (target, bar) = (self.target, self.bar.clone());
        self.open = Some(tokio::spawn(async move {
            let mut crossing = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                crossing.spawn(cross(client, target, bar.clone()));
            }
        }));
    }

    /// Nobody gets there any more, and who is on it is cut off.
    pub async fn shut(&mut self) {
        let open = self.open.take().expect("it is open");
        open.abort();
        assert!(open.await.unwrap_err().is_cancelled());
        *self.bar.words.lock().unwrap() = None;
    }

    /// Comes back when somebody is held up who says these words.
    pub async fn held_up_by(&self, words: &'static str) {
        *self.bar.words.lock().unwrap() = Some(words);
        self.bar.held.notified().await;
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}

async fn cross(client: TcpStream, target: u16, bar: Arc<Bar>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let ((mut said, mut to_client), (mut answered, mut to_server)) = (client.into_split(), server.into_split());
    let there = async {
        let mut piece = vec![0; 64 << 10];
        while let Ok(length @ 1..) = said.read(&mut piece).await {
            let text = String::from_utf8_lossy(&piece[..length]);
            if bar.words.lock().unwrap().is_some_and(|words| text.contains(words)) {
                bar.held.notify_one();
                std::future::pending::<()>().await;
            }
            if to_server.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut answered, &mut to_client) => {}
    }
}
