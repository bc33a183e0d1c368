//! What is refused of a certificate and its key, and in which words.

use std::fs;

use super::*;
use crate::tls::now;
use crate::tls::trial::{Authority, DAY, Issued};

/// What is said of these files, without the directory that they are in.
fn refused(issued: &Issued, change: impl FnOnce(&CertificateFiles)) -> String {
    refused_at(issued, now(), change)
}

fn refused_at(issued: &Issued, now: i64, change: impl FnOnce(&CertificateFiles)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let files = issued.files(dir.path(), "it");
    change(&files);
    let error = Pair::load(&files, now).expect_err("it was taken");
    assert!(!error.hint().is_empty());
    error.to_string().replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn a_certificate_with_those_that_issued_it_is_taken() {
    let root = Authority::root("Root");
    let issued = root.vouches_for("Between").issue(&["*.staging.example.org", "Staging.example.org"]);
    let pair = issued.pair();
    assert_eq!(pair.names.to_string(), "*.staging.example.org, staging.example.org");
    assert_eq!(pair.certified.cert.len(), 2);
    assert!((363..=365).contains(&pair.validity.days_left(now())), "{:?}", pair.validity);
    pair.leads_to([root.root.clone()], now()).unwrap();
    let other = pair.leads_to([Authority::root("Root").root], now());
    assert!(matches!(other, Err(CertificateError::BadSignature | CertificateError::UnknownIssuer)), "{other:?}");
    assert_eq!(pair.leads_to([], now()), Err(CertificateError::UnknownIssuer));
    // The root may be there as well, and need not.
    let whole = Issued { chain: issued.chain.clone() + &root.root_pem, ..issued };
    assert_eq!(whole.pair().certified.cert.len(), 3);
}

#[test]
fn one_that_lacks_who_issued_it_is_not_believed() {
    let root = Authority::root("Root");
    let issued = root.vouches_for("Between").issue(&["a.test"]);
    let end = issued.chain.find("-----END CERTIFICATE-----").unwrap() + "-----END CERTIFICATE-----\n".len();
    let alone = Issued { chain: issued.chain[..end].to_owned(), ..issued }.pair();
    assert_eq!(alone.certified.cert.len(), 1);
    assert_eq!(alone.leads_to([root.root.clone()], now()), Err(CertificateError::UnknownIssuer));
    assert_eq!(alone.lacks(|| vec![root.root.clone()], now()).as_deref(), Some("CN=Between"));
}

#[test]
fn one_lacks_who_issued_it_where_they_are_neither_in_the_file_nor_known() {
    let root = Authority::root("Root");
    let known = || vec![root.root.clone()];
    assert_eq!(root.issue(&["a.test"]).pair().lacks(known, now()), None);
    let stranger = Authority::root("Stranger");
    assert_eq!(stranger.issue(&["a.test"]).pair().lacks(known, now()).as_deref(), Some("CN=Stranger"));
    // Of the same name, and another key.
    assert_eq!(Authority::root("Root").issue(&["a.test"]).pair().lacks(known, now()).as_deref(), Some("CN=Root"));
    assert_eq!(stranger.vouches_for("Between").issue(&["a.test"]).pair().lacks(known, now()), None);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let own = Issued { chain: own.pem(), key: key.serialize_pem() };
    assert_eq!(own.pair().lacks(Vec::new, now()), None, "it is its own issuer");
}

#[test]
fn whatever_is_wrong_with_the_files_is_said_with_their_names() {
    let root = Authority::root("Root");
    let (good, other) = (root.issue(&["a.test"]), root.issue(&["b.test"]));
    let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let all = [
        refused(&good, |files| fs::remove_file(&files.certificate).unwrap()),
        refused(&good, |files| {
            fs::remove_file(&files.key).unwrap();
            fs::create_dir(&files.key).unwrap();
        }),
        refused(&good, |files| write(&files.certificate, &"x".repeat(2 << 20))),
        refused(&good, |files| mode(&files.key, 0o644)),
        refused(&good, |files| mode(&files.key, 0o602)),
        refused(&good, |files| write(&files.certificate, "")),
        refused(&good, |files| write(&files.certificate, &good.key)),
        refused(&good, |files| write(&files.certificate, &good.chain.replace("-----END CERTIFICATE-----", ""))),
        refused(&good, |files| {
            write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        }),
        refused(&good, |files| write(&files.key, &good.chain)),
        refused(&good, |files| {
            write(&files.key, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        }),
        refused(&good, |files| write(&files.key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")),
        refused(&good, |files| write(&files.key, &other.key)),
        refused(&root.issue(&[]), |_| {}),
        refused(&root.issue(&["192.0.2.1"]), |_| {}),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn certificates_that_did_not_issue_each_other_are_refused() {
    let (root, stranger) = (Authority::root("Root"), Authority::root("Stranger"));
    let issued = root.vouches_for("Between").issue(&["a.test"]);
    let certificates: Vec<_> = issued.chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
    let chain = |parts: &[&str]| Issued { chain: parts.concat(), key: issued.key.clone() };
    let said = refused(&chain(&[certificates[0], &stranger.root_pem]), |_| {});
    assert_eq!(
        said,
        "certificate 2 in `it.pem` is that of `CN=Stranger`, and the one before it was issued by `CN=Between`"
    );
    // Of the same name, and another key.
    let other = Authority::root("Root").vouches_for("Between").issue(&["a.test"]).chain;
    let other = other.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap().to_owned();
    let said = refused(&chain(&[certificates[0], &other]), |_| {});
    assert_eq!(said, "the certificates in `it.pem` did not issue each other: a signature is not that of the next one");
    // The other way round the key is not that of the first.
    let said = refused(&chain(&[certificates[1], certificates[0]]), |_| {});
    assert_eq!(said, "the key `it.key` does not belong to the certificate `it.pem`");
}

#[test]
fn a_certificate_holds_for_its_time_and_both_dates_are_said() {
    let issued = Authority::root("Root").issue_for(&["a.test"], -10, 10);
    let (from, until) = (issued.pair().validity.from, issued.pair().validity.until);
    let expired = refused_at(&issued, until + DAY, |_| {});
    assert_eq!(
        expired,
        format!(
            "the certificate `it.pem` expired on {}; it is {} by this machine's clock",
            date(until),
            date(until + DAY)
        )
    );
    let early = refused_at(&issued, from - DAY, |_| {});
    assert!(
        early.starts_with(&format!("the certificate `it.pem` is not valid before {}; it is", date(from))),
        "{early}"
    );
    assert_eq!(date(1_795_500_000), "2026-11-24 06:00 UTC");
}
