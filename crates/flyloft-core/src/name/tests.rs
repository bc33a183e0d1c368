use proptest::prelude::*;

use super::*;

fn branch(name: &str) -> BranchName {
    BranchName::parse(name).unwrap()
}

#[track_caller]
fn slug(name: &str, expected: &str) {
    assert_eq!(EnvName::for_branch(&branch(name)).unwrap().as_str(), expected);
}

#[track_caller]
fn refuse<T: FromStr<Err = NameError> + fmt::Debug>(name: &str, error: &str) {
    assert_eq!(name.parse::<T>().unwrap_err().to_string(), error);
}

#[test]
fn a_branch_becomes_a_slug_that_people_recognise() {
    slug("main", "main");
    slug("feature/login", "feature-login");
    slug("Fix__the_bug!", "fix-the-bug");
    slug("dependabot/npm_and_yarn/ws-8.17.1", "dependabot-npm-and-yarn-ws-8-17-1");
    slug("_x_", "x");
}

#[test]
fn a_hostile_branch_becomes_a_harmless_slug() {
    slug("$(reboot)", "reboot");
    slug("x;rm${IFS}-rf${IFS}", "x-rm-ifs-rf-ifs");
}

#[test]
fn a_branch_without_a_usable_character_is_named_by_a_hash() {
    slug("🎭", "dcbff4a5");
    slug("документ", "73779be5");
}

#[test]
fn long_branches_with_the_same_start_stay_apart() {
    let long = "x".repeat(249);
    let [one, other] = ["1", "2"].map(|end| EnvName::for_branch(&branch(&format!("{long}{end}"))).unwrap());
    assert_eq!(one.as_str().len(), 40);
    assert_ne!(one, other);
}

#[test]
fn the_names_of_pull_requests_are_kept_for_them() {
    assert_eq!(EnvName::for_pull_request(42).as_str(), "pr-42");
    assert_eq!(EnvName::for_pull_request(42).pull_request(), Some(42));
    for name in ["pr-42", "pr/42", "PR-42", "pr-007"] {
        let error = EnvName::for_branch(&branch(name)).unwrap_err();
        assert!(matches!(error, NameError::Reserved(..)), "{name}: {error}");
    }
    slug("pr-42-again", "pr-42-again");
    slug("pr-", "pr");
}

#[test]
fn two_branches_with_one_slug_are_an_error_that_names_both() {
    let env = EnvRef::parse("shop/feature-x").unwrap();
    let [wanted, holder] = ["feature/x", "feature-x"].map(|name| Origin::Branch(branch(name)));
    assert_eq!(EnvName::for_branch(&branch("feature/x")), EnvName::for_branch(&branch("feature-x")));
    let error = EnvTaken { env, wanted, holder };
    assert_eq!(
        error.to_string(),
        "branch `feature/x` would be the environment `shop/feature-x`, which is that of branch `feature-x`"
    );
}

#[test]
fn labels_that_no_host_name_can_carry_are_refused() {
    refuse::<AppName>("", "app name is empty");
    refuse::<AppName>(&"a".repeat(31), &format!("app name `{}` has 31 characters, 30 are allowed", "a".repeat(31)));
    refuse::<AppName>("Shop", "app name `Shop` may have only a-z, 0-9 and `-`, and neither starts nor ends with `-`");
    refuse::<AppName>(
        "a\u{1b}[2J\n",
        "app name `a\\u{1b}[2J\\n` may have only a-z, 0-9 and `-`, and neither starts nor ends with `-`",
    );
    refuse::<AppName>(
        "🎭🎭🎭🎭🎭🎭🎭🎭",
        "app name `🎭🎭🎭🎭🎭🎭🎭🎭` may have only a-z, 0-9 and `-`, and neither starts nor ends with `-`",
    );
    refuse::<AppName>(
        "xn--abc",
        "app name `xn--abc` starts with `xn--`, which browsers read as an encoded international name",
    );
    refuse::<EnvName>(
        "a/b",
        "environment name `a/b` may have only a-z, 0-9 and `-`, and neither starts nor ends with `-`",
    );
    refuse::<EnvRef>("shop", "`shop` is not of the form app/env");
    refuse::<EnvRef>("shop/", "environment name is empty");
    refuse::<EnvRef>("../../etc", "app name `..` may have only a-z, 0-9 and `-`, and neither starts nor ends with `-`");
}

#[test]
fn branches_that_git_refuses_are_refused() {
    for name in [
        "a..b",
        "a/../b",
        "@",
        "a@{1}",
        "HEAD",
        "a b",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[",
        "a\\b",
        "a//b",
        "/a",
        "a/",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        "-a",
        "--upload-pack=x",
        "a\nb",
        "a\0",
        "a\u{7f}",
    ] {
        assert!(matches!(BranchName::parse(name), Err(NameError::NotABranch { .. })), "{name:?}");
    }
    refuse::<BranchName>("", "branch name is empty");
    refuse::<BranchName>(
        &"x".repeat(251),
        &format!("`{}…` is not a branch name that git allows: it has more than 250 bytes", "x".repeat(60)),
    );
}

#[test]
fn branches_that_git_allows_are_allowed() {
    for name in
        ["main", "feature/x", "a@b", "🎭", "a;b", "$(id)", "a'b\"c", "a|b", "a&b", "{a}", "a.b", &"x".repeat(250)]
    {
        assert!(BranchName::parse(name).is_ok(), "{name:?}");
    }
}

#[test]
fn a_commit_is_a_full_id_in_lower_case() {
    assert!(CommitId::parse(&"0a".repeat(20)).is_ok());
    assert!(CommitId::parse(&"0a".repeat(32)).is_ok());
    for text in ["", "0a1b2c3", &"0A".repeat(20), &"0g".repeat(20), "--upload-pack=x", &"é".repeat(20)] {
        assert!(matches!(CommitId::parse(text), Err(NameError::NotACommit(_))), "{text:?}");
    }
    assert!(CommitId::parse(&"0".repeat(40)).unwrap().is_zero());
}

proptest! {
    #[test]
    fn the_slug_of_any_branch_is_an_environment_name_that_is_not_a_pull_requests(
        name in "\\PC{1,100}|[a-zA-Z0-9/._-]{1,250}|(pr|PR)[-/_]{0,2}[0-9]{0,60}",
    ) {
        if let Ok(branch) = BranchName::parse(&name) {
            match EnvName::for_branch(&branch) {
                Ok(slug) => {
                    prop_assert_eq!(EnvName::parse(slug.as_str()), Ok(slug.clone()));
                    prop_assert_eq!(slug.pull_request(), None);
                }
                Err(error) => prop_assert!(matches!(error, NameError::Reserved(..)), "{}", error),
            }
        }
    }

    #[test]
    fn names_are_the_same_after_the_store(app in "[a-z0-9]{1,30}", env in "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?") {
        prop_assume!(!env.starts_with("xn--"));
        let name = EnvRef::parse(&format!("{app}/{env}")).unwrap();
        let json = serde_json::to_string(&name).unwrap();
        prop_assert_eq!(serde_json::from_str::<EnvRef>(&json).unwrap(), name);
    }

    #[test]
    fn any_text_is_a_name_or_refused_in_a_short_line(text in "(?s).{0,400}") {
        let errors = [
            AppName::parse(&text).err(),
            EnvName::parse(&text).err(),
            EnvRef::parse(&text).err(),
            CommitId::parse(&text).err(),
            BranchName::parse(&text).err(),
        ];
        for error in errors.into_iter().flatten() {
            let error = error.to_string();
            prop_assert!(error.chars().count() < 900 && !error.contains(char::is_control), "{error:?}");
        }
    }
}
