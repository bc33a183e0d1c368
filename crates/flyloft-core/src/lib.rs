//! The pure part of Flyloft: names, the life of an environment, manifests, policy and build plans.
//!
//! Nothing here knows tokio, files, processes or the clock. Time, randomness and identity are arguments,
//! so that everything can be tested by calling it.

pub mod acme;
pub mod address;
pub mod admission;
pub mod app_json;
pub mod certificate;
pub mod disk;
pub mod follow;
pub mod gate;
pub mod harmless;
pub mod host;
pub mod lifecycle;
pub mod name;
pub mod nginx;
pub mod place;
pub mod plan;
pub mod policy;
pub mod port;
pub mod procfile;
pub mod service;
pub mod sso;
pub mod variable;
pub mod volume;
