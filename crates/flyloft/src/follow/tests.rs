//! With the real git and a host on loopback, and an engine in memory.

use std::fs;

use flyloft_core::name::{BranchName, EnvName, EnvRef, ReleaseNumber};

use super::*;
use crate::deploy::Again;
use crate::loft::stage::Stage;
use crate::source::tests::shelf::{Copy, Host, Manner, Shelf, git};
use crate::store::{CredentialKind, CredentialRow, EnvId, ReleaseStatus};

/// Whatever is missing at two looks is gone.
const PACE: Pace = Pace { every: Duration::from_secs(60), gone: Duration::ZERO };

/// An app whose repository lives elsewhere, staged as `flyloft up` does it.
struct Team {
    stage: Stage,
    shelf: Shelf,
    copy: Copy,
    host: Host,
}

impl Team {
    async fn new() -> Self {
        let (stage, shelf) = (Stage::new().await, Shelf::new());
        let copy = shelf.copy("project").await;
        copy.write("Procfile", "web: serve\n");
        copy.write("index.html", "");
        copy.commit().await;
        let host = shelf.host("project", &copy, Manner::Open).await;
        let team = Self { stage, shelf, copy, host };
        team.app("shop").await;
        team
    }

    async fn app(&self, name: &str) -> AppName {
        let app = AppName::parse(name).unwrap();
        self.stage.store().create_app(&app, None, 1).await.unwrap();
        self.stage.store().set_app_url(&app, &self.host.url.to_string()).await.unwrap();
        app
    }

    /// Somebody commits a change. Nothing at the host is there yet.
    async fn commit(&self, content: &str) -> CommitId {
        self.copy.write("index.html", content);
        let commit = self.copy.commit().await;
        let to = self.host.repository.to_str().unwrap();
        self.copy.git(&["push", "-q", to, "HEAD:refs/keep/new", "--force"]).await;
        commit
    }

    /// Somebody moves a branch to a new commit.
    async fn push(&self, branch: &str, content: &str) -> CommitId {
        let commit = self.commit(content).await;
        self.host.set(&format!("refs/heads/{branch}"), &commit).await;
        commit
    }

    /// As after a `flyloft up` of what is there now.
    async fn up(&self, origin: Origin) -> EnvId {
        let env = match &origin {
            Origin::PullRequest(number) => EnvName::for_pull_request(*number),
            Origin::Branch(branch) => EnvName::for_branch(branch).unwrap(),
            _ => unreachable!(),
        };
        let name = EnvRef::new(AppName::parse("shop").unwrap(), env);
        let (env, _) = self.stage.loft.ensure(&name, &origin).await.unwrap();
        let want = want(&origin).unwrap();
        let head = self.stage.loft.parts.repositories.resolve(&self.host.url, &want, &[]).await.unwrap().commit;
        self.stage.store().follow(env.id, &self.host.url.to_string(), &head).await.unwrap();
        env.id
    }

    /// The environment `shop/main`, with a release that serves, and that follows the branch `main`.
    async fn main(&self) -> EnvId {
        self.stage.deploy().await.unwrap();
        self.up(Origin::Branch(BranchName::parse("main").unwrap())).await
    }

    async fn look(&self) -> Result<()> {
        let remotes = survey(&self.stage.loft).await?;
        assert_eq!(remotes.len(), 1);
        for (remote, apps) in &remotes {
            look(&self.stage.loft, &PACE, remote, apps).await?;
        }
        Ok(())
    }

    async fn looks_well(&self) {
        self.look().await.unwrap();
    }

    async fn row(&self, id: EnvId) -> FollowRow {
        self.stage.store().followed_by(id).await.unwrap().unwrap()
    }

    /// Waits until nothing is being staged, and gives what is on record then.
    async fn settled(&self, id: EnvId, head: &CommitId) {
        self.stage.wait_until("it is on record as staged", async || self.row(id).await.head == *head).await;
        self.stage.wait_until("nothing is staged", async || self.stage.loft.follows.staging(id).is_none()).await;
    }

    /// The same, and it serves.
    async fn serves(&self, id: EnvId, head: &CommitId) {
        self.settled(id, head).await;
        let newest = self.stage.store().releases(id).await.unwrap().remove(0);
        assert_eq!((newest.commit.as_ref(), newest.status), (Some(head), ReleaseStatus::Live), "{newest:?}");
    }

    /// The release's commit, reason, author and status.
    async fn release(&self, id: EnvId, number: u32) -> (Option<CommitId>, String, String, ReleaseStatus) {
        let release = self.stage.store().release(id, ReleaseNumber(number)).await.unwrap().unwrap();
        (release.commit, release.reason, release.by, release.status)
    }

    async fn releases(&self, id: EnvId) -> usize {
        self.stage.store().releases(id).await.unwrap().len()
    }

    /// What `flyloft events` tells of these kinds.
    async fn told(&self, kinds: &[&str]) -> Vec<String> {
        let events = self.stage.store().events(None, None, 0, 1000).await.unwrap();
        let told = events.into_iter().filter(|event| kinds.contains(&event.kind.as_str()));
        told.map(|event| format!("{}: {}", event.kind, event.text.replace(&self.host.url.to_string(), "URL"))).collect()
    }
}

#[tokio::test]
async fn a_branch_that_has_moved_is_staged_and_one_that_has_not_is_left_alone() {
    let team = Team::new().await;
    let id = team.main().await;
    team.looks_well().await;
    assert_eq!(team.releases(id).await, 1);
    assert!(team.stage.loft.follows.looked_at(id).is_some());
    let commit = team.push("main", "newer").await;
    team.looks_well().await;
    team.serves(id, &commit).await;
    assert_eq!(team.stage.state().await, "awake v2");
    let follow = || "follow".to_owned();
    assert_eq!(team.release(id, 2).await, (Some(commit), follow(), follow(), ReleaseStatus::Live));
    team.looks_well().await;
    assert_eq!(team.releases(id).await, 2);
}

#[tokio::test]
async fn an_environment_that_is_off_is_followed_as_well() {
    let team = Team::new().await;
    let id = team.main().await;
    let (_, conductor) = team.stage.env().await;
    conductor.tell(Event::Off).await.unwrap();
    let commit = team.push("main", "newer").await;
    team.looks_well().await;
    team.serves(id, &commit).await;
    assert_eq!(team.stage.state().await, "awake v2");
}

#[tokio::test]
async fn a_build_that_a_newer_head_supersedes_is_stopped() {
    let team = Team::new().await;
    let id = team.main().await;
    team.stage.engine.stall(true);
    let first = team.push("main", "newer").await;
    team.looks_well().await;
    team.stage.wait_for_state("awake v1, deploying v2").await;
    let before = team.row(id).await.head;
    assert_ne!(before, first, "what is under way is not on record as staged");
    let second = team.push("main", "newest").await;
    team.looks_well().await;
    // The first build would not end by itself.
    team.stage.wait_for_state("awake v1, deploying v3").await;
    let release = team.stage.store().release(id, ReleaseNumber(2)).await.unwrap().unwrap();
    assert_eq!(release.failure.as_deref(), Some("the deploy of `shop/main` is superseded by v3"));
    assert_eq!(team.row(id).await.head, before);
    team.stage.engine.stall(false);
    team.serves(id, &second).await;
    assert_eq!(team.stage.state().await, "awake v3");
}

#[tokio::test]
async fn a_build_that_somebodys_command_supersedes_is_made_up_for() {
    let team = Team::new().await;
    let id = team.main().await;
    team.stage.engine.stall(true);
    let commit = team.push("main", "newer").await;
    team.looks_well().await;
    team.stage.wait_for_state("awake v1, deploying v2").await;
    team.stage.launch(Again::Rollback).await.unwrap();
    team.stage.wait_until("the build has ended", async || team.stage.loft.follows.staging(id).is_none()).await;
    assert_ne!(team.row(id).await.head, commit);
    team.stage.engine.stall(false);
    team.looks_well().await;
    team.serves(id, &commit).await;
    assert_eq!(team.stage.state().await, "awake v4");
}

#[tokio::test]
async fn a_commit_that_does_not_build_is_tried_once() {
    let team = Team::new().await;
    let id = team.main().await;
    team.copy.write("Procfile", "web serve\n");
    let commit = team.push("main", "newer").await;
    team.looks_well().await;
    team.settled(id, &commit).await;
    assert_eq!(team.release(id, 2).await.3, ReleaseStatus::Failed);
    team.looks_well().await;
    assert_eq!((team.releases(id).await, team.stage.state().await.as_str()), (2, "awake v1"));
}

#[tokio::test]
async fn a_commit_that_git_refuses_is_told_and_left_out() {
    let team = Team::new().await;
    let id = team.main().await;
    let at_host = async |args: &[&str], stdin: &str| git(&team.host.repository, args, stdin).await.trim().to_owned();
    let blob = at_host(&["hash-object", "-w", "--stdin"], "").await;
    let tree = at_host(&["mktree"], &format!("100644 blob {blob}\t.git\n")).await;
    let commit = CommitId::parse(&at_host(&["commit-tree", &tree, "-m", "Harm"], "").await).unwrap();
    team.host.set("refs/heads/main", &commit).await;
    team.looks_well().await;
    team.settled(id, &commit).await;
    assert_eq!(team.releases(id).await, 1);
    let told = team.told(&["deploy-failed"]).await;
    assert!(matches!(&told[..], [one] if one.contains("cannot be fetched") && one.contains(".git")), "{told:?}");
}

#[tokio::test]
async fn a_branch_that_is_gone_takes_its_environment_along_at_the_second_look() {
    let team = Team::new().await;
    let id = team.main().await;
    team.push("other", "").await;
    git(&team.host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    team.looks_well().await;
    assert!(team.row(id).await.missing.is_some());
    team.looks_well().await;
    let gone = async || team.stage.store().environment_of(id).await.unwrap().is_none();
    team.stage.wait_until("the environment is gone", gone).await;
    assert_eq!(
        team.told(&["source-gone", "destroyed"]).await,
        [
            "source-gone: branch `main` is gone from `URL`; the environment goes as well, unless it is back in 0s",
            "destroyed: branch `main` is gone from `URL`",
        ]
    );
    assert!(survey(&team.stage.loft).await.unwrap().is_empty());

    team.push("main", "again").await;
    let again = team.main().await;
    git(&team.host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    for _ in 0..2 {
        team.looks_well().await;
    }
    let gone = async || team.stage.store().environment_of(again).await.unwrap().is_none();
    team.stage.wait_until("the next environment is gone", gone).await;
    assert_eq!(team.told(&["source-gone", "destroyed"]).await.len(), 4, "each environment has its own news");
}

#[tokio::test]
async fn a_branch_that_comes_back_is_staged_and_its_environment_stays() {
    let team = Team::new().await;
    let id = team.main().await;
    team.push("other", "").await;
    git(&team.host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    team.looks_well().await;
    let commit = team.push("main", "forced").await;
    team.looks_well().await;
    team.serves(id, &commit).await;
    assert_eq!(team.row(id).await.missing, None);
    assert_eq!(team.stage.state().await, "awake v2");
}

#[tokio::test]
async fn a_host_that_fails_or_shows_nothing_at_all_destroys_nothing() {
    let team = Team::new().await;
    let id = team.main().await;
    git(&team.host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    for _ in 0..3 {
        assert!(team.look().await.is_err(), "there is no ref at all");
    }
    let aside = team.host.repository.with_extension("aside");
    fs::rename(&team.host.repository, &aside).unwrap();
    for _ in 0..3 {
        assert!(team.look().await.is_err(), "there is no repository");
    }
    assert_eq!(team.row(id).await.missing, None);
    assert_eq!(team.stage.state().await, "awake v1");
}

#[tokio::test]
async fn a_pinned_environment_stays_without_its_branch_and_that_is_told_once() {
    let team = Team::new().await;
    let id = team.main().await;
    let (_, conductor) = team.stage.env().await;
    conductor.tell(Event::Pin).await.unwrap();
    team.push("other", "").await;
    git(&team.host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    for _ in 0..4 {
        team.looks_well().await;
    }
    assert_eq!(team.stage.state().await, "awake v1, pinned");
    assert_eq!(
        team.told(&["source-gone", "destroyed"]).await[1..],
        [
            "source-gone: branch `main` is gone from `URL`, and the environment stays: failed to change `shop/main`: it is pinned"
        ]
    );
    conductor.tell(Event::Unpin).await.unwrap();
    team.looks_well().await;
    let gone = async || team.stage.store().environment_of(id).await.unwrap().is_none();
    team.stage.wait_until("the environment is gone", gone).await;
}

#[tokio::test]
async fn what_is_missing_is_not_destroyed_while_somebody_stages_it() {
    let team = Team::new().await;
    let id = team.main().await;
    team.stage.engine.stall(true);
    team.push("main", "newer").await;
    team.looks_well().await;
    team.stage.wait_for_state("awake v1, deploying v2").await;
    team.push("other", "").await;
    git(&team.host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    for _ in 0..3 {
        team.looks_well().await;
    }
    assert_eq!(team.stage.state().await, "awake v1, deploying v2");
    assert!(team.row(id).await.missing.is_some());
    team.stage.engine.stall(false);
}

#[tokio::test]
async fn a_pull_request_of_the_repository_is_followed_and_a_strangers_commit_waits_for_somebody() {
    let team = Team::new().await;
    let first = team.push("feature", "first").await;
    team.host.set("refs/pull/42/head", &first).await;
    let id = team.up(Origin::PullRequest(42)).await;
    let second = team.push("feature", "second").await;
    team.host.set("refs/pull/42/head", &second).await;
    team.looks_well().await;
    team.serves(id, &second).await;
    assert_eq!(team.release(id, 1).await.3, ReleaseStatus::Live);

    let strange = team.commit("a stranger's").await;
    team.host.set("refs/pull/42/head", &strange).await;
    team.looks_well().await;
    assert!(team.told(&["source-moved"]).await.is_empty(), "the branch may follow in a moment");
    for _ in 0..3 {
        team.looks_well().await;
    }
    assert_eq!(team.releases(id).await, 1);
    let text = format!(
        "source-moved: pull request 42 is at `{}` now, and no branch of `URL` is: look at it, and stage it with \
         `flyloft up shop --pr 42`",
        strange.short()
    );
    assert_eq!(team.told(&["source-moved"]).await, [text]);
}

#[tokio::test]
async fn apps_share_a_look_if_they_share_the_repository_and_what_opens_it() {
    let team = Team::new().await;
    team.main().await;
    for (name, secret) in [("blog", None), ("api", Some("s3cret")), ("unstaged", None)] {
        let app = team.app(name).await;
        if let Some(secret) = secret {
            let (host, username) = (team.host.url.authority(), "git".to_owned());
            let credential = CredentialRow { kind: CredentialKind::Token, host, username, secret: secret.to_owned() };
            team.stage.store().set_credential(&app, credential).await.unwrap();
        }
        if name != "unstaged" {
            let name = EnvRef::new(app, EnvName::parse("main").unwrap());
            let origin = Origin::Branch(BranchName::parse("main").unwrap());
            let (env, _) = team.stage.loft.ensure(&name, &origin).await.unwrap();
            let head = team.copy.head().await;
            team.stage.store().follow(env.id, &team.host.url.to_string(), &head).await.unwrap();
        }
    }
    let remotes = survey(&team.stage.loft).await.unwrap();
    let mut shared: Vec<(Vec<&str>, bool)> = remotes
        .iter()
        .map(|(remote, apps)| (apps.iter().map(AppName::as_str).collect(), remote.credentials.is_empty()))
        .collect();
    shared.sort();
    assert_eq!(shared, [(vec!["api"], false), (vec!["blog", "shop"], true)]);
    let before = team.host.seen().len();
    let (remote, apps) = remotes.iter().find(|(remote, _)| remote.credentials.is_empty()).unwrap();
    look(&team.stage.loft, &PACE, remote, apps).await.unwrap();
    assert_eq!(team.host.seen().len() - before, 2, "git asks what the server can do, and for the list");
}

#[tokio::test]
async fn a_repository_that_fails_is_left_alone_for_longer_and_its_end_and_beginning_are_told_once() {
    let team = Team::new().await;
    team.main().await;
    let remotes = survey(&team.stage.loft).await.unwrap();
    let (remote, apps) = remotes.iter().next().unwrap();
    let watched = Watched::new();
    let aside = team.host.repository.with_extension("aside");
    let turn = async |rested: bool| {
        let before = team.host.seen().len();
        if rested {
            watched.standing.lock().await.rest_until = None;
        }
        watched.take_turn(&team.stage.loft, &PACE, remote, apps).await;
        team.host.seen().len() > before
    };
    assert!(turn(false).await && turn(false).await, "it is looked at every round");
    fs::rename(&team.host.repository, &aside).unwrap();
    assert!(turn(false).await);
    let resting = async || watched.standing.lock().await.rest_until.unwrap() - Instant::now();
    let first = resting().await;
    assert!(!turn(false).await, "it rests");
    for _ in 0..4 {
        assert!(turn(true).await);
    }
    assert!(resting().await > 4 * first);
    fs::rename(&aside, &team.host.repository).unwrap();
    assert!(turn(true).await && turn(false).await);
    // A daemon that is started anew knows nothing of all this, and says nothing anew.
    Watched::new().take_turn(&team.stage.loft, &PACE, remote, apps).await;
    assert_eq!(
        team.told(&["follow-failed", "follow-works"]).await,
        [
            "follow-failed: failed to fetch from `URL`: there is no such repository, or it is private; it is tried \
             again less and less often, up to once an hour",
            "follow-works: `URL` can be read again",
        ]
    );
}

#[tokio::test]
async fn an_app_that_comes_from_elsewhere_now_loses_nothing_that_is_not_there() {
    let team = Team::new().await;
    let id = team.main().await;
    let other = team.shelf.copy("other").await;
    let commit = other.commit().await;
    let host = team.shelf.host("other", &other, Manner::Open).await;
    host.set("refs/heads/develop", &commit).await;
    git(&host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    let app = AppName::parse("shop").unwrap();
    team.stage.store().set_app_url(&app, &host.url.to_string()).await.unwrap();
    for _ in 0..3 {
        team.looks_well().await;
    }
    assert_eq!(team.row(id).await.missing, None);
    assert_eq!(team.stage.state().await, "awake v1");
}
