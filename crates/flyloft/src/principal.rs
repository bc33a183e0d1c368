//! Who asks: a person or a machine, and what they may do.

use flyloft_core::name::AppName;

use crate::error::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// As it was given with `flyloft keys add`; recorded with what they do.
    pub name: String,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// These apps and nothing else.
    Deployer { apps: Vec<AppName> },
}

impl Principal {
    pub fn may_use(&self, app: &AppName) -> bool {
        match &self.role {
            Role::Admin => true,
            Role::Deployer { apps } => apps.contains(app),
        }
    }

    /// [`Principal::may_use`] as an error that says who may not do what.
    pub fn must_use(&self, app: &AppName) -> Result<(), Error> {
        if self.may_use(app) {
            return Ok(());
        }
        let refusal = Error::forbidden(format!("key `{}` may not use app `{app}`", self.name));
        let Role::Deployer { apps } = &self.role else { return Err(refusal) };
        let apps = apps.iter().map(|app| format!("`{app}`")).collect::<Vec<_>>().join(", ");
        Err(match apps.as_str() {
            "" => refusal.hint("it may use no app yet: an admin gives it one with `flyloft keys add`"),
            apps => refusal.hint(format!("it may use {apps}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    #[test]
    fn a_deployer_uses_the_apps_it_was_given_and_no_other() {
        let bot = Principal { name: "bot".into(), role: Role::Deployer { apps: vec![app("shop")] } };
        assert!(bot.may_use(&app("shop")));
        assert!(!bot.may_use(&app("shop2")));
        let error = bot.must_use(&app("blog")).unwrap_err();
        assert_eq!(error.what, "key `bot` may not use app `blog`");
        assert_eq!(error.hints, ["it may use `shop`"]);
    }

    #[test]
    fn an_admin_uses_every_app() {
        assert!(Principal { name: "ada".into(), role: Role::Admin }.may_use(&app("shop")));
    }
}
