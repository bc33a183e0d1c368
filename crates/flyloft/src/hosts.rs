//! Host names follow the configuration: when the domain has changed since the last start, so do the host names of all
//! environments. What their processes are told about their URL changes with their next deploy.

use flyloft_core::host::{Domain, HostName};

use crate::error::{OrFailed, Result};
use crate::store::{self, EventKind, Store};

/// Who changes host names, as events say it.
const BY: &str = "flyloft";

/// Must be called before anything is routed, and before environments are taken up.
pub async fn follow(store: &Store, domain: &Domain) -> Result<()> {
    let failed = || format!("failed to give environments their host names under `{domain}`");
    let envs = store.environments(None).await.or_failed(failed)?;
    for env in envs {
        let host = HostName::of(&env.name, domain);
        if host.as_str() == env.host {
            continue;
        }
        let (kind, text) = match store.set_host(env.id, host.as_str()).await.or_failed(failed)? {
            Ok(()) => (EventKind::HostChanged, format!("from {} to {host}", env.host)),
            // Both labels are made from names, so this takes two that were the same under different domains.
            Err(holder) => (EventKind::HostTaken, format!("{host} is that of {holder}; it stays at {}", env.host)),
        };
        tracing::info!(env = %env.name, "{}: {text}", kind.as_str());
        store.tell(&env.name.app, Some(&env.name.env), kind, BY, &text, store::now()).await.or_failed(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flyloft_core::name::{BranchName, EnvRef, Origin};

    use super::*;

    async fn add(store: &Store, env: &str, host: &str) {
        let env = EnvRef::parse(env).unwrap();
        store.create_app(&env.app, None, 1).await.unwrap();
        let origin = Origin::Branch(BranchName::parse("main").unwrap());
        store.ensure_environment(&env, host, &origin, "{}", 2).await.unwrap().unwrap();
    }

    async fn hosts(store: &Store) -> Vec<String> {
        let envs = store.environments(None).await.unwrap();
        envs.iter().map(|env| format!("{} {}", env.name, env.host)).collect()
    }

    async fn told(store: &Store) -> Vec<String> {
        let events = store.events(None, None, 0, 10).await.unwrap();
        events.iter().map(|event| format!("{} {} {}", event.app, event.kind, event.text)).collect()
    }

    #[tokio::test]
    async fn all_environments_move_to_a_domain_that_was_changed_and_stay_when_it_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        add(&store, "blog/main", "blog-main.old.example").await;
        add(&store, "shop/main", "shop-main.old.example").await;
        let domain = Domain::parse("new.example").unwrap();
        follow(&store, &domain).await.unwrap();
        let moved = ["blog/main blog-main.new.example", "shop/main shop-main.new.example"];
        assert_eq!(hosts(&store).await, moved);
        follow(&store, &domain).await.unwrap();
        assert_eq!(hosts(&store).await, moved);
        assert_eq!(
            told(&store).await,
            [
                "blog host-changed from blog-main.old.example to blog-main.new.example",
                "shop host-changed from shop-main.old.example to shop-main.new.example",
            ]
        );
    }

    #[tokio::test]
    async fn an_environment_whose_host_name_another_has_keeps_its_own_and_can_still_be_pushed_to() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        add(&store, "a-b/c", "a-b-c.old.example").await;
        add(&store, "a/b-c", "a-b-c.new.example").await;
        let domain = Domain::parse("new.example").unwrap();
        follow(&store, &domain).await.unwrap();
        assert_eq!(hosts(&store).await, ["a/b-c a-b-c.new.example", "a-b/c a-b-c.old.example"]);
        let taken = "a-b host-taken a-b-c.new.example is that of a/b-c; it stays at a-b-c.old.example";
        assert_eq!(told(&store).await, [taken]);
        add(&store, "a-b/c", "a-b-c.new.example").await;
    }
}
