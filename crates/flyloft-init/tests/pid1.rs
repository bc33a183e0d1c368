//! `flyloft-init` as PID 1 of a PID namespace on the host, in a root directory of its own. Needs root.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests")]

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Patience of every wait. Conditions are met in milliseconds; only a machine under load needs more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes `$1` a root directory around the host's programs, and becomes PID 1 in it.
const ENTER: &str = r#"
    set -e
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    for device in null zero urandom; do
        touch "$1/dev/$device"
        mount --bind "/dev/$device" "$1/dev/$device"
    done
    mount --rbind /usr "$1/usr"
    mount -t proc proc "$1/proc"
    exec chroot "$1" /flyloft/init
"#;

struct Container {
    root: tempfile::TempDir,
    /// `unshare`, whose child is PID 1.
    unshare: Child,
    log: Arc<Mutex<String>>,
}

impl Container {
    /// Runs `processes` (name and command) with this environment.
    fn start(processes: &[(&str, &str)], grace_seconds: u64) -> Self {
        let root = tempfile::Builder::new().prefix("flyloft-init-").tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for dir in ["app", "dev", "etc", "flyloft", "proc", "tmp", "usr", "root"] {
            fs::create_dir(path(dir)).unwrap();
        }
        for dir in ["bin", "lib", "lib64", "sbin"] {
            std::os::unix::fs::symlink(format!("usr/{dir}"), path(dir)).unwrap();
        }
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for dir in ["app", "tmp"] {
            fs::set_permissions(path(dir), fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_flyloft-init"), path("flyloft/init")).unwrap();
        let processes: Vec<_> =
            processes.iter().map(|(name, command)| serde_json::json!({"name": name, "command": command})).collect();
        let spec = serde_json::json!({
            "hostname": "shop-main", "uid": 1000, "gid": 1000, "dir": "/app", "grace_seconds": grace_seconds,
            "env": {"PORT": "5000", "SECRET": "of the app"}, "processes": processes,
        });
        fs::write(path("flyloft/spec.json"), spec.to_string()).unwrap();
        fs::set_permissions(path("flyloft/spec.json"), fs::Permissions::from_mode(0o600)).unwrap();

        let mut unshare = Command::new("unshare")
            .args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter"])
            .arg(root.path())
            .env("HOST_SECRET", "of the host")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (unshare.stdout.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { root, unshare, log }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Lines without their times.
    fn lines(&self) -> Vec<String> {
        self.log().lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned()).collect()
    }

    fn wait_for(&self, what: &str) {
        until(|| self.log().contains(what), || format!("`{what}` in:\n{}", self.log()));
    }

    /// PID 1, as the host numbers it.
    fn init(&self) -> u32 {
        let mut found = None;
        until(
            || {
                let id = self.unshare.id();
                let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
                found = children.trim().parse().ok();
                found.is_some_and(|pid: u32| {
                    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("flyloft/init"))
                })
            },
            || "PID 1".to_owned(),
        );
        found.unwrap()
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside.trim_start_matches('/'))
    }

    fn terminate(&self) {
        signal(self.init(), libc::SIGTERM);
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        until(
            || {
                status = self.unshare.try_wait().unwrap();
                status.is_some()
            },
            || "the end of PID 1".to_owned(),
        );
        status.unwrap().code()
    }

    /// Processes in its PID namespace.
    fn processes(&self) -> usize {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.init().to_string());
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        all.filter(|pid| pid.parse::<u32>().is_ok() && namespace(pid) == own).count()
    }

    fn exec(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let root = format!("--root=/proc/{}/root", self.init());
        command.args(["-t", &self.init().to_string(), "-m", "-u", "-i", "-p", &root, "--wd=/"]);
        command.env_clear().env("CALLER", "of the caller's environment");
        command.args(["/flyloft/init", "exec", "--variables", "5"]).args(args);
        let mut variables = tempfile::tempfile().unwrap();
        variables.write_all(b"EXTRA=of the\ncaller\0PORT=6000\0RAW=\xff\0").unwrap();
        variables.rewind().unwrap();
        // SAFETY: dup2(2) may be called between fork and exec; its copy stays open across that.
        unsafe { command.pre_exec(move || Ok(nix::unistd::dup2_raw(&variables, 5).map(std::mem::forget)?)) };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.exec(args).output().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // With `unshare` goes PID 1, and with that everything else.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn until(mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes any numbers.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_line_says_when_and_who() {
    let container = Container::start(&[("web.1", "echo hello; echo trouble >&2; exec sleep 600")], 1);
    container.wait_for("trouble");
    container.wait_for("hello");
    for line in container.log().lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-24T06:00:00.123Z".len(), "{line}");
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
        assert!(rest == "web.1 | hello" || rest == "web.1 | trouble", "{line}");
    }
}

#[test]
fn a_process_is_the_apps_user_and_can_gain_nothing() {
    let script = "grep -E '^(Uid|Gid|Groups|NoNewPrivs|SigBlk):' /proc/self/status | tr -s '\\t ' ' '
        echo adj $(cat /proc/self/oom_score_adj)
        echo at $(pwd) as $DYNO on $(hostname) home $HOME port $PORT
        cat /flyloft/spec.json /proc/1/environ
        echo host=$HOST_SECRET; exec sleep 600";
    let container = Container::start(&[("web.1", script)], 1);
    container.wait_for("host=");
    container.wait_for("/proc/1/environ");
    let lines = container.lines();
    for expected in [
        "Uid: 1000 1000 1000 1000",
        "Gid: 1000 1000 1000 1000",
        "Groups: ",
        "NoNewPrivs: 1",
        "SigBlk: 0000000000000000",
        "adj 500",
        "at /app as web.1 on shop-main home /app port 5000",
        "cat: /flyloft/spec.json: Permission denied",
        "cat: /proc/1/environ: Permission denied",
        "host=",
    ] {
        assert!(lines.contains(&format!("web.1 | {expected}")), "{expected} in {lines:#?}");
    }
}

#[test]
fn the_container_knows_its_name_and_its_name_server() {
    let container = Container::start(&[("web.1", "echo up; exec sleep 600")], 1);
    container.wait_for("up");
    let read = |path: &str| fs::read_to_string(container.path(path)).unwrap();
    assert!(read("/etc/resolv.conf").starts_with("nameserver 169.254.1.1\n"));
    assert!(read("/etc/hosts").contains("shop-main"));
    assert_eq!(read("/etc/hostname"), "shop-main\n");
}

#[test]
fn who_ends_is_started_again_and_takes_its_children_along() {
    let script = "echo run $$; sleep 600 & exit 3";
    let container = Container::start(&[("web.1", script)], 1);
    container.wait_for("flyloft | web.1 exited with code 3; starting it again in 1 s");
    container.wait_for("starting it again in 2 s");
    let runs = container.lines().iter().filter(|line| line.starts_with("web.1 | run ")).count();
    assert!(runs >= 2, "{}", container.log());
    until(|| container.processes() == 1, || "the `sleep`s to be gone".to_owned());
}

#[test]
fn a_process_that_a_signal_ends_is_started_again() {
    let container = Container::start(&[("web.1", "[ -e was ] && echo again; touch was; kill -35 $$; sleep 600")], 1);
    container.wait_for("flyloft | web.1 was killed by signal 35; starting it again in 1 s");
    container.wait_for("web.1 | again");
}

#[test]
fn orphans_are_reaped() {
    let script = "(setsid sh -c 'sleep 0.1' &) ; (setsid true &); sleep 0.3; echo done; exec sleep 600";
    let container = Container::start(&[("web.1", script)], 1);
    container.wait_for("done");
    until(|| container.processes() == 2, || "the orphans to be gone".to_owned());
}

#[test]
fn the_end_is_gentle_for_the_whole_group() {
    // The shell dies of SIGTERM at once; what it has started still gets its time.
    let script = "sh -c 'trap \"sleep 0.3; echo farewell; exit 0\" TERM; echo up; while :; do sleep 0.05; done'; true";
    let mut container = Container::start(&[("web.1", script)], 10);
    container.wait_for("up");
    container.terminate();
    assert_eq!(container.exit_code(), Some(0));
    container.wait_for("web.1 | farewell");
    assert!(!container.log().contains("starting it again"), "{}", container.log());
}

#[test]
fn who_does_not_listen_is_killed_after_the_grace() {
    let mut container = Container::start(&[("web.1", "trap '' TERM; echo up; while :; do sleep 0.1; done")], 1);
    container.wait_for("up");
    let asked = Instant::now();
    container.terminate();
    assert_eq!(container.exit_code(), Some(0));
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn without_processes_it_waits_to_be_told() {
    let mut container = Container::start(&[], 10);
    let output = container.run(&["--", "echo", "ready"]);
    assert_eq!(text(&output.stdout), "ready\n");
    container.terminate();
    assert_eq!(container.exit_code(), Some(0));
}

#[test]
fn a_flood_is_read_no_faster_than_the_console_takes_it_and_silences_nobody() {
    let container = Container::start(&[("noise.1", "exec yes"), ("web.1", "sleep 0.2; echo heard; exec sleep 600")], 1);
    container.wait_for("web.1 | heard");
    let init = container.init();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 8192, "{resident}");
}

#[test]
fn a_flood_is_bounded_in_the_long_run() {
    const MIB: usize = 1 << 20;
    let start = Instant::now();
    let container = Container::start(&[("noise.1", "exec yes")], 1);
    let length = || container.log.lock().unwrap().len();
    until(|| length() > 6 * MIB, || "a burst of 4 MiB and then some".to_owned());
    let allowed = 4.25 + start.elapsed().as_secs_f64();
    assert!(length() as f64 / MIB as f64 <= allowed, "{} bytes are more than {allowed} MiB", length());
}

#[test]
fn an_app_cannot_speak_in_the_name_of_the_supervisor() {
    let script = "printf 'x\\rflyloft | forged\\n'; echo mine > /proc/1/fd/1; echo tried; exec sleep 600";
    let container = Container::start(&[("web.1", script)], 1);
    container.wait_for("tried");
    assert!(container.lines().iter().all(|line| line.starts_with("web.1 | ")), "{}", container.log());
    assert!(container.lines().contains(&"web.1 | flyloft | forged".to_owned()), "{}", container.log());
    assert!(!container.log().contains("| mine"), "{}", container.log());
}

#[test]
fn a_broken_spec_ends_the_container_with_a_reason() {
    let mut container = Container::start(&[("flyloft", "true")], 1);
    assert_eq!(container.exit_code(), Some(1));
    container.wait_for("flyloft | `flyloft` cannot be the name of a process");
}

#[test]
fn a_command_sees_the_container_and_what_it_came_with() {
    let container = Container::start(&[], 1);
    let script = "echo \"$SECRET, $EXTRA, $PORT, $HOME, $CALLER$HOST_SECRET\"; id -u; id -G; pwd; ls /proc/$$/fd/5";
    let output = container.run(&["--", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), "of the app, of the\ncaller, 6000, /app, \n1000\n1000\n/app\n");
    assert!(text(&output.stderr).contains("/fd/5"), "the file itself is not the command's: {output:?}");
    assert_eq!(container.run(&["--", "printenv", "RAW"]).stdout, b"\xff\n");
    let output = container.run(&["--root", "--dir", "/etc", "--", "sh", "-c", "id -u; pwd"]);
    assert_eq!(text(&output.stdout), "0\n/etc\n");
}

#[test]
fn exit_codes_are_those_of_a_shell() {
    let container = Container::start(&[], 1);
    fs::write(container.path("app/plain"), "no program").unwrap();
    for (argv, code, complaint) in [
        (&["sh", "-c", "exit 7"][..], 7, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "kill -35 $$"], 163, ""),
        (&["no-such-thing"], 127, "flyloft: `no-such-thing` was not found\n"),
        (&["./plain"], 126, "flyloft: `./plain` may not be executed\n"),
    ] {
        let output = container.run(&[&["--"], argv].concat());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), complaint), "{argv:?}");
    }
    let output = container.run(&["--dir", "/nowhere", "--", "true"]);
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains("failed to enter `/nowhere`"), "{output:?}");
}

#[test]
fn the_streams_of_a_command_end_when_it_ends() {
    let container = Container::start(&[], 1);
    // Would keep stdout open for ten minutes.
    let output = container.run(&["--", "sh", "-c", "sleep 600 & echo out; echo err >&2"]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n", "err\n"));
    until(|| container.processes() == 1, || "the `sleep` to be gone".to_owned());
}

#[test]
fn a_command_ends_with_whoever_called_it() {
    let container = Container::start(&[], 1);
    // `nsenter` is the parent here, as `lxc-attach` is in a container.
    // One of the command's processes is in a group of its own, as a shell's jobs are.
    let script = "trap '' HUP TERM; perl -e 'setpgrp; sleep 600' & sleep 600; true";
    let mut caller = container.exec(&["--", "sh", "-c", script]).spawn().unwrap();
    until(|| container.processes() == 5, || "the command".to_owned());
    caller.kill().unwrap();
    caller.wait().unwrap();
    until(|| container.processes() == 1, || "the command to be gone".to_owned());
}

#[test]
fn it_hardly_needs_memory() {
    let container = Container::start(&[("web.1", "echo up; exec sleep 600")], 1);
    container.wait_for("up");
    let init = container.init();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let anonymous = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: u64 = anonymous.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 1024, "{anonymous}");
    assert!(Path::new(&format!("/proc/{init}/task")).read_dir().unwrap().count() == 1, "more than one thread");
}
