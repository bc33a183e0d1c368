//! Flyloft: just-in-time staging environments on LXC. One binary: command line and daemon.

mod edge;
mod engine;
mod error;
mod exec;
mod transcript;

fn main() {}
