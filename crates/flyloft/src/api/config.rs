//! `flyloft config`. Values are printed to whoever asks for them, and never written to logs or events.

use std::collections::BTreeMap;
use std::fmt;

use flyloft_core::name::{AppName, EnvRef};
use serde::Serialize;

use super::reply::{Reply, done};
use super::stage::Staged;
use super::{Api, Call, Ending};
use crate::command::{Config, ConfigArgs, ConfigOf, Target, Variable};
use crate::deploy::Again;
use crate::error::{Error, OrFailed, Result};
use crate::store::{self, EnvRow, EventKind, Scope};

/// Where what runs could not be deployed with them.
const CHANGED: &str = "the variables are changed all the same, for the next release; what serves has those that it had";

/// The largest value of a variable.
const LARGEST: usize = 64 << 10;

#[derive(Serialize)]
struct Variables {
    #[serde(flatten)]
    all: BTreeMap<String, String>,
    /// Names of those that pull requests have, too.
    #[serde(skip)]
    shared: Vec<String>,
    /// Names of those that pull requests alone have.
    #[serde(skip)]
    beside: Vec<String>,
}

impl Reply for Variables {
    fn text(&self) -> String {
        let mut text: String = self.all.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        for (names, what) in [(&self.shared, "shared with pull requests"), (&self.beside, "of all pull requests")] {
            if !names.is_empty() {
                text += &format!("# {what}: {}\n", names.join(", "));
            }
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

/// Whose variables a command is about.
#[derive(Clone, Debug)]
enum Whose {
    App(AppName),
    PullRequests(AppName),
    Environment(EnvRef),
}

impl Whose {
    fn of(of: ConfigOf) -> Result<Self> {
        match (of.target, of.pull_requests) {
            (Target::App(app), false) => Ok(Self::App(app)),
            (Target::App(app), true) => Ok(Self::PullRequests(app)),
            (Target::Env(env), false) => Ok(Self::Environment(env)),
            (Target::Env(env), true) => {
                Err(Error::usage(format!("`{env}` is an environment: what all pull requests have is an app's"))
                    .hint(format!("flyloft config set {} NAME=VALUE --pull-requests", env.app)))
            }
        }
    }

    fn app(&self) -> &AppName {
        match self {
            Self::App(app) | Self::PullRequests(app) => app,
            Self::Environment(env) => &env.app,
        }
    }
}

/// In the middle of a sentence.
impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => write!(f, "`{app}`"),
            Self::PullRequests(app) => write!(f, "all pull requests of `{app}`"),
            Self::Environment(env) => write!(f, "`{env}`"),
        }
    }
}

impl Api {
    pub(super) async fn config(&self, call: &mut Call<'_>, args: ConfigArgs) -> Result<Ending> {
        match verb(args)? {
            Config::Ls { of } => {
                let whose = Whose::of(of)?;
                let all = self.variables(call, &whose).await?;
                let shared = self.shared(&whose).await?.into_keys().collect();
                let beside = match &whose {
                    Whose::App(app) => self.variables(call, &Whose::PullRequests(app.clone())).await?,
                    _ => BTreeMap::new(),
                };
                Ok(Variables { all, shared, beside: beside.into_keys().collect() }.into())
            }
            Config::Get { of, name } => {
                let whose = Whose::of(of.clone())?;
                match self.variables(call, &whose).await?.remove(&name) {
                    Some(value) => Ok(Value(value).into()),
                    None => {
                        let more = if of.pull_requests { " --pull-requests" } else { "" };
                        let list = format!("`flyloft config ls {}{more}` lists them", of.target);
                        Err(Error::not_found(format!("there is no variable `{name}` of {whose}")).hint(list))
                    }
                }
            }
            Config::Set { of, variables, share_with_pull_requests: shared } => {
                let whose = Whose::of(of)?;
                call.must_use(whose.app())?;
                if let (Whose::Environment(env), true) = (&whose, shared) {
                    return Err(Error::usage(format!("`{env}` is an environment: what is shared is an app's"))
                        .hint(format!("flyloft config set {} NAME=VALUE --share-with-pull-requests", env.app)));
                }
                let changes = filled_in(call, variables).await?.into_iter().map(checked).collect::<Result<_>>()?;
                self.change(call, whose, changes, shared).await
            }
            Config::Unset { of, names } => {
                let changes = names.into_iter().map(|name| (name, None)).collect();
                self.change(call, Whose::of(of)?, changes, false).await
            }
        }
    }

    async fn variables(&self, call: &mut Call<'_>, whose: &Whose) -> Result<BTreeMap<String, String>> {
        let scope = self.scope(call, whose).await?;
        let variables = self.loft.parts.store.variables(whose.app(), scope).await;
        variables.or_failed(|| format!("failed to read the variables of {whose}"))
    }

    async fn scope(&self, call: &mut Call<'_>, whose: &Whose) -> Result<Scope> {
        call.must_use(whose.app())?;
        match whose {
            Whose::App(app) => self.must_exist(app).await.map(|()| Scope::App),
            Whose::PullRequests(app) => self.must_exist(app).await.map(|()| Scope::PullRequests),
            Whose::Environment(env) => Ok(Scope::Environment(self.loft.find(env).await?.0.id)),
        }
    }

    async fn change(
        &self,
        call: &mut Call<'_>,
        whose: Whose,
        changes: BTreeMap<String, Option<String>>,
        shared: bool,
    ) -> Result<Ending> {
        let scope = self.scope(call, &whose).await?;
        let (before, was_shared) = (self.variables(call, &whose).await?, self.shared(&whose).await?);
        let names: Vec<String> = changes.keys().cloned().collect();
        let as_before = |(name, value): (&String, &Option<String>)| {
            before.get(name) == value.as_ref() && (value.is_none() || was_shared.contains_key(name) == shared)
        };
        if changes.iter().all(as_before) {
            return Ok(done("nothing to change").into());
        }
        let store = &self.loft.parts.store;
        let failed = || format!("failed to change the variables of {whose}");
        store.set_variables_for(whose.app(), scope, changes, shared).await.or_failed(failed)?;
        let (env, with) = match &whose {
            Whose::Environment(env) => (Some(&env.env), ""),
            Whose::PullRequests(_) => (None, " (of all pull requests)"),
            Whose::App(_) => (None, if shared { " (shared with pull requests)" } else { "" }),
        };
        let text = names.join(", ") + with;
        let told = store.tell(whose.app(), env, EventKind::ConfigChanged, call.by(), &text, store::now());
        told.await.or_failed(failed)?;
        let touches_requests = shared || names.iter().any(|name| was_shared.contains_key(name));
        let touched = self.touched(&whose, touches_requests).await?;
        let deployed = self.redeploy_all(call, touched).await?;
        Ok(Changed { variables: names, deployed }.into())
    }

    /// What an app has that pull requests have, too. Nothing that is set for anybody else is.
    async fn shared(&self, whose: &Whose) -> Result<BTreeMap<String, String>> {
        match whose {
            Whose::App(app) => {
                let shared = self.loft.parts.store.shared_variables(app).await;
                shared.or_failed(|| format!("failed to read the variables of `{app}`"))
            }
            Whose::PullRequests(_) | Whose::Environment(_) => Ok(BTreeMap::new()),
        }
    }

    /// What runs with the variables.
    async fn touched(&self, whose: &Whose, touches_requests: bool) -> Result<Vec<EnvRow>> {
        let is_request = |env: &EnvRow| env.name.env.pull_request().is_some();
        let mut touched = match whose {
            Whose::Environment(env) => vec![self.loft.find(env).await?.0],
            Whose::PullRequests(app) | Whose::App(app) => self.environments_of(app).await?,
        };
        touched.retain(|env| match whose {
            Whose::Environment(_) => true,
            Whose::PullRequests(_) => is_request(env),
            Whose::App(_) => touches_requests || !is_request(env),
        });
        // One whose first deploy is under way may have read its variables already.
        touched.retain(|env| env.live.is_some() || env.is_deploying());
        Ok(touched)
    }

    /// Deploys these again. One that fails keeps the others from nothing, and the first failure is what comes of it all.
    async fn redeploy_all(&self, call: &mut Call<'_>, touched: Vec<EnvRow>) -> Result<Vec<Staged>> {
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
                Err(error) => return Err(error.hint(CHANGED)),
            }
        }
        match failed {
            Some(error) => Err(error.hint(CHANGED)),
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
        (Some(target), None) => Ok(Config::Ls { of: ConfigOf { target, pull_requests: false } }),
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
