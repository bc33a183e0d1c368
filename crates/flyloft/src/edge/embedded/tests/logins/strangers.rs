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
