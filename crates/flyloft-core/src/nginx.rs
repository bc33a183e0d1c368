//! nginx as the edge: what it is told, when it is told, and what it tells. Pure.
//!
//! ```text
//!                        ┌─ awake ──────────────────► container
//!   clients ══► nginx ───┤
//!                        └─ anything else ──► flyloft's own edge (holds, wakes, says why not) ──► container
//! ```
//!
//! What must hold: a host name that nginx is not told of is flyloft's to answer. So being late with what may go straight
//! costs a hop and never a request, and only what may no longer go straight is urgent.

mod bounds;
mod pace;
mod plan;
mod report;
mod secure;
mod site;
mod ways;

pub use bounds::Bounds;
pub use pace::{Haste, Pace};
pub use plan::{Apart, Plan, Straight, Told};
pub use report::{Seen, is_leaving, is_worker};
pub use secure::{Http2, Secure, Shown, Tls, others_listen, others_speak};
pub use site::{KEPT, Site};
