//! Reads the sections of an `app.json`.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::document::{Member, Node, Result};
use super::{AppJson, Manifest, Problem, Scripts, Variable, VariableSource, Warning, health};
use crate::name::excerpt;
use crate::plan::Stack;
use crate::policy::{Key, Settings};
use crate::procfile::ProcessType;
use crate::service::{Ask, AskError, Asks, Data, Kind, TemplateName};
use crate::variable::VariableName;
use crate::volume::{self, MountPath, VolumeError};

/// In `env`, and bytes of their names and values: Linux takes no more than 2 MB of all variables and arguments together.
const VARIABLES_MAX: usize = 1000;
const VARIABLES_BYTES_MAX: usize = 128 << 10;
/// Process types, or checks of one.
const PROCESSES_MAX: usize = 100;
/// Add-ons of which a warning is given.
const ADDONS_TOLD: usize = 20;

pub fn read(bytes: &[u8]) -> Result<AppJson> {
    let mut app = AppJson::default();
    let members = Node::root(bytes)?.object()?;
    app.manifest = manifest(&members, &mut app.warnings)?;
    for Member { key, value, .. } in &members {
        match key.as_str() {
            "name" => app.name = Some(value.line()?),
            "environments" => app.review = review(value, &mut app.warnings)?,
            _ => {}
        }
    }
    Ok(app)
}

/// `environments.test` and others are Heroku's business.
fn review(node: &Node<'_>, warnings: &mut Vec<Warning>) -> Result<Manifest> {
    match node.object()?.iter().find(|member| member.key == "review") {
        Some(member) => manifest(&member.value.object()?, warnings),
        None => Ok(Manifest::default()),
    }
}

fn manifest(members: &[Member<'_>], warnings: &mut Vec<Warning>) -> Result<Manifest> {
    let (mut manifest, mut addons) = (Manifest::default(), None);
    for member in members {
        let value = &member.value;
        let mut warn = |text: String| warnings.push(Warning { place: member.place(), text });
        match member.key.as_str() {
            "stack" => match value.line()? {
                stack if is_herokus(&stack) => manifest.herokus_stack = Some(excerpt(&stack)),
                stack => manifest.stack = Some(known_stack(value, &stack)?),
            },
            "env" => manifest.env = env(value)?,
            "formation" => manifest.formation = formation(value)?,
            "scripts" => manifest.scripts = scripts(value, warnings)?,
            "healthchecks" => manifest.healthchecks = healthchecks(value)?,
            "flyloft" => (manifest.settings, manifest.volumes) = own(value)?,
            "addons" => {
                addons = Some(services(value, warnings)?);
            }
            "buildpacks" if !value.array()?.is_empty() => {
                warn("`buildpacks` is ignored: how to build is found out from the files".to_owned());
            }
            "image" => warn("`image` is ignored".to_owned()),
            "cron" if !value.array()?.is_empty() => warn("`cron` is ignored: nothing is run by the clock".to_owned()),
            _ => {}
        }
    }
    // What is said to flyloft goes before what is said to all.
    manifest.settings.services = manifest.settings.services.or(addons);
    Ok(manifest)
}

/// See devcenter.heroku.com, "Stacks", and its list of those that are gone.
fn is_herokus(stack: &str) -> bool {
    stack.starts_with("heroku-") || stack.starts_with("cedar") || matches!(stack, "cnb" | "container")
}

/// A name that means nothing anywhere is a slip of the pen, and another stack is not what was meant.
fn known_stack(node: &Node<'_>, stack: &str) -> Result<Stack> {
    match Stack::parse(stack) {
        Some(stack) => Ok(stack),
        None => node.fail(Problem::Unknown { expected: "`debian-13` or `debian-12`", found: excerpt(stack) }),
    }
}

/// The services among the add-ons. Of others a warning is given.
fn services(node: &Node<'_>, warnings: &mut Vec<Warning>) -> Result<Asks> {
    let (mut asks, mut others) = (Asks::default(), Vec::new());
    for addon in node.array()? {
        let Addon { plan, alias, isolation, template } = addon_of(&addon)?;
        // `heroku-postgresql:mini`: how large it is to be means nothing here.
        let Some(kind) = Kind::of_addon(plan.split(':').next().unwrap_or_default()) else {
            others.push((addon, plan));
            continue;
        };
        // What is called as it would be called anyway.
        let alias = alias.filter(|alias| !kind.is_its_name(alias));
        let asked = ask(kind, alias.as_deref(), isolation.as_deref());
        if let Err(error) = asked.and_then(|ask| asks.add(ask.with(template.map(Data::Template)))) {
            return addon.fail(error);
        }
    }
    for (addon, plan) in others.iter().take(ADDONS_TOLD) {
        let text = format!("add-on `{}` is not made", excerpt(plan));
        warnings.push(Warning { place: addon.place(), text });
    }
    if let Some((next, _)) = others.get(ADDONS_TOLD) {
        let text = format!("{} more add-ons are not made", others.len() - ADDONS_TOLD);
        warnings.push(Warning { place: next.place(), text });
    }
    Ok(asks)
}

fn ask(kind: Kind, alias: Option<&str>, isolation: Option<&str>) -> std::result::Result<Ask, AskError> {
    let ask = Ask::new(kind, alias)?;
    match isolation {
        Some(isolation) => ask.kept_apart_by(isolation),
        None => Ok(ask),
    }
}

#[derive(Default)]
struct Addon {
    plan: String,
    alias: Option<String>,
    isolation: Option<String>,
    /// Of whose data it is made.
    template: Option<TemplateName>,
}

/// An add-on is a string, or an object with a `plan`, and perhaps a name for its variable and options. Options of others
/// mean nothing here.
fn addon_of(node: &Node<'_>) -> Result<Addon> {
    if node.is_string() {
        return Ok(Addon { plan: node.string()?, ..Addon::default() });
    }
    let (mut plan, mut addon) = (None, Addon::default());
    for member in node.object()? {
        match member.key.as_str() {
            "plan" => plan = Some(member.value.string()?),
            // Heroku takes any case.
            "as" => addon.alias = Some(member.value.line()?.to_ascii_uppercase()),
            "options" => {
                addon.template = template_in(&member.value)?;
                for option in member.value.object()?.iter().filter(|option| option.key == "isolation") {
                    addon.isolation = Some(option.value.line()?);
                }
            }
            _ => {}
        }
    }
    match plan {
        Some(plan) => Ok(Addon { plan, ..addon }),
        None => node.fail(Problem::Missing("plan")),
    }
}

/// `"options": { "template": "shop_seed" }`. Others are Heroku's business.
fn template_in(node: &Node<'_>) -> Result<Option<TemplateName>> {
    let options = node.object()?;
    let Some(Member { value, .. }) = options.iter().find(|member| member.key == "template") else { return Ok(None) };
    match TemplateName::parse(&value.line()?) {
        Ok(name) => Ok(Some(name)),
        Err(error) => value.fail(error),
    }
}

/// The members of an object that has no more than `max` of them.
fn at_most<'a>(max: usize, what: &'static str, node: &Node<'a>) -> Result<Vec<Member<'a>>> {
    let members = node.object()?;
    match members.len() {
        found if found > max => node.fail(Problem::TooMany { what, found, max }),
        _ => Ok(members),
    }
}

fn env(node: &Node<'_>) -> Result<BTreeMap<VariableName, Variable>> {
    let mut env = BTreeMap::new();
    let mut bytes = 0;
    for member in at_most(VARIABLES_MAX, "variables", node)? {
        match VariableName::parse(&member.key) {
            Ok(name) => {
                let variable = variable(&name, &member.value)?;
                bytes += name.as_str().len();
                if let VariableSource::Value(value) = &variable.source {
                    bytes += value.len();
                }
                env.insert(name, variable);
            }
            Err(error) => return member.fail(error),
        }
    }
    if bytes > VARIABLES_BYTES_MAX {
        return node.fail(Problem::TooMany { what: "bytes of variables", found: bytes, max: VARIABLES_BYTES_MAX });
    }
    Ok(env)
}

/// A string, or an object that says where the value comes from. A variable is required unless it says otherwise.
fn variable(name: &VariableName, node: &Node<'_>) -> Result<Variable> {
    if node.is_string() {
        return Ok(Variable { description: None, source: VariableSource::Value(value(name, node)?) });
    }
    let (mut description, mut given, mut secret, mut required) = (None, None, false, true);
    for member in node.object()? {
        match member.key.as_str() {
            "description" => description = Some(member.value.string()?).filter(|text| !text.is_empty()),
            "value" => given = Some(value(name, &member.value)?),
            "required" => required = member.value.boolean()?,
            "generator" => match member.value.string()?.as_str() {
                "secret" => secret = true,
                found => {
                    return member.value.fail(Problem::Unknown { expected: "`secret`", found: excerpt(found) });
                }
            },
            _ => {}
        }
    }
    let source = match given {
        Some(value) if !secret || !value.is_empty() => VariableSource::Value(value),
        _ if secret => VariableSource::Secret,
        _ if required => VariableSource::Required,
        _ => VariableSource::Optional,
    };
    Ok(Variable { description, source })
}

fn value(name: &VariableName, node: &Node<'_>) -> Result<String> {
    let value = node.string()?;
    match name.check(&value) {
        Ok(()) => Ok(value),
        Err(error) => node.fail(error),
    }
}

fn formation(node: &Node<'_>) -> Result<BTreeMap<ProcessType, u32>> {
    let mut formation = BTreeMap::new();
    for member in at_most(PROCESSES_MAX, "process types", node)? {
        let process_type = process_type(&member)?;
        for inner in member.value.object()? {
            if inner.key == "quantity" {
                formation.insert(process_type.clone(), inner.value.number(0, 100)?);
            }
        }
    }
    Ok(formation)
}

fn process_type(member: &Member<'_>) -> Result<ProcessType> {
    ProcessType::parse(&member.key).or_else(|_| member.fail(Problem::ProcessType))
}

fn scripts(node: &Node<'_>, warnings: &mut Vec<Warning>) -> Result<Scripts> {
    let mut scripts = Scripts::default();
    for member in node.object()? {
        match member.key.as_str() {
            "postdeploy" => scripts.postdeploy = script(&member.value)?,
            "pr-predestroy" => scripts.pr_predestroy = script(&member.value)?,
            "dokku" => {
                let text = "`scripts.dokku` is not run".to_owned();
                warnings.push(Warning { place: member.place(), text });
            }
            _ => {}
        }
    }
    Ok(scripts)
}

/// A string, or an object with a `command`. An empty one is none.
fn script(node: &Node<'_>) -> Result<Option<String>> {
    if node.is_string() {
        return command(node);
    }
    match node.object()?.iter().find(|member| member.key == "command") {
        Some(member) => command(&member.value),
        None => node.fail(Problem::Missing("command")),
    }
}

fn command(node: &Node<'_>) -> Result<Option<String>> {
    let script = node.string()?;
    if script.contains('\0') {
        return node.fail(Problem::Control);
    }
    Ok(Some(script).filter(|script| !script.trim().is_empty()))
}

fn healthchecks(node: &Node<'_>) -> Result<BTreeMap<ProcessType, Vec<health::Healthcheck>>> {
    let mut healthchecks = BTreeMap::new();
    for member in at_most(PROCESSES_MAX, "process types", node)? {
        let checks = member.value.array()?;
        if checks.len() > PROCESSES_MAX {
            let (found, max) = (checks.len(), PROCESSES_MAX);
            return member.value.fail(Problem::TooMany { what: "checks", found, max });
        }
        let checks = checks.iter().map(health::read).collect::<Result<_>>()?;
        healthchecks.insert(process_type(&member)?, checks);
    }
    Ok(healthchecks)
}

/// What is said to flyloft alone.
fn own(node: &Node<'_>) -> Result<(Settings, BTreeMap<MountPath, volume::Ask>)> {
    let (mut settings, mut volumes) = (Settings::default(), BTreeMap::new());
    for member in node.object()? {
        if member.key == "volumes" {
            volumes = self::volumes(&member.value)?;
            continue;
        }
        let key = match Key::parse(&member.key) {
            Ok(key) => key,
            Err(error) => return member.fail(error),
        };
        if key == Key::Gate {
            return member.fail(Problem::Gate);
        }
        if let Err(error) = settings.set(key, &member.value.string_or_number()?) {
            return member.value.fail(error);
        }
    }
    Ok((settings, volumes))
}

fn volumes(node: &Node<'_>) -> Result<BTreeMap<MountPath, volume::Ask>> {
    let mut volumes = BTreeMap::new();
    for item in node.array()? {
        let ask = volume(&item)?;
        if let Some(before) = volumes.insert(ask.path.clone(), ask) {
            return item.fail(Problem::Volume(VolumeError::Within(before.path.clone(), before.path)));
        }
    }
    match volume::check(volumes.keys()) {
        Ok(()) => Ok(volumes),
        Err(error) => node.fail(error),
    }
}

/// A path, or an object with a `path`, and perhaps a `size` and a `template`.
fn volume(node: &Node<'_>) -> Result<volume::Ask> {
    fn parsed<T: FromStr<Err: Into<Problem>>>(node: &Node<'_>) -> Result<T> {
        node.string()?.parse().or_else(|error: T::Err| node.fail(error))
    }
    if node.is_string() {
        return Ok(volume::Ask { path: parsed(node)?, size: None, template: None });
    }
    let (mut path, mut size, mut template) = (None, None, None);
    for Member { key, value, .. } in &node.object()? {
        match key.as_str() {
            "path" => path = Some(parsed(value)?),
            "size" => size = Some(volume::check_size(parsed(value)?).or_else(|error| value.fail(error))?),
            "template" => template = Some(parsed(value)?),
            found => {
                return value
                    .fail(Problem::Unknown { expected: "`path`, `size` or `template`", found: excerpt(found) });
            }
        }
    }
    match path {
        Some(path) => Ok(volume::Ask { path, size, template }),
        None => node.fail(Problem::Missing("path")),
    }
}
