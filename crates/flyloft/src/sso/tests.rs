use super::*;

fn sso() -> (Sso, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::open(dir.path()).unwrap();
    let identity = Identity {
        issuer: "https://id.example.org".to_owned(),
        client: "flyloft".to_owned(),
        secret: "s3cret".to_owned(),
        scopes: vec!["openid".to_owned()],
    };
    let rules = Rules::new(&[], &[], true).unwrap();
    (Sso::new(identity, rules, "example.org", &vault, Patience::default()).0, dir)
}

fn pending() -> Pending {
    Pending {
        to: "shop-main.example.org".to_owned(),
        path: "/a?b".to_owned(),
        bound: "bound".to_owned(),
        state: "state".to_owned(),
        nonce: "nonce".to_owned(),
        verifier: "verifier".to_owned(),
        until: 1_000,
    }
}

#[test]
fn a_login_that_was_begun_can_be_read_by_the_daemon_alone_and_until_its_time_is_over() {
    let (sso, _dir) = sso();
    let sealed = sso.seal(&pending());
    assert_eq!(sso.unseal(sealed.as_bytes(), 999), Some(pending()));
    assert_eq!(sso.unseal(sealed.as_bytes(), 1_000), None);
    let bytes = Base64UrlUnpadded::decode_vec(&sealed).unwrap();
    assert!(!bytes.windows(8).any(|piece| piece == b"verifier"));
    for at in 0..sealed.len() {
        let mut bad = sealed.clone().into_bytes();
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(sso.unseal(&bad, 999), None, "{at}");
    }
    let (other, _dir) = self::sso();
    assert_eq!(other.unseal(sealed.as_bytes(), 999), None);
}

#[test]
fn the_secret_of_the_client_is_one_line_that_others_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let read = |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        secret(&path)
    };
    assert_eq!(read("s3cret\n", 0o640).unwrap(), "s3cret");
    assert!(matches!(read("s3cret\n", 0o644), Err(SsoError::Open { mode: 0o644, .. })));
    assert!(matches!(read("\n", 0o600), Err(SsoError::NoSecret { .. })));
    assert!(matches!(read("a\nb\n", 0o600), Err(SsoError::NoSecret { .. })));
    assert!(matches!(secret(&dir.path().join("none")), Err(SsoError::Read { .. })));
}

#[test]
fn the_host_name_of_logins_is_that_of_no_environment() {
    use flyloft_core::host::{Domain, HostName};
    let domain = Domain::parse("example.org").unwrap();
    let longest = EnvRef::parse(&format!("{}/{}", "a".repeat(30), "b".repeat(40))).unwrap();
    for env in [EnvRef::parse("l/o").unwrap(), longest] {
        let label = HostName::of(&env, &domain).as_str().split('.').next().unwrap().to_owned();
        assert!(label.contains('-') && !LABEL.contains('-'), "{label}");
    }
}
