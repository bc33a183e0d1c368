//! Repositories to try things on: what the daemon has, somebody's working copies, and hosts elsewhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use flyloft_core::name::{AppName, CommitId};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::exec::Cmd;
use crate::source::{Checkout, Credential, RemoteUrl, Repositories, SourceError, SourceLimits};

pub const USER: u32 = 61_235;

pub struct Shelf {
    dir: TempDir,
    pub repositories: Repositories,
}

impl Shelf {
    pub fn new() -> Self {
        Self::with(SourceLimits::default())
    }

    pub fn with(limits: SourceLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let repositories = Repositories::open(&dir.path().join("git"), USER, limits).unwrap();
        Self { dir, repositories: repositories.with_plain_http_on_loopback() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty working copy.
    pub async fn copy(&self, name: &str) -> Copy {
        let dir = self.path(name);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(USER), Some(USER)).unwrap();
        let copy = Copy { dir };
        copy.git(&["init", "-q"]).await;
        copy
    }

    /// The commit arrives in the app's repository as by a push.
    pub async fn push(&self, copy: &Copy) -> CommitId {
        self.repositories.ensure(&app()).await.unwrap();
        let to = self.path("git/apps/shop.git");
        copy.git(&["push", "-q", to.to_str().unwrap(), "HEAD:refs/heads/main"]).await;
        copy.head().await
    }

    /// Files of the commit, in a new directory.
    pub async fn checkout(&self, commit: &CommitId, remote: Option<&RemoteUrl>) -> Result<PathBuf, SourceError> {
        self.checkout_with(commit, remote, &[]).await
    }

    pub async fn checkout_with(
        &self,
        commit: &CommitId,
        remote: Option<&RemoteUrl>,
        credentials: &[Credential],
    ) -> Result<PathBuf, SourceError> {
        let into = self.path(&format!("tree-{}", commit.short()));
        let wanted = Checkout { commit, quarantine: None, remote, credentials };
        let done = self.repositories.checkout(&app(), &wanted, &into).await;
        assert_eq!(into.exists(), done.is_ok(), "a failed checkout leaves nothing");
        done.map(|()| into)
    }

    /// A host elsewhere with one repository, at `/acme/NAME.git`, that has what the copy has.
    pub async fn host(&self, name: &str, copy: &Copy, manner: Manner) -> Host {
        let root = self.path(&format!("host-{name}"));
        let repository = root.join(format!("acme/{name}.git"));
        fs::create_dir_all(repository.parent().unwrap()).unwrap();
        chown(repository.parent().unwrap(), Some(USER), Some(USER)).unwrap();
        copy.git(&["clone", "-q", "--bare", ".", repository.to_str().unwrap()]).await;
        Host::open(root, format!("/acme/{name}.git"), manner).await
    }
}

pub fn app() -> AppName {
    AppName::parse("shop").unwrap()
}

/// A working copy.
pub struct Copy {
    pub dir: PathBuf,
}

impl Copy {
    pub async fn git(&self, args: &[&str]) -> String {
        git(&self.dir, args, "").await
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.dir.join(name);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        chown(parent, Some(USER), Some(USER)).unwrap();
        fs::write(&path, content).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
    }

    pub async fn commit(&self) -> CommitId {
        self.git(&["add", "-A"]).await;
        self.git(&["commit", "-q", "--allow-empty", "-m", "Change"]).await;
        self.head().await
    }

    pub async fn head(&self) -> CommitId {
        CommitId::parse(self.git(&["rev-parse", "HEAD"]).await.trim()).unwrap()
    }

    /// Adds a submodule without asking whether it exists.
    pub async fn submodule(&self, path: &str, url: &str, commit: &CommitId) -> CommitId {
        let modules = self.dir.join(".gitmodules");
        let before = fs::read_to_string(modules).unwrap_or_default();
        self.write(".gitmodules", &format!("{before}[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n"));
        self.git(&["add", ".gitmodules"]).await;
        self.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]).await;
        self.git(&["commit", "-q", "-m", "Add a submodule"]).await;
        self.head().await
    }
}

pub async fn git(dir: &Path, args: &[&str], stdin: &str) -> String {
    let cmd = Cmd::new("git")
        .clear_env()
        .user(USER)
        .dir(dir)
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main"])
        .args(args)
        .stdin(stdin);
    String::from_utf8(cmd.run().await.unwrap().stdout).unwrap()
}

/// How a host treats who comes.
#[derive(Clone)]
pub enum Manner {
    Open,
    /// Wants this as the value of `Authorization`.
    Private(&'static str),
    /// Speaks the protocol's first version, in which only the tips of branches can be asked for.
    Old,
    /// Sends everybody to another host.
    Redirects(String),
}

/// A git host: HTTP on loopback, with git's own CGI program behind it.
pub struct Host {
    pub url: RemoteUrl,
    pub repository: PathBuf,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    manner: Manner,
    /// The `Authorization` header of every request, if it had one.
    seen: Mutex<Vec<Option<String>>>,
}

impl Host {
    async fn open(root: PathBuf, path: String, manner: Manner) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let repository = root.join(&path[1..]);
        let state = Arc::new(State { root, manner, seen: Mutex::default() });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let serve = hyper::service::service_fn(move |request| answer(request, shared.clone()));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                tokio::spawn(connection);
            }
        });
        Self { url: RemoteUrl::parse_also_http(&url, true).unwrap(), repository, state }
    }

    pub fn seen(&self) -> Vec<Option<String>> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Sets a ref, as a host does for a pull request.
    pub async fn set(&self, reference: &str, commit: &CommitId) {
        git(&self.repository, &["update-ref", reference, commit.as_str()], "").await;
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let authorization = header("authorization");
    state.seen.lock().unwrap().push(authorization.clone());
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let empty = |status: u16| Response::builder().status(status);
    match &state.manner {
        Manner::Private(wanted) if authorization.as_deref() != Some(wanted) => {
            let refusal = empty(401).header("WWW-Authenticate", "Basic realm=git").body(Full::default());
            return Ok(refusal.unwrap());
        }
        Manner::Redirects(to) => {
            let moved = empty(301).header("Location", format!("{to}{path}?{query}")).body(Full::default());
            return Ok(moved.unwrap());
        }
        _ => {}
    }
    let mut cmd = Cmd::new("git")
        .clear_env()
        .user(USER)
        // That of the tests may lie where this user cannot go.
        .dir("/")
        .arg("http-backend")
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("GIT_PROJECT_ROOT", &state.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", &path)
        .env("QUERY_STRING", &query);
    for (variable, name) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        cmd = cmd.env(variable, header(name).unwrap_or_default());
    }
    if matches!(state.manner, Manner::Old) {
        cmd = cmd.env("GIT_PROTOCOL", "");
    }
    let body = request.into_body().collect().await?.to_bytes();
    // What it printed counts even if it failed: an error of git's protocol is in there.
    let mut child =
        cmd.env("CONTENT_LENGTH", body.len().to_string()).spawn(Stdio::piped(), Stdio::piped(), Stdio::null()).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (sent, output) =
        tokio::join!(async move { stdin.write_all(&body).await }, async { child.wait_with_output().await.unwrap() });
    drop(sent);
    let said = output.stdout;
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&said[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    Ok(response.body(Full::from(said[end + 4..].to_vec())).unwrap())
}
