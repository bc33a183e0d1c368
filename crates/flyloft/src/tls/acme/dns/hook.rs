//! A program of the administrator's that publishes TXT records with whichever provider they have.

use std::time::Duration;

use async_trait::async_trait;

use super::Publish;
use crate::exec::Cmd;

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Programs are looked for where an administrator has them.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub struct Hook {
    pub argv: Vec<String>,
}

impl Hook {
    async fn run(&self, action: &str, name: &str, value: &str) -> Result<(), String> {
        let (program, args) = self.argv.split_first().ok_or("no program is named")?;
        let hook = Cmd::new(program)
            .args(args)
            .clear_env()
            .env("PATH", PATH)
            .env("FLYLOFT_ACTION", action)
            .env("FLYLOFT_RECORD", name)
            .env("FLYLOFT_VALUE", value)
            .timeout(LIMIT);
        hook.run().await.map(drop).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

#[async_trait]
impl Publish for Hook {
    async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
        self.run("publish", name, value).await
    }

    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
        self.run("withdraw", name, value).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn it_is_told_what_to_do_and_what_it_complains_of_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("hook"), dir.path().join("said"));
        let script = format!(
            "#!/bin/sh\necho \"$1 $FLYLOFT_ACTION $FLYLOFT_RECORD $FLYLOFT_VALUE ${{HOME-none}}\" >> {}\n\
             [ \"$FLYLOFT_ACTION\" = publish ] || {{ echo 'no such record' >&2; exit 3; }}\n",
            said.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let hook = Hook { argv: vec![program.display().to_string(), "a b".to_owned()] };
        hook.publish("_acme-challenge.example.org", "value").await.unwrap();
        let refused = hook.withdraw("_acme-challenge.example.org", "value").await.unwrap_err();
        assert!(refused.contains("no such record"), "{refused}");
        assert_eq!(
            fs::read_to_string(said).unwrap(),
            "a b publish _acme-challenge.example.org value none\na b withdraw _acme-challenge.example.org value none\n"
        );
    }
}
