//! Records in a real DNS server, knot.

use std::time::Duration;

use super::look::Sight;
use super::*;
use crate::acme_lab::{KEY, Knot};
use crate::config::{Algorithm, Rfc2136};
use crate::own_server::free_port;

const DOMAIN: &str = "staging.example.org";
const RECORD: &str = "_acme-challenge.staging.example.org";

pub fn update(knot: &Knot, zone: &str) -> Update {
    let config = Rfc2136 {
        server: knot.address(),
        key: KEY.to_owned(),
        secret: knot.secret(),
        algorithm: Algorithm::HmacSha256,
    };
    Update { zone: zone.to_owned(), config }
}

pub fn eyes(knot: &Knot) -> Eyes {
    Eyes { resolvers: vec![knot.address()] }
}

#[tokio::test]
async fn a_record_is_seen_where_it_is_and_leaves_others_of_its_name_alone() {
    let knot = Knot::start(DOMAIN, "");
    let (update, eyes) = (update(&knot, DOMAIN), eyes(&knot));
    let missing = Sight::Missing { server: knot.address() };
    assert_eq!(eyes.look(RECORD, "one").await, missing);
    for value in ["one", "other", "one"] {
        update.publish(RECORD, value).await.unwrap();
    }
    assert_eq!(eyes.look(RECORD, "one").await, Sight::Seen);
    update.withdraw(RECORD, "one").await.unwrap();
    assert_eq!(eyes.look(RECORD, "one").await, missing);
    assert_eq!(eyes.look(RECORD, "other").await, Sight::Seen);
}

#[tokio::test]
async fn one_name_may_stand_for_another() {
    let records = format!(
        "_acme-challenge.a 60 IN CNAME b\nb 60 IN CNAME {RECORD}.\nround 60 IN CNAME round2\nround2 60 IN CNAME round\n"
    );
    let knot = Knot::start(DOMAIN, &records);
    let (update, eyes) = (update(&knot, DOMAIN), eyes(&knot));
    let alias = format!("_acme-challenge.a.{DOMAIN}");
    assert_eq!(eyes.look(&alias, "value").await, Sight::Missing { server: knot.address() });
    update.publish(RECORD, "value").await.unwrap();
    assert_eq!(eyes.look(&alias, "value").await, Sight::Seen);
    let round = eyes.look(&format!("round.{DOMAIN}"), "value").await;
    assert!(matches!(&round, Sight::Blind(why) if why.contains("stands for one name after the other")), "{round:?}");
}

#[tokio::test]
async fn what_is_not_published_in_time_is_an_error_and_what_nobody_can_see_is_none() {
    let knot = Knot::start(DOMAIN, "");
    let (update, eyes, limit) = (update(&knot, DOMAIN), eyes(&knot), Duration::from_secs(5));
    let missing = eyes.wait(RECORD, "value", Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(missing, format!("`{}` still does not have it after 1 s", knot.address().ip()));
    // It may take some time to be there.
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        update.publish(RECORD, "value").await
    };
    let (seen, published) = tokio::join!(eyes.wait(RECORD, "value", limit), later);
    assert_eq!((seen, published), (Ok(()), Ok(())));

    let nobody = Eyes { resolvers: vec![([127, 0, 0, 1], free_port()).into()] };
    assert!(matches!(nobody.look(RECORD, "value").await, Sight::Blind(why) if why.contains("failed to reach")));
    let began = tokio::time::Instant::now();
    nobody.wait(RECORD, "value", Duration::from_secs(1)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "the server is told to look before others may see it");
}

#[tokio::test]
async fn an_update_that_the_server_refuses_says_so() {
    let knot = Knot::start(DOMAIN, "");
    let no_zone_of_it = update(&knot, "example.com").publish(RECORD, "value").await.unwrap_err();
    assert_eq!(no_zone_of_it, format!("`{RECORD}.` is not in the zone `example.com`"));
    let other_zone = update(&knot, "org").publish(RECORD, "value").await.unwrap_err();
    let refused = format!("`{}` refused the update: it does not know the key `{KEY}` as it is here, ", knot.address());
    assert!(other_zone.starts_with(&refused) && other_zone.contains("has no zone `org`"), "{other_zone}");
    let with = |change: &dyn Fn(&mut Rfc2136)| {
        let mut update = update(&knot, DOMAIN);
        change(&mut update.config);
        async move { update.publish(RECORD, "value").await.unwrap_err() }
    };
    let wrong_key = with(&|config| config.secret = knot.wrong_secret()).await;
    assert!(wrong_key.starts_with(&refused), "{wrong_key}");
    let no_key = with(&|config| config.secret = "/nowhere/key".into()).await;
    assert!(no_key.starts_with("failed to read `/nowhere/key`: "), "{no_key}");
    let nobody = with(&|config| config.server = ([127, 0, 0, 1], free_port()).into()).await;
    assert!(nobody.starts_with("failed to reach `127.0.0.1:"), "{nobody}");
    assert_eq!(eyes(&knot).look(RECORD, "value").await, Sight::Missing { server: knot.address() });
}
