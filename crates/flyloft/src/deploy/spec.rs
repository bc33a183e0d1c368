//! What a release is launched with: its content, and the container that is made of it.

use std::collections::{BTreeMap, BTreeSet};

use flyloft_core::app_json::{Manifest, Moment, Probe};
use flyloft_core::name::{CommitId, EnvRef, Origin, ReleaseNumber};
use flyloft_core::procfile::ProcessType;
use tokio::io::AsyncReadExt;

use super::image::Made;
use super::probe::PORT;
use super::{Again, Job, Source};
use crate::build::Built;
use crate::engine::{ContainerId, ContainerSpec, EngineError, ExecSpec, Process, SharedEngine};
use crate::error::{OrFailed, Result};
use crate::parts::Parts;
use crate::provision::Given;
use crate::store::{BuildInputs, Content, EnvRow, Scope};
use crate::transcript::Transcript;

/// Collects all that the release needs to be launched, now and after a rollback, and records it.
/// Until then the build holds on to its layers.
pub(super) async fn content(job: &Job, made: Made) -> Result<Content> {
    let content = match made {
        Made::Before { ref content, .. } if matches!(job.work.source, Source::Again { again: Again::Rollback, .. }) => {
            Content::clone(content)
        }
        Made::Before { ref content, .. } => {
            let mut config = config(&job.parts, &job.env).await?;
            config.extend(secrets(job, &content.secrets, &config).await?);
            Content { config: with_defaults(config, &content.defaults), ..Content::clone(content) }
        }
        Made::Now { ref built, ref inputs } => from_build(job, built, inputs).await?,
    };
    let failed = || format!("failed to record {} of `{}`", job.release, job.env.name);
    job.parts.store.set_content(job.env.id, job.release, &content).await.or_failed(failed)?;
    Ok(content)
}

/// The release's content after a build: what the repository asks for, and what was set.
async fn from_build(job: &Job, built: &Built, inputs: &BuildInputs) -> Result<Content> {
    let manifest = match (&job.env.origin, &built.app_json) {
        (_, None) => Manifest::default(),
        (Origin::PullRequest(_), Some(app_json)) => app_json.for_review(),
        (_, Some(app_json)) => app_json.manifest.clone(),
    };
    let mut config = config(&job.parts, &job.env).await?;
    let made = manifest.secrets().map(ToString::to_string).chain(built.secrets.iter().cloned()).collect();
    config.extend(secrets(job, &made, &config).await?);
    let defaults = manifest.defaults().map(|(name, value)| (name.to_string(), value.to_owned())).collect();
    let config = with_defaults(config, &defaults);
    Ok(Content {
        image: built.image.clone(),
        env: built.env.clone(),
        config,
        defaults,
        processes: built.procfile.iter().map(|(name, command)| (name.to_string(), command.to_owned())).collect(),
        formation: manifest.formation.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
        health: health_path(&manifest),
        settings: manifest.settings.clone(),
        postdeploy: manifest.scripts.postdeploy.clone(),
        predestroy: manifest.scripts.pr_predestroy.clone(),
        volumes: manifest.volumes.values().cloned().collect(),
        required: manifest.required().map(|(name, text)| (name.to_string(), text.map(str::to_owned))).collect(),
        secrets: made,
        inputs: Some(inputs.clone()),
    })
}

/// What `app.json` says holds where nobody set it.
fn with_defaults(
    mut config: BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    for (name, value) in defaults {
        config.entry(name.clone()).or_insert_with(|| value.clone());
    }
    config
}

/// The path that must be well before requests are routed to the web process.
fn health_path(manifest: &Manifest) -> Option<String> {
    manifest.healthchecks.get(&ProcessType::web())?.iter().find_map(|check| match &check.probe {
        Probe::Http { path, .. } if check.when == Moment::Startup => Some(path.clone()),
        _ => None,
    })
}

/// Makes the secrets that `app.json` or the app's framework wants made, once for each environment.
async fn secrets(
    job: &Job,
    wanted: &BTreeSet<String>,
    config: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let missing = wanted.iter().filter(|name| !config.contains_key(*name));
    let made: BTreeMap<_, _> = missing.map(|name| (name.clone(), crate::random::hex(64))).collect();
    if !made.is_empty() {
        let changes = made.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        let set = job.parts.store.set_variables(&job.env.name.app, Scope::Environment(job.env.id), changes).await;
        set.or_failed(|| format!("failed to keep the secrets of `{}`", job.env.name))?;
    }
    Ok(made)
}

/// The variables that are set. A pull request has its own, those of all pull requests, and those that somebody has shared
/// on purpose: it may be a stranger's, and those of the app may be secrets.
pub(super) async fn config(parts: &Parts, env: &EnvRow) -> Result<BTreeMap<String, String>> {
    let (store, app) = (&parts.store, &env.name.app);
    let failed = || format!("failed to read the variables of `{}`", env.name);
    let mut all = match env.origin {
        Origin::PullRequest(_) => {
            let mut shared = store.shared_variables(app).await.or_failed(failed)?;
            shared.extend(store.variables(app, Scope::PullRequests).await.or_failed(failed)?);
            shared
        }
        _ => store.variables(app, Scope::App).await.or_failed(failed)?,
    };
    all.extend(store.variables(app, Scope::Environment(env.id)).await.or_failed(failed)?);
    Ok(all)
}

/// Says whose container it is to whoever looks at the machine, and is never given twice.
pub fn container_id(env: &EnvRow, number: u32) -> ContainerId {
    let name = format!("{}-{}", env.name.app, env.name.env);
    let name: String = name.chars().take(30).collect();
    ContainerId(format!("{}-{}-{number}", name.trim_end_matches('-'), env.id.0))
}

/// Whether `container_id` made this for the environment.
pub fn belongs_to(container: &ContainerId, env: &EnvRow) -> bool {
    owner(container) == Some(env.id.0)
}

/// The id of the environment that the container was made for.
pub fn owner(container: &ContainerId) -> Option<i64> {
    container.0.rsplit('-').nth(1)?.parse().ok()
}

/// Which release it is, and of what.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    pub release: ReleaseNumber,
    pub commit: Option<&'a CommitId>,
}

/// The container of a release.
pub fn container(
    parts: &Parts,
    env: &EnvRow,
    release: Version,
    (content, given): (&Content, &Given),
    id: &ContainerId,
) -> ContainerSpec {
    let mut vars = content.env.clone();
    vars.extend(content.defaults.clone());
    vars.extend(given.variables.clone());
    vars.extend(content.set_by_people());
    vars.extend(own_variables(parts, env, release));
    ContainerSpec {
        id: id.clone(),
        image: content.image.clone(),
        processes: processes(content, &env.formation),
        env: vars,
        limits: parts.settings.levels(env, &content.settings).limits(),
        reach: given.reach.clone(),
        volumes: given.volumes.clone(),
        files: given.files.clone(),
    }
}

/// What every app is told about itself, under the names that Heroku's and Dokku's users know.
pub(super) fn own_variables(parts: &Parts, env: &EnvRow, version: Version) -> BTreeMap<String, String> {
    let EnvRef { app, env: name } = &env.name;
    let mut vars = BTreeMap::from([
        ("PORT".to_owned(), PORT.to_string()),
        ("HOST".to_owned(), "0.0.0.0".to_owned()),
        ("FLYLOFT_APP".to_owned(), app.to_string()),
        ("FLYLOFT_ENV".to_owned(), name.to_string()),
        ("FLYLOFT_RELEASE".to_owned(), version.release.to_string()),
        ("FLYLOFT_URL".to_owned(), parts.settings.url(&env.host)),
        ("HEROKU_APP_NAME".to_owned(), format!("{app}-{name}")),
        ("HEROKU_PARENT_APP_NAME".to_owned(), app.to_string()),
    ]);
    if let Some(commit) = version.commit {
        vars.insert("GIT_REV".to_owned(), commit.to_string());
        vars.insert("SOURCE_VERSION".to_owned(), commit.to_string());
    }
    match &env.origin {
        Origin::PullRequest(number) => {
            vars.insert("FLYLOFT_PULL_REQUEST".to_owned(), number.to_string());
            vars.insert("HEROKU_PR_NUMBER".to_owned(), number.to_string());
        }
        Origin::Branch(branch) => {
            vars.insert("HEROKU_BRANCH".to_owned(), branch.to_string());
        }
        Origin::Commit(_) | Origin::Directory => {}
    }
    vars
}

/// How many of each process type run: `web` one, others none until asked, `release` never.
pub fn counts<'a>(
    content: &'a Content,
    formation: &'a BTreeMap<String, u32>,
) -> impl Iterator<Item = (&'a str, &'a str, u32)> {
    content.processes.iter().filter(|(name, _)| name != "release").map(|(name, command)| {
        let convention = u32::from(name == "web");
        let count = formation.get(name).or(content.formation.get(name)).copied().unwrap_or(convention);
        (name.as_str(), command.as_str(), count)
    })
}

fn processes(content: &Content, formation: &BTreeMap<String, u32>) -> Vec<Process> {
    let mut all = Vec::new();
    for (name, command, count) in counts(content, formation) {
        for number in 1..=count {
            all.push(Process { name: format!("{name}.{number}"), command: command.to_owned(), env: BTreeMap::new() });
        }
    }
    all
}

/// How a command of the repository's ended.
pub struct Ended {
    pub code: i32,
    /// Whether it has printed anything.
    pub said: bool,
}

/// Runs a command of the repository's in a container, as a process that is called `name` there.
pub async fn run(
    engine: &SharedEngine,
    id: &ContainerId,
    (name, command): (&str, &str),
    transcript: &Transcript,
) -> Result<Ended, EngineError> {
    let argv = ["sh", "-c", command].map(str::to_owned).to_vec();
    let env = BTreeMap::from([("DYNO".to_owned(), name.to_owned())]);
    let mut exec = engine.exec(id, ExecSpec { argv, env, terminal: None }).await?;
    drop(exec.stdin);
    let (out, err) = tokio::join!(tell(&mut exec.stdout, transcript), tell(&mut exec.stderr, transcript));
    let failed = |source| EngineError::Io { doing: format!("read the output of `{name}`"), source };
    let said = out.map_err(failed)? | err.map_err(failed)?;
    Ok(Ended { code: exec.control.wait().await?, said })
}

/// Says whether there was anything to tell.
async fn tell(from: &mut (dyn tokio::io::AsyncRead + Send + Unpin), transcript: &Transcript) -> std::io::Result<bool> {
    use tokio::io::AsyncBufReadExt;
    let mut from = tokio::io::BufReader::new(from);
    let (mut line, mut said) = (Vec::new(), false);
    while (&mut from).take(8192).read_until(b'\n', &mut line).await? > 0 {
        said = true;
        transcript.detail(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(types: &[&str]) -> Content {
        let processes = types.iter().map(|name| ((*name).to_owned(), format!("run {name}"))).collect();
        Content { processes, ..Content::default() }
    }

    fn names(content: &Content, formation: &[(&str, u32)]) -> Vec<String> {
        let formation = formation.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        processes(content, &formation).into_iter().map(|process| process.name).collect()
    }

    #[test]
    fn one_web_process_runs_and_nothing_else_until_it_is_asked_for() {
        let content = content(&["release", "web", "worker"]);
        assert_eq!(names(&content, &[]), ["web.1"]);
        assert_eq!(names(&content, &[("worker", 2)]), ["web.1", "worker.1", "worker.2"]);
        assert_eq!(names(&content, &[("web", 0), ("worker", 1)]), ["worker.1"]);
    }

    #[test]
    fn what_was_asked_for_goes_before_what_app_json_says() {
        let content = Content { formation: BTreeMap::from([("worker".to_owned(), 3)]), ..content(&["web", "worker"]) };
        assert_eq!(names(&content, &[("worker", 1)]), ["web.1", "worker.1"]);
    }

    #[test]
    fn the_owner_of_a_container_is_read_from_its_name() {
        assert_eq!(owner(&ContainerId("shop-pr-42-17-3".to_owned())), Some(17));
        assert_eq!(owner(&ContainerId("somebody-elses".to_owned())), None);
    }
}
