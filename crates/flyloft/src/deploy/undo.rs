//! Undos, pushed before they can be needed, and run backwards when a later one fails.

use futures_util::future::BoxFuture;

#[derive(Default)]
pub struct Undo(Vec<(&'static str, BoxFuture<'static, Result<(), crate::engine::EngineError>>)>);

impl Undo {
    /// `what` names it in the log, should it fail.
    pub fn push(
        &mut self,
        what: &'static str,
        undo: impl Future<Output = Result<(), crate::engine::EngineError>> + Send + 'static,
    ) {
        self.0.push((what, Box::pin(undo)));
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
