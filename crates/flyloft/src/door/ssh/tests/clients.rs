//! Who comes in, how long it takes, and who stays outside.

use super::*;

#[tokio::test]
async fn a_key_that_nobody_added_stays_outside() {
    let team = Team::new().await;
    let login = ended(team.ssh("stranger").arg("ls")).await;
    assert_eq!(login.code, 255);
    assert!(login.stderr.contains("Permission denied (publickey)"), "{}", login.stderr);
    assert!(team.staff.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn keys_of_every_usual_kind_come_in() {
    let team = Team::new().await;
    for kind in ["rsa", "ecdsa"] {
        team.hire_with(kind, kind, Role::Admin).await;
        team.run(team.ssh(kind).arg("ls")).await;
    }
    let users: Vec<_> = team.staff.commands.lock().unwrap().iter().map(|(who, _)| who.clone()).collect();
    assert_eq!(users, ["rsa", "ecdsa"]);
}

#[tokio::test]
async fn a_client_that_does_not_say_who_it_is_is_sent_away() {
    let grace = std::time::Duration::from_millis(200);
    let team = Team::with(|config| config.login_grace = grace, SourceLimits::default()).await;
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", team.port())).await.unwrap();
    let mut said = Vec::new();
    within("the door is shut", tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut said)).await.unwrap();
    assert!(said.starts_with(b"SSH-2.0-flyloft"));
}

#[tokio::test]
async fn a_client_that_has_gone_holds_nothing() {
    let team = Team::new().await;
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..5 {
        team.run(team.ssh("ada").arg("ls")).await;
    }
    until("every connection is closed", || open() <= before).await;
}

#[tokio::test]
async fn strangers_at_the_door_keep_nobody_out() {
    let configure = |config: &mut crate::door::ssh::SshConfig| {
        config.strangers = 4;
        config.login_grace = team::LIMIT * 2;
    };
    let team = Team::with(configure, SourceLimits::default()).await;
    let connect = || std::net::TcpStream::connect(("127.0.0.1", team.port())).unwrap();
    let mut strangers: Vec<_> = (0..20).map(|_| connect()).collect();
    team.run(team.ssh("ada").arg("ls")).await;
    // Those that made way are closed, and the latest are not.
    let closed = |stream: &mut std::net::TcpStream| {
        stream.set_read_timeout(Some(team::LIMIT)).unwrap();
        std::io::Read::read_to_end(stream, &mut Vec::new()).is_ok()
    };
    assert!(closed(&mut strangers[0]) && closed(&mut strangers[15]));
    let latest = strangers.last_mut().unwrap();
    latest.set_nonblocking(true).unwrap();
    let still = std::io::Read::read_to_end(latest, &mut Vec::new()).unwrap_err();
    assert_eq!(still.kind(), std::io::ErrorKind::WouldBlock);
}

/// Prints what it measures: `cargo nextest run -p flyloft how_long --run-ignored all --no-capture`.
#[tokio::test]
#[ignore = "measures, asserts nothing"]
async fn how_long_a_command_and_a_push_take() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    let (mut commands, mut pushes) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let start = Instant::now();
        team.run(team.ssh("ada").arg("ls")).await;
        commands.push(start.elapsed());
        team.commit(&project, &[("app.py", &n.to_string())]).await;
        let start = Instant::now();
        team.push("bot", &project, "shop", &["main"]).await;
        pushes.push(start.elapsed());
    }
    *team.staff.answer.lock().unwrap() = Answer::Checkout;
    for n in 0..5 {
        team.commit(&project, &[("app.py", &format!("checked out {n}"))]).await;
        let push = team.push("bot", &project, "shop", &["main"]).await;
        println!("checkout {}", push.stderr.lines().find(|line| line.contains("took")).unwrap_or("failed"));
    }
    commands.sort();
    pushes.sort();
    println!("ssh command {:?}, git push {:?} (medians of 20)", commands[10], pushes[10]);
}
