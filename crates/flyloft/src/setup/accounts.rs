//! The group of the socket, and the ids of containers.

use std::path::Path;

use super::{Step, file};
use crate::exec::Cmd;
use crate::machine::Ids;
use crate::machine::ids::{Grant, RANGE};

/// Makes the group whose members may talk to the daemon.
pub async fn group(name: &str) -> Step {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(_)) => Step::already("group", format!("`{name}` may use the socket")),
        _ => match Cmd::new("groupadd").args(["--system", name]).run().await {
            Ok(_) => Step::done("group", format!("made `{name}`, whose members may use the socket"))
                .hint(format!("adduser SOMEBODY {name}")),
            Err(error) => Step::because("group", format!("failed to make `{name}`"), &error),
        },
    }
}

/// Reserves the range that containers take their ids from.
pub fn id_ranges(ids: &Ids) -> Vec<Step> {
    let files = [("/etc/subuid", &ids.users), ("/etc/subgid", &ids.groups)];
    files.into_iter().map(|(path, grant)| reserve(Path::new(path), grant)).collect()
}

fn reserve(path: &Path, grant: &Grant) -> Step {
    let (from, count) = (RANGE.from, RANGE.count);
    let shown = path.display();
    match grant {
        Grant::Root => Step::already("ids", format!("{shown} reserves {count} for containers")),
        Grant::Other(who) => Step::failed("ids", format!("{shown} gives `{who}` ids that containers need"))
            .hint(format!("give `{who}` other ids, below {from}")),
        Grant::Nobody => match file::append_line(path, &format!("root:{from}:{count}")) {
            Ok(()) => Step::done("ids", format!("reserved {count} in {shown} for containers")),
            Err(error) => Step::because("ids", format!("failed to write {shown}"), &error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Outcome;

    #[test]
    fn a_range_is_reserved_once_and_never_taken_from_somebody() {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("subuid");
        std::fs::write(&path, "someone:100000:65536\n").unwrap();
        let look = || Ids::look_at(etc.path()).users;
        assert_eq!(reserve(&path, &look()).outcome, Outcome::Done);
        let text = "someone:100000:65536\nroot:1879048192:268435456\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(reserve(&path, &look()).outcome, Outcome::AlreadySo);

        std::fs::write(&path, "someone:1900000000:65536\n").unwrap();
        assert_eq!(reserve(&path, &look()).outcome, Outcome::Failed);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "someone:1900000000:65536\n");
    }
}
