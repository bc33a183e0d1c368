//! What `why`, `ls` and `stats` say of environments in each state.

use std::time::Duration;

use flyloft_core::lifecycle::{Depth, Event};
use flyloft_core::policy::Excess;

use super::*;
use crate::conductor::Conductor;
use crate::engine::Kept;
use crate::store::{SeenRow, WakeRow};

impl Desk {
    /// With a release that serves.
    async fn deployed() -> (Self, Conductor) {
        let desk = Self::new().await;
        desk.stage.deploy().await.unwrap();
        let (_, conductor) = desk.stage.env().await;
        (desk, conductor)
    }

    /// Without the lines that are the same every time.
    async fn why(&self) -> String {
        let (code, said) = self.command(&["why", "shop/main"]).await;
        assert_eq!(code, 0, "{said}");
        said.lines().filter(|line| !line.starts_with("  settings")).map(|line| format!("{line}\n")).collect()
    }

    fn pass(&self, time: Duration) {
        self.stage.loft.parts.clock.advance(time);
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_is_awake_says_who_uses_it_and_when_it_falls_asleep() {
    let (desk, conductor) = Desk::deployed().await;
    desk.pass(3 * MINUTE);
    insta::assert_snapshot!(desk.command(&["why", "shop/main"]).await.1, @r"
    shop/main
      state      awake v1, for 3 min
      why        it was used 3 min ago by the deploy of v1, and its `idle` is 15m
      memory     32.0 MiB held
      next       asleep in 12 min, if nobody uses it
      settings   idle=15m (server) ttl=4h (server) expire=14d (server) memory=1GiB swap=1GiB pids=512 cpu_weight=100 disk=5GiB inodes=500000 services=none gate=public (server)
    ");
    *desk.stage.door.unused_for.lock().unwrap() = Some(Duration::ZERO);
    *desk.stage.door.last_user.lock().unwrap() = Some("GET /cart from 203.0.113.7".into());
    let _in_use = conductor.begin_use("`flyloft run` by ada");
    conductor.tell(Event::Pin).await.unwrap();
    insta::assert_snapshot!(desk.why().await, @r"
    shop/main
      state      awake v1, pinned, for 3 min
      why        a request is under way; the last that came is GET /cart from 203.0.113.7
                 `flyloft run` by ada runs in it
                 it is pinned: time neither turns it off nor destroys it
      memory     32.0 MiB held
      next       asleep in 15 min, if nobody uses it
    ");
}

#[tokio::test]
async fn what_stays_awake_says_who_used_it_last_and_what_kept_it_from_its_sleep() {
    let (desk, _) = Desk::deployed().await;
    desk.stage.engine.set_unfreezable(true);
    assert_ne!(desk.command(&["sleep", "shop/main"]).await.0, 0);
    desk.pass(3 * MINUTE);
    *desk.stage.door.unused_for.lock().unwrap() = Some(2 * MINUTE);
    *desk.stage.door.last_user.lock().unwrap() = Some("GET /cart from 203.0.113.7".into());
    let why = desk.why().await;
    let told = "  why        it was used 2 min ago by GET /cart from 203.0.113.7, and its `idle` is 15m\n             it was to \
                fall asleep 3 min ago and stayed awake: container `shop-main-1-1` cannot be frozen now";
    assert!(why.contains(told) && why.contains("asleep in 13 min, if nobody uses it"), "{why}");
    let json: serde_json::Value = serde_json::from_str(&desk.command(&["why", "--json", "shop/main"]).await.1).unwrap();
    assert_eq!(json["last_user"], "GET /cart from 203.0.113.7");

    // The next daemon knows when, and that is all.
    *desk.stage.door.unused_for.lock().unwrap() = None;
    let next = crate::loft::Loft::new(desk.stage.loft.parts.clone());
    let desk = Desk { api: Api::new(next.into()), ..desk };
    let why = desk.why().await;
    let told = "  why        it was used 3 min ago, and its `idle` is 15m\n             it was to fall asleep 3 min ago and \
                could not; `flyloft events shop/main` says why\n";
    assert!(why.contains(told), "{why}");
}

#[tokio::test]
async fn a_command_that_has_ended_is_who_used_it_last() {
    let (desk, conductor) = Desk::deployed().await;
    desk.pass(MINUTE);
    drop(conductor.begin_use("`flyloft shell` by grace"));
    desk.pass(3 * MINUTE);
    assert!(desk.why().await.contains("why        it was used 3 min ago by `flyloft shell` by grace, and its"));
}

#[tokio::test]
async fn what_sleeps_says_what_it_holds_and_what_it_held() {
    let (desk, conductor) = Desk::deployed().await;
    conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
    conductor.at_rest().await.unwrap();
    desk.pass(4 * MINUTE);
    insta::assert_snapshot!(desk.why().await, @r"
    shop/main
      state      asleep v1, for 4 min
      why        nobody uses it; a visit wakes it
      memory     13.4 MiB held, 32.0 MiB when it was last awake
                 1.0 MiB as it is, 31.0 MiB compressed to 12.4 MiB
      next       deep asleep in 56 min, if nobody uses it
    ");
    desk.stage.engine.keep(Some(Kept::NoDisk));
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    insta::assert_snapshot!(desk.why().await, @r"
    shop/main
      state      deep asleep v1, for 4 min
      why        nobody uses it; a visit wakes it
      memory     32.0 MiB held, 32.0 MiB when it was last awake
                 32.0 MiB as it is
                 not less, since compressed memory cannot be written out to a disk here
      next       off in 4 h, if nobody uses it
    ");
    let json: serde_json::Value = serde_json::from_str(&desk.command(&["why", "--json", "shop/main"]).await.1).unwrap();
    assert_eq!(json["state"], "asleep");
    assert_eq!(json["memory"]["awake"], 32 << 20);
    assert_eq!(json["next"]["step"], "off");
    assert_eq!(json["settings"]["idle"]["from"], "server");
}

#[tokio::test]
async fn what_was_woken_says_by_whom_and_how_long_each_part_took() {
    let (desk, conductor) = Desk::deployed().await;
    conductor.tell(Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    desk.pass(5 * MINUTE);
    conductor.visit("GET /cart from 203.0.113.7".to_owned()).await;
    desk.stage.wait_for_state("awake v1").await;
    let (env, _) = desk.stage.env().await;
    desk.stage.wait_until("a record", async || !desk.stage.store().wakes(env.id).await.unwrap().is_empty()).await;
    let said = desk.why().await;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(" ms")).collect();
    assert!(lines[0].starts_with("  woken      0 s ago from off by GET /cart from 203.0.113.7, ready in "), "{said}");
    assert!(lines[1].contains(" until its turn, ") && lines[1].ends_with(" until it was ready"), "{said}");
    assert_eq!(lines.len(), 2, "nobody has seen more: {said}");
    let json: serde_json::Value = serde_json::from_str(&desk.command(&["why", "--json", "shop/main"]).await.1).unwrap();
    let ms = |key: &str| json["woken"][key].as_f64().unwrap();
    assert!(ms("total_ms") > 0.0 && ms("ready_ms") <= ms("total_ms"));
    assert!(json["woken"]["answered_ms"].is_null(), "{json}");
    let wakes = desk.stage.store().wakes(env.id).await.unwrap();
    assert!(wakes[0].slept >= 5 * MINUTE && wakes[0].slept < 6 * MINUTE, "{:?}", wakes[0].slept);
}

#[tokio::test]
async fn what_a_visitor_saw_of_a_wake_is_told_part_by_part() {
    let (desk, _) = Desk::deployed().await;
    let ms = Duration::from_millis;
    let store = desk.stage.store();
    let woken = async |seen: SeenRow, answered: Option<Duration>, failure: Option<&str>| {
        let wake = WakeRow {
            at: crate::store::now(),
            by: "GET / from 203.0.113.7".to_owned(),
            was: "deep".to_owned(),
            admitted: ms(1),
            queued: ms(2),
            started: ms(10),
            ready: Duration::ZERO,
            seen: SeenRow::default(),
            total: ms(13),
            failure: failure.map(str::to_owned),
            slept: 5 * MINUTE,
        };
        let wake = store.add_wake(desk.stage.env().await.0.id, wake).await.unwrap();
        store.complete_wake(wake, seen, answered).await.unwrap();
        let said = desk.why().await;
        let lines =
            said.lines().skip_while(|line| !line.starts_with("  woken")).take_while(|line| !line.contains("MiB"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let connected = SeenRow { passed: Some(ms(1)), connected: Some(ms(2)), ..SeenRow::default() };
    let (prefetched, released) = (Some(ms(4)), Some(ms(8)));
    let answered = SeenRow { answered: Some(ms(5)), prefetched, released, ..connected };
    insta::assert_snapshot!(woken(answered, Some(ms(21)), None).await, @r"
      woken      0 s ago from deep sleep by GET / from 203.0.113.7, answered in 21 ms
                 1 ms until there was room, 2 until its turn, 10 until it ran, 0 until it was ready
                 then 1 until its visitor was let through, 2 until it was connected, 5 until its answer began
                 beside that its memory was back after 4 ms, its parent processes went on after 8 ms
    ");
    insta::assert_snapshot!(woken(connected, None, None).await, @r"
      woken      0 s ago from deep sleep by GET / from 203.0.113.7, ready in 13 ms
                 1 ms until there was room, 2 until its turn, 10 until it ran, 0 until it was ready
                 then 1 until its visitor was let through, 2 until it was connected, and no answer was seen
    ");
    insta::assert_snapshot!(woken(SeenRow::default(), None, Some("it fell")).await, @r"
      woken      0 s ago from deep sleep by GET / from 203.0.113.7, given up after 13 ms
                 1 ms until there was room, 2 until its turn, 10 until it ran, 0 until it was ready
                 in vain: it fell
    ");
}

#[tokio::test]
async fn steps_that_are_taken_by_hand_say_what_has_come_of_them() {
    let (desk, _) = Desk::deployed().await;
    for (words, answer) in [
        (&["sleep", "shop/main"][..], "`shop/main` is asleep\n"),
        (&["sleep", "--deep", "shop/main"], "`shop/main` is deep asleep\n"),
        (&["sleep", "shop/main"], "`shop/main` is deep asleep already\n"),
        (&["unpin", "shop/main"], "`shop/main` was not pinned\n"),
        (&["off", "shop/main"], "`shop/main` is off\n"),
        (&["pin", "shop/main"], "`shop/main` is pinned\n"),
        (&["off", "shop/main"], "`shop/main` is off already, and still pinned: time does not destroy it\n"),
        (&["unpin", "shop/main"], "`shop/main` is not pinned any more\n"),
    ] {
        assert_eq!(desk.command(words).await, (0, answer.to_owned()));
    }
}

#[tokio::test]
async fn what_is_off_says_why_and_what_to_do() {
    let desk = Desk::new().await;
    insta::assert_snapshot!(desk.why().await, @r"
    shop/main
      state      none
      why        nothing of it has been deployed yet
      memory     nothing is held
      next       destroyed in 14 d, if nobody uses it
    ");
    desk.stage.deploy().await.unwrap();
    let (env, conductor) = desk.stage.env().await;
    conductor.tell(Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    conductor.tell(Event::Pin).await.unwrap();
    insta::assert_snapshot!(desk.why().await, @r"
    shop/main
      state      off v1, pinned, for 0 s
      why        somebody turned it off; a visit starts it
                 it is pinned: time neither turns it off nor destroys it
      memory     nothing is held, 32.0 MiB when it was last awake
      next       never, since it is pinned
    ");
    desk.stage.engine.fail("start", 1);
    conductor.wake("ada").await.unwrap();
    assert_eq!(conductor.settled().await.to_string(), "off v1 (crashed), pinned");
    let why = desk.why().await;
    assert!(why.contains("it ended, or did not answer when it was woken; a visit tries again"), "{why}");
    assert!(why.contains("next       started again in ") && why.contains(" s, if nobody uses it before"), "{why}");
    desk.stage.engine.stop_for(&env.live.unwrap().container, Excess::Disk);
    desk.stage.loft.reconcile().await.unwrap();
    let over = async || conductor.state().to_string() == "off v1 (over its disk limit), pinned";
    desk.stage.wait_until("it is over", over).await;
    assert!(desk.why().await.contains(
        "why        it has outgrown its disk limit; its limit is 5GiB, `flyloft set shop/main disk=SIZE` sets another; \
         `flyloft restart shop/main` starts it with a fresh disk"
    ));
}

#[tokio::test]
async fn lists_show_what_is_held_without_asking_the_engine_about_those_that_sleep() {
    let (desk, conductor) = Desk::deployed().await;
    let ls = async || desk.command(&["ls"]).await.1;
    insta::assert_snapshot!(ls().await, @r"
    ENVIRONMENT  STATE     MEMORY    AWAKE  AGE  URL
    shop/main    awake v1  32.0 MiB  -      0 s  http://shop-main.localhost
    ");
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    desk.pass(MINUTE);
    let looks = desk.stage.engine.looks();
    insta::assert_snapshot!(ls().await, @r"
    ENVIRONMENT  STATE           MEMORY   AWAKE     AGE  URL
    shop/main    deep asleep v1  1.0 MiB  32.0 MiB  0 s  http://shop-main.localhost
    ");
    assert_eq!(desk.stage.engine.looks(), looks);
    insta::assert_snapshot!(desk.command(&["stats", "shop"]).await.1, @r"
    ENVIRONMENT  STATE   MEMORY   AWAKE     WAKES TODAY  P50  P99  ASLEEP
    shop/main    asleep  1.0 MiB  32.0 MiB  0            -    -    100 %
    ");
    assert_eq!(desk.stage.engine.looks(), looks);
    conductor.visit("GET /".to_owned()).await;
    desk.stage.wait_for_state("awake v1").await;
    let (env, _) = desk.stage.env().await;
    desk.stage.wait_until("a record", async || !desk.stage.store().wakes(env.id).await.unwrap().is_empty()).await;
    let json: serde_json::Value = serde_json::from_str(&desk.command(&["stats", "--json"]).await.1).unwrap();
    let item = &json["environments"][0];
    assert_eq!((&item["wakes_today"], &item["state"]), (&1.into(), &"awake".into()));
    assert_eq!(item["wake_p50_ms"], item["wake_p99_ms"]);
}

#[tokio::test]
async fn a_thousand_sleepers_are_listed_without_asking_the_engine_about_one() {
    let (desk, conductor) = Desk::deployed().await;
    conductor.tell(Event::Sleep { depth: Depth::Deep }).await.unwrap();
    conductor.at_rest().await.unwrap();
    desk.stage.multiply(1000).await;
    let looks = desk.stage.engine.looks();
    let (code, said) = desk.command(&["ls"]).await;
    assert_eq!((code, said.lines().filter(|line| line.contains("deep asleep v1  1.0 MiB")).count()), (0, 1000));
    assert_eq!(desk.stage.engine.looks(), looks);
}

#[tokio::test]
async fn what_was_taken_off_the_disk_says_so_everywhere() {
    let (desk, conductor) = Desk::deployed().await;
    conductor.tell(Event::Off).await.unwrap();
    conductor.tell(Event::Clear).await.unwrap();
    conductor.at_rest().await.unwrap();
    let why = desk.why().await;
    assert!(why.contains("  state      off v1 (to be built anew), for "), "{why}");
    let because = "somebody turned it off; its disk was given up to make room, and a visit builds it anew";
    assert!(why.contains(because), "{why}");
    let (_, shown) = desk.command(&["show", "shop/main"]).await;
    assert!(shown.contains("  disk       given up to make room; a visit builds it anew\n"), "{shown}");
    assert!(desk.command(&["ls"]).await.1.contains("off v1 (to be built anew)"));
    assert!(desk.command(&["ls", "--json"]).await.1.contains("\"to_be_built\": true"));
}
