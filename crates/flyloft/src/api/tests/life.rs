//! What people are told who have an environment step down, and somebody else wants otherwise.

use std::time::Duration;

use super::*;
use crate::conductor::Conductor;

impl Desk {
    /// Whose requests do not end.
    async fn busy(patience: Duration) -> (Self, Conductor) {
        let desk = Self::new().await;
        desk.stage.deploy().await.unwrap();
        let (_, conductor) = desk.stage.env().await;
        *desk.stage.door.patience.lock().unwrap() = patience;
        desk.stage.door.busy.send_replace(true);
        (desk, conductor)
    }

    /// What a command says whose effect somebody undoes who comes while requests end.
    async fn undone(&self, conductor: &Conductor, words: &[&str]) -> (i32, String) {
        let visited = async {
            let rests = async || conductor.rests_since().is_some();
            self.stage.wait_until("it steps down", rests).await;
            conductor.visit("GET /".to_owned()).await;
        };
        tokio::join!(self.command(words), visited).0
    }
}

#[tokio::test]
async fn whoever_has_it_sleep_learns_what_keeps_it_awake() {
    let (desk, conductor) = Desk::busy(Duration::from_millis(20)).await;
    let (code, said) = desk.command(&["sleep", "shop/main"]).await;
    assert_ne!(code, 0);
    insta::assert_snapshot!(said, @r"
    error: `shop/main` is awake: a request is under way, and has not come to its end within 30 s
      hint: try again when it has ended
      hint: `flyloft off shop/main` ends it, half a minute after it was asked for
    ");
    let _in_use = conductor.begin_use("`flyloft run` by ada");
    let (code, said) = desk.command(&["sleep", "shop/main"]).await;
    assert_ne!(code, 0);
    insta::assert_snapshot!(said, @r"
    error: `shop/main` is awake: a command of `flyloft run` or `flyloft shell` runs in it
      hint: try again when it has ended
    ");
    assert_eq!(desk.command(&["off", "shop/main"]).await, (0, "`shop/main` is off\n".to_owned()));
}

#[tokio::test]
async fn nobody_is_told_that_it_rests_where_somebody_came() {
    let (desk, conductor) = Desk::busy(Duration::MAX).await;
    for command in ["sleep", "off"] {
        let (code, said) = desk.undone(&conductor, &[command, "shop/main"]).await;
        assert_ne!(code, 0, "{said}");
        let told = said.strip_prefix("error: `shop/main` is awake: somebody came").or_else(|| {
            // It may not have come to its end.
            said.strip_prefix("error: `shop/main` is waking up: somebody came")
        });
        assert!(told.is_some_and(|told| told.contains("`flyloft why shop/main` says who")), "{said}");
        desk.stage.wait_for_state("awake v1").await;
    }
}

#[tokio::test]
async fn who_unpins_what_nobody_has_used_for_long_has_a_day_to_think_better_of_it() {
    let desk = Desk::new().await;
    let unpin = async || desk.command(&["unpin", "shop/main"]).await.1;
    assert_eq!(unpin().await, "`shop/main` was not pinned\n");
    desk.command(&["pin", "shop/main"]).await;
    assert_eq!(unpin().await, "`shop/main` is not pinned any more\n");
    desk.command(&["pin", "shop/main"]).await;
    desk.stage.loft.parts.clock.advance(Duration::from_secs(20 * 24 * 3600));
    assert_eq!(unpin().await, "`shop/main` is not pinned any more, and kept for 1d yet\n");
}

#[tokio::test]
async fn what_is_extended_falls_asleep_and_goes_no_further_before_its_time() {
    let desk = Desk::new().await;
    desk.stage.deploy().await.unwrap();
    let (_, conductor) = desk.stage.env().await;
    for (words, answer) in [
        (&["extend", "shop/main"][..], "`shop/main` is kept for 1d more\n"),
        (&["extend", "shop/main", "2d"], "`shop/main` is kept for 2d more\n"),
        (&["extend", "shop/main", "3h"], "`shop/main` is kept for longer than that already\n"),
    ] {
        assert_eq!(desk.command(words).await, (0, answer.to_owned()));
    }
    for span in ["0s", "never"] {
        let (code, said) = desk.command(&["extend", "shop/main", span]).await;
        assert!(code != 0 && said.contains("`flyloft pin shop/main` keeps it for good"), "{said}");
    }
    assert!(desk.command(&["why", "shop/main"]).await.1.contains("it is kept for 2 d more, as if it were pinned\n"));
    for state in ["asleep v1", "off v1"] {
        desk.stage.loft.parts.clock.advance(Duration::from_secs(24 * 3600 + 1));
        // Upon any message it sees how late it is.
        conductor.transcript().await.unwrap();
        desk.stage.wait_for_state(state).await;
        conductor.at_rest().await.unwrap();
    }
}
