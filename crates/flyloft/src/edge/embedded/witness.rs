//! How those get through who wait for a wake: what they wait for after it is a part of it for them.
//!
//! What must hold: who has waited looks at the clock once for each step, and who has not does not even that.

use std::time::Instant;

use tokio::sync::watch;

use crate::edge::Passage;

/// What all who wait for the same wake have in common. When the last of them is through or gone, who follows it knows.
#[derive(Clone, Default)]
pub struct Witness(watch::Sender<Passage>);

impl Witness {
    pub fn follow(&self) -> watch::Receiver<Passage> {
        self.0.subscribe()
    }

    /// One of them does not have to wait any more.
    pub fn passed(&self) {
        self.note(|passage| &mut passage.passed);
    }

    pub fn connected(&self) {
        self.note(|passage| &mut passage.connected);
    }

    pub fn answered(&self) {
        self.note(|passage| &mut passage.answered);
    }

    /// The first one counts. Nobody is woken for anything but the answer.
    fn note(&self, step: fn(&mut Passage) -> &mut Option<Instant>) {
        self.0.send_if_modified(|passage| {
            let before = passage.answered;
            step(passage).get_or_insert_with(Instant::now);
            passage.answered != before
        });
    }
}
