//! User stories, on real LXC, git, OpenSSH and HTTP. One binary, a module a story.
//!
//! All tests share one state directory, one after the other, so that the stack and its layers are made once. Each
//! starts a daemon of its own on it, uses apps that only it knows, and destroys them.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that people use")]

mod acme;
#[allow(dead_code, reason = "unit tests use the rest")]
mod acme_lab;
mod backup;
mod bad_input;
mod busy;
mod crash;
mod crowds;
mod data;
mod disk;
mod doors;
mod faults;
mod follow;
mod gate;
mod githost;
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod harness;
mod hooks;
mod hostile;
mod inside;
mod kinds;
mod limits;
#[allow(dead_code, reason = "a benchmark uses the rest")]
mod load;
mod managed;
#[allow(dead_code, reason = "unit tests use the rest")]
mod mariadb;
mod nginx;
#[allow(dead_code, reason = "unit tests use the rest")]
mod nginx_site;
#[allow(dead_code, reason = "unit tests use the rest")]
mod own_server;
mod pools;
mod ports;
#[allow(dead_code, reason = "unit tests use the rest")]
mod postgres;
mod pull_request;
mod push;
#[allow(dead_code, reason = "unit tests use the rest")]
mod rabbitmq;
#[allow(dead_code, reason = "unit tests use the rest")]
mod redis;
mod servers;
mod services;
mod sso;
mod strangers;
mod takeover;
mod terminal;
mod tls;
mod upgrade;
mod visits;
mod volumes;
mod vouched;
