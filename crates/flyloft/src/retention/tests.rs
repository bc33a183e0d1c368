use std::collections::BTreeMap;
use std::time::Duration;

use flyloft_core::lifecycle::Event;
use flyloft_core::policy::Limits;

use super::*;
use crate::config::Disk;
use crate::deploy::Again;
use crate::engine::{CacheId, ContainerState, Derivation, Engine, Image, LayerId, Reach, Recipe, Run};
use crate::loft::stage::Stage;
use crate::transcript::Transcript;

/// Nothing that is not needed.
const LEAST: Disk = Disk { floor: 0, layers: 0, caches: 0, logs: 0, releases: 0 };

/// Makes a layer by a step that has these caches.
async fn derive(stage: &Stage, name: &str, on: &Image, caches: &[&str]) -> LayerId {
    let id = LayerId(name.to_owned());
    let run = Run {
        commands: vec![vec!["true".to_owned()]],
        dir: "/app".to_owned(),
        env: BTreeMap::new(),
        files: Vec::new(),
        caches: caches.iter().map(|id| (CacheId((*id).to_owned()), "/cache".to_owned())).collect(),
        scratch: Vec::new(),
        limits: Limits::default(),
        timeout: Duration::from_secs(1),
        reach: Reach::default(),
    };
    let recipe = Recipe::Run(Box::new(run));
    let derivation = Derivation { id: id.clone(), title: name.to_owned(), on: on.clone(), recipe };
    stage.engine.derive(derivation, &Transcript::discard()).await.unwrap();
    id
}

async fn layers(stage: &Stage) -> Vec<String> {
    stage.engine.layers().await.unwrap().into_iter().map(|layer| layer.0).collect()
}

#[tokio::test]
async fn old_releases_go_with_what_they_said_and_their_layers_and_what_is_off_stays_whole() {
    let stage = Stage::keeping(Disk { releases: 1, ..LEAST }).await;
    let parts = &stage.loft.parts;
    for number in 1..=4 {
        let layer = derive(&stage, &format!("app-{number}"), &Image::new(), &[]).await;
        stage.launch_image(Again::Rollback, vec![layer]).await.unwrap();
    }
    let (env, conductor) = stage.env().await;
    conductor.tell(Event::Off).await.unwrap();
    stage
        .wait_until("only what is off is left", async || {
            matches!(stage.containers().await[..], [(_, ContainerState::Stopped)])
        })
        .await;
    collect(parts).await;

    let releases = parts.store.releases(env.id).await.unwrap();
    assert_eq!(releases.iter().map(|release| release.number.0).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(layers(&stage).await, ["app-3", "app-4"]);
    let mut said: Vec<_> = transcripts(parts).unwrap().into_iter().flat_map(|said| said.files).collect();
    said.sort();
    assert_eq!(said, [3, 4].map(|number| parts.settings.transcript(env.id, flyloft_core::name::ReleaseNumber(number))));
    conductor.tell(Event::Wake).await.unwrap();
    stage.wait_for_state("awake v4").await;
}

#[tokio::test]
async fn what_deploys_of_a_destroyed_environment_said_goes_and_what_is_not_ours_stays() {
    let stage = Stage::keeping(LEAST).await;
    let parts = &stage.loft.parts;
    stage.deploy().await.unwrap();
    let dir = &parts.settings.transcripts;
    for name in ["77", "lost+found"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("v1.log"), "said").unwrap();
    }
    collect(parts).await;
    let (env, _) = stage.env().await;
    let mut left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [env.id.0.to_string().as_str(), "lost+found"]);
}

#[tokio::test]
async fn a_rollback_to_what_is_not_kept_any_more_is_refused_before_anything_is_made() {
    let stage = Stage::keeping(LEAST).await;
    let old = derive(&stage, "old", &Image::new(), &[]).await;
    let new = derive(&stage, "new", &Image::new(), &[]).await;
    stage.launch_image(Again::Rollback, vec![new]).await.unwrap();
    let before = (stage.containers().await, stage.calls("create"));
    collect(&stage.loft.parts).await;
    assert_eq!(layers(&stage).await, ["new"]);

    let error = stage.launch_image(Again::Rollback, vec![old]).await.unwrap_err();
    assert_eq!(error.what, "what `shop/main` was to be launched from is not kept any more");
    assert_eq!((stage.containers().await, stage.calls("create")), before);
    assert_eq!(stage.state().await, "awake v1");
}

#[tokio::test]
async fn package_caches_go_when_they_are_too_large_and_the_one_that_was_used_last_stays() {
    // Each takes 4096 bytes.
    let stage = Stage::keeping(Disk { caches: 5000, ..LEAST }).await;
    for (layer, cache) in [("a", "shop-pip"), ("b", "blog-pip"), ("c", "shop-pip")] {
        derive(&stage, layer, &Image::new(), &[cache]).await;
    }
    collect(&stage.loft.parts).await;
    let left = stage.engine.caches().await.unwrap();
    assert_eq!(left.into_iter().map(|cache| cache.id.0).collect::<Vec<_>>(), ["shop-pip"]);
}
