//! A takeover that goes wrong, or that something comes in between of, leaves a daemon that serves; or none, where it was
//! told to stop.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Flyloft, text, wait_for};
use crate::own_server::free_port;
use crate::push::{SERVER, app, borrowed};

const REAL: &str = env!("CARGO_BIN_EXE_flyloft");

/// A daemon whose program is a file that a test may replace.
struct Installed {
    flyloft: Flyloft,
    dir: tempfile::TempDir,
}

impl Installed {
    fn start() -> Self {
        let installed = Self { flyloft: Flyloft::start(), dir: tempfile::tempdir().unwrap() };
        installed.install_real();
        installed.serve(|_| true)
    }

    /// Starts it once more, with those options that are `kept`.
    fn serve(mut self, kept: impl Fn(&str) -> bool) -> Self {
        let program = self.program();
        self.flyloft.stop();
        self.flyloft.serve_with(|command| {
            let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap().to_owned()).collect();
            *command = Command::new(&program);
            let (serve, options) = args.split_first().unwrap();
            command.arg(serve).args(options.chunks(2).filter(|option| kept(&option[0])).flatten());
        });
        self
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("daemon")
    }

    /// Where one of two names of the same file is renamed to the other, both stay.
    fn new_file(&self) -> PathBuf {
        let new = self.dir.path().join("new");
        let _ = fs::remove_file(&new);
        new
    }

    fn install_real(&self) {
        let new = self.new_file();
        fs::hard_link(REAL, &new).or_else(|_| fs::copy(REAL, &new).map(drop)).unwrap();
        fs::rename(new, self.program()).unwrap();
    }

    /// Installs a script, for which `$real` is this version.
    fn install(&self, script: &str) {
        self.put(&self.program(), script);
    }

    fn put(&self, program: &Path, script: &str) {
        let new = self.new_file();
        let dir = self.dir.path().display();
        fs::write(&new, format!("#!/bin/sh\nreal={REAL}\ncd {dir}\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, program).unwrap();
    }

    fn wait_for_mark(&self, name: &str) {
        wait_for(name, || self.dir.path().join(name).exists().then_some(()));
    }

    fn mark(&self, name: &str) {
        fs::write(self.dir.path().join(name), "").unwrap();
    }

    fn upgrade(&self) -> Child {
        self.flyloft.command(&["upgrade"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A request that is under way until the returned connection is written to.
    fn hold(&self, env: &str) -> TcpStream {
        let mut held = connect(self.flyloft.http);
        write!(held, "POST / HTTP/1.1\r\nHost: {env}.localhost\r\nContent-Length: 1\r\n\r\n").unwrap();
        held
    }

    /// Waits until the edge tells its clients to connect anew.
    fn wait_for_edge(&self, env: &str) {
        wait_for("the edge to end", || {
            let mut stream = connect(self.flyloft.http);
            write!(stream, "GET / HTTP/1.1\r\nHost: {env}.localhost\r\n\r\n").unwrap();
            let mut answer = [0; 4096];
            let length = stream.read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).to_lowercase().contains("connection: close").then_some(())
        });
    }

    fn log_says(&self, what: &str) {
        wait_for(what, || self.flyloft.log().contains(what).then_some(()));
    }

    fn term(&self) {
        kill(Pid::from_raw(self.flyloft.pid() as i32), Signal::SIGTERM).unwrap();
    }

    fn ends(&mut self) {
        wait_for("the daemon to end", || (!self.flyloft.runs()).then_some(()));
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

#[track_caller]
fn refused(output: &Output, code: i32, complaint: &str) {
    assert!(text(output).contains(complaint), "{}", text(output));
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
}

/// An app that answers a POST when it has its body.
fn patient() -> Vec<(&'static str, String)> {
    let mut files = app("hello");
    let post = "    def do_POST(self):\n        self.rfile.read(1); self.do_GET()\n    def log_message";
    files.iter_mut().for_each(|(_, text)| *text = text.replace("    def log_message", post));
    files
}

/// An app that takes seconds for all of what it has to say, but not for the beginning.
fn slow() -> Vec<(&'static str, String)> {
    let mut files = app("hello");
    let slowly = "self.wfile.write(body[:2]); time.sleep(3); self.wfile.write(body[2:])";
    let server =
        |text: &str| text.replace("import http", "import time, http").replace("self.wfile.write(body)", slowly);
    files.iter_mut().for_each(|(_, text)| *text = server(text));
    files
}

#[test]
fn a_stop_holds_that_comes_while_the_new_version_is_looked_at() {
    let mut installed = Installed::start();
    installed.install("touch looks; exec sleep 20");
    let upgrade = installed.upgrade();
    installed.wait_for_mark("looks");
    let begun = Instant::now();
    installed.term();
    installed.ends();
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for the new version");
    refused(&upgrade.wait_with_output().unwrap(), 75, "the daemon was told to stop meanwhile");
}

#[test]
fn a_stop_holds_that_comes_while_the_edge_ends_for_a_newer_version() {
    let mut installed = Installed::start();
    let flyloft = &installed.flyloft;
    flyloft.repository("it-stopped", &borrowed(&patient())).pushed(&["main"]);
    let mut held = installed.hold("it-stopped-main");
    let upgrade = installed.upgrade();
    installed.wait_for_edge("it-stopped-main");
    installed.term();
    held.write_all(b"x").unwrap();
    installed.ends();
    refused(&upgrade.wait_with_output().unwrap(), 75, "failed to reach the daemon");
    installed.flyloft.serve();
    installed.flyloft.ok(&["destroy", "it-stopped", "--yes"]);
}

#[test]
fn the_file_that_was_looked_at_takes_over_whatever_takes_its_place() {
    let installed = Installed::start();
    let flyloft = &installed.flyloft;
    flyloft.repository("it-replaced", &borrowed(&patient())).pushed(&["main"]);
    let pid = flyloft.pid();
    for replacement in ["exit 1", "exit 1; # again"] {
        installed.install_real();
        let mut held = installed.hold("it-replaced-main");
        let upgrade = installed.upgrade();
        installed.wait_for_edge("it-replaced-main");
        installed.install(replacement);
        held.write_all(b"x").unwrap();
        let upgraded = upgrade.wait_with_output().unwrap();
        assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
    }
    assert_eq!(flyloft.get("it-replaced/main", "/").body, "hello");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "daemon\n");
    let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(cmdline.starts_with(&format!("{}\0serve\0", installed.program().display())), "{cmdline}");
    refused(&flyloft.cli(&["upgrade"]), 1, "would not start, and the daemon goes on as it was");
    flyloft.ok(&["destroy", "it-replaced", "--yes"]);
}

#[test]
fn a_version_that_fails_at_its_start_gives_way_to_the_one_before_with_its_configuration() {
    let installed = Installed::start();
    let flyloft = &installed.flyloft;
    flyloft.repository("it-back", &borrowed(&app("hello"))).pushed(&["main"]);
    let (pid, metrics) = (flyloft.pid(), free_port());
    let before = flyloft.configure(&format!("[metrics]\nlisten = [\"127.0.0.1:{metrics}\"]\n"));
    installed.install(
        "case $* in *--check) exec $real \"$@\" ;; esac
        touch starts; until [ -e go ]; do sleep 0.01; done; exec $real \"$@\"",
    );
    let upgrade = installed.upgrade();
    installed.wait_for_mark("starts");
    // Somebody visits meanwhile, and somebody takes what the new configuration needs.
    let mut waiting = connect(flyloft.http);
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: it-back-main.localhost\r\nConnection: close\r\n\r\n").unwrap();
    let other = TcpListener::bind(("127.0.0.1", metrics)).unwrap();
    installed.mark("go");
    let output = upgrade.wait_with_output().unwrap();
    refused(&output, 1, "error: the new version did not start, and the daemon goes on as it was\n");
    refused(&output, 1, &format!("failed to listen on `127.0.0.1:{metrics}` for metrics"));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    assert_eq!(flyloft.pid(), pid);
    installed.log_says("another version did not start: this one goes on");

    // It can be had once more, by this one and the next.
    drop(other);
    installed.install_real();
    flyloft.ok(&["upgrade"]);
    assert!(TcpStream::connect(("127.0.0.1", metrics)).is_ok());
    flyloft.configure(&before);
    flyloft.ok(&["upgrade"]);
    assert!(TcpStream::connect(("127.0.0.1", metrics)).is_err(), "nobody listens there, and it is open");
    flyloft.ok(&["destroy", "it-back", "--yes"]);
}

#[test]
fn a_version_that_fails_when_it_answers_already_cuts_nobody() {
    let installed = Installed::start();
    let flyloft = &installed.flyloft;
    flyloft.repository("it-late", &borrowed(&slow())).pushed(&["main"]);
    let pid = flyloft.pid();
    // So it does not come to its engine. The version that is back has the same surroundings.
    fs::create_dir(installed.dir.path().join("bin")).unwrap();
    installed.put(
        &installed.dir.path().join("bin/nft"),
        "case $FLYLOFT_SOCKETS in *failure=*) PATH=${PATH#*:}; exec nft \"$@\" ;; esac
        touch begun; until [ -e go ]; do sleep 0.01; done; echo no rules today >&2; exit 1",
    );
    installed.install(
        "case $* in *--check) exec $real \"$@\" ;; esac
        export PATH=$PWD/bin:$PATH; exec $real \"$@\"",
    );
    let upgrade = installed.upgrade();
    installed.wait_for_mark("begun");
    let mut download = connect(flyloft.http);
    download.write_all(b"GET / HTTP/1.1\r\nHost: it-late-main.localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\nhe") {
        let mut byte = [0];
        download.read_exact(&mut byte).unwrap();
        answer.push(byte[0].into());
    }
    installed.mark("go");
    download.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    let output = upgrade.wait_with_output().unwrap();
    refused(&output, 1, "error: the new version did not start, and the daemon goes on as it was\n");
    refused(&output, 1, "no rules today");
    assert_eq!(flyloft.pid(), pid);
    assert_eq!(flyloft.get("it-late/main", "/").body, "hello");
    flyloft.ok(&["destroy", "it-late", "--yes"]);
}

#[test]
fn a_program_that_cannot_be_executed_any_more_leaves_the_one_before() {
    let installed = Installed::start();
    let flyloft = &installed.flyloft;
    let pid = flyloft.pid();
    installed.install("rm daemon");
    refused(&flyloft.cli(&["upgrade"]), 1, "the new version did not start, and the daemon goes on as it was");
    assert_eq!(flyloft.pid(), pid);
    installed.install_real();
    flyloft.ok(&["upgrade"]);
}

#[test]
fn sockets_follow_a_changed_configuration_and_nothing_dead_stays_behind() {
    let mut installed = Installed::start();
    let (http, ssh, metrics) = (free_port(), free_port(), free_port());
    let (old, new) = (installed.flyloft.socket(), installed.dir.path().join("new.sock"));
    let state = installed.flyloft.state.display().to_string();
    let configuration = |socket: &Path, from: [&str; 3]| {
        let [http, ssh, metrics] = from;
        format!(
            "state_dir = \"{state}\"\nsocket = \"{}\"\nhttp.listen = [\"{http}\"]\nssh.listen = [\"{ssh}\"]\nmetrics.listen = [\"{metrics}\"]\n",
            socket.display()
        )
    };
    let at = |ip: &str, port: u16| format!("{ip}:{port}");
    let narrow = [at("127.0.0.1", http), at("127.0.0.1", ssh), at("127.0.0.1", metrics)];
    installed.flyloft.config = configuration(&old, narrow.each_ref().map(String::as_str));
    installed = installed.serve(|option| !["--http", "--ssh", "--socket", "--state-dir"].contains(&option));
    let flyloft = &installed.flyloft;
    flyloft.repository("it-follows-sockets", &borrowed(&app("hello"))).pushed(&["main"]);

    // Each is in the way of another one.
    let wide = [at("[::]", http), at("[::]", metrics), at("127.0.0.1", ssh)];
    flyloft.configure(&configuration(&new, wide.each_ref().map(String::as_str)));
    let upgrade = || {
        let mut command = Command::new(REAL);
        command.args(["upgrade", "--config"]).arg(flyloft.configuration()).env_remove("FLYLOFT_SOCKET");
        command.output().unwrap()
    };
    let upgraded = upgrade();
    assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
    assert!(new.exists() && !old.exists());
    let answer = flyloft.get_from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], http)), "it-follows-sockets/main", "/");
    assert_eq!(answer.body, "hello");
    let mut greeting = [0; 8];
    connect(metrics).read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");
    let mut numbers = connect(ssh);
    numbers.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    numbers.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("flyloft_environments"), "{answer}");

    flyloft.configure(&flyloft.config);
    let upgraded = upgrade();
    assert!(upgraded.status.success(), "{}\n{}", text(&upgraded), flyloft.log());
    assert!(old.exists() && !new.exists());

    let elsewhere = installed.dir.path().join("elsewhere").display().to_string();
    let own = flyloft.configure(&flyloft.config.replace(&state, &elsewhere));
    refused(&upgrade(), 1, "`state_dir` cannot be changed by an upgrade");
    flyloft.configure(&own);
    flyloft.ok(&["destroy", "it-follows-sockets", "--yes"]);
}

#[test]
fn a_port_or_a_socket_that_another_process_has_is_not_taken_for_ones_own_whatever_it_is_called() {
    let installed = Installed::start();
    let flyloft = &installed.flyloft;
    let impostor = installed.dir.path().join("flyloft");
    symlink("/usr/bin/python3", &impostor).unwrap();
    let listens = "import socket, sys
tcp = socket.create_server(('127.0.0.1', 0))
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1]); unix.listen()
print(tcp.getsockname()[1], flush=True)
sys.stdin.read()";
    let path = installed.dir.path().join("taken.sock");
    let mut impostor = Command::new(impostor);
    let impostor = impostor.args(["-c", listens]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut impostor = impostor.spawn().unwrap();
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(impostor.stdout.take().unwrap()), &mut port).unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{}/comm", impostor.id())).unwrap(), "flyloft\n");
    let has_it = format!("`flyloft` (process {}) has it", impostor.id());

    let before = flyloft.configure(&format!("[metrics]\nlisten = [\"127.0.0.1:{}\"]\n", port.trim()));
    refused(&flyloft.cli(&["upgrade"]), 1, &has_it);
    flyloft.configure(&before);
    let check = |socket: &Path| {
        let mut check = Command::new(REAL);
        check
            .args(["serve", "--check", "--http", "[::]:0", "--ssh", "[::]:0"])
            .env("FLYLOFT_INIT", crate::harness::init());
        check.arg("--state-dir").arg(&flyloft.state).arg("--socket").arg(socket).output().unwrap()
    };
    refused(&check(&path), 1, &has_it);
    let own = check(&flyloft.socket());
    assert!(own.status.success(), "{}", text(&own));
    drop(impostor.stdin.take());
    impostor.wait().unwrap();
    let free = check(&path);
    assert!(free.status.success(), "{}", text(&free));
    refused(&check(&flyloft.configuration()), 1, "something else is there");
    refused(&check(Path::new("/proc/version/flyloft.sock")), 1, "failed to listen at");
}

#[test]
fn what_would_keep_a_daemon_from_starting_is_found_before() {
    let flyloft = Flyloft::start();
    let refuses = |complaint: &str, spoil: &dyn Fn(&Path), mend: &dyn Fn(&Path)| {
        spoil(&flyloft.state);
        let output = flyloft.cli(&["upgrade"]);
        mend(&flyloft.state);
        refused(&output, 1, complaint);
    };
    let key = |dir: &Path| dir.join("ssh_host_key");
    let kept = fs::read(key(&flyloft.state)).unwrap();
    refuses("failed to start the SSH door", &|dir| fs::write(key(dir), "no key").unwrap(), &|dir| {
        fs::write(key(dir), &kept).unwrap();
    });
    let mark = |dir: &Path| dir.join("restoring");
    refuses("a backup was restored into", &|dir| fs::create_dir(mark(dir)).unwrap(), &|dir| {
        fs::remove_dir(mark(dir)).unwrap();
    });
    flyloft.ok(&["upgrade"]);
}

#[test]
fn a_client_that_was_let_in_and_has_asked_for_nothing_yet_is_told_to_come_again() {
    let flyloft = Flyloft::start();
    let mut silent = UnixStream::connect(flyloft.socket()).unwrap();
    // Who came later was answered.
    flyloft.ok(&["ls"]);
    flyloft.ok(&["upgrade"]);
    let mut told = Vec::new();
    silent.read_to_end(&mut told).unwrap();
    let text = String::from_utf8_lossy(&told);
    assert!(text.contains("error: the daemon ends, or a newer version takes over\n"), "{text:?}");
    assert!(told.ends_with(&[b'c', 75]), "{told:?}");
}

#[test]
fn a_wake_that_somebody_waits_for_comes_to_its_end_before_a_newer_version_takes_over() {
    let flyloft = Flyloft::start();
    let slow = format!("VERSION = 'slow'\nimport time; time.sleep(3)\n{SERVER}");
    let repository = flyloft.repository("it-waking", &borrowed(&app("fast")));
    repository.commit(&[("server.py", &slow)]);
    repository.pushed(&["main"]);
    flyloft.ok(&["off", "it-waking/main"]);
    let waking = flyloft.command(&["wake", "it-waking/main"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the wake", || flyloft.ok(&["ls"]).contains("waking").then_some(()));
    flyloft.ok(&["upgrade"]);
    let waking = waking.wait_with_output().unwrap();
    assert_eq!(text(&waking), "`it-waking/main` is awake\n");
    assert!(waking.status.success());
    flyloft.ok(&["destroy", "it-waking", "--yes"]);
}
