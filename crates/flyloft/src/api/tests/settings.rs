//! Settings on their levels, and what they do.

use flyloft_core::policy::Settings;

use super::*;
use crate::deploy::Again;
use crate::loft::stage::content;
use crate::store::Content;

fn settings(text: &str) -> Settings {
    let mut settings = Settings::default();
    text.split(' ').for_each(|assignment| settings.assign(assignment).unwrap());
    settings
}

/// With a release whose `app.json` asks for this.
async fn asking(text: &str) -> Desk {
    let desk = Desk::new().await;
    let content = Content { settings: settings(text), ..content(&[("web", "serve")]) };
    desk.stage.launch_content(Again::Rollback, content).await.unwrap();
    desk
}

fn bot() -> Principal {
    Principal { name: "bot".to_owned(), role: Role::Deployer { apps: vec![AppName::parse("shop").unwrap()] } }
}

#[tokio::test]
async fn settings_come_from_the_highest_level_and_app_json_gets_no_more_than_the_server_gives() {
    let desk = asking("idle=5m ttl=never memory=8GiB pids=64").await;
    let (code, said) = desk.command(&["apps", "set", "shop", "ttl=2h"]).await;
    assert_eq!(code, 0, "{said}");
    insta::assert_snapshot!(desk.command(&["set", "shop/main", "memory=512M", "expire=never"]).await.1, @r"
    SETTING     VALUE   FROM
    idle        5m      app.json
    ttl         2h      app
    expire      never   environment
    memory      512MiB  environment
    swap        1GiB    built in
    pids        64      app.json
    cpu_weight  100     built in
    disk        5GiB    built in
    inodes      500000  built in
    services    none    built in
    gate        public  server
    memory: from the next launch on, or at once: flyloft restart shop/main
    ");
    let (_, json) = desk.command(&["set", "--json", "shop/main", "memory="]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["settings"]["memory"], serde_json::json!({ "value": "1GiB", "from": "app.json" }));
    assert_eq!(json["at_next_launch"], serde_json::json!(["memory"]));

    let events = desk.command(&["events", "shop/main", "--json"]).await.1;
    assert!(events.contains("settings-changed") && events.contains("memory=512M expire=never"), "{events}");
}

#[tokio::test]
async fn a_new_setting_holds_at_once_for_when_it_sleeps_and_at_the_next_launch_for_what_it_may_take() {
    let desk = asking("idle=5m").await;
    let (env, _) = desk.stage.env().await;
    let container = env.live.unwrap().container;
    let limits = || desk.stage.engine.limits(&container);
    assert_eq!(limits().memory, 1 << 30);
    // Nobody has used it for longer than that by the time that it is looked at.
    desk.stage.loft.parts.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(desk.stage.state().await, "awake v1");
    assert_eq!(desk.command(&["apps", "set", "shop", "idle=30s", "memory=256MiB"]).await.0, 0);
    desk.stage.wait_for_state("asleep v1").await;
    assert_eq!(limits().memory, 1 << 30);
    assert_eq!(desk.command(&["restart", "shop/main"]).await.0, 0);
    let (env, _) = desk.stage.env().await;
    assert_eq!(desk.stage.engine.limits(&env.live.unwrap().container).memory, 256 << 20);
}

#[tokio::test]
async fn a_deployer_sets_what_the_server_gives_and_an_admin_more() {
    let desk = Desk::new().await;
    let bot = bot();
    assert_eq!(desk.command_by(&bot, &["set", "shop/main", "idle=5m", "memory=512MiB"]).await.0, 0);
    let mut said = String::new();
    for more in ["memory=2GiB", "expire=never"] {
        for words in [&["set", "shop/main", more][..], &["apps", "set", "shop", more]] {
            let (code, text) = desk.command_by(&bot, words).await;
            assert_ne!(code, 0, "{words:?}");
            if words[0] == "set" {
                said += &text;
            }
        }
    }
    insta::assert_snapshot!(said, @r"
    error: `memory=2GiB` is more than the server gives, which is 1GiB
      hint: key `bot` is not an admin's; an admin may set it
    error: `expire=never` is more than the server gives, which is 14d
      hint: key `bot` is not an admin's; an admin may set it
      hint: `flyloft pin` and `flyloft extend` keep one environment longer
    ");
    assert_eq!(desk.command(&["set", "shop/main", "memory=2GiB", "expire=never"]).await.0, 0);
    let (code, _) = desk.command_by(&bot, &["set", "blog/main", "idle=5m"]).await;
    assert_ne!(code, 0);
}

#[tokio::test]
async fn what_is_no_setting_is_refused_in_words() {
    let desk = Desk::new().await;
    let (code, said) = desk.command(&["set", "shop/main", "idel=5m"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("there is no setting `idel`; there are `idle`, `ttl`"), "{said}");
    let (code, said) = desk.command(&["set", "shop/main", "idle=5m", "ttl=2h", "idle=6m"]).await;
    assert!(code == 2 && said.contains("`idle` is set twice"), "{said}");
    let (_, said) = desk.command(&["set", "shop/main", "idle=soon"]).await;
    assert!(said.contains("`soon` is not a span of time"), "{said}");
}

#[tokio::test]
async fn a_setting_that_destroys_what_is_there_is_asked_about_and_names_it() {
    let desk = Desk::new().await;
    for name in ["one", "two"] {
        desk.stage.branch(name).await;
    }
    assert_eq!(desk.command(&["set", "shop/two", "expire=30d"]).await.0, 0);
    desk.stage.loft.parts.clock.advance(std::time::Duration::from_secs(3600));
    desk.stage.branch("new").await;
    let set = async |words: &[&str]| desk.command(words).await;
    let refused = set(&["apps", "set", "shop", "expire=30m", "idle=1m"]).await;
    assert_eq!(refused.0, 2);
    insta::assert_snapshot!(refused.1, @r"
    error: there is no terminal to ask: with `expire=30m idle=1m` time destroys `shop/main` and `shop/one` at once. Go on?
      hint: say --yes
    ");
    assert_eq!(set(&["set", "shop/two", "expire=1s"]).await.0, 2);
    assert_eq!(set(&["set", "shop/two", "expire=2h"]).await.0, 0, "nothing goes at once");
    assert_eq!(set(&["apps", "set", "shop", "expire=30m", "--yes"]).await.0, 0);
    desk.stage
        .wait_until("those go", async || {
            let mut left: Vec<_> =
                desk.stage.store().environments(None).await.unwrap().iter().map(|env| env.name.to_string()).collect();
            left.sort();
            left == ["shop/new", "shop/two"]
        })
        .await;
    // What is gone by then anyway is nobody's choice.
    let (_, said) = set(&["set", "shop/two", "expire="]).await;
    assert!(said.contains("time destroys `shop/two` at once"), "{said}");
}
