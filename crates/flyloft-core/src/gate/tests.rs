use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: [u8; 32] = [7; 32];

fn key() -> Key {
    Key::new(&SECRET, 3, "shop-main.example.org", 0)
}

fn guard(gate: &str) -> Guard {
    Guard::new(Gate::parse(gate).unwrap(), key(), None).unwrap()
}

fn get(target: &str) -> Request<'_> {
    Request {
        address: "203.0.113.7".parse().unwrap(),
        secure: true,
        follows: true,
        navigates: false,
        target,
        bypass: None,
        authorization: None,
    }
}

fn link(until: u64) -> String {
    format!("flyloft-link={}", key().sign(Purpose::Link, until))
}

fn cookie(until: u64) -> String {
    format!("{SECURE_COOKIE}={}", key().sign(Purpose::SecureVisit, until))
}

fn judge(guard: &Guard, request: &Request<'_>, cookies: &[&str]) -> Verdict {
    guard.judge(request, cookies.iter().map(|cookies| cookies.as_bytes()), NOW)
}

const NO_LINK: Verdict = Verdict::Refused(Refusal::NoLink);

#[test]
fn a_gate_is_written_as_it_is_read() {
    for text in ["public", "link", "password", "sso", "ip:203.0.113.0/24,2001:db8::/32,192.0.2.1"] {
        assert_eq!(Gate::parse(text).unwrap().to_string(), text);
    }
    for (text, error) in [
        ("open", "`open` is no gate; there are `public`, `link`, `password`, `sso` and `ip:PREFIX,…`"),
        ("ip:", "it is said of no address that it may look; write `ip:203.0.113.0/24,2001:db8::/32`"),
        ("ip:home", "`home` is no range of addresses such as `203.0.113.0/24`, `2001:db8::/32` or `203.0.113.7`"),
    ] {
        assert_eq!(Gate::parse(text).unwrap_err().to_string(), error);
    }
    assert_eq!(Gate::parse(&format!("ip:{}", ["192.0.2.1"; 65].join(","))), Err(GateError::TooMany));
}

#[test]
fn what_is_public_needs_no_guard() {
    assert!(Guard::new(Gate::Public, key(), None).is_none());
}

#[test]
fn whoever_has_a_link_gets_a_cookie_for_as_long_as_the_link_is_good_and_goes_on_without_it() {
    let guard = guard("link");
    let (target, until) = (format!("/cart?a=1&{}&b=%20", link(NOW + 60)), NOW + 60);
    let Verdict::Enter { cookie, to } = judge(&guard, &get(&target), &[]) else { panic!("not let in") };
    assert_eq!(to, "/cart?a=1&b=%20");
    let (pair, rest) = cookie.split_once(';').unwrap();
    assert_eq!(rest, " Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax");
    assert_eq!(pair, self::cookie(until));
    assert_eq!(judge(&guard, &get("/cart"), &["a=b", &format!("c=d; {pair}")]), Verdict::Pass);
    let later = guard.judge(&get("/cart"), [pair.as_bytes()], until);
    assert_eq!(later, NO_LINK, "the time of its cookie is over");
}

#[test]
fn without_tls_a_cookie_has_a_name_that_browsers_take_and_is_no_good_over_tls() {
    let guard = guard("link");
    let target = format!("/?{}", link(NOW + 60));
    let plain = Request { secure: false, ..get(&target) };
    let Verdict::Enter { cookie, .. } = judge(&guard, &plain, &[]) else { panic!("not let in") };
    let (pair, rest) = cookie.split_once(';').unwrap();
    assert!(pair.starts_with("flyloft-gate=") && rest == " Path=/; Max-Age=60; HttpOnly; SameSite=Lax", "{cookie}");
    assert_eq!(judge(&guard, &Request { secure: false, ..get("/") }, &[pair]), Verdict::Pass);
    assert_eq!(judge(&guard, &get("/"), &[pair]), NO_LINK);
    assert_eq!(judge(&guard, &get("/"), &[&pair.replace(COOKIE, SECURE_COOKIE)]), NO_LINK);
}

#[test]
fn nothing_opens_another_environment_another_purpose_another_generation_or_another_time() {
    let guard = guard("link");
    let sign = |key: &Key, purpose, until| key.sign(purpose, until);
    let others = [
        Key::new(&[8; 32], 3, "shop-main.example.org", 0),
        Key::new(&SECRET, 4, "shop-main.example.org", 0),
        Key::new(&SECRET, 3, "shop-pr-1.example.org", 0),
        Key::new(&SECRET, 3, "shop-main.example.org", 1),
    ];
    for other in &others {
        let target = format!("/?flyloft-link={}", sign(other, Purpose::Link, NOW + 60));
        assert_eq!(judge(&guard, &get(&target), &[]), NO_LINK);
        let cookie = format!("{SECURE_COOKIE}={}", sign(other, Purpose::SecureVisit, NOW + 60));
        assert_eq!(judge(&guard, &get("/"), &[&cookie]), NO_LINK);
    }
    for purpose in [Purpose::Visit, Purpose::SecureVisit, Purpose::Bypass] {
        let target = format!("/?flyloft-link={}", sign(&key(), purpose, NOW + 60));
        assert_eq!(judge(&guard, &get(&target), &[]), NO_LINK, "{purpose:?}");
    }
    for purpose in [Purpose::Link, Purpose::Visit, Purpose::Bypass] {
        let cookie = format!("{SECURE_COOKIE}={}", sign(&key(), purpose, NOW + 60));
        assert_eq!(judge(&guard, &get("/"), &[&cookie]), NO_LINK, "{purpose:?}");
    }
    assert_eq!(judge(&guard, &get(&format!("/?{}", link(NOW))), &[]), Verdict::Refused(Refusal::Expired));
    assert_eq!(judge(&guard, &get("/"), &[&cookie(NOW)]), NO_LINK);
}

#[test]
fn no_letter_of_a_token_can_be_changed() {
    let good = key().sign(Purpose::Link, NOW + 60);
    assert_eq!(good.len(), 28);
    assert_eq!(key().check(Purpose::Link, good.as_bytes(), NOW), Check::Good { until: NOW + 60 });
    for at in 0..good.len() {
        let mut bad = good.clone().into_bytes();
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(key().check(Purpose::Link, &bad, NOW), Check::Wrong, "{at}");
    }
    for bad in ["", "A", &good[1..], &format!("{good}A"), &format!("{good}=")] {
        assert_eq!(key().check(Purpose::Link, bad.as_bytes(), NOW), Check::Wrong, "{bad}");
    }
}

#[test]
fn a_cookie_that_a_sibling_host_has_set_for_all_shuts_nobody_out() {
    let good = cookie(NOW + 60);
    let cookies = format!("{SECURE_COOKIE}=AAAA; {SECURE_COOKIE}=; {good}");
    assert_eq!(judge(&guard("link"), &get("/"), &[&cookies]), Verdict::Pass);
    let many = format!("{}{good}", format!("{SECURE_COOKIE}=AAAA; ").repeat(COOKIES_MAX));
    assert_eq!(judge(&guard("link"), &get("/"), &[&many]), NO_LINK, "so many are not looked at");
}

#[test]
fn what_would_not_follow_passes_with_its_link() {
    let target = format!("/hook?{}", link(NOW + 60));
    assert_eq!(judge(&guard("link"), &Request { follows: false, ..get(&target) }, &[]), Verdict::Pass);
}

#[test]
fn who_may_look_already_is_not_shut_out_by_a_link_that_has_expired() {
    let target = format!("/?{}", link(NOW - 1));
    assert_eq!(judge(&guard("link"), &get(&target), &[&cookie(NOW + 60)]), Verdict::Pass);
}

#[test]
fn an_automated_test_passes_every_gate_by_a_header_or_its_query() {
    let token = key().sign(Purpose::Bypass, token::NEVER);
    let target = format!("/?flyloft-bypass={token}");
    for gate in ["link", "ip:192.0.2.1"] {
        let guard = guard(gate);
        assert_eq!(judge(&guard, &get(&target), &[]), Verdict::Pass);
        assert_eq!(judge(&guard, &Request { bypass: Some(token.as_bytes()), ..get("/") }, &[]), Verdict::Pass);
        assert_ne!(judge(&guard, &Request { bypass: Some(b"AAAA"), ..get("/") }, &[]), Verdict::Pass);
        let link = key().sign(Purpose::Link, NOW + 60);
        assert_ne!(judge(&guard, &Request { bypass: Some(link.as_bytes()), ..get("/") }, &[]), Verdict::Pass);
    }
}

#[test]
fn a_browser_that_says_a_token_in_its_query_goes_on_without_it_and_passes_every_gate_by_a_cookie() {
    let (until, logins) = (NOW + 60, Guard::new(Gate::Sso, key(), None).unwrap().with_logins(b"rules", 3_600));
    let token = key().sign(Purpose::Bypass, until);
    let target = format!("/a?b=1&flyloft-bypass={token}&c");
    let browser = Request { navigates: true, ..get(&target) };
    let next = Guard::new(Gate::Link, Key::new(&SECRET, 3, "shop-main.example.org", 1), None).unwrap();
    for guard in
        [guard("link"), guard("ip:192.0.2.1"), guard("password"), locked("correct horse"), guard("sso"), logins]
    {
        let Verdict::Enter { cookie, to } = judge(&guard, &browser, &[]) else { panic!("{guard:?}") };
        assert_eq!(to, "/a?b=1&c");
        assert!(cookie.ends_with("; Max-Age=60; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(judge(&guard, &get("/"), &[pair]), Verdict::Pass, "{guard:?}");
        let later = guard.judge(&get("/"), [pair.as_bytes()], until);
        assert!(matches!(later, Verdict::Refused(_)), "{guard:?}: its time is over");
        assert_eq!(judge(&next, &get("/"), &[pair]), NO_LINK, "after `share --revoke`");
        let as_cookie = format!("{SECURE_COOKIE}={token}");
        assert!(matches!(judge(&guard, &get("/"), &[&as_cookie]), Verdict::Refused(_)), "a token is no cookie");
        let header = Request { navigates: true, bypass: Some(token.as_bytes()), ..get("/a") };
        assert_eq!(judge(&guard, &header, &[]), Verdict::Pass, "there is nothing to hide");
    }
    let target = format!("/?flyloft-bypass={}", key().sign(Purpose::Bypass, token::NEVER));
    let browser = Request { navigates: true, ..get(&target) };
    let Verdict::Enter { cookie, .. } = judge(&guard("link"), &browser, &[]) else { panic!("not let in") };
    assert!(cookie.contains("; Max-Age=604800; "), "{cookie}");
    let bad = Request { navigates: true, ..get("/?flyloft-bypass=AAAA") };
    assert_eq!(judge(&guard("link"), &bad, &[]), NO_LINK);
}

#[test]
fn an_address_of_the_list_passes_and_a_link_is_none() {
    let target = format!("/?{}", link(NOW + 60));
    assert_eq!(judge(&guard("ip:203.0.113.0/24"), &get("/"), &[]), Verdict::Pass);
    let refused = Verdict::Refused(Refusal::Address);
    assert_eq!(judge(&guard("ip:2001:db8::/32,192.0.2.1"), &get(&target), &[&cookie(NOW + 60)]), refused);
}

fn locked(password: &str) -> Guard {
    Guard::new(Gate::Password, key(), Some(Hashed::new(password, &[9; 16]))).unwrap()
}

#[test]
fn a_password_is_asked_for_unless_its_cookie_is_there_and_a_link_is_none() {
    let guard = locked("correct horse");
    let target = format!("/?{}", link(NOW + 60));
    let refused = Verdict::Refused(Refusal::NoPassword);
    assert_eq!(judge(&guard, &get(&target), &[&cookie(NOW + 60)]), refused);
    for (authorization, said) in [
        ("Basic YWRhOmNvcnJlY3QgaG9yc2U=", Some("correct horse")),
        ("basic OmE6Yg==", Some("a:b")),
        ("Basic YWRh", None),
        ("Basic ???", None),
        ("Basic", None),
        ("Bearer YWRhOmNvcnJlY3QgaG9yc2U=", None),
    ] {
        let request = Request { authorization: Some(authorization.as_bytes()), ..get("/") };
        let verdict = said.map_or(refused.clone(), |said| Verdict::Password(said.into()));
        assert_eq!(judge(&guard, &request, &[]), verdict, "{authorization}");
    }
    let Some(Verdict::Enter { cookie, to }) = guard.enter_by_password(true, "//a?b", NOW) else { panic!("not let in") };
    assert!(to == "/.//a?b" && cookie.contains("; Max-Age=604800; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let both = Request { authorization: Some(b"Basic OmE6Yg=="), ..get("/") };
    assert_eq!(judge(&guard, &both, &[pair]), Verdict::Pass, "what is beside a cookie is the app's");
    let other = locked("another horse");
    assert_eq!(judge(&other, &get("/"), &[pair]), refused, "its password is another one by now");
    assert_eq!(judge(&self::guard("link"), &get("/"), &[pair]), NO_LINK);
}

#[test]
fn where_no_password_was_set_none_is_right() {
    let guard = guard("password");
    let request = Request { authorization: Some(b"Basic Og=="), ..get("/") };
    assert_eq!(judge(&guard, &request, &[]), Verdict::Refused(Refusal::NoneSet));
    assert!(!guard.finds(b"") && guard.enter_by_password(true, "/", NOW).is_none());
}

#[test]
fn whoever_enters_stays_on_the_same_host() {
    for (path, to) in
        [("//evil.example/x", "/.//evil.example/x"), ("/\\evil.example", "/./\\evil.example"), ("/", "/"), ("", "/")]
    {
        let target = format!("{path}?{}", link(NOW + 60));
        let Verdict::Enter { to: found, .. } = judge(&guard("link"), &get(&target), &[]) else { panic!("not let in") };
        assert_eq!(found, to);
    }
    for (target, to) in [("/\t/evil.example", "/"), ("\\/evil.example", "/./\\/evil.example"), ("?a", "/?a")] {
        assert_eq!(local(target), to);
    }
}

#[test]
fn an_app_sees_nothing_of_what_is_for_the_gate() {
    for (target, rest) in [
        ("/?flyloft-link=x", "/"),
        ("/a?flyloft-link", "/a"),
        ("/a?b=1&flyloft-bypass=x&c&flyloft-link=y&&d=%26", "/a?b=1&c&&d=%26"),
        ("/a?xflyloft-link=1&flyloft-links=2", "/a?xflyloft-link=1&flyloft-links=2"),
        ("/flyloft-link=x?a", "/flyloft-link=x?a"),
        ("/a?", "/a?"),
    ] {
        assert_eq!(without_ours(target), rest);
    }
    let ours =
        pairs(b"a=b; flyloft-gate=x;__Host-flyloft=; flyloft-gates=1;__Host-flyloft; flyloft-login=x").map(is_ours);
    assert_eq!(Vec::from_iter(ours), [false, true, true, false, false, true]);
}

#[test]
fn nobody_reads_a_key_in_a_log() {
    assert_eq!(format!("{:?}", guard("link")), "Guard { gate: Link, .. }");
}

proptest! {
    #[test]
    fn whatever_strangers_send_does_not_pass(target in "/[a-z?&=/\\-]{0,30}(\\?flyloft-(link|bypass)=[A-Za-z0-9_-]{0,40})?",
        cookies in proptest::collection::vec("(__Host-flyloft|flyloft-gate|a)?=[A-Za-z0-9_;= -]{0,60}", 0..4),
        bypass in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        secure in any::<bool>(), follows in any::<bool>())
    {
        let request = Request { secure, follows, navigates: follows, bypass: bypass.as_deref(), ..get(&target) };
        let verdict = guard("link").judge(&request, cookies.iter().map(|cookies| cookies.as_bytes()), NOW);
        prop_assert_eq!(verdict, NO_LINK);
    }
}

#[test]
fn an_app_sets_no_cookie_that_is_for_the_gate() {
    for ours in [
        "flyloft-gate=x",
        " flyloft-gate = x; Path=/",
        "__Host-flyloft=x; Secure; Path=/",
        "__Host-flyloft-login=x",
        "flyloft-login=",
        "flyloft-pending-0=x; Domain=staging.example.org",
        "=flyloft-gate=x",
        "= __Host-flyloft=x",
    ] {
        assert!(sets_ours(ours.as_bytes()), "{ours}");
    }
    for other in ["", "=", "session=flyloft-gate=x", "my-flyloft-gate=x", "flyloft=x", "a=b; flyloft-gate=x"] {
        assert!(!sets_ours(other.as_bytes()), "{other}");
    }
}
