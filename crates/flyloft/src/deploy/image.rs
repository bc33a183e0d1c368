//! From code to an image: built now, taken as it was built before, or built anew because it is not kept any more.

use std::path::{Path, PathBuf};

use flyloft_core::name::{CommitId, Origin, ReleaseNumber};
use flyloft_core::service::Ask;

use super::undo::Undo;
use super::{Again, FETCHES_WAIT, Job, Leftover, Source, spec};
use crate::build::{BuildError, Built, Hold, Request, Trust, Unset};
use crate::engine::EngineError;
use crate::error::{Error, OrFailed, Result};
use crate::parts::Parts;
use crate::provision;
use crate::retention;
use crate::source::{Checkout, Quarantine};
use crate::store::{BuildInputs, Content, EnvRow};
use crate::transcript::Transcript;

/// What a build gives, or what the earlier release has of it. Either holds on to its layers.
pub(super) enum Made {
    Now { built: Box<Built>, inputs: BuildInputs },
    Before { content: Box<Content>, _hold: Hold },
}

/// A release of which something is to be launched again.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub env: &'a EnvRow,
    pub commit: Option<&'a CommitId>,
    pub content: &'a Content,
}

/// Puts the code into the engine's staging directory. There is none where an earlier release is launched again.
pub(super) async fn source(job: &Job, undo: &mut Undo) -> Result<Option<PathBuf>> {
    let dir = match &job.work.source {
        Source::Again { .. } => return Ok(None),
        Source::Tree { dir } => dir.0.clone(),
        Source::Commit { .. } => job.parts.engine.staging().dir.join(format!("{}-{}", job.env.id.0, job.release)),
    };
    let leftover = dir.clone();
    undo.push("remove the checked-out tree", async move {
        match tokio::fs::remove_dir_all(&leftover).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::Io { doing: format!("remove `{}`", leftover.display()), source: error })
            }
            _ => Ok(()),
        }
    });
    check_space(&job.parts).await?;
    if let Source::Commit { commit, quarantine } = &job.work.source {
        checkout(&job.parts, &job.env, (commit, quarantine.as_ref()), &dir, &job.transcript).await?;
    }
    Ok(Some(dir))
}

/// Nothing is built that there is no room for, once what can go has gone.
async fn check_space(parts: &Parts) -> Result<()> {
    let Some(shortage) = retention::make_room(parts).await? else { return Ok(()) };
    let mut error = Error::failed(format!("the disk is full: {shortage}; nothing is built"))
        .hint("destroy environments that nobody needs, or make room on the server's disk beside them")
        .hint(shortage.space.unit.hint());
    error.causes.extend(shortage.ours.map(|ours| ours.said(shortage.space)));
    Err(error)
}

async fn checkout(
    parts: &Parts,
    env: &EnvRow,
    (commit, quarantine): (&CommitId, Option<&Quarantine>),
    dir: &Path,
    transcript: &Transcript,
) -> Result<()> {
    let app = &env.name.app;
    let (remote, credentials) = parts.remote(app).await?.unzip();
    let checkout = Checkout {
        commit,
        quarantine,
        remote: remote.as_ref(),
        credentials: match env.origin {
            // A stranger's pull request chooses which submodules are fetched.
            Origin::PullRequest(_) => &[],
            _ => credentials.as_deref().unwrap_or_default(),
        },
    };
    let told = transcript.clone();
    let repositories = parts.repositories.noticing(move || told.detail(FETCHES_WAIT));
    Ok(repositories.checkout(app, &checkout, dir).await?)
}

/// `asks` is what it will have on servers, as far as that is known.
pub(super) async fn build(job: &Job, tree: Option<PathBuf>, asks: &[Ask]) -> Result<Made> {
    let tree = match (&job.work.source, tree) {
        (Source::Again { content, again, .. }, _) => {
            // Something newer may serve by now than when this was asked for.
            let serving = if *again == Again::Rollback { None } else { serving(job).await? };
            let content = serving.map(Box::new).or_else(|| content.clone()).ok_or_else(|| {
                Error::conflict(format!("`{}` has no release that serves", job.env.name)).hint("push to it first")
            })?;
            return before(job, content).await;
        }
        (_, Some(tree)) => tree,
        (_, None) => return Err(Error::failed("there is no source to build")),
    };
    let app = &job.env.name.app;
    let generation = job.parts.store.generation(app, job.work.no_cache).await;
    let inputs = BuildInputs {
        variables: spec::config(&job.parts, &job.env).await?,
        generation: generation.or_failed(|| format!("failed to build {} of `{}`", job.release, job.env.name))?,
    };
    let request = request(&job.parts, &job.env, (tree, job.work.commit()), inputs.clone(), asks);
    let built = run(&job.parts, &job.env, request, &job.transcript).await?;
    Ok(Made::Now { built: Box::new(built), inputs })
}

fn request(
    parts: &Parts,
    env: &EnvRow,
    (tree, commit): (PathBuf, Option<&CommitId>),
    inputs: BuildInputs,
    asks: &[Ask],
) -> Request {
    Request {
        app: env.name.app.clone(),
        tree,
        tree_id: commit.map_or_else(|| crate::random::hex(32), |commit| commit.to_string()),
        trust: match env.origin {
            Origin::PullRequest(number) => Trust::Fork(number),
            Origin::Branch(_) | Origin::Commit(_) | Origin::Directory => Trust::Own,
        },
        variables: inputs.variables,
        given: given(parts, env, commit, asks),
        generation: inputs.generation,
    }
}

async fn run(parts: &Parts, env: &EnvRow, request: Request, transcript: &Transcript) -> Result<Built> {
    let built = parts.builder.build(request, transcript).await;
    built.map_err(|error| match error {
        BuildError::Unset(unset) => unset_in(env, &unset, Error::from(BuildError::Unset(unset.clone()))),
        error => error.into(),
    })
}

/// Says how to set what is not.
fn unset_in(env: &EnvRow, Unset(variables): &Unset, error: Error) -> Error {
    let values: Vec<String> = variables.iter().map(|(name, _)| format!("{name}=VALUE")).collect();
    let (values, app) = (values.join(" "), &env.name.app);
    let error = error.hint(format!("flyloft config set {} {values}", env.name));
    match env.origin {
        Origin::PullRequest(_) => {
            error.hint(format!("or for all pull requests: flyloft config set {app} {values} --pull-requests"))
        }
        _ => error,
    }
}

/// Whether a release has all that its `app.json` requires, whatever it is launched for: variables may have gone since it
/// was built. `asks` is what it has on servers.
pub(super) fn check_required(job: &Job, content: &Content, asks: &[Ask]) -> Result<()> {
    let env = &job.env;
    let found = given(&job.parts, env, job.work.commit(), asks);
    let is_set = |name: &str| content.config.contains_key(name) || found.iter().any(|found| found == name);
    Unset::check(content.required.clone(), is_set).map_err(|unset| {
        let error = unset.hints().into_iter().fold(Error::failed(&unset), Error::hint);
        unset_in(env, &unset, error)
    })
}

/// The names of variables that an app finds though nobody sets them.
fn given(parts: &Parts, env: &EnvRow, commit: Option<&CommitId>, asks: &[Ask]) -> Vec<String> {
    // Which release it is makes no difference to these.
    let version = spec::Version { release: ReleaseNumber(1), commit };
    let own = spec::own_variables(parts, env, version).into_keys();
    asks.iter().flat_map(Ask::variables).chain(own).collect()
}

/// What was built before, anew if something of it is gone.
async fn before(job: &Job, content: Box<Content>) -> Result<Made> {
    let before = Before { env: &job.env, commit: job.work.commit(), content: &content };
    if let Some(hold) = kept(&job.parts, &content).await? {
        return Ok(Made::Before { content, _hold: hold });
    }
    job.transcript.step("Building it anew: its image is not kept any more");
    let (content, hold) = anew(&job.parts, before, &job.transcript).await?;
    Ok(Made::Before { content: Box::new(content), _hold: hold })
}

/// Holds on to what was built before, if it is whole.
pub async fn kept(parts: &Parts, content: &Content) -> Result<Option<Hold>> {
    Ok(parts.builder.keep(&content.image).await?)
}

/// Builds what was built before once more, from the same commit with the same variables. As long as this server builds
/// as it did then, it comes out as the same layers.
pub async fn anew(parts: &Parts, before: Before<'_>, transcript: &Transcript) -> Result<(Content, Hold)> {
    let Before { env, commit, content } = before;
    let commit = commit.ok_or_else(|| {
        Error::conflict(format!("what `{}` was to be launched from is not kept any more", env.name))
            .hint("it was a directory: `flyloft up` it again")
    })?;
    check_space(parts).await?;
    let failed = || format!("failed to build `{}` anew", env.name);
    let inputs = match &content.inputs {
        Some(inputs) => inputs.clone(),
        None => BuildInputs {
            variables: content.set_by_people(),
            generation: parts.store.generation(&env.name.app, false).await.or_failed(failed)?,
        },
    };
    let dir = parts.engine.staging().dir.join(format!("anew-{}-{}", env.id.0, crate::random::hex(8)));
    let leftover = Leftover(dir.clone());
    checkout(parts, env, (commit, None), &dir, transcript).await?;
    let asks = provision::asks(parts, env, &content.settings);
    let mut request = request(parts, env, (dir, Some(commit)), inputs.clone(), &asks);
    // Where each launch looks whether all is set that must be. It may have been something else that gave it then.
    request.given.extend(content.config.keys().cloned());
    let Built { image, env: vars, hold, .. } = run(parts, env, request, transcript).await?;
    drop(leftover);
    Ok((Content { image, env: vars, inputs: Some(inputs), ..content.clone() }, hold))
}

async fn serving(job: &Job) -> Result<Option<Content>> {
    let store = &job.parts.store;
    let failed = || format!("failed to look up what serves `{}`", job.env.name);
    let Some(env) = store.environment(&job.env.name).await.or_failed(failed)? else { return Ok(None) };
    Ok(store.live_release(&env).await.or_failed(failed)?.and_then(|release| release.content))
}
