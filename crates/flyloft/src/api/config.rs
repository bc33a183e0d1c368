//! `flyloft config`. Values are printed to whoever asks for them, and never written to logs or events.

use std::collections::BTreeMap;

use serde::Serialize;

use super::environments::is_deploying;
use super::reply::{Reply, done};
use super::stage::Staged;
use super::{Api, Call, Ending};
use crate::command::{Config, ConfigArgs, Target, Variable};
use crate::deploy::Again;
use crate::error::{Error, OrFailed, Result};
use crate::store::{self, EnvId, EventKind};

/// The largest value of a variable.
const LARGEST: usize = 64 << 10;

#[derive(Serialize)]
struct Variables {
    #[serde(flatten)]
    all: BTreeMap<String, String>,
    /// Names of those that pull requests have, too.
    #[serde(skip)]
    shared: Vec<String>,
}

impl Reply for Variables {
    fn text(&self) -> String {
        let mut text: String = self.all.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        if !self.shared.is_empty() {
            text += &format!("# shared with pull requests: {}\n", self.shared.join(", "));
        }
        text
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Value(String);

impl Reply for Value {
    fn text(&self) -> String {
        format!("{}\n", self.0)
    }

    fn is_exact(&self) -> bool {
        true
    }
}

impl Api {
    pub(super) async fn config(&self, call: &mut Call<'_>, args: ConfigArgs) -> Result<Ending> {
        match verb(args)? {
            Config::Ls { target } => {
                let all = self.variables(call, &target).await?;
                Ok(Variables { all, shared: self.shared(&target).await?.into_keys().collect() }.into())
            }
            Config::Get { target, name } => match self.variables(call, &target).await?.remove(&name) {
                Some(value) => Ok(Value(value).into()),
                None => Err(Error::not_found(format!("`{target}` has no variable `{name}`"))
                    .hint(format!("`flyloft config ls {target}` lists them"))),
            },
            Config::Set { target, variables, share_with_pull_requests: shared } => {
                call.must_use(target.app())?;
                if let (Target::Env(env), true) = (&target, shared) {
                    return Err(Error::usage(format!("`{env}` is an environment: what is shared is an app's"))
                        .hint(format!("flyloft config set {} NAME=VALUE --share-with-pull-requests", env.app)));
                }
                let changes = filled_in(call, variables).await?.into_iter().map(checked).collect::<Result<_>>()?;
                self.change(call, target, changes, shared).await
            }
            Config::Unset { target, names } => {
                let changes = names.into_iter().map(|name| (name, None)).collect();
                self.change(call, target, changes, false).await
            }
        }
    }

    async fn variables(&self, call: &mut Call<'_>, target: &Target) -> Result<BTreeMap<String, String>> {
        let id = self.id_of(call, target).await?;
        let variables = self.loft.parts.store.variables(target.app(), id).await;
        variables.or_failed(|| format!("failed to read the variables of `{target}`"))
    }

    async fn id_of(&self, call: &mut Call<'_>, target: &Target) -> Result<Option<EnvId>> {
        call.must_use(target.app())?;
        match target {
            Target::App(app) => self.must_exist(app).await.map(|()| None),
            Target::Env(env) => Ok(Some(self.loft.find(env).await?.0.id)),
        }
    }

    async fn change(
        &self,
        call: &mut Call<'_>,
        target: Target,
        changes: BTreeMap<String, Option<String>>,
        shared: bool,
    ) -> Result<Ending> {
        let id = self.id_of(call, &target).await?;
        let (before, was_shared) = (self.variables(call, &target).await?, self.shared(&target).await?);
        let names: Vec<String> = changes.keys().cloned().collect();
        let as_before = |(name, value): (&String, &Option<String>)| {
            before.get(name) == value.as_ref() && (value.is_none() || was_shared.contains_key(name) == shared)
        };
        if changes.iter().all(as_before) {
            return Ok(done("nothing to change").into());
        }
        let store = &self.loft.parts.store;
        let failed = || format!("failed to change the variables of `{target}`");
        store.set_variables_for(target.app(), id, changes, shared).await.or_failed(failed)?;
        let env = match &target {
            Target::App(_) => None,
            Target::Env(env) => Some(&env.env),
        };
        let text = names.join(", ") + if shared { " (shared with pull requests)" } else { "" };
        let told = store.tell(target.app(), env, EventKind::ConfigChanged, call.by(), &text, store::now());
        told.await.or_failed(failed)?;
        let touches_requests = shared || names.iter().any(|name| was_shared.contains_key(name));
        let deployed = self.redeploy_touched(call, &target, touches_requests).await?;
        Ok(Changed { variables: names, deployed }.into())
    }

    /// What an app has that pull requests have, too. Nothing of an environment's own is.
    async fn shared(&self, target: &Target) -> Result<BTreeMap<String, String>> {
        match target {
            Target::App(app) => {
                let shared = self.loft.parts.store.shared_variables(app).await;
                shared.or_failed(|| format!("failed to read the variables of `{app}`"))
            }
            Target::Env(_) => Ok(BTreeMap::new()),
        }
    }

    /// Deploys again what runs with the variables: one environment, or all of the app's that share them. One that
    /// fails keeps the others from nothing, and the first failure is what comes of it all.
    async fn redeploy_touched(
        &self,
        call: &mut Call<'_>,
        target: &Target,
        touches_requests: bool,
    ) -> Result<Vec<Staged>> {
        let mut touched = match target {
            Target::Env(env) => vec![self.loft.find(env).await?.0],
            Target::App(app) => {
                let mut all = self.environments_of(app).await?;
                all.retain(|env| touches_requests || env.name.env.pull_request().is_none());
                all
            }
        };
        // One whose first deploy is under way may have read its variables already.
        touched.retain(|env| env.live.is_some() || is_deploying(env));
        let several = touched.len() > 1;
        let (mut staged, mut failed) = (Vec::new(), None);
        for env in &touched {
            if several {
                call.say(&format!("=====> {}\n", env.name)).await?;
            }
            match self.redeploy(call, &env.name, Again::Config).await {
                Ok(deployed) => staged.push(deployed),
                Err(error) if several => {
                    let error = Error { what: format!("{}: {}", env.name, error.what), ..error };
                    call.say(&error.push_text()).await?;
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error.hint("the variables are set all the same")),
            }
        }
        match failed {
            Some(error) => Err(error.hint("the variables are set all the same")),
            None => Ok(staged),
        }
    }
}

/// What came of a change.
#[derive(Serialize)]
struct Changed {
    variables: Vec<String>,
    /// What runs with them now.
    deployed: Vec<Staged>,
}

impl Reply for Changed {
    fn text(&self) -> String {
        match self.deployed.as_slice() {
            [] => "done; nothing runs with it yet\n".to_owned(),
            // What was said while they were deployed ends with it.
            _ => String::new(),
        }
    }
}

fn verb(args: ConfigArgs) -> Result<Config> {
    match (args.target, args.verb) {
        (None, Some(verb)) => Ok(verb),
        (Some(target), None) => Ok(Config::Ls { target }),
        (Some(target), Some(_)) => {
            Err(Error::usage(format!("`{target}` is named before what is to be done with its variables"))
                .hint(format!("name it after that, as in `flyloft config set {target} NAME=VALUE`")))
        }
        (None, None) => Err(Error::usage("no app and no environment is named").hint("flyloft help config")),
    }
}

/// Takes the value of the variable that asks for it from standard input.
async fn filled_in(call: &mut Call<'_>, mut variables: Vec<Variable>) -> Result<Vec<Variable>> {
    let mut asking = variables.iter_mut().filter(|variable| variable.is_from_stdin());
    let (variable, another) = (asking.next(), asking.next());
    if let (Some(one), Some(other)) = (&variable, another) {
        return Err(Error::usage(format!("`{}` and `{}` cannot both come from standard input", one.name, other.name))
            .hint("set one at a time"));
    }
    if let Some(variable) = variable {
        let text = call.input(&format!("the value of `{}`", variable.name), LARGEST as u64 + 2).await?;
        let value = text.strip_suffix('\n').unwrap_or(&text);
        variable.value = value.strip_suffix('\r').unwrap_or(value).to_owned();
    }
    Ok(variables)
}

fn checked(Variable { name, value }: Variable) -> Result<(String, Option<String>)> {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Error::usage(format!("`{name}` is no name for a variable"))
            .hint("letters, digits and `_` are allowed, and no digit at the start"));
    }
    if value.contains('\0') || value.len() > LARGEST {
        return Err(Error::usage(format!("the value of `{name}` is too long, or holds a NUL"))
            .hint(format!("{LARGEST} bytes are allowed")));
    }
    Ok((name, Some(value)))
}
