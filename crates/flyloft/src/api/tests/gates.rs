//! Who may look, as people set it, and what opens a gate.

use flyloft_core::gate::{self, Guard, Request, Verdict};

use super::*;
use crate::store;

impl Desk {
    /// Who keeps the gate of the environment at the edge.
    async fn guard(&self) -> Option<Arc<Guard>> {
        let (env, _) = self.stage.env().await;
        self.stage.door.guard_of(&env.host)
    }

    async fn done(&self, words: &[&str]) -> String {
        let (code, said) = self.command(words).await;
        assert_eq!(code, 0, "{said}");
        said
    }
}

/// What a guard says to somebody who comes with this target.
fn verdict(guard: &Guard, target: &str) -> Verdict {
    let address = "203.0.113.7".parse().unwrap();
    let request =
        Request { address, secure: false, follows: true, navigates: false, target, bypass: None, authorization: None };
    guard.judge(&request, [], (store::now() / 1000) as u64)
}

/// An environment that serves, whose gate is opened by links.
async fn linked() -> Desk {
    let desk = Desk::new().await;
    desk.stage.launch_content(Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    desk.done(&["set", "shop/main", "gate=link"]).await;
    desk
}

#[tokio::test]
async fn a_gate_that_is_set_is_kept_at_once_and_so_is_that_of_what_comes_later() {
    let desk = Desk::new().await;
    desk.stage.launch_content(Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    assert!(desk.guard().await.is_none());
    let said = desk.done(&["apps", "set", "shop", "gate=ip:192.0.2.1"]).await;
    assert!(said.contains("ip:192.0.2.1") && !said.contains("next launch"), "{said}");
    assert!(matches!(verdict(&desk.guard().await.unwrap(), "/"), Verdict::Refused(_)));
    desk.done(&["set", "shop/main", "gate=public"]).await;
    assert!(desk.guard().await.is_none());
    desk.done(&["set", "shop/main", "gate="]).await;
    assert!(desk.guard().await.is_some());
    desk.stage.launch_content(Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    assert!(desk.guard().await.is_some());
    let (code, said) = desk.command(&["set", "shop/main", "gate=open"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("`gate`: `open` is no gate"), "{said}");
}

#[tokio::test]
async fn a_gate_that_asks_for_a_login_is_not_set_where_nobody_can_log_in() {
    let desk = linked().await;
    for words in [&["set", "shop/main", "gate=sso"][..], &["apps", "set", "shop", "gate=sso"]] {
        let (code, said) = desk.command(words).await;
        assert!(code == 2 && said.contains("on this server nobody can") && said.contains("`[sso]`"), "{said}");
    }
    assert!(matches!(verdict(&desk.guard().await.unwrap(), "/"), Verdict::Refused(gate::Refusal::NoLink)));
}

#[tokio::test]
async fn whoever_logs_in_is_told_of_once_for_each_environment() {
    let desk = linked().await;
    let name = EnvRef::parse("shop/main").unwrap();
    for who in ["ann@example.org", "bo@example.org", "ann@example.org"] {
        desk.stage.store().tell_first_login(&name, who, store::now()).await.unwrap();
    }
    let events = desk.done(&["events", "shop/main"]).await;
    for who in ["ann", "bo"] {
        assert_eq!(
            events.matches(&format!("logged-in by {who}@example.org for the first time")).count(),
            1,
            "{events}"
        );
    }
}

#[tokio::test]
async fn a_link_opens_the_gate_until_it_is_revoked() {
    let desk = linked().await;
    let url = desk.done(&["share", "shop/main", "--for", "2d"]).await;
    let target = url.trim().strip_prefix("http://shop-main.localhost").unwrap();
    let Verdict::Enter { cookie, to } = verdict(&desk.guard().await.unwrap(), target) else { panic!("{url}") };
    assert!(cookie.contains("; Max-Age=172800; ") || cookie.contains("; Max-Age=172799; "), "{cookie}");
    assert_eq!(to, "/");
    let token = desk.done(&["gate", "token", "shop/main"]).await;
    let bypass = format!("/?flyloft-bypass={}", token.trim());
    assert_eq!(verdict(&desk.guard().await.unwrap(), &bypass), Verdict::Pass);

    let said = desk.done(&["share", "shop/main", "--revoke"]).await;
    assert!(said.contains("no link to `shop/main` opens it any more"), "{said}");
    for target in [target, &bypass] {
        assert!(matches!(verdict(&desk.guard().await.unwrap(), target), Verdict::Refused(_)));
    }
    let again = desk.done(&["share", "shop/main"]).await;
    let target = again.trim().strip_prefix("http://shop-main.localhost").unwrap();
    assert!(matches!(verdict(&desk.guard().await.unwrap(), target), Verdict::Enter { .. }));
    let events = desk.done(&["events", "shop/main"]).await;
    assert!(events.contains("shared by ada a link for 2d") && events.contains("links-revoked by ada"), "{events}");
}

#[tokio::test]
async fn no_link_is_made_where_it_would_open_nothing_or_for_ever() {
    let desk = linked().await;
    for span in ["never", "0s", "367d"] {
        let (code, said) = desk.command(&["share", "shop/main", "--for", span]).await;
        assert!(code == 2 && said.contains("366d at most"), "{said}");
    }
    desk.done(&["set", "shop/main", "gate=public"]).await;
    let (code, said) = desk.command(&["share", "shop/main"]).await;
    assert!(code == 1 && said.contains("`shop/main` is public, so there is nothing to open"), "{said}");
    desk.done(&["set", "shop/main", "gate=ip:192.0.2.1"]).await;
    let (code, said) = desk.command(&["share", "shop/main"]).await;
    assert!(code == 1 && said.contains("is not opened by links: its gate is `ip:192.0.2.1`"), "{said}");
}

#[tokio::test]
async fn only_who_may_use_an_app_opens_its_gates() {
    let desk = linked().await;
    let bot =
        Principal { name: "bot".to_owned(), role: Role::Deployer { apps: vec![AppName::parse("blog").unwrap()] } };
    for words in [&["share", "shop/main"][..], &["share", "shop/main", "--revoke"], &["gate", "token", "shop/main"]] {
        let (code, said) = desk.command_by(&bot, words).await;
        assert!(code == 1 && !said.contains("flyloft-link") && said.contains("shop"), "{said}");
    }
}

#[tokio::test]
async fn a_password_is_set_for_an_app_and_shuts_what_the_one_before_has_opened() {
    let desk = linked().await;
    let set = async |password: &str| desk.command_with(&["gate", "password", "shop"], password).await;
    let (code, said) = set("short\n").await;
    assert!(code == 2 && said.contains("8 characters at least"), "{said}");
    let (code, said) = set("correct horse\n").await;
    assert!(code == 0 && said.contains("no gate asks for it yet: flyloft apps set shop gate=password"), "{said}");
    desk.done(&["set", "shop/main", "gate=password"]).await;
    let before = desk.guard().await.unwrap();
    assert!(before.finds(b"correct horse") && !before.finds(b"correct horse\n"));
    let (code, said) = set("another horse").await;
    assert!(code == 0 && said == "`shop` has another password\n", "{said}");
    let after = desk.guard().await.unwrap();
    assert!(after.finds(b"another horse") && !after.finds(b"correct horse"));
    let events = desk.done(&["events", "shop"]).await;
    assert!(events.contains("the password of its gates") && !events.contains("horse"), "{events}");
}
