//! Scripts of `app.json`.

use flyloft_core::lifecycle::Depth;

use super::stage::{Stage, content};
use super::*;
use crate::deploy::Again;
use crate::store::Content;

fn scripted(postdeploy: &str, predestroy: &str) -> Content {
    let (postdeploy, predestroy) = (Some(postdeploy.to_owned()), Some(predestroy.to_owned()));
    Content { postdeploy, predestroy, ..content(&[("web", "serve")]) }
}

#[tokio::test]
async fn the_postdeploy_script_runs_until_it_has_ended_well_once_and_not_again_before_data_are_reset() {
    let stage = Stage::new().await;
    let (env, conductor) = stage.env().await;
    let launch =
        async |postdeploy: &str| stage.launch_in(&conductor, Again::Rollback, scripted(postdeploy, "true")).await;
    insta::assert_snapshot!(launch("false").await.unwrap_err().text(), @r"
    error: the postdeploy script ended with status 1
      hint: it has printed nothing; it runs again with the next deploy, until it has ended well once
    ");
    assert_eq!(stage.env().await.0.live, None);
    launch("echo seeded").await.unwrap();
    let told = stage.told(2).await;
    assert!(told.contains("-----> Running the postdeploy script\n       seeded\n"), "{told}");
    launch("false").await.unwrap();
    assert!(!stage.told(3).await.contains("postdeploy"));

    stage.store().set_postdeployed(env.id, None).await.unwrap();
    launch("false").await.unwrap_err();
    assert_eq!(stage.state().await, "awake v3");
}

#[tokio::test]
async fn what_has_been_deployed_without_a_postdeploy_script_needs_none_any_more() {
    let stage = Stage::new().await;
    stage.deploy().await.unwrap();
    stage.launch_content(Again::Rollback, scripted("false", "true")).await.unwrap();
}

#[tokio::test]
async fn a_pull_request_runs_its_last_script_although_it_sleeps_and_goes_whatever_becomes_of_it() {
    let stage = Stage::new().await;
    let name = EnvRef::parse("shop/pr-7").unwrap();
    stage.store().create_app(&name.app, None, 1).await.unwrap();
    let (_, conductor) = stage.loft.ensure(&name, &Origin::PullRequest(7)).await.unwrap();
    stage.launch_in(&conductor, Again::Rollback, scripted("true", "false")).await.unwrap();
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    stage.wait_until("it is frozen", async || stage.calls("offload") == 1).await;
    let before = stage.engine.calls().len();
    conductor.tell(Event::Destroy).await.unwrap();
    conductor.gone().await;
    let calls = stage.engine.calls().split_off(before);
    let at = |verb: &str| calls.iter().position(|call| call.starts_with(verb)).unwrap_or_else(|| panic!("{calls:?}"));
    assert!(at("thaw ") < at("exec ") && at("exec ") < at("remove "), "{calls:?}");
    let events = stage.store().events(None, None, 0, 50).await.unwrap();
    let said = events.iter().find(|event| event.kind == "farewell-failed").unwrap();
    let expected = "pr-predestroy failed, and the environment is destroyed all the same: it ended with status 1";
    assert_eq!(said.text, expected);
}

#[tokio::test]
async fn a_branch_has_no_last_script() {
    let stage = Stage::new().await;
    let (_, conductor) = stage.env().await;
    stage.launch_in(&conductor, Again::Rollback, scripted("true", "false")).await.unwrap();
    let before = stage.calls("exec");
    conductor.tell(Event::Destroy).await.unwrap();
    conductor.gone().await;
    assert_eq!(stage.calls("exec"), before);
}
