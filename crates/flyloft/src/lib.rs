//! The parts of the one binary. A library only so that benchmarks and integration tests can reach them.

pub mod api;
pub mod build;
pub mod cli;
pub mod command;
pub mod conductor;
pub mod config;
pub mod daemon;
pub mod deploy;
pub mod doctor;
pub mod door;
pub mod edge;
pub mod engine;
pub mod error;
pub mod exec;
pub mod fault;
pub mod hosts;
pub mod loft;
pub mod machine;
pub mod parts;
pub mod principal;
pub mod random;
pub mod retention;
pub mod setup;
pub mod source;
pub mod store;
pub mod transcript;
