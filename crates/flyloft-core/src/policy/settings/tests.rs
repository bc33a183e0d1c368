use proptest::prelude::*;

use super::*;

fn settings(assignments: &[&str]) -> Settings {
    let mut settings = Settings::default();
    assignments.iter().for_each(|assignment| settings.assign(assignment).unwrap());
    settings
}

#[track_caller]
fn refuse(assignment: &str, error: &str) {
    assert_eq!(Settings::default().assign(assignment).unwrap_err().to_string(), error);
}

#[test]
fn without_any_setting_the_built_in_policy_and_limits_hold() {
    assert_eq!(Settings::default().policy(), Policy::default());
    assert_eq!(Settings::default().limits(), Limits::default());
}

#[test]
fn an_environment_overrides_its_app_and_an_app_the_server() {
    let server = settings(&["idle=10m", "ttl=1h", "expire=7d"]);
    let app = settings(&["ttl=2h", "expire=8d"]);
    let env = settings(&["expire=never"]);
    let merged = env.over(&app).over(&server);
    assert_eq!(merged.to_string(), "idle=10m ttl=2h expire=never");
}

#[test]
fn an_empty_value_gives_a_setting_back_to_the_level_below() {
    let mut env = settings(&["idle=1m", "memory=2G"]);
    env.assign("idle=").unwrap();
    assert_eq!(env.to_string(), "memory=2GiB");
}

#[test]
fn a_repository_may_ask_for_less_than_the_server_gives_but_not_for_more() {
    let asked = settings(&["idle=never", "ttl=1h", "memory=1T", "pids=100", "cpu_weight=10000"]);
    let given = asked.within(&Policy::default(), &Limits::default());
    assert_eq!(given.to_string(), "idle=15m ttl=1h memory=1GiB pids=100 cpu_weight=100");
}

#[test]
fn refusals_name_the_key_and_what_is_allowed() {
    refuse("idle", "`idle` is not of the form KEY=VALUE");
    refuse(
        "Idle=5m",
        "there is no setting `Idle`; there are `idle`, `ttl`, `expire`, `memory`, `swap`, `pids`, `cpu_weight`, `disk`, `inodes`, `services`, `gate`",
    );
    refuse("idle=5", "`idle`: `5` has no unit: write `5s`, `5m`, `5h` or `5d`");
    refuse("idle=0s", "`idle`: `0s` is too little, 1s is the least");
    refuse("memory=512", "`memory`: `512` is too little, 16MiB is the least");
    refuse("memory=lots", "`memory`: `lots` is not a size such as `512M` or `1GiB`");
    refuse("cpu_weight=0", "`cpu_weight`: `0` is not a whole number from 1 to 10000");
    refuse(
        "services=oracle",
        "`services`: `oracle` is no kind of service; there are `postgres`, `mysql`, `redis`, `rabbitmq`",
    );
    refuse("pids=99999999999999999999", "`pids`: `99999999999999999999` is not a whole number from 8 to 4194304");
}

#[test]
fn a_table_in_toml_takes_strings_and_numbers_and_knows_its_keys() {
    let read: Settings = toml::from_str("idle = '5m'\npids = 64\nmemory = '256M'").unwrap();
    assert_eq!(read, settings(&["idle=5m", "pids=64", "memory=256M"]));
    insta::assert_snapshot!(toml::from_str::<Settings>("idle = '5m'\nidel = '5m'").unwrap_err(), @r"
    TOML parse error at line 2, column 1
      |
    2 | idel = '5m'
      | ^^^^
    there is no setting `idel`; there are `idle`, `ttl`, `expire`, `memory`, `swap`, `pids`, `cpu_weight`, `disk`, `inodes`, `services`, `gate`
    ");
    insta::assert_snapshot!(toml::from_str::<Settings>("pids = -3").unwrap_err(), @r"
    TOML parse error at line 1, column 8
      |
    1 | pids = -3
      |        ^^
    `pids`: `-3` is not a whole number from 8 to 4194304
    ");
}

#[test]
fn json_does_not_set_a_key_twice() {
    let error = serde_json::from_str::<Settings>(r#"{"idle": "5m", "idle": "6m"}"#).unwrap_err();
    assert_eq!(error.to_string(), "`idle` is set twice at line 1 column 21");
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let values = (1..9_000_000u64, 16..9000u64, 8..10_000u32, 100..9_000_000u64);
    (values, prop::collection::vec(any::<bool>(), 11)).prop_map(|((seconds, mebi, count, inodes), present)| {
        let mut settings = Settings::default();
        for (key, _) in Key::ALL.into_iter().zip(present).filter(|(_, present)| *present) {
            let value = match key {
                Key::Idle | Key::Ttl | Key::Expire => format!("{seconds}s"),
                Key::Memory | Key::Swap | Key::Disk => format!("{mebi}M"),
                Key::Pids | Key::CpuWeight => count.to_string(),
                Key::Inodes => inodes.to_string(),
                Key::Services => format!("postgres,postgres:A{count}"),
                Key::Gate => {
                    ["public", "link", "password", "ip:192.0.2.1,2001:db8::/32"][count as usize % 4].to_owned()
                }
            };
            settings.set(key, &value).unwrap();
        }
        settings
    })
}

proptest! {
    #[test]
    fn settings_are_the_same_after_toml_json_and_the_command_line(before in any_settings()) {
        let toml = toml::to_string(&before).unwrap();
        prop_assert_eq!(&toml::from_str::<Settings>(&toml).unwrap(), &before);
        let json = serde_json::to_string(&before).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Settings>(&json).unwrap(), &before);
        let printed = before.to_string();
        prop_assert_eq!(settings(&Vec::from_iter(printed.split_whitespace())), before);
    }

    #[test]
    fn the_upper_level_wins_wherever_it_says_something(upper in any_settings(), lower in any_settings()) {
        let merged = upper.clone().over(&lower);
        for key in Key::ALL {
            prop_assert_eq!(merged.get(key), upper.get(key).or(lower.get(key)));
        }
    }

    #[test]
    fn any_assignment_is_taken_or_refused(text in "(?s).{0,100}|(idle|memory|pids|cpu_weight|inodes|ttl)=[0-9a-zA-Z.-]{0,24}") {
        if let Err(error) = Settings::default().assign(&text) {
            let error = error.to_string();
            prop_assert!(!error.contains(char::is_control) && error.chars().count() < 900, "{error:?}");
        }
    }
}
