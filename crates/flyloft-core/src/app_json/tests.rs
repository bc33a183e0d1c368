use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[track_caller]
fn read(json: &str) -> AppJson {
    AppJson::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refuse(json: impl AsRef<[u8]>, error: &str) {
    assert_eq!(AppJson::parse(json.as_ref()).unwrap_err().to_string(), error);
}

fn variable(manifest: &Manifest, name: &str) -> VariableSource {
    manifest.env[name].source.clone()
}

/// The example of Heroku's documentation, in its shape.
const EXAMPLE: &str = r#"{
  "name": "Small Shop",
  "keywords": ["shop"],
  "scripts": { "postdeploy": "bin/seed", "pr-predestroy": "bin/forget" },
  "env": {
    "SESSION_SECRET": { "description": "signs cookies", "generator": "secret" },
    "WORKERS": { "value": "5" },
    "MODE": "staging",
    "API_KEY": { "description": "of the payment provider" },
    "TRACE": { "required": false }
  },
  "formation": { "web": { "quantity": 2, "size": "standard-1x" }, "worker": { "quantity": 1 } },
  "addons": ["heroku-postgresql:mini", { "plan": "heroku-redis", "as": "CACHE" }, "papertrail"],
  "buildpacks": [{ "url": "heroku/python" }],
  "stack": "heroku-24",
  "environments": {
    "test": { "scripts": { "test": "pytest" } },
    "review": {
      "env": { "MODE": "review", "API_KEY": { "required": false } },
      "formation": { "worker": { "quantity": 0 } },
      "scripts": { "postdeploy": "bin/seed --small" }
    }
  },
  "flyloft": { "idle": "5m", "memory": "256M", "pids": 64 }
}"#;

#[test]
fn the_file_that_heroku_documents_is_understood() {
    let app = read(EXAMPLE);
    let manifest = &app.manifest;
    assert_eq!(app.name.as_deref(), Some("Small Shop"));
    assert_eq!(manifest.scripts.postdeploy.as_deref(), Some("bin/seed"));
    assert_eq!(manifest.scripts.pr_predestroy.as_deref(), Some("bin/forget"));
    assert_eq!(variable(manifest, "TRACE"), VariableSource::Optional);
    assert_eq!(Vec::from_iter(manifest.secrets().map(VariableName::as_str)), ["SESSION_SECRET"]);
    let defaults: Vec<_> = manifest.defaults().map(|(name, value)| (name.as_str(), value)).collect();
    assert_eq!(defaults, [("MODE", "staging"), ("WORKERS", "5")]);
    let required: Vec<_> = manifest.required().map(|(name, what)| (name.as_str(), what)).collect();
    assert_eq!(required, [("API_KEY", Some("of the payment provider"))]);
    let formation: Vec<_> = manifest.formation.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(formation, [("web", 2), ("worker", 1)]);
    assert_eq!(manifest.settings.to_string(), "idle=5m memory=256MiB pids=64 services=postgres,redis:CACHE");
}

#[test]
fn what_is_asked_for_and_not_done_is_a_warning_with_its_place() {
    let warnings: Vec<String> = read(EXAMPLE).warnings.iter().map(Warning::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r"
    app.json:13:83: add-on `papertrail` is not made
    app.json:14:3: `buildpacks` is ignored: how to build is found out from the files
    ");
}

#[test]
fn a_stack_is_one_of_ours_or_of_herokus_and_nothing_else() {
    let stack = |name: &str| read(&format!(r#"{{"stack": "{name}"}}"#)).manifest;
    assert_eq!(stack("debian-12").stack, Some(Stack::Debian12));
    for name in ["heroku-24", "cedar-14", "container", "cnb"] {
        let manifest = stack(name);
        assert_eq!((manifest.stack, manifest.herokus_stack.as_deref()), (None, Some(name)));
    }
    for name in ["../../etc", "debian-99", "debain-13", ""] {
        let error = format!("app.json:1:11: `stack` must be `debian-13` or `debian-12`, not `{name}`");
        refuse(format!(r#"{{"stack": "{name}"}}"#), &error);
    }
}

#[test]
fn more_variables_than_linux_could_hand_over_are_refused() {
    let many = |count| (0..count).map(|n| format!(r#""A{n}": {{}}"#)).collect::<Vec<_>>().join(",");
    assert_eq!(read(&format!(r#"{{"env": {{{}}}}}"#, many(1000))).manifest.env.len(), 1000);
    let error = "app.json:1:9: `env` has 1001 variables, and 1000 are allowed";
    refuse(format!(r#"{{"env": {{{}}}}}"#, many(1001)), error);
    let large = |length| format!(r#"{{"env": {{"A": "{0}", "B": {{"value": "{0}"}}}}}}"#, "x".repeat(length));
    assert_eq!(read(&large(65_535)).manifest.env.len(), 2);
    refuse(large(65_536), "app.json:1:9: `env` has 131074 bytes of variables, and 131072 are allowed");
    let review = format!(r#"{{"environments": {{"review": {{"env": {{{}}}}}}}}}"#, many(1001));
    let error = "app.json:1:37: `environments.review.env` has 1001 variables, and 1000 are allowed";
    refuse(review, error);
}

#[test]
fn more_process_types_and_checks_than_anybody_has_are_refused() {
    let types = |count, value: &str| (0..count).map(|n| format!(r#""p{n}": {value}"#)).collect::<Vec<_>>().join(",");
    for (key, value) in [("formation", "{}"), ("healthchecks", "[]")] {
        let error = format!("app.json:1:{}: `{key}` has 101 process types, and 100 are allowed", key.len() + 6);
        refuse(format!(r#"{{"{key}": {{{}}}}}"#, types(101, value)), &error);
        read(&format!(r#"{{"{key}": {{{}}}}}"#, types(100, value)));
    }
    let checks = vec![r#"{"path": "/up"}"#; 101].join(",");
    let error = "app.json:1:26: `healthchecks.web` has 101 checks, and 100 are allowed";
    refuse(format!(r#"{{"healthchecks": {{"web": [{checks}]}}}}"#), error);
}

#[test]
fn add_ons_that_are_services_are_asked_for_and_what_flyloft_is_told_goes_before_them() {
    let services = |json: &str| read(json).manifest.settings.services.map(|asks| asks.to_string());
    let addons = r#""addons": ["postgres", {"plan": "heroku-postgresql:mini", "as": "reports", "options": {}}]"#;
    assert_eq!(services(&format!("{{{addons}}}")).as_deref(), Some("postgres,postgres:REPORTS"));
    assert_eq!(services(r#"{"addons": [{"plan": "postgres", "as": "DATABASE"}]}"#).as_deref(), Some("postgres"));
    let told = format!(r#"{{{addons}, "flyloft": {{"services": "none"}}}}"#);
    assert_eq!(services(&told).as_deref(), Some("none"));
    assert_eq!(services(r#"{"addons": ["papertrail"]}"#).as_deref(), Some("none"));
    let own = r#"{"addons": [{"plan": "rediscloud:30", "options": {"isolation": "database", "size": 1}}]}"#;
    assert_eq!(services(own).as_deref(), Some("redis/database"));
    let unknown = "redis has no isolation `own`; there are `prefix` and `database`";
    refuse(r#"{"addons": [{"plan": "redis", "options": {"isolation": "own"}}]}"#, &format!("app.json:1:13: {unknown}"));
    assert_eq!(services("{}"), None);
    let review = r#"{"addons": ["postgres"], "environments": {"review": {"addons": []}}}"#;
    assert_eq!(read(review).for_review().settings.services.map(|asks| asks.to_string()).as_deref(), Some("none"));
    let seeded = r#"{"addons": [{"plan": "postgres", "options": {"version": 15, "template": "shop_seed"}}]}"#;
    assert_eq!(services(seeded).as_deref(), Some("postgres@shop_seed"));
    refuse(
        r#"{"addons": [{"plan": "postgres", "options": {"template": "shop/main"}}]}"#,
        "app.json:1:58: `shop/main` is no name for a template: lower-case letters, digits, `_` and `-`, 30 at most",
    );
    let twice = "`postgres` is asked for twice; name the second one, as in `postgres:REPORTS`";
    refuse(r#"{"addons": ["postgres", "heroku-postgresql"]}"#, &format!("app.json:1:25: {twice}"));
}

#[test]
fn of_very_many_add_ons_the_first_are_named() {
    let warnings = read(&format!(r#"{{"addons": [{}]}}"#, vec![r#""a""#; 200_000].join(","))).warnings;
    assert_eq!(warnings.len(), 21);
    assert_eq!(warnings.last().unwrap().text, "199980 more add-ons are not made");
}

#[test]
fn a_pull_request_overrides_the_rest_key_by_key() {
    let review = read(EXAMPLE).for_review();
    assert_eq!(variable(&review, "MODE"), VariableSource::Value("review".to_owned()));
    assert_eq!(variable(&review, "API_KEY"), VariableSource::Optional);
    assert_eq!(variable(&review, "WORKERS"), VariableSource::Value("5".to_owned()));
    assert_eq!(Vec::from_iter(review.formation.values()), [&2, &0]);
    assert_eq!(review.scripts.postdeploy.as_deref(), Some("bin/seed --small"));
    assert_eq!(review.scripts.pr_predestroy.as_deref(), Some("bin/forget"));
    assert_eq!(review.settings.to_string(), "idle=5m memory=256MiB pids=64 services=postgres,redis:CACHE");
}

#[test]
fn an_empty_file_is_an_app_that_says_nothing() {
    assert_eq!(read("{}"), AppJson::default());
    assert_eq!(read("\u{feff} {\r\n} "), AppJson::default());
}

#[test]
fn keys_of_others_are_ignored() {
    let app = read(
        r#"{"expo": {"name": "x"}, "logo": 1, "environments": {"test": []}, "env": {"A": {"value": "b", "x": 1}}}"#,
    );
    assert_eq!(variable(&app.manifest, "A"), VariableSource::Value("b".to_owned()));
    assert_eq!(app.warnings, []);
}

#[test]
fn health_checks_are_read_as_dokku_reads_them() {
    let checks =
        |json: &str| read(&format!(r#"{{"healthchecks": {{"web": [{json}]}}}}"#)).manifest.healthchecks["web"].clone();
    let [full] = &checks(
        r#"{"type": "readiness", "name": "up", "description": "x", "path": "/up", "content": "ok", "attempts": 7,
            "timeout": 2, "wait": 1, "initialDelay": 4, "warn": true, "httpHeaders": [{"name": "X-Probe", "value": "1"}]}"#,
    )[..] else {
        panic!("one check")
    };
    let seconds = Duration::from_secs;
    assert_eq!((full.name.as_deref(), full.when, full.attempts, full.warn), (Some("up"), Moment::Readiness, 7, true));
    assert_eq!((full.timeout, full.wait, full.initial_delay), (seconds(2), seconds(1), seconds(4)));
    let headers = vec![("X-Probe".to_owned(), "1".to_owned())];
    assert_eq!(full.probe, Probe::Http { path: "/up".to_owned(), content: Some("ok".to_owned()), headers });

    let all = checks(r#"{}, {"command": ["./check", "-q"]}, {"uptime": 3}, {"listening": true}"#);
    let root = Probe::Http { path: "/".to_owned(), content: None, headers: vec![] };
    let command = Probe::Command(vec!["./check".to_owned(), "-q".to_owned()]);
    let probes: Vec<Probe> = all.iter().map(|check| check.probe.clone()).collect();
    assert_eq!(probes, [root, command, Probe::Uptime(seconds(3)), Probe::Listening]);
    let plain = &all[0];
    assert_eq!((plain.when, plain.attempts, plain.warn), (Moment::Startup, 3, false));
    assert_eq!((plain.timeout, plain.wait, plain.initial_delay), (seconds(5), seconds(5), seconds(0)));
}

#[test]
fn a_secret_that_has_a_value_keeps_it() {
    let app =
        read(r#"{"env": {"A": {"generator": "secret", "value": "x"}, "B": {"generator": "secret", "value": ""}}}"#);
    assert_eq!(variable(&app.manifest, "A"), VariableSource::Value("x".to_owned()));
    assert_eq!(variable(&app.manifest, "B"), VariableSource::Secret);
}

#[test]
fn a_value_may_have_several_lines() {
    let app = read(r#"{"env": {"KEY": "a\nlxc.hook.start = /bin/x\r\n\u001b"}}"#);
    assert_eq!(
        variable(&app.manifest, "KEY"),
        VariableSource::Value("a\nlxc.hook.start = /bin/x\r\n\u{1b}".to_owned())
    );
}

#[test]
fn what_is_not_json_is_an_error_where_it_stops_being_json() {
    refuse("", "app.json:1:1: this is not JSON: EOF while parsing a value");
    refuse("web: ./run", "app.json:1:1: this is not JSON: expected value");
    refuse("{\n  \"name\": \"é\",\n}", "app.json:3:1: this is not JSON: trailing comma");
    refuse("{\"é\": \"é\" \"x\"}", "app.json:1:11: this is not JSON: expected `,` or `}`");
    refuse("{\n  // staging\n}", "app.json:2:3: this is not JSON: key must be a string");
    refuse("{} {}", "app.json:1:4: this is not JSON: trailing characters");
    refuse(b"{\"a\":\n \"\xff\"}", "app.json:2:3: this is not UTF-8");
    refuse("[]", "app.json:1:1: the file must be an object, not a list");
}

#[test]
fn errors_name_the_place_and_the_path_of_the_key() {
    refuse("{\n  \"env\": {\n    \"A\": 5\n  }\n}", "app.json:3:10: `env.A` must be an object, not a number");
    refuse(
        r#"{"env": {"A": {"required": "no"}}}"#,
        "app.json:1:28: `env.A.required` must be true or false, not a string",
    );
    refuse(r#"{"env": {"A": {"generator": "uuid"}}}"#, "app.json:1:29: `env.A.generator` must be `secret`, not `uuid`");
    refuse(r#"{"env": {"A": "x", "A": "y"}}"#, "app.json:1:20: `env.A` is there twice");
    refuse(
        "{\"env\": {\n\"A B\": \"x\"}}",
        "app.json:2:1: `A B` is not the name of a variable: letters, digits and `_`, no digit first",
    );
    refuse(r#"{"env": {"A": "x\u0000"}}"#, "app.json:1:15: the value of `A` contains a NUL character");
    refuse(
        r#"{"formation": {"web": {"quantity": -1}}}"#,
        "app.json:1:36: `formation.web.quantity` must be a whole number from 0 to 100",
    );
    refuse(
        r#"{"formation": {"web": {"quantity": 1.5}}}"#,
        "app.json:1:36: `formation.web.quantity` must be a whole number from 0 to 100",
    );
    refuse(
        r#"{"formation": {"w/b": {}}}"#,
        "app.json:1:16: `formation.w/b` is not a process type: letters, digits, `-` and `_`, 30 at most",
    );
    refuse(r#"{"scripts": {"postdeploy": {}}}"#, "app.json:1:28: `scripts.postdeploy` has no `command`");
    refuse(r#"{"scripts": []}"#, "app.json:1:13: `scripts` must be an object, not a list");
    refuse(r#"{"addons": [{"as": "DB"}]}"#, "app.json:1:13: `addons[0]` has no `plan`");
    refuse(r#"{"environments": {"review": null}}"#, "app.json:1:29: `environments.review` must be an object, not null");
    refuse(
        r#"{"environments": {"review": {"env": {"A": true}}}}"#,
        "app.json:1:43: `environments.review.env.A` must be an object, not true or false",
    );
    refuse(r#"{"name": "\ud800"}"#, "app.json:1:17: this is not JSON: unexpected end of hex escape");
}

#[test]
fn a_health_check_that_makes_no_sense_is_refused() {
    let refuse = |check: &str, error: &str| refuse(format!(r#"{{"healthchecks": {{"web": [{check}]}}}}"#), error);
    refuse(
        r#"{"path": "/", "uptime": 1}"#,
        "app.json:1:27: `healthchecks.web[0]` has more than one of `command`, `path`, `uptime` and `listening`",
    );
    refuse(
        r#"{"path": "/ HTTP/1.1\r\nX: y"}"#,
        "app.json:1:36: `healthchecks.web[0].path` must start with `/` and have neither spaces nor control characters",
    );
    refuse(
        r#"{"httpHeaders": [{"name": "X", "value": "a\r\nb"}]}"#,
        "app.json:1:67: `healthchecks.web[0].httpHeaders[0].value` contains a control character",
    );
    refuse(
        r#"{"httpHeaders": [{"name": "X: y"}]}"#,
        "app.json:1:53: `healthchecks.web[0].httpHeaders[0].name` must be the name of an HTTP header, not `X: y`",
    );
    refuse(r#"{"timeout": 0}"#, "app.json:1:39: `healthchecks.web[0].timeout` must be a whole number from 1 to 3600");
    refuse(
        r#"{"type": "boot"}"#,
        "app.json:1:36: `healthchecks.web[0].type` must be `startup`, `liveness` or `readiness`, not `boot`",
    );
    refuse(r#"{"command": []}"#, "app.json:1:39: `healthchecks.web[0].command` must not be empty");
}

#[test]
fn under_flyloft_nothing_is_ignored() {
    refuse(
        r#"{"flyloft": {"idel": "5m"}}"#,
        "app.json:1:14: there is no setting `idel`; there are `idle`, `ttl`, `expire`, `memory`, `swap`, `pids`, `cpu_weight`, `disk`, `inodes`, `services`, `gate`",
    );
    refuse(
        r#"{"flyloft": {"idle": "soon"}}"#,
        "app.json:1:22: `idle`: `soon` is not a span of time such as `15m`, `1h30m`, `14d` or `never`",
    );
    refuse(
        r#"{"flyloft": {"gate": "public"}}"#,
        "app.json:1:14: `flyloft.gate` is not for a repository to say; people do, with `flyloft apps set` or `flyloft set`",
    );
    refuse(r#"{"flyloft": {"idle": 5}}"#, "app.json:1:22: `idle`: `5` has no unit: write `5s`, `5m`, `5h` or `5d`");
    refuse(r#"{"flyloft": {"idle": null}}"#, "app.json:1:22: `flyloft.idle` must be a string or a number, not null");
    refuse(r#"{"flyloft": {"pids": 1e9}}"#, "app.json:1:22: `pids`: `1e9` is not a whole number from 8 to 4194304");
}

#[test]
fn a_file_that_nests_without_end_is_refused_or_ignored_and_breaks_nothing() {
    let deep = "[".repeat(1_000_000);
    assert!(AppJson::parse(deep.as_bytes()).is_err());
    let closed = format!(r#"{{"x": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(AppJson::parse(closed.as_bytes()).is_ok());
}

#[test]
fn a_file_with_very_many_keys_is_read_in_time_that_grows_with_it() {
    let keys: Vec<String> = (0..50_000).map(|n| format!(r#""K{n}": "v""#)).collect();
    let app = read(&format!(r#"{{{}, "name": "shop"}}"#, keys.join(", ")));
    assert_eq!(app.name.as_deref(), Some("shop"));
}

/// JSON that is near enough to an `app.json` to reach every corner of the reader.
fn any_json() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "env",
        "value",
        "required",
        "generator",
        "description",
        "formation",
        "web",
        "quantity",
        "scripts",
        "postdeploy",
        "command",
        "healthchecks",
        "path",
        "uptime",
        "httpHeaders",
        "type",
        "timeout",
        "environments",
        "review",
        "flyloft",
        "idle",
        "memory",
        "addons",
        "plan",
        "buildpacks",
        "stack",
        "A",
        "a b",
        "é",
        "\u{7f}",
        "",
    ]);
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true", "false", "0", "-1", "1.5", "1e400", "99999999999999999999", r#""""#])
            .prop_map(str::to_owned),
        prop::sample::select(vec![r#""\u0000""#, r#""\ud800""#, r#""secret""#, r#""5m""#, r#""/up""#])
            .prop_map(str::to_owned),
        "\\PC{0,8}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        let member = (key.clone(), "[ \n\t\r]{0,2}", inner.clone());
        let member = member.prop_map(|(key, space, value)| {
            format!("{space}{}{space}:{space}{value}", serde_json::to_string(key).unwrap())
        });
        prop_oneof![
            4 => prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused_at_a_place_that_exists(json in any_json()) {
        if let Err(AppJsonError { place, .. }) = AppJson::parse(json.as_bytes()) {
            let line = json.split('\n').nth(place.line - 1);
            prop_assert!(line.is_some_and(|line| place.column <= line.chars().count() + 1), "{place} in {json}");
        }
    }

    #[test]
    fn any_bytes_are_refused_at_a_place_that_exists(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            any_json().prop_flat_map(|json| (Just(json.clone()), 0..=json.len(), "\\PC{0,3}")).prop_map(|(json, at, junk)| {
                let mut bytes = json.into_bytes();
                bytes.splice(at..at, junk.into_bytes());
                bytes
            }),
        ],
    ) {
        if let Err(error) = AppJson::parse(&bytes) {
            let text = String::from_utf8_lossy(&bytes);
            let place = error.place;
            let line = text.split('\n').nth(place.line - 1);
            prop_assert!(line.is_some_and(|line| place.column <= line.chars().count() + 1), "{error} in {text:?}");
            prop_assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }
}
