//! The systemd service.

use std::path::Path;

use super::{Step, file};
use crate::config;
use crate::exec::{Cmd, ExecError};

const UNIT: &str = include_str!("../../../../dist/flyloft.service");

/// Where a package puts it (systemd.unit(5)), and where somebody who has none does.
const PACKAGED: [&str; 2] = ["/usr/lib/systemd/system/flyloft.service", "/lib/systemd/system/flyloft.service"];
const LOCAL: &str = "/etc/systemd/system/flyloft.service";

pub async fn arrange(systemd: bool, config: &Path) -> Vec<Step> {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return vec![Step::because("service", "failed to find this program", &error)],
    };
    if !systemd {
        let serve = format!("{} serve --config {}", program.display(), config.display());
        return vec![
            Step::left("service", "systemd does not run this machine").hint(format!("start it yourself: {serve}")),
        ];
    }
    let mut steps = Vec::new();
    let packaged = PACKAGED.iter().any(|path| Path::new(path).exists());
    if !packaged || config != Path::new(config::DEFAULT_FILE) {
        steps.push(install(Path::new(LOCAL), &render(&program, config)));
    }
    steps.push(start().await);
    steps
}

/// The unit for a program that lies elsewhere, or another configuration.
fn render(program: &Path, config: &Path) -> String {
    let program = program.display();
    let mut text = UNIT.replace("/usr/bin/flyloft", &program.to_string());
    if config != Path::new(config::DEFAULT_FILE) {
        let config = config.display();
        text = text
            .replace(&format!("{program} serve"), &format!("{program} serve --config {config}"))
            .replace(&format!("{program} upgrade"), &format!("{program} upgrade --config {config}"))
            .replace(&format!("{program} setup"), &format!("{program} setup --config {config}"));
    }
    text
}

fn install(path: &Path, text: &str) -> Step {
    match file::ensure(path, text, 0o644) {
        Ok(true) => Step::done("unit", format!("wrote {}", path.display())),
        Ok(false) => Step::already("unit", path.display().to_string()),
        Err(error) => Step::because("unit", format!("failed to write {}", path.display()), &error),
    }
}

/// Has it run now and after every boot.
async fn start() -> Step {
    let systemctl = |args: &[&str]| Cmd::new("systemctl").args(args).arg("flyloft.service");
    let so = systemctl(&["is-enabled", "--quiet"]).run().await.is_ok()
        && systemctl(&["is-active", "--quiet"]).run().await.is_ok();
    if so {
        return Step::already("service", "flyloft.service runs, and starts at boot");
    }
    let begin = async {
        Cmd::new("systemctl").arg("daemon-reload").run().await?;
        systemctl(&["enable", "--now"]).run().await?;
        Ok::<(), ExecError>(())
    };
    match begin.await {
        Ok(()) => Step::done("service", "flyloft.service runs, and starts at boot")
            .hint("let yourself in: flyloft keys add YOU --admin < YOUR-KEY.pub"),
        Err(error) => Step::because("service", "failed to start it", &error).hint("journalctl -u flyloft -n 50"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_the_program_where_it_lies_with_its_configuration() {
        let text = render(Path::new("/opt/flyloft"), Path::new("/srv/a.toml"));
        assert!(text.contains("\nExecStart=/opt/flyloft serve --config /srv/a.toml\n"), "{text}");
        assert!(text.contains("\nExecReload=/opt/flyloft upgrade --config /srv/a.toml\n"), "{text}");
        assert!(text.contains("\nExecStartPre=-+/opt/flyloft setup --config /srv/a.toml --only swap\n"), "{text}");
        assert_eq!(render(Path::new("/usr/bin/flyloft"), Path::new(config::DEFAULT_FILE)), UNIT);
    }

    /// Each of these would give the daemon a mount namespace of its own, where LXC's mounts would be lost, or end
    /// containers with it.
    #[test]
    fn the_unit_leaves_containers_and_mounts_alone() {
        let lines: Vec<&str> = UNIT.lines().collect();
        assert!(lines.contains(&"KillMode=process"));
        assert!(lines.contains(&"Delegate=yes"));
        for forbidden in
            ["PrivateTmp=", "PrivateDevices=", "Protect", "ReadOnlyPaths=", "RootDirectory=", "DynamicUser="]
        {
            assert!(!lines.iter().any(|line| line.starts_with(forbidden)), "{forbidden}");
        }
    }
}
