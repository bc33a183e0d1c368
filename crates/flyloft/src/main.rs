//! Flyloft: just-in-time staging environments on LXC. One binary: command line and daemon.

fn main() -> std::process::ExitCode {
    flyloft::cli::main()
}
