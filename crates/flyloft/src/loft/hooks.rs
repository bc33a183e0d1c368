//! Scripts of `app.json`.

use flyloft_core::lifecycle::Depth;
use flyloft_core::policy::Policy;

use super::stage::{Stage, content, in_time};
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

impl Stage {
    /// The environment of a pull request, whose last script is this.
    async fn pull_request(&self, predestroy: &str) -> Conductor {
        let name = EnvRef::parse("shop/pr-7").unwrap();
        self.store().create_app(&name.app, None, 1).await.unwrap();
        let (_, conductor) = self.loft.ensure(&name, &Origin::PullRequest(7)).await.unwrap();
        self.launch_in(&conductor, Again::Rollback, scripted("true", predestroy)).await.unwrap();
        conductor
    }

    /// Destroys it. What the engine was asked for from then on, in order.
    async fn destroyed(&self, conductor: &Conductor) -> Vec<String> {
        let before = self.engine.calls().len();
        conductor.tell(Event::Destroy).await.unwrap();
        in_time("it is gone", conductor.gone()).await;
        self.engine.calls().split_off(before)
    }

    /// Why last scripts have failed.
    async fn farewells(&self) -> Vec<String> {
        let events = self.store().events(None, None, 0, 50).await.unwrap();
        let failed = events.into_iter().filter(|event| event.kind == "farewell-failed").map(|event| event.text);
        let begin = "pr-predestroy failed, and the environment is destroyed all the same: ";
        failed.map(|text| text.strip_prefix(begin).unwrap_or_else(|| panic!("{text}")).to_owned()).collect()
    }
}

/// Where these were asked for, one after the other.
#[track_caller]
fn must_be_in_order(calls: &[String], verbs: &[&str]) {
    let at = |verb: &&str| calls.iter().position(|call| call.starts_with(&format!("{verb} ")));
    let found: Option<Vec<usize>> = verbs.iter().map(at).collect();
    assert!(found.is_some_and(|found| found.is_sorted()), "{verbs:?} in {calls:?}");
}

#[tokio::test]
async fn a_pull_request_runs_its_last_script_although_it_sleeps_and_goes_whatever_becomes_of_it() {
    let stage = Stage::new().await;
    let conductor = stage.pull_request("false").await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    stage.wait_until("it is frozen", async || stage.calls("offload") == 1).await;
    must_be_in_order(&stage.destroyed(&conductor).await, &["thaw", "exec", "remove"]);
    assert_eq!(stage.farewells().await, ["it ended with status 1"]);
}

#[tokio::test]
async fn what_is_off_is_started_for_its_last_script() {
    let stage = Stage::new().await;
    let conductor = stage.pull_request("true").await;
    conductor.tell(Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    must_be_in_order(&stage.destroyed(&conductor).await, &["start", "exec", "remove"]);
    assert_eq!(stage.farewells().await, [""; 0]);
}

#[tokio::test]
async fn a_last_script_that_does_not_end_has_its_time_and_no_more() {
    let stage = Stage::with(Policy::default(), |settings| settings.farewell = Duration::from_secs(1)).await;
    let conductor = stage.pull_request("sleep infinity").await;
    must_be_in_order(&stage.destroyed(&conductor).await, &["exec", "remove"]);
    assert_eq!(stage.farewells().await, ["it did not end within 1 s"]);
    let left = stage.containers().await;
    assert!(left.is_empty(), "{left:?}");
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
