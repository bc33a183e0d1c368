//! `flyloft tls`.

use std::fs;

use super::*;

/// A desk whose domain is one that clients believe a `*` below.
async fn desk() -> Desk {
    Desk::at(Stage::at_domain("staging.example.org").await).await
}

#[tokio::test]
async fn an_authority_is_made_once_and_says_how_to_trust_it() {
    let desk = desk().await;
    let (code, said) = desk.command(&["tls", "local-ca", "--pem"]).await;
    assert!(code == 20 && said.contains("hint: flyloft tls local-ca"), "{said}");
    assert!(desk.command(&["tls", "ls"]).await.1.starts_with("there are no certificates; "));
    let (code, said) = desk.command(&["tls", "local-ca"]).await;
    let authority = desk.stage.loft.parts.keeper.local.authority();
    let plain = |said: &str| {
        let lines = said.replace(&authority.display().to_string(), "FILE");
        let (before, after) = lines.split_once(" until ").unwrap();
        format!("{before} until DATE{}", &after[10..])
    };
    assert_eq!(code, 0, "{said}");
    insta::assert_snapshot!(plain(&said), @r#"
    there is a certificate for *.staging.example.org and staging.example.org until DATE, which renews itself
    its authority is new, and nobody trusts it yet; its certificate is
        FILE
    a machine trusts it from then on, names below the domain alone:
        Debian   cp FILE /usr/local/share/ca-certificates/flyloft.crt && update-ca-certificates
        curl     curl --cacert FILE …
        browser  import it among the authorities in the settings
    HTTPS is off: set `listen = ["[::]:443"]` in `[https]` of the configuration; flyloft upgrade
    "#);
    let pem = fs::read_to_string(&authority).unwrap();
    assert_eq!(desk.command(&["tls", "local-ca", "--pem"]).await, (0, pem.clone()));
    let (_, said) = desk.command(&["tls", "local-ca"]).await;
    assert!(said.contains("\nwhoever trusts its authority already believes it; "), "{said}");
    assert_eq!(fs::read_to_string(&authority).unwrap(), pem);
}

#[tokio::test]
async fn certificates_are_listed_and_looked_at_and_a_bad_one_is_an_error() {
    let desk = desk().await;
    desk.command(&["tls", "local-ca"]).await;
    let listed: serde_json::Value = serde_json::from_str(&desk.command(&["tls", "ls", "--json"]).await.1).unwrap();
    let one = &listed["certificates"][0];
    assert_eq!(one["names"], serde_json::json!(["*.staging.example.org", "staging.example.org"]));
    assert!((394..=396).contains(&one["days_left"].as_i64().unwrap()) && one["trouble"].is_null(), "{one}");
    let (code, said) = desk.command(&["tls", "check"]).await;
    assert!(code == 0 && said.contains("*.staging.example.org, staging.example.org  39"), "{said}");

    fs::write(desk.stage.loft.parts.keeper.local.files().key, "nothing").unwrap();
    let (code, said) = desk.command(&["tls", "check"]).await;
    assert!(code == 1 && said.starts_with("error: there is no private key in `"), "{said}");
    assert!(
        said.contains("the one before is shown on\n") && said.contains("hint: it is to have the private key"),
        "{said}"
    );
    let (code, said) = desk.command(&["tls", "ls"]).await;
    assert!(code == 0 && said.contains("\n! there is no private key in `"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_lacks_who_issued_it_is_listed_with_that_and_an_error() {
    let desk = desk().await;
    let issued = crate::tls::trial::Authority::root("Root").issue(&["*.staging.example.org"]);
    let files = desk.stage.loft.parts.keeper.local.asked();
    crate::tls::local::write_pair(&files, &issued.chain, &issued.key).unwrap();
    let (code, said) = desk.command(&["tls", "check"]).await;
    let lacks = format!(
        "the certificate `{}` was issued by `CN=Root`, whose certificate is not behind it, so most clients do not believe it\n",
        files.certificate.display()
    );
    assert!(code == 1 && said.starts_with(&format!("error: {lacks}")), "{said}");
    assert!(said.contains("hint: append the certificates of those that issued it; "), "{said}");
    let (code, said) = desk.command(&["tls", "ls"]).await;
    assert!(code == 0 && said.contains("  36") && said.contains(&format!("\n! {lacks}")), "{said}");
}

#[tokio::test]
async fn a_domain_that_no_client_believes_a_star_below_is_refused() {
    let desk = Desk::new().await;
    let (code, said) = desk.command(&["tls", "local-ca"]).await;
    assert_eq!(code, 2);
    assert_eq!(
        said,
        "error: no client believes a certificate for `*.localhost`\n  \
         hint: set `domain` in the configuration to one with a dot, such as `staging.localhost`\n"
    );
}

#[tokio::test]
async fn only_an_admin_makes_an_authority_and_everybody_may_trust_it() {
    let desk = desk().await;
    let bob = Principal { name: "bob".to_owned(), role: Role::Deployer { apps: Vec::new() } };
    for words in [&["tls", "local-ca"][..], &["tls", "ls"], &["tls", "check"]] {
        assert_eq!(desk.command_by(&bob, words).await.0, 1, "{words:?}");
    }
    desk.command(&["tls", "local-ca"]).await;
    let (code, said) = desk.command_by(&bob, &["tls", "local-ca", "--pem"]).await;
    assert!(code == 0 && said.starts_with("-----BEGIN CERTIFICATE-----\n"), "{said}");
}
