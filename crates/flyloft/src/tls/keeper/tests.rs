//! Files that change while they are looked at.

use std::fs;
use std::path::Path;

use super::*;
use crate::tls::now;
use crate::tls::trial::{Authority, DAY};

/// One that looks at these.
fn keeper(dir: &Path, files: &[CertificateFiles]) -> Keeper {
    let local = Local::new(dir, "staging.example.org", "1f3a9c");
    Keeper::open(files, local, Certificates::new().unwrap(), now())
}

fn said(keeper: &Keeper, now: i64) -> Vec<String> {
    keeper.look(now).into_iter().filter_map(|status| Some(status.trouble?.0)).collect()
}

#[test]
fn new_files_are_shown_and_bad_ones_change_nothing() {
    let (root, dir) = (Authority::root("Root").vouches_for("Between"), tempfile::tempdir().unwrap());
    let files = root.issue(&["a.test"]).files(dir.path(), "it");
    let keeper = keeper(dir.path(), std::slice::from_ref(&files));
    let certificates = &keeper.certificates;
    let first = certificates.choose("a.test").expect("it is shown");
    let is_first = || certificates.choose("a.test").is_some_and(|shown| Arc::ptr_eq(&shown, &first));
    assert!(said(&keeper, now()).is_empty());
    assert!(is_first(), "it was read anew though nothing has changed");

    let new = root.issue(&["a.test", "b.test"]);
    fs::write(&files.certificate, &new.chain).unwrap();
    let told = said(&keeper, now()).join("\n");
    assert!(
        told.contains("does not belong to the certificate") && told.ends_with("the one before is shown on"),
        "{told}"
    );
    assert!(is_first() && !certificates.cover("b.test"));
    fs::remove_file(&files.certificate).unwrap();
    assert!(said(&keeper, now())[0].starts_with("failed to read `"));
    assert!(is_first());

    new.files(dir.path(), "it");
    assert!(said(&keeper, now()).is_empty());
    assert!(!is_first() && certificates.cover("b.test"));
}

#[test]
fn the_end_of_a_certificate_is_told_before_it_comes_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::root("Root").vouches_for("Between").issue_for(&["a.test"], -80, 20).files(dir.path(), "it");
    let keeper = keeper(dir.path(), &[files]);
    assert!(said(&keeper, now()).is_empty());
    assert!(said(&keeper, now() + 10 * DAY)[0].contains("` expires on "));
    assert!(said(&keeper, now() + 21 * DAY)[0].contains("` expired on "));
    assert!(keeper.certificates.cover("a.test"), "clients may still want to go on with it");
}

#[test]
fn one_bad_certificate_keeps_no_other_from_being_shown() {
    let (root, dir) = (Authority::root("Root").vouches_for("Between"), tempfile::tempdir().unwrap());
    let good = root.issue(&["a.test"]).files(dir.path(), "good");
    let expired = root.issue_for(&["b.test"], -10, -1).files(dir.path(), "expired");
    let keeper = keeper(dir.path(), &[expired, good]);
    let said = said(&keeper, now());
    assert!(said.len() == 1 && said[0].ends_with("there is no HTTPS for its names"), "{said:?}");
    assert!(keeper.certificates.cover("a.test") && !keeper.certificates.cover("b.test"));
}

#[test]
fn one_that_lacks_who_issued_it_is_shown_and_told_of() {
    let (root, dir) = (Authority::root("Root"), tempfile::tempdir().unwrap());
    let files = root.issue_for(&["a.test"], -80, 20).files(dir.path(), "it");
    let keeper = keeper(dir.path(), &[files]);
    assert!(keeper.certificates.cover("a.test"));
    let lacks = "` was issued by `CN=Root`, whose certificate is not behind it";
    for later in [0, 10 * DAY] {
        let told = said(&keeper, now() + later).join("\n");
        assert!(told.starts_with("the certificate `") && told.contains(lacks), "{told}");
    }
    assert!(said(&keeper, now() + 21 * DAY)[0].contains("` expired on "));
    root.vouches_for("Between").issue(&["a.test"]).files(dir.path(), "it");
    assert!(said(&keeper, now()).is_empty());
    // People trust the server's own authority itself.
    keeper.local.make(now()).unwrap();
    assert!(said(&keeper, now()).is_empty() && keeper.certificates.cover("any.staging.example.org"));
}

#[test]
fn what_is_told_is_what_a_proxy_shows_in_the_edge_s_place() {
    let (root, dir) = (Authority::root("Root").vouches_for("Between"), tempfile::tempdir().unwrap());
    let keeper = keeper(dir.path(), &[root.issue(&["*.a.test", "a.test"]).files(dir.path(), "it")]);
    let days = || {
        let Status { shown, behind, trouble, .. } = keeper.status(now()).remove(0);
        assert_eq!(trouble, None);
        (shown.map(|(_, validity)| (validity.until - now() + DAY / 2) / DAY), behind.map(|(what, _)| what))
    };
    assert_eq!(days(), (Some(365), None));
    let nginx = Certificates::new().unwrap();
    keeper.certificates.are_shown_by(nginx.clone());
    let (left, behind) = days();
    assert!(left.is_none() && behind.unwrap().ends_with("it.pem`: clients are shown none for its names"));
    let (star, long) = (root.issue_for(&["*.a.test"], -80, 10), root.issue_for(&["a.test"], -10, 80));
    nginx.set([&long.pair(), &star.pair()]);
    let (left, behind) = days();
    assert!(
        left == Some(10) && behind.as_ref().unwrap().contains("clients are shown one that is good until "),
        "{behind:?}"
    );
    // nginx takes it.
    nginx.put(keeper.certificates.all().to_vec());
    assert_eq!(days(), (Some(365), None));
}

#[test]
fn what_the_server_s_own_authority_issues_is_shown_as_long_as_it_is_there_and_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), &[]);
    let is_shown = || keeper.certificates.cover("shop-main.staging.example.org");
    assert!(keeper.look(now()).is_empty() && !is_shown());
    let made = keeper.local.make(now()).unwrap();
    let status = keeper.look(now());
    assert_eq!(status[0].shown.as_ref().map(|(_, validity)| validity.until), Some(made.until));
    assert!(is_shown());
    keeper.round(now() + 300 * DAY);
    let renewed = keeper.status(now());
    assert_eq!(renewed[0].shown.as_ref().map(|(_, validity)| validity.until > made.until), Some(true));
    fs::remove_file(keeper.local.files().certificate).unwrap();
    assert!(keeper.look(now()).is_empty() && !is_shown());
}

#[test]
fn people_are_told_of_what_is_so_at_two_looks() {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::root("Root").vouches_for("Between").issue(&["a.test"]).files(dir.path(), "it");
    let key = files.key.clone();
    fs::remove_file(&key).unwrap();
    let keeper = keeper(dir.path(), &[files]);
    let told = |_| keeper.round(now()).map(|said| said.len());
    assert_eq!([1, 2, 3].map(told), [Some(1), None, None]);
    // Whoever has it looked at in between keeps nobody else from being told.
    fs::write(&key, "nothing").unwrap();
    keeper.look(now());
    keeper.look(now());
    assert_eq!([1, 2].map(told), [Some(1), None]);
}

#[test]
fn people_are_told_why_no_certificate_was_obtained_and_when_one_was() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), &[]);
    let files = keeper.local.asked();
    assert_eq!([1, 2].map(|_| keeper.round(now())), [Some(Vec::new()), None]);
    let trouble = Some(("it does not answer".to_owned(), "see whether it is there".to_owned()));
    keeper.note(&files, Note { due: None, trouble });
    assert_eq!([1, 2].map(|_| keeper.round(now())), [None, Some(vec!["it does not answer".to_owned()])]);
    let issued = Authority::root("Root").vouches_for("Between").issue(&["*.staging.example.org"]);
    crate::tls::local::write_pair(&files, &issued.chain, &issued.key).unwrap();
    keeper.note(&files, Note::default());
    assert_eq!([1, 2].map(|_| keeper.round(now())), [None, Some(Vec::new())]);
    assert!(keeper.certificates.cover("shop-main.staging.example.org"));
}

#[tokio::test]
async fn people_are_told_once_of_what_stays_wrong_and_once_when_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db")).unwrap();
    let app = flyloft_core::name::AppName::parse("shop").unwrap();
    store.create_app(&app, None, store::now()).await.unwrap();
    for said in [&["it is wrong".to_owned()][..], &["it is wrong".to_owned()], &[], &[]] {
        tell(&store, said).await.unwrap();
    }
    let told = store.events(Some(&app), None, 0, 10).await.unwrap();
    let told: Vec<_> = told.iter().map(|event| (event.kind.as_str(), event.text.as_str())).collect();
    assert_eq!(
        told,
        [
            ("certificate-failed", "it is wrong; `flyloft tls check` says more"),
            ("certificate-works", "certificates are as they should be"),
        ]
    );
}
