//! The door as people meet it: the real `ssh` and `git` on one side, a backend that remembers on the other.

mod team;

use std::process::Stdio;
use std::time::Instant;

use flyloft_core::name::BranchName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::Error;
use crate::principal::Role;
use crate::source::{Checkout, Credential, Refusal, Repositories, Secret, SourceError, SourceLimits, Want};
use team::{Answer, Team, ended, until, within};

fn piped() -> Stdio {
    Stdio::piped()
}

const FILES: &[(&str, &str)] = &[("app.py", "print('hello')\n"), ("Procfile", "web: python app.py\n")];

#[tokio::test]
async fn a_push_stages_the_branch_and_shows_what_goes_on() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let push = team.push("bot", &project, "shop", &["main"]).await;
    assert_eq!(push.code, 0, "{}", push.stderr);
    assert!(push.stderr.contains("remote: -----> Staging shop"), "{}", push.stderr);
    assert!(push.stderr.contains("remote: =====> Deployed"), "{}", push.stderr);
    assert_eq!(team.pushed(), [("bot".into(), "shop".into(), vec!["main".into()])]);
    assert_eq!(team.branches("shop").await, ["refs/heads/main"]);
}

#[tokio::test]
async fn a_refused_push_leaves_the_branch_where_it_was_and_says_why() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    let before = team.head(&project).await;
    team.commit(&project, &[("app.py", "broken")]).await;
    let why = Error::failed("web exited at once").hint("see its last lines with `flyloft logs shop/main`");
    *team.staff.answer.lock().unwrap() = Answer::Refuse(why);
    let push = team.push("bot", &project, "shop", &["main"]).await;
    assert_eq!(push.code, 1);
    assert!(push.stderr.contains("remote:  !     web exited at once"), "{}", push.stderr);
    assert!(push.stderr.contains("remote:        see its last lines with"), "{}", push.stderr);
    assert!(push.stderr.contains("! [remote rejected] main -> main (pre-receive hook declined)"), "{}", push.stderr);
    let listed = team.run(team.git("bot", &project).args(["ls-remote", &team.url("shop"), "main"])).await;
    assert!(listed.stdout.starts_with(&before), "{}", listed.stdout);
}

#[tokio::test]
async fn several_branches_in_one_push_are_staged_together() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let push = team.push("bot", &project, "shop", &["main", "main:feature/login"]).await;
    assert_eq!(push.code, 0, "{}", push.stderr);
    assert_eq!(team.pushed(), [("bot".into(), "shop".into(), vec!["main".into(), "feature/login".into()])]);

    *team.staff.answer.lock().unwrap() = Answer::Refuse(Error::failed("no"));
    let push = team.push("bot", &project, "shop", &["main:a", "main:b", ":main"]).await;
    assert_eq!(push.code, 1);
    assert_eq!(team.branches("shop").await, ["refs/heads/feature/login", "refs/heads/main"]);
}

#[tokio::test]
async fn deleting_a_branch_is_told_as_a_deletion_without_a_quarantine() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    let push = team.push("bot", &project, "shop", &[":main"]).await;
    assert_eq!(push.code, 0, "{}", push.stderr);
    let (_, _, told) = team.staff.pushes.lock().unwrap().pop().unwrap();
    assert!(told.updates[0].old.is_some() && told.updates[0].new.is_none() && told.quarantine.is_none());
    assert_eq!(team.branches("shop").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_tag_is_refused_and_nothing_of_the_push_is_staged() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.run(team.git("ada", &project).args(["tag", "v1"])).await;
    let push = team.push("bot", &project, "shop", &["main", "v1"]).await;
    assert_eq!(push.code, 1);
    assert!(push.stderr.contains("tag `v1` cannot be staged"), "{}", push.stderr);
    assert_eq!(team.pushed(), []);
    assert_eq!(team.branches("shop").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_key_pushes_to_its_own_app_and_to_no_other() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("ada", &project, "blog", &["main"]).await;
    for refs in ["main", ":main"] {
        let push = team.push("bot", &project, "blog", &[refs]).await;
        assert_ne!(push.code, 0);
        assert!(push.stderr.contains("key `bot` may not use app `blog`"), "{}", push.stderr);
    }
    let fetch = ended(team.git("bot", &project).args(["ls-remote", &team.url("blog")])).await;
    assert!(fetch.stderr.contains("key `bot` may not use app `blog`"), "{}", fetch.stderr);
    let create = team.push("bot", &project, "new-app", &["main"]).await;
    assert!(create.stderr.contains("key `bot` may not use app `new-app`"), "{}", create.stderr);
    assert!(!team.path("git/apps/new-app.git").exists());
    assert_eq!(team.pushed().len(), 1);
}

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
async fn a_clone_has_a_branch_checked_out_whatever_it_is_called() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main:trunk"]).await;
    let copy = team.path("copy");
    team.run(team.git("bot", team.dir.path()).args(["clone", "-q", &team.url("shop")]).arg(&copy)).await;
    assert!(copy.join("app.py").exists());
}

#[tokio::test]
async fn what_was_pushed_can_be_cloned_and_fetched() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    let copy = team.path("copy");
    team.run(team.git("bot", team.dir.path()).args(["clone", "-q", &team.url("shop.git")]).arg(&copy)).await;
    assert_eq!(std::fs::read_to_string(copy.join("app.py")).unwrap(), "print('hello')\n");
    let newer = team.commit(&project, &[("app.py", "print('newer')\n")]).await;
    team.push("bot", &project, "shop", &["main"]).await;
    team.run(team.git("bot", &copy).args(["pull", "-q"])).await;
    assert_eq!(team.head(&copy).await, newer);
}

#[tokio::test]
async fn a_repository_that_does_not_exist_cannot_be_fetched() {
    let team = Team::new().await;
    let fetch = ended(team.git("bot", team.dir.path()).args(["ls-remote", &team.url("shop")])).await;
    assert!(fetch.stderr.contains("app `shop` has no repository yet"), "{}", fetch.stderr);
}

#[tokio::test]
async fn the_files_of_a_push_can_be_taken_out_while_it_waits() {
    let team = Team::new().await;
    *team.staff.answer.lock().unwrap() = Answer::Checkout;
    let project = team.project(FILES).await;
    for content in ["one", "two"] {
        let commit = team.commit(&project, &[("app.py", content)]).await;
        let push = team.push("bot", &project, "shop", &["main"]).await;
        assert_eq!(push.code, 0, "{}", push.stderr);
        assert_eq!(std::fs::read_to_string(team.path(&commit).join("app.py")).unwrap(), content);
        let again = team.push("bot", &project, "shop", &["main:again"]).await;
        assert!(again.stderr.contains("failed to make"), "objects that are there already: {}", again.stderr);
    }
}

#[tokio::test]
async fn a_branch_that_git_could_not_keep_beside_another_is_refused_before_it_is_staged() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main:feature/login"]).await;
    for refs in [&["main:feature"][..], &["main:feature/login/x"], &["main:new", "main:new/one"]] {
        let push = team.push("bot", &project, "shop", refs).await;
        assert_eq!(push.code, 1);
        assert!(push.stderr.contains("cannot be there beside branch"), "{refs:?}: {}", push.stderr);
    }
    assert_eq!(team.pushed().len(), 1);
    team.push("bot", &project, "shop", &[":feature/login"]).await;
    assert_eq!(team.push("bot", &project, "shop", &["main:feature"]).await.code, 0);
}

#[tokio::test]
async fn a_clone_without_history_can_be_pushed() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.commit(&project, &[("app.py", "second")]).await;
    let (from, shallow) = (format!("file://{}", project.display()), team.path("shallow"));
    team.run(team.git("bot", team.dir.path()).args(["clone", "-q", "--depth=1", &from]).arg(&shallow)).await;
    let push = team.push("bot", &shallow, "shop", &["main"]).await;
    assert_eq!(push.code, 0, "{}", push.stderr);
    assert_eq!(team.branches("shop").await, ["refs/heads/main"]);
}

#[tokio::test]
async fn a_tree_that_would_write_into_git_or_out_of_the_checkout_is_refused() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let blob = team.run(team.git("ada", &project).args(["rev-parse", "HEAD:app.py"])).await.stdout;
    let modules = "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n";
    std::fs::write(project.join("modules"), modules).unwrap();
    let hash = team.git("ada", &project).args(["hash-object", "-w", "modules"]);
    let modules = team.run(hash).await.stdout;
    for (mode, blob, name) in [
        ("100644", &blob, ".git"),
        ("100644", &blob, ".GIT"),
        ("100644", &blob, ".."),
        ("100644", &modules, ".gitmodules"),
        ("120000", &blob, ".gitmodules"),
    ] {
        let tree = tree_object(mode, blob.trim(), name);
        let write = ["hash-object", "-t", "tree", "-w", "--stdin", "--literally"];
        let tree = team.run(team.git("ada", &project).args(write).stdin(tree)).await.stdout;
        let commit = team.run(team.git("ada", &project).args(["commit-tree", "-m", "Evil", tree.trim()])).await.stdout;
        let refspec = format!("{}:refs/heads/evil", commit.trim());
        let push = team.push("bot", &project, "shop", &[&refspec]).await;
        assert_ne!(push.code, 0, "{mode} {name} was accepted");
        assert!(push.stderr.contains("fsck error") || push.stderr.contains("unpack"), "{name}: {}", push.stderr);
    }
    assert_eq!(team.pushed(), []);
}

/// One entry of a tree as git stores it, which git itself would not write.
fn tree_object(mode: &str, object: &str, name: &str) -> Vec<u8> {
    let mut tree = format!("{mode} {name}\0").into_bytes();
    tree.extend(hex::decode(object).unwrap());
    tree
}

#[tokio::test]
async fn a_client_that_goes_away_during_the_build_leaves_nothing_half_made() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    team.commit(&project, &[("app.py", "print('newer')\n")]).await;
    *team.staff.answer.lock().unwrap() = Answer::Hang;
    team.staff.begun.notified().await;
    team.staff.called_off.notified().await;
    {
        let push = team.push("bot", &project, "shop", &["main"]);
        tokio::select! {
            _ = push => panic!("the push ended"),
            () = within("the push is staged", team.staff.begun.notified()) => {}
        }
    }
    within("the push is called off", team.staff.called_off.notified()).await;
    let objects = team.path("git/apps/shop.git/objects");
    let quarantines = || {
        let entries = std::fs::read_dir(&objects).unwrap();
        entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("tmp_")).count()
    };
    until("no quarantine is left", || quarantines() == 0).await;
    assert_eq!(team.branches("shop").await, ["refs/heads/main"]);
    *team.staff.answer.lock().unwrap() = Answer::Deploy;
    assert_eq!(team.push("bot", &project, "shop", &["main"]).await.code, 0);
}

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

#[tokio::test]
async fn a_push_larger_than_the_limit_is_refused_and_leaves_nothing() {
    let limits = SourceLimits { push: 100_000, ..SourceLimits::default() };
    let team = Team::with(|_| {}, limits).await;
    let mut noise = vec![0; 300_000];
    getrandom::fill(&mut noise).unwrap();
    let project = team.project(&[("noise", &hex::encode(&noise))]).await;
    let push = team.push("bot", &project, "shop", &["main"]).await;
    assert_ne!(push.code, 0);
    assert!(push.stderr.contains("exceeds maximum allowed size"), "{}", push.stderr);
    assert_eq!(team.pushed(), []);
    assert_eq!(team.branches("shop").await, Vec::<String>::new());
}

#[tokio::test]
async fn branch_names_that_git_allows_arrive_as_they_are() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let long = "x".repeat(240);
    for name in ["$(touch pwned)", "a;id|cat&", "🎭/🚀", "`id`", "'quote\"", "ünï", &long] {
        let refspec = format!("main:refs/heads/{}", name.replace(' ', "_"));
        let push = team.push("bot", &project, "shop", &[&refspec]).await;
        assert_eq!(push.code, 0, "{name}: {}", push.stderr);
        assert_eq!(team.pushed().last().unwrap().2, [name.replace(' ', "_")]);
    }
}

#[tokio::test]
async fn branch_names_that_are_too_long_or_malformed_are_refused() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let parts = format!("{}/{}", "x".repeat(150), "y".repeat(150));
    for (name, said) in [("a..b", "invalid refspec"), (&parts, "it has more than 250 bytes"), ("-x", "starts with `-`")]
    {
        let push = team.push("bot", &project, "shop", &[&format!("main:refs/heads/{name}")]).await;
        assert_ne!(push.code, 0, "{name}");
        assert!(push.stderr.contains(said), "{name}: {}", push.stderr);
    }
    assert_eq!(team.pushed(), []);
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
async fn strangers_at_the_door_do_not_keep_others_out_for_longer_than_their_grace() {
    let configure = |config: &mut super::SshConfig| {
        config.strangers = 2;
        config.login_grace = std::time::Duration::from_millis(300);
    };
    let team = Team::with(configure, SourceLimits::default()).await;
    let connect = || std::net::TcpStream::connect(("127.0.0.1", team.port())).unwrap();
    let strangers: Vec<_> = (0..5).map(|_| connect()).collect();
    let deadline = Instant::now() + team::LIMIT;
    while ended(team.ssh("ada").arg("ls")).await.code != 0 {
        assert!(Instant::now() < deadline, "still locked out");
    }
    drop(strangers);
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

/// A repository elsewhere, which is this door, seen by another daemon that has `key` as its deploy key.
async fn fetched_over_ssh(team: &Team, key: &str) -> std::result::Result<(String, std::path::PathBuf), SourceError> {
    let elsewhere = Repositories::open(&team.path("elsewhere"), team::GIT_USER, SourceLimits::default()).unwrap();
    let url = elsewhere.url(&team.url("shop"))?;
    let secret = Secret::DeployKey(std::fs::read_to_string(team.path(key)).unwrap());
    let credentials = [Credential { host: url.authority(), secret }];
    let want = Want::Branch(BranchName::parse("main").unwrap());
    let fetched = elsewhere.fetch(&team::app("shop"), &url, &want, &credentials).await?;
    let into = team.path("fetched-tree");
    let wanted = Checkout { commit: &fetched.commit, quarantine: None, remote: Some(&url), credentials: &credentials };
    elsewhere.checkout(&team::app("shop"), &wanted, &into).await?;
    Ok((fetched.commit.to_string(), into))
}

#[tokio::test]
async fn a_deploy_key_fetches_a_branch_over_ssh() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("ada", &project, "shop", &["main"]).await;
    team.run(team.git("ada", &project).args(["tag", "unseen"])).await;
    let (commit, tree) = within("it is fetched", fetched_over_ssh(&team, "bot")).await.unwrap();
    assert_eq!(commit, team.head(&project).await);
    assert_eq!(std::fs::read_to_string(tree.join("app.py")).unwrap(), "print('hello')\n");
}

#[tokio::test]
async fn a_deploy_key_that_the_host_does_not_know_is_refused() {
    let team = Team::new().await;
    let error = fetched_over_ssh(&team, "stranger").await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { why: Refusal::Denied, .. }), "{error:?}");
}

#[tokio::test]
async fn what_the_host_says_over_ssh_is_the_reason_that_is_given() {
    let team = Team::new().await;
    let error = Error::from(fetched_over_ssh(&team, "bot").await.unwrap_err());
    assert_eq!(error.causes, ["app `shop` has no repository yet"]);
}

#[tokio::test]
async fn a_host_whose_ssh_key_has_changed_is_not_talked_to() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("ada", &project, "shop", &["main"]).await;
    let other = std::fs::read_to_string(team.path("stranger.pub")).unwrap();
    std::fs::create_dir_all(team.path("elsewhere")).unwrap();
    let line = format!("[127.0.0.1]:{} {other}", team.port());
    std::fs::write(team.path("elsewhere/known_hosts"), line).unwrap();
    let error = fetched_over_ssh(&team, "bot").await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { why: Refusal::HostKeyChanged, .. }), "{error:?}");
}
