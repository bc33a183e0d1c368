//! A newer version of the daemon takes over, and nobody notices.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::harness::{Flyloft, text, wait_for};
use crate::load::Load;
use crate::push::{SERVER, app, borrowed};

fn shown(flyloft: &Flyloft, env: &str) -> serde_json::Value {
    serde_json::from_str(&flyloft.ok(&["show", env, "--json"])).unwrap()
}

fn ready(flyloft: &Flyloft) -> usize {
    flyloft.log().lines().filter(|line| line.contains(": ready ")).count()
}

#[test]
fn an_upgrade_under_constant_load_fails_no_request_and_leaves_what_runs_and_what_sleeps_as_it_is() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-upgrade", &borrowed(&app("hello")));
    repository.pushed(&["main", "main:asleep"]);
    flyloft.ok(&["sleep", "it-upgrade/asleep"]);
    wait_for("it to sleep", || (shown(&flyloft, "it-upgrade/asleep")["state"] == "asleep").then_some(()));
    let (pid, http, ssh) = (flyloft.pid(), flyloft.http, flyloft.ssh);
    let container = shown(&flyloft, "it-upgrade/main")["container"].clone();

    let load = Load::start(http, "it-upgrade-main.localhost");
    for times in 2..=4 {
        let said = flyloft.ok(&["upgrade"]);
        assert!(said.starts_with("flyloft 0.1.0 has taken over, after "), "{said}");
        // It answers before it writes this.
        wait_for("the next daemon to say so", || (ready(&flyloft) == times).then_some(()));
    }
    let load = load.stop();
    assert!(load.failures.is_empty(), "{:#?}", load.failures);
    assert!(load.well > 30, "{}", load.well);

    assert_eq!(flyloft.pid(), pid);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim(), "flyloft");
    assert_eq!(shown(&flyloft, "it-upgrade/main")["container"], container);
    assert_eq!(shown(&flyloft, "it-upgrade/asleep")["state"], "asleep");
    assert_eq!(flyloft.get("it-upgrade/asleep", "/").body, "hello");
    // Over SSH, at the port that it had.
    assert_eq!(flyloft.ssh, ssh);
    assert!(text(&flyloft.ssh("ls")).contains("it-upgrade/asleep"));
    flyloft.ok(&["destroy", "it-upgrade", "--yes"]);
}

#[test]
fn a_push_that_is_under_way_ends_before_a_newer_version_takes_over_and_a_shell_is_told() {
    let flyloft = Flyloft::start();
    let slow = format!("VERSION = 'slow'\nimport time; time.sleep(3)\n{SERVER}");
    let repository = flyloft.repository("it-under-way", &borrowed(&app("first")));
    repository.pushed(&["main"]);
    repository.commit(&[("server.py", &slow)]);
    let mut followed = flyloft.command(&["events", "it-under-way", "--follow"]);
    let followed = followed.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| repository.pushed(&["main"]));
        wait_for("the deploy", || flyloft.ok(&["releases", "it-under-way/main"]).contains("v2").then_some(()));
        flyloft.ok(&["upgrade"]);
        assert!(pushing.join().unwrap().contains("remote: =====> Deployed"));
    });
    assert_eq!(flyloft.get("it-under-way/main", "/").body, "slow");
    let followed = followed.wait_with_output().unwrap();
    assert_eq!(followed.status.code(), Some(75));
    assert!(text(&followed).contains("error: the daemon ends, or a newer version takes over\n"), "{}", text(&followed));
    flyloft.ok(&["destroy", "it-under-way", "--yes"]);
}

#[test]
fn somebody_who_waits_for_a_wake_is_answered_though_a_newer_version_takes_over() {
    let flyloft = Flyloft::start();
    flyloft.repository("it-waits", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.ok(&["off", "it-waits/main"]);
    std::thread::scope(|scope| {
        let visits: Vec<_> = (0..4).map(|_| scope.spawn(|| flyloft.get("it-waits/main", "/"))).collect();
        flyloft.ok(&["upgrade"]);
        for visit in visits {
            let answer = visit.join().unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{}", answer.head);
        }
    });
    flyloft.ok(&["destroy", "it-waits", "--yes"]);
}

#[test]
fn a_version_that_would_not_start_does_not_take_over() {
    let flyloft = Flyloft::start();
    flyloft.repository("it-refused", &borrowed(&app("hello"))).pushed(&["main"]);
    let refused = |configuration: &str, complaint: &str| {
        let before = flyloft.configure(configuration);
        let output = flyloft.cli(&["upgrade"]);
        flyloft.configure(&before);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output);
        assert!(said.contains("would not start, and the daemon goes on as it was"), "{said}");
        assert!(said.contains(complaint), "{said}");
        assert_eq!(flyloft.get("it-refused/main", "/").body, "hello");
    };
    refused("domian = \"localhost\"\n", "unknown field `domian`");
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    refused(&format!("[metrics]\nlisten = [\"{taken}\"]\n"), &format!("failed to listen on `{taken}` for metrics"));
    assert_eq!(ready(&flyloft), 1);

    // What is good takes effect.
    drop(other);
    flyloft.configure(&format!("[metrics]\nlisten = [\"{taken}\"]\n"));
    flyloft.ok(&["upgrade"]);
    let mut metrics = TcpStream::connect(taken).unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    metrics.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("flyloft_environments"), "{answer}");
    flyloft.ok(&["destroy", "it-refused", "--yes"]);
}

#[test]
fn an_older_daemon_refuses_the_store_of_a_newer_one_and_does_not_take_over_from_it() {
    let mut flyloft = Flyloft::start_in("newer-store");
    let store = flyloft.state.join("store.db");
    let set_version = |change: i64| {
        let connection = rusqlite::Connection::open(&store).unwrap();
        let now: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        connection.pragma_update(None, "user_version", now + change).unwrap();
    };
    set_version(1000);
    let refused = text(&flyloft.cli(&["upgrade"]));
    assert!(refused.contains("has version 10") && refused.contains("this program knows versions up to"), "{refused}");
    flyloft.ok(&["ls"]);
    flyloft.kill();
    let (status, said) = flyloft.fails_to_serve();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("error: failed to open the store\n  because: the store `"), "{said}");
    assert!(said.contains("this program knows versions up to"), "{said}");
    set_version(-1000);
    flyloft.serve();
    let state = flyloft.state.clone();
    drop(flyloft);
    fs::remove_dir_all(state).unwrap();
}

/// What systemd keeps for the next start: sockets and their names. See sd_notify(3), FDSTORE.
fn stored(systemd: &UnixDatagram) -> Vec<(String, OwnedFd)> {
    let mut kept = Vec::new();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    loop {
        let mut bytes = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; 253]);
        let mut buffers = [std::io::IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(systemd.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty()).unwrap();
        let files: Vec<OwnedFd> = message
            .cmsgs()
            .unwrap()
            .filter_map(|control| match control {
                ControlMessageOwned::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            // SAFETY: the kernel has just made these for us.
            .map(|file| unsafe { OwnedFd::from_raw_fd(file) })
            .collect();
        let length = message.bytes;
        let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let name = said.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
        kept.extend(files.into_iter().map(|file| (name.to_owned(), file)));
        if said.contains("READY=1") {
            return kept;
        }
    }
}

/// Has these open from descriptor 3 on. Out of the way first, since their own numbers may be among those.
fn renumber(files: &[RawFd]) -> std::io::Result<()> {
    let done = |result: RawFd| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    for (from, place) in files.iter().zip(0..) {
        // SAFETY: dup2 only changes this process's descriptors.
        done(unsafe { libc::dup2(*from, 500 + place) })?;
    }
    for place in 0..files.len() as RawFd {
        // SAFETY: as above.
        done(unsafe { libc::dup2(500 + place, 3 + place) })?;
        // SAFETY: as above.
        done(unsafe { libc::close(500 + place) })?;
    }
    Ok(())
}

#[test]
fn where_systemd_keeps_the_sockets_no_connection_is_refused_while_a_killed_daemon_starts_again() {
    let mut flyloft = Flyloft::start();
    flyloft.repository("it-kept", &borrowed(&app("hello"))).pushed(&["main"]);
    flyloft.kill();
    let dir = tempfile::tempdir().unwrap();
    let notify = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    flyloft.serve_with(|command| {
        command.env("NOTIFY_SOCKET", &notify);
    });
    let kept = stored(&systemd);
    let of = |name: &str| kept.iter().filter(|(other, _)| other == name).count();
    assert!(of("http") >= 1 && of("ssh") == 1 && of("commands") == 1, "{kept:?}");
    let (http, ssh) = (flyloft.http, flyloft.ssh);
    flyloft.kill();

    // Nobody is there, and still nobody is refused.
    let mut waiting = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, http))).unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: it-kept-main.localhost\r\nConnection: close\r\n\r\n").unwrap();
    let listing = flyloft.command(&["ls"]).stdout(Stdio::piped()).spawn().unwrap();
    let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    let files: Vec<RawFd> = kept.iter().map(|(_, file)| file.as_raw_fd()).collect();
    let listen = (names.join(":"), files.len().to_string());
    flyloft.serve_with(|command| {
        let daemon = std::mem::replace(command, Command::new("sh"));
        // As systemd does it, which knows the id after the fork.
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(daemon.get_program()).args(daemon.get_args());
        command.env("LISTEN_FDNAMES", &listen.0).env("LISTEN_FDS", &listen.1).env("NOTIFY_SOCKET", &notify);
        // SAFETY: between fork and exec the closure only makes system calls.
        unsafe { command.pre_exec(move || renumber(&files)) };
    });
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    assert!(text(&listing.wait_with_output().unwrap()).contains("it-kept/main"));
    assert_eq!((flyloft.http, flyloft.ssh), (http, ssh));
    flyloft.ok(&["destroy", "it-kept", "--yes"]);
}
