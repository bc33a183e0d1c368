//! The same web process from the same files, without a container.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Flyloft;

/// Starts it in a chroot of the container's files on the host, until its first answer.
pub fn first_answer(flyloft: &Flyloft, app: &str) -> Duration {
    let shown: serde_json::Value =
        serde_json::from_str(&flyloft.ok(&["show", &format!("{app}/main"), "--json"])).unwrap();
    let container = shown["container"].as_str().unwrap();
    let root = mounted(container);
    let command = shown["processes"].as_array().unwrap().iter().find(|process| process["type"] == "web").unwrap();
    let command = command["command"].as_str().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = flyloft.ok(&["run", &format!("{app}/main"), "--", "printenv", "PATH"]);
    // The image has no devices of its own. Mounting them is not part of what is measured.
    let script = r#"mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && echo && exec /usr/sbin/chroot "$1" sh -c "$2""#;
    let mut child = Command::new("/usr/bin/unshare")
        .args(["--mount", "sh", "-c", script, "floor"])
        .arg(&root)
        .arg(format!("cd /app && exec {command}"))
        .env_clear()
        .envs([("PATH", path.trim()), ("PORT", &port.to_string()), ("HOME", "/app")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut ready = [0];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    let started = Instant::now();
    let took = loop {
        if answers(port) {
            break started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(30), "the floor does not answer");
        std::thread::sleep(Duration::from_millis(1));
    };
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL).unwrap();
    child.wait().unwrap();
    took
}

/// Where the container's files are mounted on the host.
fn mounted(container: &str) -> PathBuf {
    let homes = std::fs::read_dir("/run/flyloft-lxc").unwrap().map(|entry| entry.unwrap().path());
    let name = |home: &PathBuf| home.file_name().unwrap().to_string_lossy().into_owned();
    let home = homes.into_iter().find(|home| name(home).contains(&format!("-{container}.")));
    home.expect("the container is mounted").join("merged")
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.write_all(b"GET / HTTP/1.1\r\nHost: floor\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).is_ok() && text.contains(" 200 ")
}
