//! Two nginx before the same upstream: one as an administrator sets it up, and one that flyloft keeps.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flyloft::edge::embedded::{EdgeConfig, Embedded};
use flyloft::edge::nginx::{Master, Nginx, NginxConfig, Place, files};
use flyloft::edge::{Edge, Route, Target};
use flyloft::exec::Cmd;
use flyloft_core::gate::{COOKIE, Gate, Guard, Key, NEVER, Purpose};
use flyloft_core::host::Domain;
use flyloft_core::name::EnvRef;
use flyloft_core::nginx::{Bounds, Site};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{by_hand, write};

pub const HOST: &str = "shop.test";
/// A host name of the same app that is opened by links.
pub const GATED: &str = "gated.test";
const WORKERS: usize = 2;
/// For clients, all of which keep up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Environments beside those that are asked for.
const OTHERS: usize = 500;

pub struct Stage {
    pub by_hand: SocketAddr,
    pub ours: SocketAddr,
    /// The embedded edge, where clients reach it.
    pub embedded: SocketAddr,
    edge: Arc<Nginx>,
    inner: Arc<Embedded>,
    apps: [SocketAddr; 2],
    log: PathBuf,
    _nginx: Vec<Child>,
    _dir: tempfile::TempDir,
}

impl Stage {
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (upstream, by_hand, ours) = (free_address()?, free_address()?, free_address()?);
        let mut nginx = vec![
            started(by_hand::upstream(dir.path(), upstream)?, upstream).await?,
            started(by_hand::proxy(dir.path(), by_hand, upstream, HOST, WORKERS)?, by_hand).await?,
        ];
        let (home, own) = (dir.path().join("ours"), nix::unistd::geteuid());
        files::prepare(&home, Site::nothing())?;
        let (told, _) = tokio::sync::mpsc::unbounded_channel();
        let config = EdgeConfig {
            proxy: Some(files::listen(&home, own, None)?),
            visits: Some(told.clone()),
            threads: WORKERS,
            ..EdgeConfig::new(["127.0.0.1:0".parse::<SocketAddr>()?])
        };
        let inner = Embedded::open(config)?;
        let shown = home.display().to_string();
        let conf = home.join("nginx.conf");
        write(&conf, configuration(&shown))?;
        let place = Place {
            dir: home.clone(),
            instance: "abc123".to_owned(),
            domain: Domain::parse("test")?,
            listen: vec![ours],
            master: Master { pid_file: home.join("pid"), conf: conf.clone() },
            secure: None,
            trusted: Vec::new(),
            external: None,
            bounds: Bounds { requests: 4096, head: PATIENCE, send: PATIENCE, take: PATIENCE, body: None },
        };
        let log = files::hear(&home, own, None)?;
        let mut routes = vec![(HOST.to_owned(), to(upstream)?)];
        for other in 0..OTHERS {
            let number = other as u16 + 2;
            let [high, low] = number.to_be_bytes();
            // nginx looks through their addresses in order: half come before the one that is asked, half after it.
            let net = if other % 2 == 0 { 126 } else { 127 };
            routes.push((format!("other-{other}.test"), to(SocketAddr::from(([net, 9, high, low], 5000)))?));
        }
        for (host, route) in &routes {
            inner.set(host, route.clone()).await?;
        }
        let snippets = dir.path().join("snippets");
        let (quiet_agents, leftover) = (Vec::new(), None);
        let config = NginxConfig { place, workers: own, log, quiet_agents, snippets, leftover, routes, visits: told };
        let edge = Nginx::open(inner.clone(), config)?;
        let serve = Cmd::new("nginx").arg("-e").arg(home.join("error.log")).arg("-c").arg(&conf);
        nginx.push(serve.spawn(Stdio::null(), Stdio::null(), Stdio::inherit())?);
        wait_for(ours).await?;
        let apps = [named("one").await?, named("two").await?];
        let embedded = inner.addresses()[0];
        let log = home.join("error.log");
        let stage = Self { by_hand, ours, embedded, edge, inner, apps, log, _nginx: nginx, _dir: dir };
        stage.route("changes.test", stage.apps[1]).await?;
        let guard = Guard::new(Gate::Link, key(), None).map(Arc::new);
        stage.edge.set(GATED, Route { guard, ..to(upstream)? }).await?;
        stage.settled().await?;
        Ok(stage)
    }

    /// Waits until nginx goes straight everywhere.
    async fn settled(&self) -> Result<()> {
        let (begun, mut reloads) = (Instant::now(), usize::MAX);
        while reloads != self.reloads()? {
            ensure!(begun.elapsed() < Duration::from_secs(60), "nginx is told without end");
            reloads = self.reloads()?;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        ensure!(self.edge.troubles().borrow().is_none(), "nginx is in trouble: {:?}", *self.edge.troubles().borrow());
        Ok(())
    }

    pub fn app(&self, number: usize) -> (SocketAddr, &'static str) {
        (self.apps[number], ["one", "two"][number])
    }

    pub async fn route(&self, host: &str, to_app: SocketAddr) -> Result<()> {
        Ok(self.edge.set(host, to(to_app)?).await?)
    }

    /// A deploy of it begins.
    pub fn expect(&self, host: &str) {
        self.edge.expect(host, true);
    }

    /// How often nginx has read its configuration since its start.
    pub fn reloads(&self) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.log)?.matches(" reconfiguring").count())
    }

    /// How long it takes until the first answer of this app.
    pub async fn sees(&self, name: &str, begun: Instant) -> Result<Duration> {
        while begun.elapsed() < Duration::from_secs(30) {
            if get(self.ours, "changes.test").await?.ends_with(name) {
                return Ok(begun.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bail!("the route of `{name}` never shows")
    }

    /// Visitors without pause, until they are told to stop: how often they asked, and how often in vain.
    pub fn load(&self) -> (CancellationToken, JoinHandle<(usize, usize)>) {
        let (done, address) = (CancellationToken::new(), self.ours);
        let until = done.clone();
        let visitors = tokio::spawn(async move {
            let (mut asked, mut failed) = (0, 0);
            while !until.is_cancelled() {
                let host = format!("many-{}.test", asked % crate::AT_ONCE);
                let well = get(address, &host).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "));
                asked += 1;
                failed += usize::from(!well);
            }
            (asked, failed)
        });
        (done, visitors)
    }

    /// From the moment on in which an app answers to the answer of somebody who waits at `address`.
    pub async fn wake(&self, address: SocketAddr) -> Result<Duration> {
        let host = "sleeper.test";
        let held = Route::public(EnvRef::parse("shop/sleeper")?, Target::Held { failure: None });
        self.inner.set(host, held).await?;
        let mut client = TcpStream::connect(address).await?;
        client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        while self.inner.usage(host).is_none_or(|usage| usage.waiting == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begun = Instant::now();
        self.inner.set(host, to(self.apps[0])?).await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        ensure!(answer.ends_with("one"), "{answer}");
        Ok(begun.elapsed())
    }
}

fn key() -> Key {
    Key::new(&[7; 32], 1, GATED, 0)
}

/// What a visitor sends who has come by a link.
pub fn cookie() -> String {
    format!("{COOKIE}={}", key().sign(Purpose::Visit, NEVER))
}

fn configuration(home: &str) -> String {
    let temp = |what: &str| format!("{what}_temp_path {home}/{what}; ");
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(temp).concat();
    format!(
        "daemon off;\nuser root;\nworker_processes {WORKERS};\npid {home}/pid;\nerror_log {home}/error.log notice;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; {temps} include {home}/flyloft.conf; }}\n"
    )
}

fn to(address: SocketAddr) -> Result<Route> {
    Ok(Route::public(EnvRef::parse("shop/main")?, Target::Upstream(address)))
}

async fn get(address: SocketAddr, host: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// An app that says who it is.
async fn named(name: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|count| count > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{name}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

async fn started(command: Cmd, address: SocketAddr) -> Result<Child> {
    let child = command.spawn(Stdio::null(), Stdio::null(), Stdio::inherit())?;
    wait_for(address).await?;
    Ok(child)
}

async fn wait_for(address: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(20), "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().context("no address")
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Each leads a process group of its own, which goes as a whole.
        for group in self._nginx.iter().filter_map(Child::id) {
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group as i32), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
