//! What people are told about what is followed. An event that would repeat what the last one of its kind says is left
//! out, so that whoever reads events finds what has changed. It is told as far as that can be written down: what is
//! done is done either way.

use flyloft_core::name::{AppName, EnvName, EnvRef};

use super::MYSELF;
use crate::store::{self, EventKind, Store, StoreError};

pub(super) async fn tell(store: &Store, env: &EnvRef, kind: EventKind, text: &str) {
    written(record(store, &env.app, Some(&env.env), kind, text).await);
}

pub(super) async fn tell_once(store: &Store, env: &EnvRef, kind: EventKind, text: &str) {
    let told = async {
        // What was told of an earlier environment of this name is no news of this one.
        let kinds = [kind, EventKind::Destroyed, EventKind::Destroyed];
        let newest = store.newest_event(&env.app, Some(&env.env), kinds).await?;
        match newest.is_some_and(|(told, newest)| told == kind.as_str() && newest == text) {
            true => Ok(()),
            false => record(store, &env.app, Some(&env.env), kind, text).await,
        }
    };
    written(told.await);
}

/// The repository of these apps cannot be read.
pub(super) async fn tell_failure(store: &Store, apps: &[AppName], text: &str) {
    for app in apps {
        written(store.tell_turn(app, TURN, false, (MYSELF, text), store::now()).await);
    }
}

/// It can be read, and that is told where its people think otherwise.
pub(super) async fn tell_recovery(store: &Store, apps: &[AppName], text: &str) {
    for app in apps {
        written(store.tell_turn(app, TURN, true, (MYSELF, text), store::now()).await);
    }
}

const TURN: [EventKind; 2] = [EventKind::FollowFailed, EventKind::FollowWorks];

async fn record(
    store: &Store,
    app: &AppName,
    env: Option<&EnvName>,
    kind: EventKind,
    text: &str,
) -> Result<(), StoreError> {
    store.tell(app, env, kind, MYSELF, text, store::now()).await
}

fn written(told: Result<(), StoreError>) {
    if let Err(error) = told {
        tracing::error!(%error, "failed to record an event");
    }
}
