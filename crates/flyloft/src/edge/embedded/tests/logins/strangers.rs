//! Logins while others try to keep people from theirs, and while a provider does not answer.

use super::*;

#[tokio::test]
async fn a_login_is_asked_about_once_and_of_one_address_so_many_that_are_none() {
    let house = House::new().await;
    for _ in 0..30 {
        house.browser().logs_in("http://shop.test/").await;
    }
    house.provider.script().answers = Some(("/token", 400, r#"{"error":"invalid_grant"}"#));
    let before = house.provider.times("/token");
    let mut browser = house.browser();
    let asked = browser.leaves("http://shop.test/").await;
    for _ in 0..5 {
        let answer = browser.clone().returns(&asked).await;
        assert!(status(&answer) == "400" && answer.contains("Not this login"), "{answer}");
    }
    assert_eq!(house.provider.times("/token"), before + 1, "one login has come to an end after the other");
    let mut bad = 1;
    let refused = loop {
        let mut browser = house.browser();
        let asked = browser.leaves("http://shop.test/").await;
        let answer = browser.returns(&asked).await;
        match status(&answer) {
            "400" => bad += 1,
            _ => break answer,
        }
        assert!(bad < 1000, "there is no end of it");
    };
    assert!(bad >= 20 && status(&refused) == "429", "{bad}: {refused}");
    assert!(["1", "2", "3", "4"].contains(&header(&refused, "retry-after")), "{refused}");
    assert_eq!(house.provider.times("/token"), before + bad);
    house.provider.script().answers = None;
    house.browser_at("192.0.2.2").logs_in("http://shop.test/").await;
}

#[tokio::test]
async fn whoever_logs_in_gets_through_while_strangers_hold_all_that_they_may() {
    let house = House::new().await;
    house.provider.script().silent = Some("code=rubbish");
    let mut strangers = Vec::new();
    for (number, from) in ["203.0.113.66", "203.0.113.67", "2001:db8::66"].into_iter().cycle().take(30).enumerate() {
        let mut stranger = house.browser_at(from);
        let state = stranger.leaves("http://shop.test/").await["state"].clone();
        let url = format!("http://login.test/callback?code=rubbish{number}&state={state}");
        let mut client = house.stage.connect().await;
        client.say(&stranger.request(&url).replace('\n', "\r\n")).await;
        strangers.push(client);
    }
    eventually("each has as many turns as it may have", || house.provider.times("/token") == 12).await;
    in_time(house.browser_at("203.0.113.7").logs_in("http://shop.test/")).await;
    assert_eq!(house.provider.times("/token"), 13);
}

const WHAT_IT_IS: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn what_is_known_of_a_provider_holds_while_it_is_asked_again_and_does_not_answer() {
    let house = House::with(&[], &[], Patience { fresh: Duration::ZERO, ..PATIENCE }).await;
    house.browser().logs_in("http://shop.test/").await;
    eventually("it is asked again", || house.provider.times("/keys") == 2).await;
    house.provider.script().silent = Some(WHAT_IT_IS);
    let before = house.provider.times(WHAT_IT_IS);
    let begun = std::time::Instant::now();
    for _ in 0..5 {
        house.browser().logs_in("http://shop.test/").await;
    }
    assert!(begun.elapsed() < PATIENCE.answer, "somebody has waited for it");
    assert_eq!(house.provider.times(WHAT_IT_IS), before + 1, "one asks for all");
}

#[tokio::test]
async fn where_nothing_is_known_all_wait_for_the_same_answer() {
    let patience = Patience { answer: Duration::from_secs(1), ..PATIENCE };
    let house = House::with(&[], &[], patience).await;
    house.provider.script().silent = Some(WHAT_IT_IS);
    let visit = async || {
        let mut browser = house.browser();
        let sent = browser.visit("http://shop.test/").await;
        browser.visit(header(&sent, "location")).await
    };
    let answers = tokio::join!(visit(), visit(), visit());
    for answer in [answers.0, answers.1, answers.2] {
        assert_eq!(status(&answer), "504");
    }
    assert_eq!(house.provider.times(WHAT_IT_IS), 1);

    // What was known is too old by now.
    let old = House::with(&[], &[], Patience { fresh: Duration::ZERO, good: Duration::ZERO, ..patience }).await;
    old.browser().logs_in("http://shop.test/").await;
    old.provider.script().silent = Some(WHAT_IT_IS);
    let mut browser = old.browser();
    let sent = browser.visit("http://shop.test/").await;
    assert_eq!(status(&browser.visit(header(&sent, "location")).await), "504");
}
