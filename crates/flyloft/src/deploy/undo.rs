//! Undos, pushed before they can be needed, and run backwards when a later one fails.

use std::fmt::Display;

use futures_util::future::BoxFuture;

#[derive(Default)]
pub struct Undo(Vec<(&'static str, BoxFuture<'static, Result<(), String>>)>);

impl Undo {
    /// `what` names it in the log, should it fail.
    pub fn push<E: Display>(&mut self, what: &'static str, undo: impl Future<Output = Result<(), E>> + Send + 'static) {
        self.0.push((what, Box::pin(async { undo.await.map_err(|error| error.to_string()) })));
    }

    /// Undoes everything, the last first. What fails is left to the reconciliation.
    pub async fn run(self) {
        for (what, undo) in self.0.into_iter().rev() {
            if let Err(error) = undo.await {
                tracing::warn!(what, %error, "failed to undo a step of a deploy");
            }
        }
    }
}
