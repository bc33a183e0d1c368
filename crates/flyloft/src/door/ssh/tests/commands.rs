//! Commands, their streams and their terminals.

use super::*;

#[tokio::test]
async fn a_command_is_called_off_when_its_client_goes_away() {
    let team = Team::new().await;
    {
        let command = team.ssh("ada").arg("hang");
        tokio::select! {
            _ = command.run() => panic!("the command ended"),
            () = within("the command runs", team.staff.begun.notified()) => {}
        }
    }
    within("the command is called off", team.staff.called_off.notified()).await;
}

#[tokio::test]
async fn a_key_that_is_removed_takes_its_connections_and_their_commands_with_it() {
    let team = Team::new().await;
    let begun = team.staff.begun.notified();
    let mut child = team.ssh("bot").arg("hang").spawn(piped(), piped(), piped()).unwrap();
    within("the command runs", begun).await;
    // More input than the command has room for: the connection waits for it to be taken.
    let mut stdin = child.stdin.take().unwrap();
    let flood = tokio::spawn(async move { while stdin.write_all(&[b'x'; 64 << 10]).await.is_ok() {} });
    let other = team.ssh("ada").arg("hang");
    let other = other.spawn(piped(), piped(), piped());
    within("the other command runs", team.staff.begun.notified()).await;

    team.fire("bot");
    within("the command is called off", team.staff.called_off.notified()).await;
    assert_eq!(within("the client ends", child.wait()).await.unwrap().code(), Some(255));
    within("the input ends", flood).await.unwrap();
    assert_eq!(other.unwrap().try_wait().unwrap(), None, "a key that stays lost its connection");
}

#[tokio::test]
async fn a_command_arrives_as_words_and_its_exit_code_comes_back() {
    let team = Team::new().await;
    let words = team.run(team.ssh("bot").arg("config set shop 'A=b c' $(id)")).await;
    assert_eq!(words.stdout, r#"["config", "set", "shop", "A=b c", "$(id)"]"#);
    let failed = ended(team.ssh("bot").args(["fail", "20"])).await;
    assert_eq!((failed.code, failed.stderr.trim_end()), (20, "it failed"));
}

#[tokio::test]
async fn a_malformed_command_is_a_usage_error_and_reaches_nobody() {
    let team = Team::new().await;
    for (command, said) in [
        ("up 'shop", "error: a quote (') is opened and never closed"),
        ("git-receive-pack '../../etc/passwd'", "error: app name `../../etc/passwd` may have only"),
        ("git-upload-archive shop", "error: `git-upload-archive` is not served here"),
    ] {
        let ended = ended(team.ssh("ada").arg(command)).await;
        assert_eq!(ended.code, 2, "{command}");
        assert!(ended.stderr.starts_with(said), "{command}: {}", ended.stderr);
    }
    assert!(team.staff.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_command_there_is_a_greeting_and_no_shell() {
    let team = Team::new().await;
    let hello = team.run(team.ssh("ada")).await;
    let text = hello.stdout.replace(&team.port().to_string(), "PORT");
    insta::assert_snapshot!(text, @r"
    Hello ada. You are known here, but there is no shell to log in to.

      stage a branch   git push ssh://git@HOST:PORT/APP BRANCH
      run a command    ssh -p PORT HOST ls
      get help         ssh -p PORT HOST help
    ");
}

#[tokio::test]
async fn files_ports_and_agents_are_not_forwarded() {
    let team = Team::new().await;
    let sftp = ended(team.ssh("ada").args(["-s", "sftp"])).await;
    assert_ne!(sftp.code, 0);
    let forward = ended(team.ssh("ada").args(["-W", "127.0.0.1:22"])).await;
    assert!(forward.stderr.contains("stdio forwarding failed"), "{}", forward.stderr);
    assert!(team.staff.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_terminal_is_passed_on_with_its_name_and_size() {
    let team = Team::new().await;
    let none = team.run(team.ssh("ada").arg("size")).await;
    assert_eq!(none.stdout, "none");
    let some = team.run(team.ssh("ada").env("TERM", "xterm-256color").args(["-tt", "size"])).await;
    assert_eq!(some.stdout, "xterm-256color 80x24");
}

#[tokio::test]
async fn a_command_can_ask_on_a_terminal_and_ctrl_c_ends_it() {
    let team = Team::new().await;
    for (keys, code, seen) in
        [(&b"nope\x15yes\r"[..], 0, "you said \"yes\\n\""), (b"\x04", 0, "you said \"\""), (b"y\x03", 130, "y^C")]
    {
        let mut child = team.ssh("ada").args(["-tt", "ask"]).spawn(piped(), piped(), piped()).unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut said = Vec::new();
        while !said.ends_with(b"Really? ") {
            within("it asks", stdout.read_buf(&mut said)).await.unwrap();
        }
        stdin.write_all(keys).await.unwrap();
        within("it ends", stdout.read_to_end(&mut said)).await.unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(seen), "{said:?}");
        assert_eq!(child.wait().await.unwrap().code(), Some(code), "{said:?}");
    }
}

#[tokio::test]
async fn input_of_any_size_arrives_whole() {
    let team = Team::new().await;
    let bytes = vec![b'x'; 20 << 20];
    let counted = team.run(team.ssh("ada").arg("count").stdin(bytes.clone())).await;
    assert_eq!(counted.stdout, bytes.len().to_string());
    let echoed = team.run(team.ssh("ada").arg("cat").stdin(bytes.clone())).await;
    assert_eq!(echoed.stdout.len(), bytes.len());
}
