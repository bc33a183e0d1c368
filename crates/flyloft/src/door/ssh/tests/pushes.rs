//! Pushes: what is staged, what is refused, and what is left of half of one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, ChildStdin};

use super::*;

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
    assert!(push.stderr.contains("remote:        hint: see its last lines with"), "{}", push.stderr);
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
    until("no quarantine is left", || quarantines(&team) == 0).await;
    assert_eq!(team.branches("shop").await, ["refs/heads/main"]);
    *team.staff.answer.lock().unwrap() = Answer::Deploy;
    assert_eq!(team.push("bot", &project, "shop", &["main"]).await.code, 0);
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_sends_leaves_nothing_half_made() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    let (mut client, _stdin) = half_a_push(&team, &project, piped()).await;
    until("git has begun", || quarantines(&team) == 1).await;
    client.kill().await.unwrap();
    until("no quarantine is left", || quarantines(&team) == 0).await;
    assert_eq!(team.branches("shop").await, ["refs/heads/main"]);
    assert_eq!(team.pushed().len(), 1);
}

/// A client that sends a command, and then the head of a pack that never comes.
async fn half_a_push(team: &Team, project: &Path, errors: Stdio) -> (Child, ChildStdin) {
    let mut client = team.ssh("bot").arg("git-receive-pack shop").spawn(piped(), piped(), errors).unwrap();
    let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut offer = Vec::new();
    while !offer.ends_with(b"0000") {
        within("git offers its refs", stdout.read_buf(&mut offer)).await.unwrap();
    }
    let (zero, new) = ("0".repeat(40), team.head(project).await);
    let command = format!("{zero} {new} refs/heads/half\0 report-status");
    stdin.write_all(format!("{:04x}{command}0000PACK", command.len() + 4).as_bytes()).await.unwrap();
    stdin.write_all(&[0, 0, 0, 2, 0, 0, 0, 9]).await.unwrap();
    stdin.flush().await.unwrap();
    (client, stdin)
}

fn quarantines(team: &Team) -> usize {
    let entries = std::fs::read_dir(team.path("git/apps/shop.git/objects")).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("tmp_")).count()
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
async fn a_push_waits_for_the_one_before_it_and_does_not_wait_for_one_that_has_stopped() {
    let limits = SourceLimits { at_once: 1, ..SourceLimits::default() };
    let team = Team::with(|config| config.patience = Duration::from_millis(300), limits).await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main"]).await;
    let (stopped, _stdin) = half_a_push(&team, &project, piped()).await;
    until("git has begun", || quarantines(&team) == 1).await;
    // Nobody else wants its place yet.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(quarantines(&team), 1);

    // What brings no objects need not wait.
    let push = team.push("bot", &project, "shop", &[":main"]).await;
    assert!(push.code == 0 && !push.stderr.contains("Waiting"), "{}", push.stderr);
    let push = team.push("bot", &project, "shop", &["main"]).await;
    assert_eq!(push.code, 0, "{}", push.stderr);
    assert!(push.stderr.contains("Waiting: other pushes are being received."), "{}", push.stderr);
    let stopped = within("the other one is over", stopped.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert!(said.contains("The push stopped in the middle, and others wait for its place."), "{said}");
}

#[tokio::test]
async fn a_push_that_is_being_staged_takes_no_place() {
    let limits = SourceLimits { at_once: 1, ..SourceLimits::default() };
    let team = Team::with(|_| {}, limits).await;
    let project = team.project(FILES).await;
    *team.staff.answer.lock().unwrap() = Answer::Hang;
    let staged = team.push("bot", &project, "shop", &["main"]);
    let other = async {
        within("the push is staged", team.staff.begun.notified()).await;
        *team.staff.answer.lock().unwrap() = Answer::Deploy;
        team.push("bot", &project, "shop", &["main:other"]).await
    };
    tokio::select! {
        _ = staged => panic!("the push ended"),
        push = other => assert!(push.code == 0 && !push.stderr.contains("Waiting"), "{}", push.stderr),
    }
}

#[tokio::test]
async fn a_push_of_a_large_file_takes_little_memory() {
    let limits = SourceLimits { memory: 64 << 20, ..SourceLimits::default() };
    let team = Team::with(|_| {}, limits).await;
    *team.staff.answer.lock().unwrap() = Answer::Checkout;
    let project = team.project(FILES).await;
    std::fs::File::create(project.join("zeros")).unwrap().set_len(200 << 20).unwrap();
    let commit = team.commit(&project, &[]).await;
    let push = team.push("bot", &project, "shop", &["main"]).await;
    assert_eq!(push.code, 0, "{}", push.stderr);
    assert_eq!(std::fs::metadata(team.path(&commit).join("zeros")).unwrap().len(), 200 << 20);
}

#[tokio::test]
async fn whoever_is_connected_when_the_door_closes_is_told_to_come_again() {
    let errands = tokio_util::task::TaskTracker::new();
    let counted = errands.clone();
    let team = Team::with(|config| config.errands = counted, SourceLimits::default()).await;
    let project = team.project(FILES).await;
    *team.staff.answer.lock().unwrap() = Answer::Hang;
    let push = team.push("bot", &project, "shop", &["main"]);
    let close = async {
        within("the push is staged", team.staff.begun.notified()).await;
        assert_eq!(errands.len(), 1);
        team.door.close().await;
    };
    let (push, ()) = tokio::join!(push, close);
    assert_ne!(push.code, 0);
    assert!(push.stderr.contains("error: the daemon ends, or a newer version takes over\n"), "{}", push.stderr);
    assert!(push.stderr.contains("  hint: it is there again in a moment"), "{}", push.stderr);
    until("nothing is under way", || errands.is_empty()).await;
    assert_eq!(team.branches("shop").await, Vec::<String>::new());
}
