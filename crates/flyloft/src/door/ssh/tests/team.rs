//! A team with its keys, its repository, a door and what is behind it: a backend that remembers what it was asked.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flyloft_core::name::AppName;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, watch};

use crate::door::ssh::{SshConfig, SshDoor, listen};
use crate::door::{Backend, CommandIo, Output, PublicKey, hook};
use crate::error::{Error, OrFailed, Result};
use crate::exec::{Cmd, ExecError};
use crate::principal::{Principal, Role};
use crate::source::{Checkout, Push, ReceivePack, Repositories, SourceLimits};

/// Runs git in the tests. It needs no entry in the password file.
pub const GIT_USER: u32 = 61_234;

pub struct Team {
    pub dir: TempDir,
    pub door: SshDoor,
    pub staff: Arc<Staff>,
}

/// The backend.
pub struct Staff {
    pub repositories: Repositories,
    keys: Mutex<BTreeMap<String, Principal>>,
    keys_changed: watch::Sender<()>,
    /// See [`Answer::Checkout`].
    pub trees: PathBuf,
    pub pushes: Mutex<Vec<(String, AppName, Push)>>,
    pub commands: Mutex<Vec<(String, Vec<String>)>>,
    /// What the next pushes meet.
    pub answer: Mutex<Answer>,
    /// Told when a push has begun to be staged, and when one was dropped before its end.
    pub begun: Notify,
    pub called_off: Notify,
}

#[derive(Clone)]
pub enum Answer {
    Deploy,
    Refuse(Error),
    /// Stages for ever.
    Hang,
    /// Takes the files out while the push waits.
    Checkout,
}

impl Team {
    /// One with an admin `ada` and a deployer `bot` of the app `shop`.
    pub async fn new() -> Self {
        Self::with(|_| {}, SourceLimits::default()).await
    }

    pub async fn with(configure: impl FnOnce(&mut SshConfig), limits: SourceLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let repositories = Repositories::open(&dir.path().join("git"), GIT_USER, limits).unwrap();
        hook::install(&repositories.hooks()).unwrap();
        let staff = Arc::new(Staff {
            repositories,
            keys: Mutex::default(),
            keys_changed: watch::Sender::new(()),
            trees: dir.path().to_owned(),
            pushes: Mutex::default(),
            commands: Mutex::default(),
            answer: Mutex::new(Answer::Deploy),
            begun: Notify::new(),
            called_off: Notify::new(),
        });
        let mut config = SshConfig::new(vec!["127.0.0.1:0".parse().unwrap()], dir.path().join("host_key"));
        configure(&mut config);
        let door = SshDoor::open(&config, listen(&config.listen, Vec::new()).unwrap(), staff.clone()).unwrap();
        let team = Self { dir, door, staff };
        team.hire("ada", Role::Admin).await;
        team.hire("bot", Role::Deployer { apps: vec![app("shop")] }).await;
        team.run(Cmd::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(team.path("stranger"))).await;
        team
    }

    pub async fn hire(&self, name: &str, role: Role) {
        self.hire_with("ed25519", name, role).await;
    }

    /// Makes somebody a key of a kind that `ssh-keygen -t` knows.
    pub async fn hire_with(&self, kind: &str, name: &str, role: Role) {
        self.run(Cmd::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(self.path(name))).await;
        let public = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        let key = PublicKey::parse(&public).unwrap();
        self.staff.keys.lock().unwrap().insert(key.fingerprint, Principal { name: name.into(), role });
    }

    /// Takes somebody's key away.
    pub fn fire(&self, name: &str) {
        self.staff.keys.lock().unwrap().retain(|_, principal| principal.name != name);
        self.staff.keys_changed.send_replace(());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn port(&self) -> u16 {
        self.door.addresses()[0].port()
    }

    pub fn url(&self, app: &str) -> String {
        format!("ssh://git@127.0.0.1:{}/{app}", self.port())
    }

    fn ssh_options(&self, key: &str) -> Vec<String> {
        let known = self.path("known_hosts");
        let options = [
            "BatchMode=yes".to_owned(),
            "LogLevel=ERROR".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            format!("UserKnownHostsFile={}", known.display()),
        ];
        let mut args = vec!["-F".to_owned(), "/dev/null".to_owned()];
        args.extend(["-i".to_owned(), self.path(key).display().to_string()]);
        args.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        args
    }

    /// The OpenSSH client, as somebody with this key.
    pub fn ssh(&self, key: &str) -> Cmd {
        let port = self.port().to_string();
        Cmd::new("ssh").args(self.ssh_options(key)).args(["-p", &port, "anyone@127.0.0.1"]).timeout(LIMIT)
    }

    /// The git client in a directory, as somebody with this key.
    pub fn git(&self, key: &str, dir: &Path) -> Cmd {
        Cmd::new("git")
            .clear_env()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_SSH_COMMAND", format!("ssh {}", self.ssh_options(key).join(" ")))
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main"])
            .args(["-c", "protocol.file.allow=always"])
            .dir(dir)
            .timeout(LIMIT)
    }

    /// A working copy with one commit of these files.
    pub async fn project(&self, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path("project");
        std::fs::create_dir_all(&dir).unwrap();
        self.run(self.git("ada", &dir).args(["init", "-q"])).await;
        self.commit(&dir, files).await;
        dir
    }

    pub async fn commit(&self, dir: &Path, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        self.run(self.git("ada", dir).args(["add", "-A"])).await;
        self.run(self.git("ada", dir).args(["commit", "-q", "--allow-empty", "-m", "Change"])).await;
        self.head(dir).await
    }

    pub async fn head(&self, dir: &Path) -> String {
        self.run(self.git("ada", dir).args(["rev-parse", "HEAD"])).await.stdout.trim().to_owned()
    }

    /// `git push` from `dir`; what the client printed, if it succeeded or not.
    pub async fn push(&self, key: &str, dir: &Path, app: &str, refs: &[&str]) -> Ended {
        ended(self.git(key, dir).args(["push", &self.url(app)]).args(refs)).await
    }

    pub async fn run(&self, cmd: Cmd) -> Ended {
        let ended = ended(cmd).await;
        assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
        ended
    }

    pub fn pushed(&self) -> Vec<(String, String, Vec<String>)> {
        let pushes = self.staff.pushes.lock().unwrap();
        let branches = |push: &Push| push.updates.iter().map(|u| u.branch.to_string()).collect();
        pushes.iter().map(|(who, app, push)| (who.clone(), app.to_string(), branches(push))).collect()
    }

    /// Branches that the app's repository has.
    pub async fn branches(&self, app: &str) -> Vec<String> {
        let repository = self.path("git").join("apps").join(format!("{app}.git"));
        let list = ["for-each-ref", "--format=%(refname)"];
        let ended = self.run(Cmd::new("git").user(GIT_USER).dir(repository).args(list)).await;
        ended.stdout.lines().map(str::to_owned).collect()
    }
}

/// Longer than anything here takes, shorter than patience.
pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub async fn ended(cmd: Cmd) -> Ended {
    match cmd.run().await {
        Ok(output) => Ended {
            code: 0,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(ExecError::Status { code, tail, .. }) => {
            Ended { code: code.unwrap_or(-1), stdout: String::new(), stderr: tail }
        }
        Err(error) => panic!("{error}: {error:?}"),
    }
}

/// Waits until it is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "not so after {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not so after {LIMIT:?}: {what}"))
}

pub fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

#[async_trait]
impl Backend for Staff {
    async fn authenticate(&self, key: &PublicKey) -> Option<Principal> {
        self.keys.lock().unwrap().get(&key.fingerprint).cloned()
    }

    fn keys_changed(&self) -> watch::Receiver<()> {
        self.keys_changed.subscribe()
    }

    /// One of a few, or says the words that it was given.
    async fn command(&self, principal: &Principal, argv: Vec<String>, mut io: CommandIo) -> i32 {
        self.commands.lock().unwrap().push((principal.name.clone(), argv.clone()));
        match argv[0].as_str() {
            "cat" => {
                tokio::io::copy(&mut io.stdin, &mut io.stdout).await.unwrap();
                0
            }
            "hang" => {
                let _dropped = Dropped(&self.called_off);
                self.begun.notify_one();
                std::future::pending().await
            }
            "ask" => {
                io.terminal.unwrap().lines.ask();
                io.stdout.write_all(b"Really? ").await.unwrap();
                let mut answer = String::new();
                BufReader::new(io.stdin).read_line(&mut answer).await.unwrap();
                io.stdout.write_all(format!("you said {answer:?}").as_bytes()).await.unwrap();
                0
            }
            "size" => {
                let said = io.terminal.map_or("none".to_owned(), |t| format!("{} {}x{}", t.term, t.columns, t.rows));
                io.stdout.write_all(said.as_bytes()).await.unwrap();
                0
            }
            "count" => {
                let mut bytes = Vec::new();
                io.stdin.read_to_end(&mut bytes).await.unwrap();
                io.stdout.write_all(bytes.len().to_string().as_bytes()).await.unwrap();
                0
            }
            "fail" => {
                io.stderr.write_all(b"it failed\n").await.unwrap();
                argv[1].parse().unwrap()
            }
            _ => {
                io.stdout.write_all(format!("{argv:?}").as_bytes()).await.unwrap();
                0
            }
        }
    }

    async fn receive(&self, principal: &Principal, app: &AppName) -> Result<ReceivePack> {
        principal.must_use(app)?;
        self.repositories.ensure(app).await.or_failed(|| "failed to make the repository")?;
        self.repositories.receive_pack(app).or_failed(|| "failed to take the push")
    }

    async fn upload(&self, principal: &Principal, app: &AppName) -> Result<Cmd> {
        principal.must_use(app)?;
        self.repositories.upload_pack(app).await.map_err(Error::not_found)
    }

    async fn push(&self, principal: &Principal, app: &AppName, push: Push, mut output: Output) -> Result<()> {
        let _dropped = Dropped(&self.called_off);
        output.write_all(format!("-----> Staging {app}\n").as_bytes()).await.unwrap();
        self.pushes.lock().unwrap().push((principal.name.clone(), app.clone(), push));
        self.begun.notify_one();
        let push = self.pushes.lock().unwrap().last().unwrap().2.clone();
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Answer::Deploy => {
                output.write_all(b"=====> Deployed\n").await.unwrap();
                Ok(())
            }
            Answer::Refuse(error) => Err(error),
            Answer::Hang => std::future::pending().await,
            Answer::Checkout => {
                let commit = push.updates[0].new.as_ref().unwrap();
                let wanted = Checkout { commit, quarantine: push.quarantine.as_ref(), remote: None, credentials: &[] };
                let into = self.trees.join(commit.as_str());
                let start = Instant::now();
                self.repositories.checkout(app, &wanted, &into).await?;
                output.write_all(format!("took {:?}\n", start.elapsed()).as_bytes()).await.unwrap();
                Ok(())
            }
        }
    }
}

/// Tells when it is dropped, at the end of the work or before.
struct Dropped<'a>(&'a Notify);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
