//! What is to sleep and cannot.

use super::*;

#[tokio::test]
async fn what_can_never_be_frozen_goes_off_and_is_destroyed_in_its_time() {
    let stage = Stage::under(policy(Some(300), Some(4_000), Some(6_000))).await;
    stage.engine.set_unfreezable(true);
    stage.deploy().await.unwrap();
    let (_, conductor) = stage.env().await;
    let used = last_used(&conductor);
    stage.wait_until("it has been tried twice", async || stage.calls("freeze") == 2).await;
    conductor.at_rest().await.unwrap();
    assert_eq!((conductor.state().to_string().as_str(), last_used(&conductor)), ("awake v1", used), "nobody used it");
    stage.wait_for_state("off v1").await;
    stage.wait_until("stopped", async || stage.is(ContainerState::Stopped).await).await;
    conductor.gone().await;
}
