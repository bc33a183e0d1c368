//! The parts of the one binary. A library only so that benchmarks and integration tests can reach them.

pub mod build;
pub mod config;
pub mod doctor;
pub mod door;
pub mod edge;
pub mod engine;
pub mod error;
pub mod exec;
pub mod machine;
pub mod principal;
pub mod setup;
pub mod source;
pub mod store;
pub mod transcript;
