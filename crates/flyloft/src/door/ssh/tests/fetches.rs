//! What can be read back, and this door as the host that another daemon fetches from.

use flyloft_core::name::BranchName;

use super::*;
use crate::source::{Checkout, Credential, Refusal, Repositories, Secret, SourceError, Want};

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
