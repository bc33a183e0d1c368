//! Servers of databases and the like that the daemon runs itself.

use super::{Check, bytes};
use crate::machine::Machine;
use crate::machine::servers::Server;

pub fn judge(machine: &Machine) -> Vec<Check> {
    let servers = &machine.servers;
    let all: u64 = servers.iter().map(|server| server.memory).sum();
    let mut checks: Vec<Check> = servers.iter().map(server).collect();
    if all > machine.memory.total / 2 {
        checks.push(Check::warning(
            "servers",
            format!("together they may take {} of {} of memory", bytes(all), bytes(machine.memory.total)),
            "let one have less: flyloft services upgrade NAME --memory SIZE",
        ));
    }
    checks
}

fn server(server: &Server) -> Check {
    let Server { name, runs, excess, data, most, .. } = server;
    let short = name.split(' ').next().unwrap_or_default();
    let more = || format!("give it more: flyloft services upgrade {short} --disk SIZE");
    let size = format!("{} of {} taken", bytes(*data), bytes(*most));
    match excess {
        Some(excess) if !runs => Check::warning("servers", format!("{name} was stopped: {excess}; {size}"), more()),
        _ if !runs => Check::warning(
            "servers",
            format!("{name} does not run, and the daemon starts it"),
            format!("see what keeps it from that: flyloft services check {short}"),
        ),
        _ if *data > most / 10 * 9 => Check::warning("servers", format!("{name} is nearly full: {size}"), more()),
        _ => Check::ok("servers", format!("{name} runs, {size}")),
    }
}
