//! A daemon to test, and the programs that people use to reach it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

/// Outside of the build directory, which may lie where git's unprivileged user cannot go.
pub const HOME: &str = "/var/lib/flyloft-test";

/// Long enough for a stack to be made for the first time on a busy machine.
const DEADLINE: Duration = Duration::from_secs(600);

pub struct Flyloft {
    child: Option<Child>,
    pub http: u16,
    pub ssh: u16,
    pub state: PathBuf,
    work: tempfile::TempDir,
    fault: Option<&'static str>,
    /// Of the next daemon that is started.
    pub domain: &'static str,
    /// What its configuration says.
    pub config: String,
    /// Where it takes HTTP.
    pub listen: String,
    _lock: Flock<File>,
}

impl Flyloft {
    pub fn start() -> Self {
        Self::start_in("state")
    }

    /// With a state directory of its own, which may be new.
    pub fn start_in(state: &str) -> Self {
        Self::start_at(Path::new(HOME), state)
    }

    /// The same, beside whatever goes on in another home.
    pub fn start_at(home: &Path, state: &str) -> Self {
        fs::create_dir_all(home).unwrap();
        let lock = File::create(home.join("lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        let work = tempfile::tempdir().unwrap();
        let state = home.join(state);
        let mut flyloft = Self {
            child: None,
            http: 0,
            ssh: 0,
            state,
            work,
            fault: None,
            domain: "localhost",
            config: String::new(),
            listen: "[::]:0".to_owned(),
            _lock: lock,
        };
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(flyloft.key()));
        flyloft.serve();
        flyloft.cli(&["keys", "rm", "tester"]);
        let key = flyloft.key().with_extension("pub");
        flyloft.ok(&["keys", "add", "tester", key.to_str().unwrap(), "--admin"]);
        // What a test that failed has left must not count as what this one makes.
        let apps: serde_json::Value = serde_json::from_str(&flyloft.ok(&["apps", "ls", "--json"])).unwrap();
        for app in apps["apps"].as_array().unwrap() {
            flyloft.ok(&["destroy", app["name"].as_str().unwrap(), "--yes"]);
        }
        flyloft
    }

    /// The next daemon that is started dies there.
    pub fn fault(&mut self, place: &'static str) {
        self.fault = Some(place);
    }

    pub fn serve(&mut self) {
        self.serve_with(|_| {});
    }

    /// The same, with what `change` makes of the command.
    pub fn serve_with(&mut self, change: impl FnOnce(&mut Command)) {
        self.spawn(change);
        self.ready();
    }

    /// Waits until the daemon that was started is ready.
    pub fn ready(&mut self) {
        let (child, log) = (self.child.as_mut().expect("it was started"), self.work.path().join("log"));
        let started = Instant::now();
        let ready = loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(line) = text.lines().find(|line| line.contains(": ready ")) {
                break line.to_owned();
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{text}");
            }
            assert!(started.elapsed() < DEADLINE, "the daemon is not ready:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        };
        self.http = port(&ready, "http");
        self.ssh = port(&ready, "ssh");
    }

    /// How a daemon ends that cannot start, and what it says.
    pub fn fails_to_serve(&mut self) -> (ExitStatus, String) {
        self.spawn(|_| {});
        let mut child = self.child.take().expect("it was started");
        let status = wait_for("the daemon to end", || child.try_wait().unwrap());
        (status, self.log())
    }

    /// Starts a daemon. It is not ready yet.
    pub fn spawn(&mut self, change: impl FnOnce(&mut Command)) {
        assert!(self.child.is_none(), "a daemon runs already");
        self.configure(&self.config);
        let (log, config) = (self.work.path().join("log"), self.configuration());
        let mut command = Command::new(env!("CARGO_BIN_EXE_flyloft"));
        command
            .args(["serve", "--config", config.to_str().unwrap()])
            .args(["--http", &self.listen, "--ssh", "[::]:0", "--domain", self.domain])
            .args(["--state-dir", self.state.to_str().unwrap(), "--socket", self.socket().to_str().unwrap()]);
        change(&mut command);
        command
            .env("FLYLOFT_INIT", init())
            .env("FLYLOFT_LOG", "flyloft=debug")
            .env("FLYLOFT_HTTP_ON_LOOPBACK", "1")
            // Ctrl-C is for whoever started it, who may still need it.
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap());
        match self.fault.take() {
            Some(place) => command.env("FLYLOFT_FAULT", place),
            None => command.env_remove("FLYLOFT_FAULT"),
        };
        // A test that is killed takes its daemon with it.
        // SAFETY: prctl(2) is a plain system call, which may be made between fork and exec.
        unsafe { command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        self.child = Some(command.spawn().unwrap());
    }

    /// Changes the configuration of the daemon that runs, which does not look at it by itself. Gives what it was.
    pub fn configure(&self, text: &str) -> String {
        let before = fs::read_to_string(self.configuration()).unwrap_or_default();
        fs::write(self.configuration(), text).unwrap();
        before
    }

    pub fn configuration(&self) -> PathBuf {
        self.work.path().join("flyloft.toml")
    }

    /// `kill -9`
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a daemon runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the daemon to end, and waits until it has.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("a daemon runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    /// Whether a daemon runs that was not told to end.
    pub fn runs(&mut self) -> bool {
        self.child.take_if(|child| !matches!(child.try_wait(), Ok(None)));
        self.child.is_some()
    }

    /// Waits until the daemon has died of its fault.
    pub fn died(&mut self) {
        let mut child = self.child.take().expect("a daemon runs");
        let status = wait_for("the daemon to die", || child.try_wait().unwrap());
        assert!(!status.success(), "the daemon ended well");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.work.path().join("log")).unwrap_or_default()
    }

    /// The tester's key is no admin's any more, and may use this app alone.
    pub fn demote(&self, app: &str) {
        let key = self.key().with_extension("pub");
        self.ok(&["keys", "rm", "tester"]);
        self.ok(&["keys", "add", "tester", key.to_str().unwrap(), "--app", app]);
    }

    fn key(&self) -> PathBuf {
        self.work.path().join("key")
    }

    pub fn socket(&self) -> PathBuf {
        self.work.path().join("flyloft.sock")
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What `flyloft doctor` prints about a machine with this daemon.
    pub fn doctor(&self) -> String {
        let (config, state) = (self.configuration(), &self.state);
        let args = ["doctor", "--config", config.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        String::from_utf8_lossy(&self.cli(&args).stdout).into_owned()
    }

    /// The command line, without input.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flyloft"));
        command.args(args).env("FLYLOFT_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and gives what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(output.status.success(), "flyloft {args:?} failed:\n{}\n{}", text(&output), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn ssh_options(&self) -> Vec<String> {
        let known = self.work.path().join("known_hosts");
        let options = ["IdentitiesOnly=yes", "StrictHostKeyChecking=no", "LogLevel=ERROR"];
        let mut all = vec!["-F".to_owned(), "/dev/null".to_owned(), "-i".to_owned(), self.key().display().to_string()];
        for option in options.map(str::to_owned).into_iter().chain([format!("UserKnownHostsFile={}", known.display())])
        {
            all.extend(["-o".to_owned(), option]);
        }
        all
    }

    /// `ssh host COMMAND`
    pub fn ssh(&self, command: &str) -> Output {
        self.ssh_command(command).output().unwrap()
    }

    /// The same, to be started, without input.
    pub fn ssh_command(&self, command: &str) -> Command {
        let mut ssh = self.ssh_with(&[], command);
        ssh.stdin(Stdio::null());
        ssh
    }

    /// `ssh OPTIONS host COMMAND`
    pub fn ssh_with(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.ssh_options()).args(options).args(["-p", &self.ssh.to_string(), "git@localhost", command]);
        ssh
    }

    /// A git repository with one commit of these files on `main`.
    pub fn repository(&self, app: &str, files: &[(&str, &str)]) -> Repository<'_> {
        let dir = self.work.path().join(app);
        fs::create_dir_all(&dir).unwrap();
        let repository = Repository { flyloft: self, app: app.to_owned(), dir };
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        if !files.is_empty() {
            repository.commit(files);
        }
        repository
    }

    /// A repository with a copy of one of the examples.
    pub fn example(&self, app: &str, example: &str) -> Repository<'_> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(example);
        let repository = self.repository(app, &[]);
        run(Command::new("cp").arg("--recursive").arg(from.join(".")).arg(&repository.dir));
        repository.commit(&[]);
        repository
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a daemon runs").id()
    }

    /// What `flyloft why` says of an environment.
    pub fn why(&self, env: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["why", env, "--json"])).unwrap()
    }

    /// Its events of one kind, as text.
    pub fn told(&self, env: &str, kind: &str) -> Vec<String> {
        let told: serde_json::Value = serde_json::from_str(&self.ok(&["events", env, "--json"])).unwrap();
        let of_kind = told["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
        of_kind.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }

    /// The processes of what serves, as the host numbers them: LXC's own, and PID 1.
    pub fn processes(&self, env: &str) -> (i32, i32) {
        let shown: serde_json::Value = serde_json::from_str(&self.ok(&["show", env, "--json"])).unwrap();
        self.processes_of(shown["container"].as_str().unwrap())
    }

    /// The same of a container.
    pub fn processes_of(&self, container: &str) -> (i32, i32) {
        let instance = fs::read_to_string(self.state.join("instance")).unwrap();
        let name = format!("fl-{instance}-{container}.c");
        let init = run(Command::new("lxc-info").args(["-P", "/run/flyloft-lxc", "-pHn", &name]));
        let init: i32 = init.trim().parse().unwrap();
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        (parent.trim().parse().unwrap(), init)
    }

    /// GET, by host name, over IPv4.
    pub fn get(&self, env: &str, path: &str) -> Response {
        self.get_from(SocketAddr::from(([127, 0, 0, 1], self.http)), env, path)
    }

    pub fn get_from(&self, address: SocketAddr, env: &str, path: &str) -> Response {
        let host = format!("{}.localhost", env.replace('/', "-"));
        self.get_at(address, &host, path)
    }

    /// From somebody more patient than others.
    pub fn get_within(&self, env: &str, limit: Duration) -> Response {
        let host = format!("{}.localhost", env.replace('/', "-"));
        self.get_as(SocketAddr::from(([127, 0, 0, 1], self.http)), &host, "/", limit)
    }

    pub fn get_at(&self, address: SocketAddr, host: &str, path: &str) -> Response {
        self.get_as(address, host, path, Duration::from_secs(20))
    }

    fn get_as(&self, address: SocketAddr, host: &str, path: &str, limit: Duration) -> Response {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(limit)).unwrap();
        let port = self.http;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Response { status, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Drop for Flyloft {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub struct Repository<'a> {
    flyloft: &'a Flyloft,
    pub app: String,
    pub dir: PathBuf,
}

impl Repository<'_> {
    pub fn git(&self, args: &[&str]) -> Output {
        let mut git = Command::new("git");
        let ssh: Vec<String> = self.flyloft.ssh_options();
        git.args(["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]).args(args);
        git.current_dir(&self.dir).env("GIT_SSH_COMMAND", format!("ssh {}", ssh.join(" "))).stdin(Stdio::null());
        git.output().unwrap()
    }

    /// Commits these files, and gives the commit's id.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = self.dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(&["add", "--all"]);
        let committed = self.git(&["commit", "--quiet", "--message", "Change"]);
        assert!(committed.status.success(), "{}", text(&committed));
        String::from_utf8_lossy(&self.git(&["rev-parse", "HEAD"]).stdout).trim().to_owned()
    }

    /// Installs one of git's hooks on the client's side.
    pub fn hook(&self, name: &str, script: &str) {
        let hook = self.dir.join(".git/hooks").join(name);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, script).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Commits a file of so many zero bytes under many names, without writing any of them.
    pub fn commit_zeros(&self, bytes: u64, names: usize) {
        let zeros = self.dir.join("zeros");
        File::create(&zeros).unwrap().set_len(bytes).unwrap();
        let object = self.git(&["hash-object", "-w", "zeros"]);
        fs::remove_file(&zeros).unwrap();
        let object = String::from_utf8(object.stdout).unwrap();
        let entries: Vec<String> = (0..names).map(|n| format!("100644,{},large/{n}", object.trim())).collect();
        let mut update = vec!["update-index", "--add"];
        update.extend(entries.iter().flat_map(|entry| ["--cacheinfo", entry]));
        assert!(self.git(&update).status.success());
        assert!(self.git(&["commit", "--quiet", "--message", "Something large"]).status.success());
    }

    pub fn url(&self) -> String {
        format!("ssh://git@localhost:{}/{}", self.flyloft.ssh, self.app)
    }

    pub fn push(&self, refs: &[&str]) -> Output {
        let url = self.url();
        self.git(&[&["push", &url], refs].concat())
    }

    /// A push that must succeed; what the client printed.
    #[track_caller]
    pub fn pushed(&self, refs: &[&str]) -> String {
        let output = self.push(refs);
        assert!(output.status.success(), "the push failed:\n{}\n{}", text(&output), self.flyloft.log());
        text(&output)
    }

    /// A push that must be rejected; what the client printed.
    #[track_caller]
    pub fn rejected(&self, refs: &[&str]) -> String {
        let output = self.push(refs);
        assert!(!output.status.success(), "the push succeeded:\n{}", text(&output));
        text(&output)
    }
}

/// Both streams, as a person sees them.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} failed:\n{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Bytes of memory that new work can have.
pub fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// `flyloft-init`, which script/test builds static.
pub fn init() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_flyloft")).parent().unwrap().parent().unwrap();
    let init = target.join("release/flyloft-init");
    assert!(init.is_file(), "{} is missing: run `cargo build-init`", init.display());
    init
}

fn port(line: &str, name: &str) -> u16 {
    let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
    let (address, _) = rest.split_once('"').unwrap();
    address.parse::<SocketAddr>().unwrap().port()
}
