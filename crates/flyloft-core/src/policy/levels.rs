//! The levels on which settings are written down, and what comes of them together.

use std::fmt;
use std::time::Duration;

use super::{Key, Limits, Policy, Settings, Span};
use crate::gate::Gate;

/// What a shorter `expire` of an `app.json` counts for. Nobody is asked about that one before it destroys.
const LEAST_EXPIRE: Duration = Duration::from_secs(3600);

/// What is written down on each level for one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// `[defaults]` of the configuration.
    pub server: Settings,
    /// `"flyloft"` in the `app.json` of the release that serves. Whoever may push writes it, so it counts only as far as
    /// it asks for no more than the server gives, and not for an end within the hour. Who may look is not its business.
    pub app_json: Settings,
    pub app: Settings,
    pub env: Settings,
}

/// Where a setting comes from, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    BuiltIn,
    Server,
    AppJson,
    App,
    Env,
}

impl Levels {
    /// What holds, as far as any level says it.
    pub fn merged(&self) -> Settings {
        let asked = self.asked();
        self.env.clone().over(&self.app).over(&asked).over(&self.server)
    }

    /// The value that holds, as people write it, and the level that says so.
    pub fn of(&self, key: Key) -> (String, Level) {
        let asked = self.asked();
        let levels = [
            (&self.env, Level::Env),
            (&self.app, Level::App),
            (&asked, Level::AppJson),
            (&self.server, Level::Server),
            (&Settings::built_in(), Level::BuiltIn),
        ];
        let found = levels.into_iter().find_map(|(settings, level)| Some((settings.get(key)?, level)));
        found.expect("everything is built in")
    }

    pub fn policy(&self) -> Policy {
        self.merged().policy()
    }

    pub fn limits(&self) -> Limits {
        self.merged().limits()
    }

    /// Who may look at it.
    pub fn gate(&self) -> Gate {
        self.merged().gate()
    }

    /// What the server gives whoever asks. More is given by who runs the server.
    pub fn granted(&self, asked: Settings) -> Settings {
        asked.within(&self.server.policy(), &self.server.limits())
    }

    fn asked(&self) -> Settings {
        let expire = self.app_json.expire.map(|span| Span(span.0.map(|span| span.max(LEAST_EXPIRE))));
        self.granted(Settings { expire, gate: None, ..self.app_json.clone() })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::BuiltIn => "built in",
            Level::Server => "server",
            Level::AppJson => "app.json",
            Level::App => "app",
            Level::Env => "environment",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        text.split_whitespace().for_each(|assignment| settings.assign(assignment).unwrap());
        settings
    }

    #[test]
    fn an_app_json_ends_nothing_within_the_hour_unless_the_server_does() {
        let expire = |server, asked| {
            let levels = Levels { server: settings(server), app_json: settings(asked), ..Levels::default() };
            levels.of(Key::Expire).0
        };
        assert_eq!(expire("", "expire=1s"), "1h");
        assert_eq!(expire("", "expire=2h"), "2h");
        assert_eq!(expire("expire=5m", "expire=1s"), "5m");
        assert_eq!(expire("expire=never", "expire=never"), "never");
        let by_hand = Levels { app_json: settings("expire=1s"), env: settings("expire=1s"), ..Levels::default() };
        assert_eq!(by_hand.of(Key::Expire).0, "1s");
    }

    #[test]
    fn a_repository_has_no_say_in_who_may_look() {
        let levels = |server, app, env| Levels {
            server: settings(server),
            app_json: settings("gate=public"),
            app: settings(app),
            env: settings(env),
        };
        assert_eq!(levels("", "", "").of(Key::Gate), ("link".to_owned(), Level::BuiltIn));
        assert_eq!(levels("", "", "").gate(), Gate::Link);
        assert_eq!(levels("gate=ip:192.0.2.1", "", "").of(Key::Gate), ("ip:192.0.2.1".to_owned(), Level::Server));
        assert_eq!(levels("gate=ip:192.0.2.1", "gate=link", "").gate(), Gate::Link);
        assert_eq!(levels("", "gate=link", "gate=public").of(Key::Gate), ("public".to_owned(), Level::Env));
    }

    #[test]
    fn below_localhost_everything_is_public_unless_the_server_says_otherwise() {
        let at = |domain, set| settings(set).of_server(&crate::host::Domain::parse(domain).unwrap()).gate();
        assert_eq!(at("localhost", ""), Gate::Public);
        assert_eq!(at("staging.localhost", ""), Gate::Public);
        assert_eq!(at("localhost", "gate=link"), Gate::Link);
        for domain in ["localhost.example.org", "notlocalhost", "example.org"] {
            assert_eq!(at(domain, ""), Gate::Link, "{domain}");
            assert_eq!(at(domain, "gate=public"), Gate::Public, "{domain}");
        }
    }

    #[test]
    fn each_setting_comes_from_the_highest_level_that_has_it() {
        let levels = Levels {
            server: settings("idle=10m ttl=2h expire=7d disk=2GiB"),
            app_json: settings("idle=5m ttl=never memory=4GiB pids=64"),
            app: settings("expire=30d cpu_weight=200"),
            env: settings("idle=1h"),
        };
        let of = |key| {
            let (value, level) = levels.of(key);
            format!("{key}={value} ({level})")
        };
        assert_eq!(
            Key::ALL.map(of),
            [
                "idle=1h (environment)",
                "ttl=2h (app.json)",
                "expire=30d (app)",
                "memory=1GiB (app.json)",
                "swap=1GiB (built in)",
                "pids=64 (app.json)",
                "cpu_weight=200 (app)",
                "disk=2GiB (server)",
                "inodes=500000 (built in)",
                "services=none (built in)",
                "gate=link (built in)",
            ]
        );
        for key in Key::ALL {
            let merged = levels.merged().get(key);
            assert_eq!(merged.unwrap_or_else(|| Settings::built_in().get(key).unwrap()), levels.of(key).0);
        }
    }
}
