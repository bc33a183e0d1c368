//! What goes wrong, and what still works then.

use super::model::{Model, Said, problem, said};
use super::*;
use crate::tls::local;

/// A desk at a model that says this.
async fn desk_at(stage: &Stage, says: impl Fn(&str, &str) -> Option<Said> + Send + Sync + 'static) -> (Model, Desk) {
    let model = Model::start(move |base, path, _| says(base, path)).await;
    let config = config::Acme { directory: model.directory(), roots: model.roots(), ..config::Acme::default() };
    let eyes = Eyes { resolvers: vec![([127, 0, 0, 1], free_port()).into()] };
    let desk = desk(stage, config, Way::Dns { publish: Arc::new(Provider::default()), eyes });
    (model, desk)
}

fn as_usual() -> Option<Said> {
    said(0, "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_takes_a_record_and_does_not_publish_it_is_found_out_before_the_server_looks() {
    let lab = Lab::new().await;
    let provider = Provider::default();
    let mut desk = lab.desk_with(provider.clone());
    desk.config.propagation = Duration::from_secs(1);
    let course = go_on(&desk).await;
    let (told, hint) = lab.trouble();
    let server = lab.knot.address().ip();
    assert_eq!(
        told,
        format!(
            "no certificate for `{NAME}` from `{}`: the TXT record `{RECORD}` was taken, and is not published: \
             `{server}` still does not have it after 1 s",
            lab.pebble.directory()
        )
    );
    assert!(hint.contains("`propagation` in `[acme]`") && hint.contains("; it is tried again at "), "{hint}");
    assert!((50..=80).contains(&wait(&course)), "{}", wait(&course));
    assert_eq!(provider.said(), [format!("publish {RECORD}"), format!("withdraw {RECORD}")]);
    // The server knows nothing of it, and the same order comes to a good end.
    go_on(&lab.desk()).await;
    assert_eq!((lab.pebble.orders(), lab.status()[0].trouble.clone()), (1, None));
    assert!(lab.status()[0].shown.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_fails_is_quoted() {
    let lab = Lab::new().await;
    go_on(&lab.desk_with(Provider { fails: Some("no such token"), ..Provider::default() })).await;
    let (told, _) = lab.trouble();
    assert!(told.ends_with(&format!(": failed to publish the TXT record `{RECORD}`: no such token")), "{told}");
    assert!(lab.order().await.is_some(), "the order is as good as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_the_proof_is_quoted_and_left_alone_for_a_while() {
    let lab = Lab::new().await;
    // Nobody looks before the server does.
    let eyes = Eyes { resolvers: vec![([127, 0, 0, 1], free_port()).into()] };
    let mut desk = lab.desk();
    desk.config.propagation = Duration::from_secs(1);
    desk.way = Way::Dns { publish: Arc::new(Provider::default()), eyes };
    let course = go_on(&desk).await;
    let (told, hint) = lab.trouble();
    assert!(told.contains(": it does not believe that the domain is ours: "), "{told}");
    assert!(told.ends_with("No TXT records found for DNS challenge"), "its own words are to be there: {told}");
    assert!(hint.contains("CAA"), "{hint}");
    assert!((14 * 60..=19 * 60).contains(&wait(&course)), "{}", wait(&course));
    assert_eq!(lab.order().await, None, "what was judged is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_or_not_believed_keeps_what_is_shown() {
    let mut lab = Lab::new().await;
    go_on(&lab.desk()).await;
    let before = lab.status()[0].shown.clone().expect("it is shown");
    let wanted = wanted(&lab.desk()).await;
    let mut desk = lab.desk();
    desk.config.roots = "/nowhere/roots".into();
    let Err(error) = desk.obtain(&wanted, None).await else { panic!("nobody vouches for it") };
    assert!(error.told().starts_with("failed to read the authorities in `/nowhere/roots`: "), "{}", error.told());
    desk.config.roots = lab.stage.loft.parts.settings.state_dir.join("other");
    std::fs::write(&desk.config.roots, crate::tls::trial::Authority::root("Other").root_pem).unwrap();
    let Err(error) = desk.obtain(&wanted, None).await else { panic!("nobody vouches for it") };
    assert!(error.told().contains("certificate"), "{}", error.told());
    lab.pebble.stop();
    // It is due, as a file that is gone is.
    std::fs::remove_file(&wanted.files.key).unwrap();
    let course = go_on(&lab.desk()).await;
    let (told, hint) = lab.trouble();
    assert!(told.contains(": it does not answer as it should: ") && told.contains("refused"), "{told}");
    assert!(hint.starts_with("see whether this machine reaches the server"), "{hint}");
    assert!((50..=80).contains(&wait(&course)), "{}", wait(&course));
    lab.stage.loft.parts.keeper.look(now());
    assert_eq!(lab.status()[0].shown, Some(before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_down_costs_no_other_order() {
    let lab = Lab::new().await;
    let (desk, dir) = (lab.desk(), lab.stage.loft.parts.settings.state_dir.join("tls"));
    std::fs::write(&dir, "in the way").unwrap();
    let course = go_on(&desk).await;
    let (told, hint) = lab.trouble();
    assert!(told.contains(&format!(": failed to write `{}`: ", dir.display())), "{told}");
    assert!(hint.starts_with("see whether the directory is there"), "{hint}");
    assert!((50..=80).contains(&wait(&course)), "{}", wait(&course));
    std::fs::remove_file(&dir).unwrap();
    go_on(&desk).await;
    assert!(lab.status()[0].shown.is_some(), "{:?}", lab.status());
    assert_eq!((lab.pebble.orders(), lab.order().await), (1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_off_by_a_day_is_told_and_costs_no_order() {
    const DAY: i64 = 24 * 3600;
    let lab = Lab::new().await;
    let mut desk = lab.desk();
    desk.clock = || now() - DAY;
    go_on(&desk).await;
    let (told, hint) = lab.trouble();
    assert!(told.contains(": this machine's clock is 24 h behind the server's"), "{told}");
    assert!(hint.starts_with("set the machine's clock"), "{hint}");
    desk.clock = || now() + DAY + 60;
    let Err(error) = desk.obtain(&wanted(&desk).await, None).await else { panic!("it was obtained") };
    assert_eq!(error.told(), "this machine's clock is 24 h ahead of the server's");
    assert_eq!(lab.pebble.orders(), 0);

    // One that comes to be behind later does not have what is there asked for anew.
    go_on(&lab.desk()).await;
    desk.clock = || now() - DAY;
    go_on(&desk).await;
    assert_eq!(lab.pebble.orders(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_forgotten_the_account_gets_another_one() {
    let mut lab = Lab::new().await;
    let desk = lab.desk();
    desk.account().await.unwrap();
    lab.pebble.restart();
    let Err(error) = desk.obtain(&wanted(&desk).await, None).await else { panic!("it knows nobody") };
    assert!(matches!(&error, AcmeError::Refused(_)) && error.failure() == Failure::Passing, "{}", error.told());
    go_on(&desk).await;
    assert!(lab.status()[0].shown.is_some(), "{:?}", lab.status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_the_server_has_forgotten_is_made_anew() {
    let lab = Lab::new().await;
    let desk = lab.desk_with(Provider { fails: Some("later"), ..Provider::default() });
    go_on(&desk).await;
    let mut order = lab.order().await.unwrap();
    order.url += "0";
    lab.stage.store().begin_acme_order(order, now()).await.unwrap();
    go_on(&lab.desk()).await;
    assert!(lab.status()[0].shown.is_some(), "{:?}", lab.status());
    assert_eq!(lab.pebble.orders(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_limits_is_left_alone_for_as_long_as_it_says() {
    let stage = Stage::at_domain(DOMAIN).await;
    let (model, desk) = desk_at(&stage, |_, path| match path {
        "/order" => {
            let body = problem(429, "rateLimited", "too many certificates already issued");
            Some((429, vec![("retry-after", "5000".to_owned())], body))
        }
        _ => as_usual(),
    })
    .await;
    let mut course = go_on(&desk).await;
    assert!((4990..=6250).contains(&wait(&course)), "{}", wait(&course));
    let (told, hint) = stage.loft.parts.keeper.status(now())[0].trouble.clone().unwrap();
    assert!(told.ends_with(": too much was asked of it: too many certificates already issued"), "{told}");
    assert!(hint.starts_with("nothing is asked of it for as long as it says; it is tried again at "), "{hint}");
    let before = model.asked().len();
    course.go_on(&desk, &wanted(&desk).await).await;
    assert_eq!(model.asked().len(), before, "it is asked all the same: {:?}", model.asked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_or_never_comes_to_an_end_is_given_up() {
    let stage = Stage::at_domain(DOMAIN).await;
    let (_model, mut desk) = desk_at(&stage, |_, path| if path == "/nonce" { None } else { as_usual() }).await;
    desk.patience.answer = Duration::from_secs(1);
    let Err(error) = desk.obtain(&wanted(&desk).await, None).await else { panic!("it never answers") };
    assert!(error.told().contains("timed out"), "{}", error.told());
    assert_eq!(error.failure(), Failure::Passing);

    let (_model, mut desk) = desk_at(&stage, |base, path| match path {
        "/order" | "/order/1" => {
            let body = format!(r#"{{"status": "processing", "authorizations": [], "finalize": "{base}/finalize"}}"#);
            Some((201, vec![("location", format!("{base}/order/1"))], body))
        }
        _ => as_usual(),
    })
    .await;
    desk.patience.order = Duration::from_secs(1);
    let Err(error) = desk.obtain(&wanted(&desk).await, None).await else { panic!("it never issues") };
    assert_eq!(error.told(), "it has not come to an end in time");
    assert!(stage.store().acme_order(NAME).await.unwrap().is_some(), "it may still come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_ordered_than_a_server_would_put_up_with() {
    let stage = Stage::at_domain(DOMAIN).await;
    let (model, desk) = desk_at(&stage, |base, path| match path {
        "/order" => {
            let body = format!(r#"{{"status": "invalid", "authorizations": [], "finalize": "{base}/finalize"}}"#);
            Some((201, vec![("location", format!("{base}/order/1"))], body))
        }
        _ => as_usual(),
    })
    .await;
    // As a daemon would that is started again and again.
    for _ in 0..6 {
        go_on(&desk).await;
    }
    assert_eq!(model.count("POST /order {"), 4, "{:?}", model.asked());
    let (told, _) = stage.loft.parts.keeper.status(now())[0].trouble.clone().unwrap();
    assert!(told.contains(": as many certificates were asked for lately as a server would put up with"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_says_when_it_wants_a_certificate_renewed_and_learns_which_one_is_replaced() {
    const HOUR: i64 = 3600;
    let stage = Stage::at_domain(DOMAIN).await;
    let root = crate::tls::trial::Authority::root("Root");
    let files = stage.loft.parts.keeper.local.asked();
    let issued = root.issue(&[NAME]);
    local::write_pair(&files, &issued.chain, &issued.key).unwrap();
    stage.loft.parts.keeper.look(now());
    let id = Pair::load(&files, now()).unwrap().renewal_id().expect("it says who issued it").to_string();
    let window = |from: i64, until: i64| {
        let at = |seconds: i64| {
            let format = &time::format_description::well_known::Rfc3339;
            time::OffsetDateTime::from_unix_timestamp(seconds).unwrap().format(format).unwrap()
        };
        format!(r#"{{"suggestedWindow": {{"start": "{}", "end": "{}"}}}}"#, at(from), at(until))
    };
    let begins = now() + 20 * HOUR;
    let (later, sooner) = (window(begins, begins + HOUR), window(now() - 2 * HOUR, now() - HOUR));
    let ari = format!("/ari/{id}");
    let says = move |body: String| {
        let ari = ari.clone();
        move |_: &str, path: &str| match path {
            path if path == ari => Some((200, vec![("retry-after", "7200".to_owned())], body.clone())),
            _ => as_usual(),
        }
    };
    let (_model, desk) = desk_at(&stage, says(later)).await;
    go_on(&desk).await;
    let renewal = stage.loft.parts.keeper.status(now())[0].renewal.expect("it is known");
    assert!((begins..=begins + HOUR).contains(&renewal), "{renewal} is not in the window from {begins}");
    let (model, desk) = desk_at(&stage, says(sooner)).await;
    go_on(&desk).await;
    let orders: Vec<_> = model.asked().into_iter().filter(|asked| asked.starts_with("POST /order {")).collect();
    assert!(!orders.is_empty(), "{:?} {:?}", model.asked(), stage.loft.parts.keeper.status(now()));
    assert!(orders[0].contains(&format!(r#""replaces":"{id}""#)), "{orders:?}");
    assert!(
        orders.len() == 2 && !orders[1].contains("replaces"),
        "one that is refused is asked for without: {orders:?}"
    );
}
