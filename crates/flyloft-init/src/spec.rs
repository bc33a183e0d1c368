//! What the engine says that this container is: `spec.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Env;

#[derive(Debug, Deserialize)]
pub struct Spec {
    pub hostname: String,
    /// Whom processes and commands run as.
    pub uid: u32,
    pub gid: u32,
    /// Where they start, and their `HOME`.
    pub dir: PathBuf,
    /// How long processes have between SIGTERM and SIGKILL.
    pub grace_seconds: u64,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub processes: Vec<Process>,
    /// The container's own addresses, for its own host name.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// `web.1`: prefix of its lines, value of `DYNO`.
    pub name: String,
    /// What `sh -c` runs.
    pub command: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

#[derive(Debug)]
pub enum SpecError {
    Read(PathBuf, std::io::Error),
    Parse(PathBuf, serde_json::Error),
    /// A process may not speak in the name of another, nor in that of this program.
    ProcessName(String),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Read(path, error) => write!(f, "failed to read `{}`: {error}", path.display()),
            SpecError::Parse(path, error) => write!(f, "failed to understand `{}`: {error}", path.display()),
            SpecError::ProcessName(name) => write!(f, "`{name}` cannot be the name of a process"),
        }
    }
}

/// The name in front of this program's own lines.
pub const SELF: &str = "flyloft";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Spec {
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let text = std::fs::read(path).map_err(|error| SpecError::Read(path.to_owned(), error))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(|error| SpecError::Parse(path.to_owned(), error))?;
        match spec.processes.iter().find(|process| !is_process_name(&process.name)) {
            Some(process) => Err(SpecError::ProcessName(process.name.clone())),
            None => Ok(spec),
        }
    }

    /// What a process of the spec sees.
    pub fn process_env(&self, process: &Process) -> Env {
        let mut env = self.base_env(&self.dir);
        extend(&mut env, &self.env);
        extend(&mut env, &process.env);
        env.insert("DYNO".into(), (&process.name).into());
        env
    }

    /// What a command sees that came in with the variables of `extra`.
    pub fn command_env(&self, extra: Env, root: bool) -> Env {
        let home = if root { Path::new("/root") } else { &self.dir };
        let mut env = self.base_env(home);
        extend(&mut env, &self.env);
        env.extend(extra);
        if root {
            env.insert("HOME".into(), home.into());
        }
        env
    }

    fn base_env(&self, home: &Path) -> Env {
        [("PATH", PATH.into()), ("HOME", home.into()), ("LANG", "C.UTF-8".into())]
            .map(|(name, value)| (name.into(), value))
            .into()
    }
}

fn extend(env: &mut Env, with: &BTreeMap<String, String>) {
    env.extend(with.iter().map(|(name, value)| (name.into(), value.into())));
}

fn is_process_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= 64 && name != SELF && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<Spec, SpecError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        Spec::read(file.path())
    }

    fn sample() -> Spec {
        spec(
            r#"{"hostname":"shop-main","uid":1000,"gid":1000,"dir":"/app","grace_seconds":10,
                "env":{"PORT":"5000","A":"all"},
                "processes":[{"name":"web.1","command":"./serve","env":{"A":"web","HOME":"/data"}}]}"#,
        )
        .unwrap()
    }

    fn get<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
        env.get(std::ffi::OsStr::new(name)).and_then(|value| value.to_str())
    }

    #[test]
    fn a_process_sees_its_own_variables_over_those_of_all() {
        let spec = sample();
        let env = spec.process_env(&spec.processes[0]);
        assert_eq!(get(&env, "A"), Some("web"));
        assert_eq!(get(&env, "PORT"), Some("5000"));
        assert_eq!(get(&env, "DYNO"), Some("web.1"));
        assert_eq!(get(&env, "HOME"), Some("/data"));
        assert_eq!(get(&env, "PATH"), Some(PATH));
    }

    #[test]
    fn a_command_sees_what_it_came_with_over_what_the_container_has() {
        let env = sample().command_env([("A".into(), "mine".into())].into(), false);
        assert_eq!(get(&env, "A"), Some("mine"));
        assert_eq!(get(&env, "PORT"), Some("5000"));
        assert_eq!(get(&env, "HOME"), Some("/app"));
        assert_eq!(get(&env, "DYNO"), None);
    }

    #[test]
    fn root_does_not_make_the_home_of_the_app_its_own() {
        assert_eq!(get(&sample().command_env(Env::new(), true), "HOME"), Some("/root"));
    }

    #[test]
    fn no_process_can_take_the_name_of_the_supervisor_or_one_with_a_line_break() {
        for name in ["flyloft", "", "web 1", "a\\nb"] {
            let json = format!(
                r#"{{"hostname":"h","uid":1,"gid":1,"dir":"/","grace_seconds":1,
                     "processes":[{{"name":"{name}","command":"true"}}]}}"#
            );
            assert!(matches!(spec(&json), Err(SpecError::ProcessName(_))), "{name}");
        }
    }
}
