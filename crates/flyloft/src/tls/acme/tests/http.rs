//! Certificates for single host names, proven over HTTP to the edge.

use super::super::go_on as look_at_all;
use super::*;
use crate::store::OrderRow;

/// A desk that has host names proven, at a Pebble that comes to this port of the edge.
fn desk_at(stage: &Stage, pebble: &Pebble) -> Desk {
    let config = config::Acme { directory: pebble.directory(), roots: pebble.roots(), ..config::Acme::default() };
    desk(stage, config, Way::Http(stage.loft.parts.keeper.answers.clone()))
}

fn shown(stage: &Stage) -> Vec<String> {
    let status = stage.loft.parts.keeper.status(now());
    status.into_iter().filter_map(|one| Some(one.shown?.0.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_name_has_a_certificate_of_its_own_which_goes_with_the_environment() {
    let stage = Stage::at_domain(DOMAIN).await;
    let edge = stage.open();
    let knot = Knot::start(DOMAIN, "shop-lost 60 IN A 127.0.0.2\n");
    let pebble = Pebble::start(knot.address(), edge.port());
    let (desk, mut courses) = (desk_at(&stage, &pebble), Courses::new());
    look_at_all(&desk, &mut courses).await.unwrap();
    assert_eq!(pebble.orders(), 0, "nobody has that name");

    // One whose name leads elsewhere keeps no other from its own.
    for branch in ["lost", "main", "other"] {
        stage.branch(branch).await;
    }
    look_at_all(&desk, &mut courses).await.unwrap();
    let names = ["main", "other"].map(|branch| format!("shop-{branch}.{DOMAIN}"));
    assert_eq!(shown(&stage), names, "{}", pebble.log());
    let status = stage.loft.parts.keeper.status(now());
    let lost = status.iter().find_map(|one| one.trouble.clone()).expect("it is told");
    assert!(lost.0.contains("no certificate for `shop-lost.staging.example.org`"), "{lost:?}");
    assert!(lost.0.contains("it does not believe that the host name is ours: ") && lost.0.contains("127.0.0.2"));
    assert!(lost.1.contains("at port 80"), "{lost:?}");
    assert!((14 * 60..=19 * 60).contains(&wait(&courses[&format!("shop-lost.{DOMAIN}")])));
    let orders = pebble.orders();
    look_at_all(&desk, &mut courses).await.unwrap();
    assert_eq!((orders, pebble.orders()), (3, 3), "it is asked again at once");

    let files = stage.loft.parts.keeper.local.of_host(&names[0]);
    assert!(files.certificate.exists() && files.key.exists());
    stage.sql("DELETE FROM environments WHERE name <> 'other'");
    look_at_all(&desk, &mut courses).await.unwrap();
    assert_eq!(shown(&stage), names[1..]);
    assert!(!files.certificate.exists() && !files.key.exists());
    assert_eq!(stage.loft.parts.keeper.status(now()).len(), 1, "what is gone is still told of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_host_name_is_asked_for_that_another_certificate_is_for() {
    let stage = Stage::at_domain(DOMAIN).await;
    stage.env().await;
    let (knot, keeper) = (Knot::start(DOMAIN, ""), &stage.loft.parts.keeper);
    let pebble = Pebble::start(knot.address(), free_port());
    let mut desk = desk_at(&stage, &pebble);
    assert_eq!(desk.want().await.unwrap().len(), 1);
    // Where people log in is a host name as well.
    let [login, gone] = ["login", "gone"].map(|label| format!("{label}.{DOMAIN}"));
    desk.hosts.push(login.clone());
    let (store, directory, url) = (stage.store(), "directory".to_owned(), "url".to_owned());
    for name in [login.clone(), gone.clone()] {
        let order = OrderRow { name, directory: directory.clone(), url: url.clone(), key: Vec::new() };
        store.begin_acme_order(order, now()).await.unwrap();
    }
    assert_eq!(desk.want().await.unwrap().len(), 2);
    assert!(store.acme_order(&login).await.unwrap().is_some(), "what is under way for it is forgotten");
    assert!(store.acme_order(&gone).await.unwrap().is_none());
    let issued = crate::tls::trial::Authority::root("Root").issue(&[NAME]);
    crate::tls::local::write_pair(&keeper.local.asked(), &issued.chain, &issued.key).unwrap();
    keeper.look(now());
    assert!(desk.want().await.unwrap().is_empty());
    // One of the server's own authority is for trying out.
    std::fs::remove_file(keeper.local.asked().certificate).unwrap();
    keeper.local.make(now()).unwrap();
    keeper.look(now());
    assert_eq!(desk.want().await.unwrap().len(), 2);
}
