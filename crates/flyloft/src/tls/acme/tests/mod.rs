//! Certificates from a real ACME server, Pebble, with records in a real DNS server, knot.

mod ailing;
mod faults;
mod http;
mod model;

use std::sync::Mutex;

use async_trait::async_trait;
use flyloft_core::acme::Failure;

use super::dns::Sight;
use super::dns::tests::{eyes, update};
use super::order::Wanted;
use super::*;
use crate::acme_lab::{Knot, Pebble};
use crate::loft::stage::Stage;
use crate::own_server::free_port;
use crate::tls::{Pair, Status, now};

const DOMAIN: &str = "staging.example.org";
const NAME: &str = "*.staging.example.org";
const RECORD: &str = "_acme-challenge.staging.example.org";

/// Both servers, and a daemon's parts beside them.
struct Lab {
    stage: Stage,
    knot: Knot,
    pebble: Pebble,
}

impl Lab {
    async fn new() -> Self {
        let knot = Knot::start(DOMAIN, "");
        let pebble = Pebble::start(knot.address(), free_port());
        Self { stage: Stage::at_domain(DOMAIN).await, knot, pebble }
    }

    /// A desk where records are published in knot.
    fn desk(&self) -> Desk {
        self.desk_with(update(&self.knot, DOMAIN))
    }

    fn desk_with(&self, publish: impl Publish + 'static) -> Desk {
        let config = config::Acme {
            directory: self.pebble.directory(),
            roots: self.pebble.roots(),
            propagation: Duration::from_secs(5),
            contact: vec!["ops@example.org".to_owned()],
            ..config::Acme::default()
        };
        desk(&self.stage, config, Way::Dns { publish: Arc::new(publish), eyes: eyes(&self.knot) })
    }

    fn status(&self) -> Vec<Status> {
        self.stage.loft.parts.keeper.status(now())
    }

    fn trouble(&self) -> (String, String) {
        self.status()[0].trouble.clone().expect("it is told")
    }

    async fn order(&self) -> Option<crate::store::OrderRow> {
        self.stage.store().acme_order(NAME).await.unwrap()
    }
}

fn desk(stage: &Stage, config: config::Acme, way: Way) -> Desk {
    let parts = stage.loft.parts.clone();
    let patience = Patience { answer: Duration::from_secs(5), order: Duration::from_secs(20) };
    Desk { parts, config, hosts: Vec::new(), way, clock: now, patience }
}

/// Goes on with what is wanted, as a daemon does that has just started.
async fn go_on(desk: &Desk) -> Course {
    let mut course = Course::new();
    course.go_on(desk, &wanted(desk).await).await;
    course
}

/// The only certificate that there is to be.
async fn wanted(desk: &Desk) -> Wanted {
    desk.want().await.unwrap().remove(0)
}

/// In how many seconds it is tried again.
fn wait(course: &Course) -> i64 {
    course.not_before() - now()
}

/// A provider that takes every record, and does with it what a test wants.
#[derive(Clone, Default)]
struct Provider {
    said: Arc<Mutex<Vec<String>>>,
    /// Its clients wait for ever.
    hangs: bool,
    /// What it says it has failed with.
    fails: Option<&'static str>,
}

impl Provider {
    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

#[async_trait]
impl Publish for Provider {
    async fn publish(&self, name: &str, _value: &str) -> Result<(), String> {
        self.said.lock().unwrap().push(format!("publish {name}"));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.fails.map_or(Ok(()), |why| Err(why.to_owned()))
    }

    async fn withdraw(&self, name: &str, _value: &str) -> Result<(), String> {
        self.said.lock().unwrap().push(format!("withdraw {name}"));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_all_environments_is_obtained_by_dynamic_update_and_shown() {
    let lab = Lab::new().await;
    let desk = lab.desk();
    let mut course = go_on(&desk).await;
    let status = lab.status();
    assert_eq!(status.len(), 1, "{status:?}\n{}", lab.pebble.log());
    let (names, validity) = status[0].shown.clone().unwrap_or_else(|| panic!("{status:?}\n{}", lab.pebble.log()));
    assert_eq!((names.to_string(), status[0].trouble.clone()), (NAME.to_owned(), None));
    let pair = Pair::load(&wanted(&desk).await.files, now()).unwrap();
    assert!(pair.certified.cert.len() >= 2, "it comes without who issued it");
    assert_eq!(lab.order().await, None, "it is over");

    // Nothing is asked for before it is time to.
    course.go_on(&desk, &wanted(&desk).await).await;
    assert_eq!(lab.pebble.orders(), 1);
    let third = (validity.until - validity.from) / 3;
    let renewal = lab.status()[0].renewal.expect("it is known when it is renewed");
    assert!((validity.from + 2 * third..validity.until).contains(&renewal), "{renewal} {validity:?}");

    // The same account asks for the next one, also when a daemon has started since.
    let first = desk.account().await.unwrap().0.id().to_owned();
    let issued = lab.desk().obtain(&wanted(&desk).await, Some(&pair)).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(issued.chain.contains("BEGIN CERTIFICATE") && issued.key.contains("PRIVATE KEY"));
    assert_eq!(lab.desk().account().await.unwrap().0.id(), first);
    assert_eq!(lab.pebble.orders(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_is_taken_away_afterwards() {
    let lab = Lab::new().await;
    let provider = Provider::default();
    /// Notes beside knot what it publishes.
    struct Both(dns::Update, Provider, Arc<Mutex<String>>);
    #[async_trait]
    impl Publish for Both {
        async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
            value.clone_into(&mut self.2.lock().unwrap());
            self.1.publish(name, value).await?;
            self.0.publish(name, value).await
        }

        async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
            self.1.withdraw(name, value).await?;
            self.0.withdraw(name, value).await
        }
    }
    let value = Arc::<Mutex<String>>::default();
    let both = lab.desk_with(Both(update(&lab.knot, DOMAIN), provider.clone(), value.clone()));
    go_on(&both).await;
    assert_eq!(provider.said(), [format!("publish {RECORD}"), format!("withdraw {RECORD}")]);
    let value = value.lock().unwrap().clone();
    let sight = eyes(&lab.knot).look(RECORD, &value).await;
    assert!(value.len() > 40 && sight == Sight::Missing { server: lab.knot.address() }, "{value}: {sight:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_renewed_when_two_thirds_of_its_time_have_passed() {
    let knot = Knot::start(DOMAIN, "");
    // Seconds stand for days.
    let pebble = Pebble::start_issuing(knot.address(), free_port(), 12);
    let lab = Lab { stage: Stage::at_domain(DOMAIN).await, knot, pebble };
    let desk = lab.desk();
    let mut course = go_on(&desk).await;
    let until = |lab: &Lab| lab.status()[0].shown.as_ref().map(|(_, validity)| validity.until);
    let first = until(&lab).expect("it is shown");
    let began = std::time::Instant::now();
    while lab.pebble.orders() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "it is not renewed");
        course.go_on(&desk, &wanted(&desk).await).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(3), "it is renewed at once");
    assert!(until(&lab) > Some(first), "the new one is not shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_gone_on_with_by_the_daemon_after_one_that_was_killed() {
    let lab = Lab::new().await;
    let provider = Provider { hangs: true, ..Provider::default() };
    let hangs = lab.desk_with(provider.clone());
    let killed = tokio::spawn(async move { go_on(&hangs).await });
    let began = std::time::Instant::now();
    while provider.said().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing is published");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    killed.abort();
    assert!(killed.await.is_err_and(|error| error.is_cancelled()));
    let begun = lab.order().await.expect("it is on record");
    assert!(begun.url.starts_with("https://localhost:"), "{}", begun.url);
    assert!(!begun.key.windows(5).any(|window| window == b"BEGIN"), "its key lies open");
    go_on(&lab.desk()).await;
    assert!(lab.status()[0].shown.is_some(), "{:?}", lab.status());
    assert_eq!((lab.pebble.orders(), lab.order().await), (1, None));
}
