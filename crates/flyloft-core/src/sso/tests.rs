use base64ct::{Base64UrlUnpadded, Encoding};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://id.example.org/";

const EXPECTED: Expected<'static> = Expected { issuer: ISSUER, client: "flyloft", nonce: "n-1", now: NOW };

/// What a good token says, with this changed.
fn said(change: Value) -> Value {
    let mut said = json!({
        "iss": ISSUER, "sub": "u-17", "aud": "flyloft", "exp": NOW + 300, "iat": NOW, "nonce": "n-1",
        "email": "Ann@Example.org", "email_verified": true, "groups": ["staff", "web"],
    });
    for (name, value) in change.as_object().unwrap() {
        said[name] = value.clone();
    }
    said
}

fn claims(change: Value) -> Result<Claims, Disbelief> {
    Claims::parse(said(change).to_string().as_bytes())
}

fn checked(change: Value) -> Result<(), Disbelief> {
    claims(change)?.check(&EXPECTED)
}

#[test]
fn a_token_is_believed_that_is_said_by_the_provider_to_us_now_and_for_this_login() {
    for change in [
        json!({}),
        json!({ "aud": ["flyloft"] }),
        json!({ "aud": ["other", "flyloft"], "azp": "flyloft" }),
        json!({ "exp": NOW - 59 }),
        json!({ "iat": NOW + 60, "nbf": NOW + 60 }),
        json!({ "iat": NOW as f64 + 0.5 }),
    ] {
        assert_eq!(checked(change.clone()), Ok(()), "{change}");
    }
}

#[test]
fn a_token_is_not_believed_that_is_anybody_else_s_business_or_of_another_time() {
    for (change, why) in [
        (json!({ "iss": "https://id.example.org" }), Disbelief::Issuer("https://id.example.org".to_owned())),
        (json!({ "aud": "other" }), Disbelief::Audience),
        (json!({ "aud": [] }), Disbelief::Audience),
        (json!({ "aud": ["flyloft", "other"] }), Disbelief::Audience),
        (json!({ "azp": "other" }), Disbelief::Audience),
        (json!({ "exp": NOW - 60 }), Disbelief::Expired),
        (json!({ "iat": NOW + 61 }), Disbelief::Early),
        (json!({ "nbf": NOW + 61 }), Disbelief::Early),
        (json!({ "nonce": "n-2" }), Disbelief::Nonce),
        (json!({ "nonce": "" }), Disbelief::Nonce),
    ] {
        assert_eq!(checked(change.clone()), Err(why), "{change}");
    }
}

#[test]
fn what_is_missing_or_of_another_kind_is_not_believed() {
    for name in ["iss", "sub", "aud", "exp", "iat", "nonce"] {
        for value in [Value::Null, json!(true), json!({})] {
            let change = json!({ name: value });
            assert!(matches!(claims(change.clone()), Err(Disbelief::Malformed(_))), "{change}");
        }
    }
    for change in [
        json!({ "exp": (NOW + 300).to_string() }),
        json!({ "nbf": "soon" }),
        json!({ "azp": ["flyloft"] }),
        json!({ "email": 1 }),
        json!({ "aud": ["flyloft", 1] }),
        json!({ "sub": "" }),
    ] {
        assert!(matches!(claims(change.clone()), Err(Disbelief::Malformed(_))), "{change}");
    }
}

fn rules(domains: &[&str], groups: &[&str]) -> Rules {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Rules::new(&owned(domains), &owned(groups), false).unwrap()
}

#[test]
fn whoever_is_of_a_domain_and_of_a_group_that_are_named_may_look() {
    let admit = |rules: &Rules, change: Value| rules.admit(&claims(change).unwrap());
    let anyone = Rules::new(&[], &[], true).unwrap();
    assert_eq!(admit(&anyone, json!({ "email": null, "groups": null })), Ok(()));
    let domain = rules(&["example.com", "EXAMPLE.org"], &[]);
    for (change, verdict) in [
        (json!({ "groups": null }), Ok(())),
        (json!({ "email_verified": "true" }), Ok(())),
        (json!({ "email_verified": false }), Err(NotAllowed::Unverified)),
        (json!({ "email_verified": null }), Err(NotAllowed::Unverified)),
        (json!({ "email_verified": 1 }), Err(NotAllowed::Unverified)),
        (json!({ "email": null }), Err(NotAllowed::Unverified)),
        (json!({ "email": "ann@example.net" }), Err(NotAllowed::Domain)),
        (json!({ "email": "ann@a.example.org" }), Err(NotAllowed::Domain)),
        (json!({ "email": "ann@badexample.org" }), Err(NotAllowed::Domain)),
        (json!({ "email": "ann@example.org@example.net" }), Err(NotAllowed::Domain)),
        (json!({ "email": "example.org" }), Err(NotAllowed::Domain)),
    ] {
        assert_eq!(admit(&domain, change.clone()), verdict, "{change}");
    }
    let group = rules(&[], &["web", "ops"]);
    for (groups, verdict) in [
        (json!(["staff", "web"]), Ok(())),
        (json!("ops"), Ok(())),
        (json!(["Web"]), Err(NotAllowed::Group)),
        (json!([]), Err(NotAllowed::Group)),
        (Value::Null, Err(NotAllowed::Group)),
        (json!({ "web": true }), Err(NotAllowed::Group)),
    ] {
        assert_eq!(admit(&group, json!({ "groups": groups, "email": null })), verdict, "{groups}");
    }
    let both = rules(&["example.org"], &["ops"]);
    assert_eq!(admit(&both, json!({})), Err(NotAllowed::Group));
    assert_eq!(admit(&both, json!({ "groups": "ops" })), Ok(()));
}

#[test]
fn what_a_token_does_not_say_is_taken_from_what_is_told_elsewhere_of_the_same_person() {
    let told = |token: Value, told: Value| {
        let mut claims = claims(token).unwrap();
        claims.complete(told.to_string().as_bytes()).map(|()| (claims.email.clone(), claims.verified, claims.groups))
    };
    let bo = json!({ "sub": "u-17", "email": "bo@example.org", "email_verified": true, "groups": ["ops"] });
    let nothing = json!({ "email": null, "email_verified": null, "groups": null });
    let (of_ann, of_bo) = (Some("Ann@Example.org".to_owned()), Some("bo@example.org".to_owned()));
    let ops = Some(vec!["ops".to_owned()]);
    assert_eq!(told(nothing.clone(), bo.clone()), Ok((of_bo.clone(), Some(true), ops)));
    let web = Some(vec!["staff".to_owned(), "web".to_owned()]);
    let denied = json!({ "email_verified": false });
    assert_eq!(told(denied, bo.clone()), Ok((of_ann.clone(), Some(false), web.clone())), "the token has said it");
    let unsaid = json!({ "email_verified": null });
    assert_eq!(told(unsaid.clone(), bo.clone()), Ok((of_bo.clone(), Some(true), web.clone())), "both are of one place");
    assert_eq!(told(unsaid, json!({ "sub": "u-17" })), Ok((of_ann, None, web)));
    let halves = json!({ "email": null, "email_verified": true, "groups": [] });
    let half = json!({ "sub": "u-17", "email": "bo@example.org", "groups": ["ops"] });
    assert_eq!(told(halves, half), Ok((of_bo, None, Some(Vec::new()))), "that was said of another address");
    for (said, why) in
        [(json!({ "sub": "u-18" }), true), (json!({}), true), (json!({ "sub": "u-17", "email": 1 }), false)]
    {
        assert_eq!(told(nothing.clone(), said.clone()) == Err(Disbelief::Subject), why, "{said}");
        assert!(told(nothing.clone(), said).is_err());
    }
}

#[test]
fn more_is_asked_for_where_a_rule_goes_by_it_and_the_token_says_nothing_of_it() {
    let (mail, group) = (rules(&["example.org"], &[]), rules(&[], &["web"]));
    let anyone = Rules::new(&[], &[], true).unwrap();
    for (change, by_mail, by_group) in [
        (json!({}), false, false),
        (json!({ "email": null }), true, false),
        (json!({ "email_verified": null }), true, false),
        (json!({ "email_verified": false }), false, false),
        (json!({ "email": "ann@example.net" }), false, false),
        (json!({ "groups": null }), false, true),
        (json!({ "groups": [] }), false, false),
    ] {
        let claims = claims(change.clone()).unwrap();
        let asked = [&mail, &group, &anyone].map(|rules| rules.need_more(&claims));
        assert_eq!(asked, [by_mail, by_group, false], "{change}");
    }
}

#[test]
fn who_is_of_a_domain_at_google_is_said_by_the_organisation_that_has_the_account() {
    let at_google = |change: Value| {
        let mut all = json!({ "iss": "https://accounts.google.com" });
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims(all).unwrap()
    };
    let domains = rules(&["example.org", "example.com"], &[]);
    for (change, verdict) in [
        (json!({ "hd": "example.org" }), Ok(())),
        (json!({ "hd": "Example.com" }), Ok(())),
        (json!({}), Err(NotAllowed::Hosted)),
        (json!({ "hd": "example.net" }), Err(NotAllowed::Hosted)),
        (json!({ "hd": true }), Err(NotAllowed::Hosted)),
        (json!({ "hd": "example.org", "email": "ann@example.net" }), Err(NotAllowed::Domain)),
        (json!({ "hd": "example.org", "email_verified": false }), Err(NotAllowed::Unverified)),
        (json!({ "email": "ann@gmail.com" }), Err(NotAllowed::Domain)),
    ] {
        assert_eq!(domains.admit(&at_google(change.clone())), verdict, "{change}");
    }
    assert_eq!(domains.admit(&claims(json!({})).unwrap()), Ok(()), "another provider has no such claim");
    let gmail = rules(&["gmail.com"], &[]);
    assert_eq!(gmail.admit(&at_google(json!({ "email": "Ann@Gmail.com" }))), Ok(()));
    assert_eq!(
        gmail.admit(&at_google(json!({ "email": "ann@gmail.com", "email_verified": false }))),
        Err(NotAllowed::Unverified)
    );
}

#[test]
fn it_has_to_be_said_who_may_look() {
    let new = |domains: &[&str], groups: &[&str], anyone| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Rules::new(&owned(domains), &owned(groups), anyone)
    };
    assert_eq!(new(&[], &[], false), Err(RulesError::Nobody));
    assert_eq!(new(&["example.org"], &[], true), Err(RulesError::Both));
    for domain in ["", "@example.org", "*.example.org", "example org"] {
        assert_eq!(new(&[domain], &[], false), Err(RulesError::Domain(domain.to_owned())));
    }
    assert_eq!(new(&[], &[""], false), Err(RulesError::Group));
    let text = |rules: &Rules| rules.text(ISSUER, "flyloft");
    assert_ne!(text(&rules(&["a.org"], &[])), text(&rules(&[], &["a.org"])));
    assert_ne!(text(&rules(&["a.org", "b.org"], &[])), text(&rules(&["a.org"], &[])));
}

#[test]
fn people_are_known_by_an_address_that_is_theirs_and_else_by_what_the_provider_calls_them() {
    let who = |change: Value| claims(change).unwrap().who();
    assert_eq!(who(json!({})), "Ann@Example.org");
    assert_eq!(who(json!({ "email_verified": false })), "u-17");
    assert_eq!(who(json!({ "email": "a b@example.org" })), "u-17");
    assert_eq!(who(json!({ "email": "a".repeat(255) })), "u-17");
    assert_eq!(who(json!({ "email": null, "sub": "x\u{1b}[2J" })), "somebody");
}

/// A text that says that it is signed so.
fn token(header: Value) -> String {
    let encode = |text: String| Base64UrlUnpadded::encode_string(text.as_bytes());
    format!("{}.{}.AAAA", encode(header.to_string()), encode("{}".to_owned()))
}

#[test]
fn a_token_is_signed_by_what_is_known_here_and_never_by_nothing() {
    let signed = token(json!({ "alg": "ES256", "kid": "k", "typ": "JWT" }));
    let parsed = Signed::parse(&signed).unwrap();
    assert_eq!(
        (parsed.algorithm, parsed.payload.as_slice(), parsed.signature.len()),
        (Algorithm::Es256, &b"{}"[..], 3)
    );
    assert_eq!(parsed.message, signed.strip_suffix(".AAAA").unwrap().as_bytes());
    for algorithm in ["none", "None", "HS256", "RS384", "PS256", "ES384", "rs256", ""] {
        let token = token(json!({ "alg": algorithm }));
        assert_eq!(Signed::parse(&token), Err(Disbelief::Algorithm(algorithm.to_owned())));
    }
    let good = token(json!({ "alg": "RS256" }));
    let (header, rest) = good.split_once('.').unwrap();
    for bad in [
        String::new(),
        "..".to_owned(),
        header.to_owned(),
        format!("{good}.AAAA"),
        format!("{header}=.{rest}"),
        format!("{good}{}", "A".repeat(TOO_LONG)),
        token(json!({})),
        token(json!({ "alg": ["RS256"] })),
        token(json!({ "alg": "RS256", "crit": ["exp"] })),
    ] {
        assert!(matches!(Signed::parse(&bad), Err(Disbelief::Malformed(_))), "{bad}");
    }
}

const TOO_LONG: usize = 32 << 10;

#[test]
fn a_key_fits_what_is_signed_by_its_kind_and_names_it() {
    let half = "A".repeat(43);
    let set = json!({ "keys": [
        { "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r", "alg": "RS256", "use": "sig" },
        { "kty": "EC", "crv": "P-256", "x": half, "y": half, "kid": "e" },
        { "kty": "OKP", "crv": "Ed25519", "x": half },
        { "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r", "use": "enc" },
        { "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "p", "alg": "PS256" },
        { "kty": "EC", "crv": "P-384", "x": half, "y": half },
        { "kty": "EC", "crv": "P-256", "x": "AAAA", "y": half },
        { "kty": "oct", "k": "AQAB", "kid": "r" },
        { "kty": "RSA", "n": "", "e": "AQAB" },
        7,
    ]});
    let keys = keys(set.to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 4);
    let fitting = |header: Value| {
        let token = token(header);
        let signed = Signed::parse(&token).unwrap();
        keys.iter().filter(|key| key.fits(&signed)).map(|key| &key.material).collect::<Vec<_>>()
    };
    assert_eq!(fitting(json!({ "alg": "RS256", "kid": "r" })), [&keys[0].material]);
    assert_eq!(fitting(json!({ "alg": "RS256" })), [&keys[0].material], "the other is for `PS256`");
    assert_eq!(fitting(json!({ "alg": "ES256", "kid": "e" })), [&keys[1].material]);
    assert_eq!(fitting(json!({ "alg": "EdDSA" })), [&keys[2].material]);
    for header in [json!({ "alg": "ES256", "kid": "r" }), json!({ "alg": "EdDSA", "kid": "x" })] {
        assert!(fitting(header.clone()).is_empty(), "{header}");
    }
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert!(super::keys(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_provider_is_asked_where_it_says_if_that_is_safe() {
    let document = |change: Value| {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example.org/auth?tenant=1",
            "token_endpoint": "https://id.example.org/token",
            "jwks_uri": "https://keys.example.org/",
        });
        for (name, value) in change.as_object().unwrap() {
            document[name] = value.clone();
        }
        Discovery::read(document.to_string().as_bytes(), ISSUER)
    };
    let found = document(json!({})).unwrap();
    assert!(found.basic && found.keys == "https://keys.example.org/");
    let methods = |methods: Value| document(json!({ "token_endpoint_auth_methods_supported": methods })).unwrap().basic;
    assert!(methods(json!(["client_secret_post", "client_secret_basic"])) && methods(json!(["private_key_jwt"])));
    assert!(!methods(json!(["client_secret_post"])));
    let other = document(json!({ "issuer": "https://id.example.org" }));
    assert_eq!(other, Err(Disbelief::Itself("https://id.example.org".to_owned())));
    for url in ["http://id.example.org/", "http://127.0.0.1/", "file:///etc/passwd", "", "https://a b/", "https://a@b/"]
    {
        assert_eq!(document(json!({ "jwks_uri": url })), Err(Disbelief::Endpoint("jwks_uri")), "{url}");
    }
    assert_eq!(document(json!({ "userinfo_endpoint": "ftp://a" })), Err(Disbelief::Endpoint("userinfo_endpoint")));
    assert!(matches!(document(json!({ "token_endpoint": null })), Err(Disbelief::Malformed(_))));
    assert_eq!(Discovery::at(ISSUER), "https://id.example.org/.well-known/openid-configuration");
}

#[test]
fn only_this_machine_is_asked_without_tls() {
    for url in ["https://id.example.org", "http://localhost:8080/a", "http://127.0.0.1:1", "http://[::1]:1/x"] {
        assert!(may_be_asked(url), "{url}");
    }
    for url in
        ["http://localhost.example.org", "http://10.0.0.1", "http://[2001:db8::1]/", "https://", "https:///a", "x"]
    {
        assert!(!may_be_asked(url), "{url}");
    }
}

proptest! {
    #[test]
    fn whatever_is_said_is_read_or_not_believed(text in "\\PC{0,80}|[a-zA-Z0-9_.-]{0,120}", json in "[\\[\\]{}\":,a-z0-9]{0,60}") {
        let _ = (Signed::parse(&text), Claims::parse(json.as_bytes()), keys(json.as_bytes()));
        let _ = (Discovery::read(json.as_bytes(), ISSUER), may_be_asked(&text));
    }
}
