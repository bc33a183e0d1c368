//! Who wakes an environment, and who does not.

use super::*;

const BOT: &str = "GET / HTTP/1.1\nHost: shop.test\nUser-Agent: Slackbot-LinkExpanding 1.0\n\n";

#[tokio::test]
async fn a_link_preview_does_not_wake_what_is_asleep() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let answer = stage.ask(BOT).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nretry-after: 3600\n"), "{answer}");
    assert!(answer.contains("shop/main is asleep\n"), "{answer}");
    assert!(visitors.try_recv().is_err());
    assert_eq!(stage.edge.unused_for("shop.test"), None);
}

#[tokio::test]
async fn a_link_preview_sees_what_is_awake_and_does_not_keep_it_so() {
    let stage = Stage::new().app(echo_head).await;
    assert!(stage.ask(BOT).await.starts_with("HTTP/1.1 200 OK\n"));
    assert_eq!(stage.edge.unused_for("shop.test"), None);
    assert_eq!(stage.edge.usage("shop.test").unwrap().answers, [0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn the_configuration_says_who_else_is_no_visitor() {
    let (stage, mut visitors) = Stage::asleep(|config| config.quiet_agents = vec!["UptimeRobot".into()]).await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\nUser-Agent: Mozilla/5.0+(uptimerobot/2.0)\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(visitors.try_recv().is_err());
}

#[tokio::test]
async fn crawlers_are_told_to_stay_away_by_the_edge_itself() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let app = App::start(echo_head).await;
    stage.route("awake.test", app.address).await;
    for host in ["shop.test", "AWAKE.test"] {
        let answer = stage.ask(&format!("GET /robots.txt HTTP/1.1\nHost: {host}\nAccept: text/html\n\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\ncontent-type: text/plain"), "{answer}");
        assert!(answer.ends_with("\n\nUser-agent: *\nDisallow: /\n"), "{answer}");
        assert_eq!(stage.edge.unused_for(host), None);
    }
    assert!(visitors.try_recv().is_err());
    let unknown = stage.ask("GET /robots.txt HTTP/1.1\nHost: nobody.test\n\n").await;
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
}

#[tokio::test]
async fn the_icon_of_a_bookmark_does_not_wake_anything() {
    let (stage, mut visitors) = Stage::asleep(|_| {}).await;
    let icon = "GET /favicon.ico HTTP/1.1\nHost: shop.test\n\n";
    assert!(stage.ask(icon).await.starts_with("HTTP/1.1 503 "));
    assert!(visitors.try_recv().is_err());
    let app = App::start(echo_head).await;
    stage.route("shop.test", app.address).await;
    assert!(stage.ask(icon).await.starts_with("HTTP/1.1 200 OK\n"));
}
