//! Commands in real containers: what they see, how they end, and who ends them.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::engine::lxc::bench::Bench;
use crate::engine::*;

/// An engine with one running container.
async fn bench() -> (Bench, ContainerId) {
    let bench = Bench::open().await;
    let id = ContainerId("shop-main".to_owned());
    let spec = ContainerSpec {
        id: id.clone(),
        image: vec![bench.base.clone()],
        processes: Vec::new(),
        env: [("PORT".to_owned(), "5000".to_owned())].into(),
        limits: Limits::default(),
        reach: Reach::default(),
        volumes: Vec::new(),
        files: Default::default(),
    };
    bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&id).await.unwrap();
    (bench, id)
}

async fn exec(bench: &Bench, id: &ContainerId, script: &str, terminal: Option<(u16, u16)>) -> Exec {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let env = [("EXTRA".to_owned(), "of the caller".to_owned())].into();
    bench.engine.exec(id, ExecSpec { argv, env, terminal }).await.unwrap()
}

/// All that a command prints, and its status.
async fn run(bench: &Bench, id: &ContainerId, script: &str) -> (String, i32) {
    let mut exec = exec(bench, id, script, None).await;
    let mut out = String::new();
    exec.stdout.read_to_string(&mut out).await.unwrap();
    (out, exec.control.wait().await.unwrap())
}

/// Reads until `end` has come.
async fn read_until(exec: &mut Exec, end: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(end) {
        let mut piece = [0; 1024];
        let count = exec.stdout.read(&mut piece).await.unwrap();
        assert!(count > 0, "`{end}` was to come after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    seen
}

/// Waits until no process of this name is in the container.
async fn until_gone(bench: &Bench, id: &ContainerId, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while run(bench, id, &format!("grep -lx {name} /proc/[0-9]*/comm")).await.1 == 0 {
        assert!(Instant::now() < deadline, "`{name}` still runs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sees_the_containers_variables_and_its_callers_and_none_of_the_daemons() {
    let (bench, id) = bench().await;
    let (out, _) = run(&bench, &id, "env | cut -d = -f 1 | sort | xargs").await;
    assert_eq!(out, "EXTRA HOME LANG PATH PORT PWD\n");
    let (out, _) = run(&bench, &id, "echo $EXTRA $PORT $HOME; id -u; tty").await;
    assert_eq!(out, "of the caller 5000 /app\n1000\nnot a tty\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_output_and_errors_are_apart_and_the_end_of_the_input_arrives() {
    let (bench, id) = bench().await;
    let mut exec = exec(&bench, &id, "cat; echo trouble >&2; exit 7", None).await;
    exec.stdin.write_all(b"one\ntwo\n").await.unwrap();
    exec.stdin.shutdown().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    exec.stdout.read_to_string(&mut out).await.unwrap();
    exec.stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str(), exec.control.wait().await.unwrap()), ("one\ntwo\n", "trouble\n", 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_that_of_the_command_or_128_and_the_signal() {
    let (bench, id) = bench().await;
    for (script, code) in [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(run(&bench, &id, script).await.1, code, "{script}");
    }
    let argv = vec!["no-such-thing".to_owned()];
    let spec = ExecSpec { argv, env: Default::default(), terminal: None };
    let mut exec = bench.engine.exec(&id, spec).await.unwrap();
    let mut err = String::new();
    exec.stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!((err.as_str(), exec.control.wait().await.unwrap()), ("flyloft: `no-such-thing` was not found\n", 127));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_has_its_size_and_changes_it() {
    let (bench, id) = bench().await;
    let script = "stty size; tty; echo $TERM; echo x >$(tty); echo y >/dev/stdout; trap 'stty size; exit 5' WINCH; echo ready; \
        while :; do sleep 0.05; done";
    let mut exec = exec(&bench, &id, script, Some((100, 30))).await;
    let seen = read_until(&mut exec, "ready\r\n").await;
    assert_eq!(seen, "30 100\r\n/dev/pts/1\r\nxterm-256color\r\nx\r\ny\r\nready\r\n");
    exec.control.resize(80, 24);
    assert_eq!(read_until(&mut exec, "\n").await, "24 80\r\n");
    assert_eq!(exec.control.wait().await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_is_for_the_command_down_to_its_control_characters() {
    let (bench, id) = bench().await;
    let mut exec =
        exec(&bench, &id, "stty -echo; trap 'echo interrupted' INT; echo ready; cat; cat", Some((80, 24))).await;
    read_until(&mut exec, "ready\r\n").await;
    // Ctrl-A q is how LXC's own consoles are left.
    exec.stdin.write_all(b"typed\n\x01q\n").await.unwrap();
    assert_eq!(read_until(&mut exec, "q\r\n").await, "typed\r\n\x01q\r\n");
    exec.stdin.write_all(b"\x03").await.unwrap();
    read_until(&mut exec, "interrupted\r\n").await;
    exec.stdin.shutdown().await.unwrap();
    assert_eq!(exec.control.wait().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_when_its_handle_is_dropped() {
    let (bench, id) = bench().await;
    for terminal in [None, Some((80, 24))] {
        let mut exec =
            exec(&bench, &id, "trap '' HUP TERM INT; (sleep 611 &); echo ready; sleep 611; true", terminal).await;
        read_until(&mut exec, "ready").await;
        assert_eq!(run(&bench, &id, "grep -lx sleep /proc/[0-9]*/comm").await.1, 0, "it runs");
        drop(exec);
        until_gone(&bench, &id, "sleep").await;
    }
}
