//! Servers that flyloft runs itself, on an engine in memory, where they answer as a test wants.

use async_trait::async_trait;
use flyloft_core::service::managed::{Outfit, Share};

use super::*;
use crate::engine::ContainerId;
use crate::engine::lxc::tree::Usage;
use crate::managed;
use crate::service::{Driver, Drivers, Fault, Health, Label, Server, ServiceError, Wanted};

const MIB: u64 = 1 << 20;

/// What comes of asking a server next.
enum Mood {
    Refuses,
    /// It takes for ever.
    Hangs,
}

/// Answers unless a test wants otherwise.
#[derive(Default)]
struct Moody(Mutex<Vec<Mood>>);

impl Moody {
    fn next(&self, moods: impl IntoIterator<Item = Mood>) {
        self.0.lock().unwrap().extend(moods);
    }
}

#[async_trait]
impl Driver for Moody {
    async fn check(&self, server: &Server) -> Result<Health, ServiceError> {
        let mood = self.0.lock().unwrap().pop();
        match mood {
            None => Ok(Health { version: "17.6".to_owned(), connections: 0, max_connections: None }),
            Some(Mood::Refuses) => Err(ServiceError::new(server, Fault::Full)),
            Some(Mood::Hangs) => std::future::pending().await,
        }
    }

    async fn provide(&self, _server: &Server, _wanted: &Wanted) -> Result<Option<u16>, ServiceError> {
        Ok(None)
    }

    async fn remove(&self, _server: &Server, _label: &Label) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn lost(&self, _server: &Server, _names: &[String]) -> Result<Vec<String>, ServiceError> {
        Ok(Vec::new())
    }

    fn variables(&self, _server: &Server, _wanted: &Wanted, _alias: Option<&str>) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// A desk with a server `pg` of 192 MiB of memory.
async fn desk() -> (Desk, Arc<Moody>) {
    let moody = Arc::new(Moody::default());
    let drivers = Drivers { postgres: moody.clone(), ..crate::daemon::drivers() };
    let desk = Desk::at(Stage::driven_by(drivers).await).await;
    let add = ["services", "add", "pg", "--kind", "postgres", "--managed", "--memory", "192MiB"];
    let (code, said) = desk.command(&add).await;
    assert_eq!(code, 0, "{said}");
    (desk, moody)
}

impl Desk {
    /// Of what it is made, as far as is on record.
    async fn outfit(&self) -> Outfit {
        self.stage.store().server("pg").await.unwrap().unwrap().managed.unwrap().outfit
    }

    /// How much memory what runs may take.
    fn memory(&self) -> u64 {
        self.stage.engine.limits(&ContainerId("pg-server-1".to_owned())).memory / MIB
    }
}

const UPGRADE: [&str; 5] = ["services", "upgrade", "pg", "--memory", "256MiB"];

#[tokio::test]
async fn a_server_that_does_not_answer_after_an_upgrade_is_what_it_was_before() {
    let (desk, moody) = desk().await;
    let before = desk.outfit().await;
    moody.next([Mood::Refuses]);
    let (code, said) = desk.command(&UPGRADE).await;
    assert!(code == 1 && said.contains("has no room left on its disk"), "{said}");
    assert!(said.contains("hint: it is what it was before, and answers"), "{said}");
    assert_eq!((desk.outfit().await, desk.memory()), (before, 192));

    moody.next([Mood::Refuses, Mood::Refuses]);
    let (code, said) = desk.command(&UPGRADE).await;
    assert!(code == 1 && said.contains("hint: what it was before does not answer either: server `pg` at"), "{said}");
    assert_eq!((desk.outfit().await, desk.memory()), (before, 192));

    let (code, said) = desk.command(&UPGRADE).await;
    assert!(code == 0 && said.contains("server `pg` is postgres 17.6 at"), "{said}");
    let after = desk.outfit().await;
    assert!(after.edition > before.edition, "{after:?}");
    assert_eq!((after.share, desk.memory()), (Share { memory: 256 * MIB, ..before.share }, 256));
}

#[tokio::test]
async fn an_upgrade_that_is_cut_off_is_taken_back_by_whoever_keeps_servers_and_no_other_one_begins_meanwhile() {
    let (desk, moody) = desk().await;
    let before = desk.outfit().await;
    moody.next([Mood::Hangs]);
    {
        let mut upgrade = std::pin::pin!(desk.command(&UPGRADE));
        tokio::select! {
            ended = &mut upgrade => panic!("it has ended: {ended:?}"),
            () = desk.stage.wait_until("the new one runs", async || desk.memory() == 256) => {}
        }
        // Who keeps servers keeps it as it is tried.
        managed::keep_all(&desk.stage.loft.parts).await;
        assert_eq!(desk.memory(), 256);
        let (code, said) = desk.command(&UPGRADE).await;
        assert!(code == 1 && said.contains("server `pg` is being upgraded already"), "{said}");
        assert_eq!(desk.outfit().await, before, "it has not answered yet");
    }
    managed::keep_all(&desk.stage.loft.parts).await;
    assert_eq!((desk.outfit().await, desk.memory()), (before, 192));
}

#[tokio::test]
async fn a_server_is_not_given_less_than_its_data_take() {
    let (desk, _) = desk().await;
    let before = desk.outfit().await;
    let (row, volume) = (desk.stage.store().server("pg").await.unwrap().unwrap(), managed::volume);
    desk.stage.engine.grow_volume(&volume(&row.managed.unwrap()), Usage { bytes: 101 * MIB, inodes: 1 });
    let (code, said) = desk.command(&["services", "upgrade", "pg", "--disk", "100MiB"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("the data on server `pg` take 101.0 MiB, which is more than 100MiB"), "{said}");
    assert_eq!(desk.outfit().await, before);
    assert_eq!(desk.command(&["services", "upgrade", "pg", "--disk", "102MiB"]).await.0, 0);
}
