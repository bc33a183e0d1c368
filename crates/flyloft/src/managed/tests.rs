//! Servers on an engine in memory, where none of them answers.

use flyloft_core::plan::Stack;
use flyloft_core::service::Kind;
use flyloft_core::service::managed::Share;

use super::*;
use crate::engine::Engine;
use crate::engine::lxc::tree::Usage;
use crate::loft::stage::Stage;
use crate::provision::server_purpose;
use crate::volumes;

const MIB: u64 = 1 << 20;

async fn added(stage: &Stage, name: &str) -> (ServerRow, ManagedRow) {
    let share = Share { memory: 256 * MIB, disk: 100 * MIB };
    let outfit = Outfit { stack: Stack::Debian13, edition: 0, share };
    let row = ServerRow {
        name: name.to_owned(),
        url: Recipe::of(Kind::Postgres).unwrap().url(Kind::Postgres, name),
        password: stage.loft.parts.vault.seal(&server_purpose(name), "secret"),
        ca: None,
        managed: Some(ManagedRow { id: 0, outfit }),
        created_at: 1,
    };
    assert!(stage.store().add_server(row).await.unwrap());
    on_record(stage, name).await
}

async fn on_record(stage: &Stage, name: &str) -> (ServerRow, ManagedRow) {
    let row = stage.store().server(name).await.unwrap().unwrap();
    let managed = row.managed.clone().unwrap();
    (row, managed)
}

async fn kept(stage: &Stage, name: &str) -> Result<Addresses> {
    let (row, managed) = on_record(stage, name).await;
    keep(&stage.loft.parts, &row, &managed).await
}

#[tokio::test]
async fn a_server_runs_from_its_record_on_and_again_whenever_it_has_ended() {
    let stage = Stage::new().await;
    let (row, managed) = added(&stage, "pg").await;
    let id = container("pg", &managed);
    let first = kept(&stage, "pg").await.unwrap();
    let spec = stage.engine.spec(&id);
    assert!(spec.processes[0].env["SETTINGS"].contains("shared_buffers=32MB"), "{spec:?}");
    assert!(!format!("{spec:?}").contains("secret"), "no specification has the password");
    assert_eq!((spec.limits.memory, spec.volumes[0].size), (256 * MIB, 100 * MIB));
    // As older daemons have written it: where it differs, a server is started anew.
    let data = serde_json::to_string(&spec.volumes[0]).unwrap();
    assert_eq!(data, r#"{"id":"server-1","path":"/data","size":104857600,"read_only":false}"#);
    assert_eq!(serde_json::from_str::<Volume>(&data).unwrap(), spec.volumes[0]);
    assert_eq!(kept(&stage, "pg").await.unwrap(), first);
    assert_eq!((stage.calls("start"), stage.calls("fill volume")), (1, 1), "it runs, and is left alone");

    stage.engine.stop(&id, Duration::ZERO).await.unwrap();
    ended(stage.loft.parts.clone(), id.clone()).await;
    assert_eq!(observe(&stage.loft.parts, &row, &managed).await.unwrap().unwrap().state, ContainerState::Running);
    // What looks for leftovers takes neither.
    stage.loft.reconcile().await.unwrap();
    volumes::sweep(&stage.loft.parts).await;
    assert_eq!(stage.containers().await, [("pg-server-1".to_owned(), ContainerState::Running)]);
    assert_eq!(stage.engine.volumes().await.unwrap(), [volume(&managed)]);

    stage.store().forget_server("pg").await.unwrap();
    assert!(keep(&stage.loft.parts, &row, &managed).await.is_err(), "it is on record no more");
    stage.loft.reconcile().await.unwrap();
    volumes::sweep(&stage.loft.parts).await;
    assert_eq!((stage.containers().await.len(), stage.engine.volumes().await.unwrap().len()), (0, 0));
    let (_, next) = added(&stage, "pg").await;
    assert_ne!(volume(&next), volume(&managed), "nobody gets data of another");
}

#[tokio::test]
async fn what_is_to_be_another_one_is_stopped_and_made_anew_where_it_is() {
    let stage = Stage::new().await;
    let (_, managed) = added(&stage, "pg").await;
    let first = kept(&stage, "pg").await.unwrap();
    let share = Share { memory: 512 * MIB, ..managed.outfit.share };
    let outfit = Outfit { edition: 20_000, share, ..managed.outfit };
    assert!(stage.store().set_outfit(managed.id, outfit).await.unwrap());
    // A daemon that dies in between leaves that to the next round.
    stage.engine.fail("remake", 1);
    assert!(kept(&stage, "pg").await.is_err());
    assert_eq!(kept(&stage, "pg").await.unwrap(), first);
    let spec = stage.engine.spec(&container("pg", &managed));
    assert_eq!(spec.limits.memory, 512 * MIB);
    assert_eq!((stage.calls("remake"), stage.calls("start"), stage.calls("fill volume")), (2, 2, 1));
    assert_eq!(stage.containers().await[0].1, ContainerState::Running);
}

#[tokio::test]
async fn a_server_that_was_stopped_for_its_disk_stays_stopped_until_it_may_have_more() {
    let stage = Stage::new().await;
    let (_, managed) = added(&stage, "pg").await;
    kept(&stage, "pg").await.unwrap();
    let id = container("pg", &managed);
    stage.engine.grow_volume(&volume(&managed), Usage { bytes: 101 * MIB, inodes: 1 });
    stage.engine.stop_for(&id, Excess::Volume);
    let error = kept(&stage, "pg").await.unwrap_err();
    assert_eq!(error.hints[1], "give it more: flyloft services upgrade pg --disk SIZE");
    assert_eq!(stage.calls("start"), 1);
    let share = Share { disk: 200 * MIB, ..managed.outfit.share };
    stage.store().set_outfit(managed.id, Outfit { share, ..managed.outfit }).await.unwrap();
    kept(&stage, "pg").await.unwrap();
    assert_eq!(stage.containers().await[0].1, ContainerState::Running);

    // The same where its data are more files than that has blocks.
    stage.engine.grow_volume(&volume(&managed), Usage { bytes: MIB, inodes: 51_201 });
    stage.engine.stop_for(&id, Excess::Volume);
    let error = kept(&stage, "pg").await.unwrap_err();
    assert_eq!(error.hints[0], "its data take 1.0 MiB in 51201 files, and may take 200MiB in 51200");
    stage.engine.grow_volume(&volume(&managed), Usage { bytes: MIB, inodes: 51_200 });
    kept(&stage, "pg").await.unwrap();

    // What it has written elsewhere is of no use to anybody.
    stage.engine.stop_for(&id, Excess::Disk);
    kept(&stage, "pg").await.unwrap();
    assert_eq!(stage.containers().await[0].1, ContainerState::Running);
}

#[tokio::test]
async fn a_volume_that_is_missing_is_made_with_the_password_again() {
    let stage = Stage::new().await;
    let (_, managed) = added(&stage, "pg").await;
    kept(&stage, "pg").await.unwrap();
    stage.engine.remove(&container("pg", &managed)).await.unwrap();
    stage.engine.forget_volume(&volume(&managed)).await.unwrap();
    keep_all(&stage.loft.parts).await;
    assert_eq!((stage.calls("fill volume"), stage.containers().await.len()), (2, 1));
}
