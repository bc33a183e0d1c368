//! Each rule finds what it is about, and leaves alone what is right.

use super::*;

fn file(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned(), executable: path.starts_with("script/") }
}

/// What the rules say about one file, a problem a line.
fn said(path: &str, text: &str) -> String {
    let problems = check(&[file(path, text)]);
    problems.iter().map(|p| format!("{}: {}\n", p.line.unwrap_or(0), p.what)).collect()
}

#[track_caller]
fn finds(path: &str, text: &str, what: &str) {
    let said = said(path, text);
    assert!(said.contains(what), "{path}: {said:?} does not contain {what:?}");
}

#[track_caller]
fn accepts(path: &str, text: &str) {
    assert_eq!(said(path, text), "", "{path}");
}

const MODULE: &str = "//! What it is for.\n";

#[test]
fn a_long_file_is_warned_about_and_then_refused() {
    let of = |lines: usize| check(&[file("crates/a/src/a.rs", &"//! a\n".repeat(lines))]);
    assert!(of(600).is_empty());
    assert_eq!(of(601)[0].severity, Severity::Warning);
    assert_eq!(of(651)[0].severity, Severity::Error);
}

#[test]
fn a_module_says_what_it_is_for_and_is_named_for_it() {
    finds("crates/a/src/a.rs", "fn a() {}\n", "must open with `//!`");
    finds("crates/a/src/utils.rs", MODULE, "a noun of the domain");
    finds("crates/a/src/common/mod.rs", MODULE, "a noun of the domain");
    accepts("crates/a/src/a.rs", MODULE);
}

#[test]
fn what_is_not_finished_is_found() {
    finds("crates/a/src/a.rs", &format!("{MODULE}fn a() {{ todo!() }}\n"), "2: `todo!(`");
    finds("crates/a/src/a.rs", &format!("{MODULE}// FIXME: later\n"), "2: `FIXME`");
}

#[test]
fn only_the_door_for_processes_may_lift_the_ban() {
    let lifted = format!("{MODULE}#[allow(clippy::disallowed_methods)]\n");
    finds("crates/flyloft/src/cli.rs", &lifted, "2: exec.rs is the one door");
    accepts("crates/flyloft/src/exec.rs", &lifted);
    accepts("crates/flyloft/tests/push.rs", &lifted);
}

#[test]
fn the_core_stays_pure() {
    finds("crates/flyloft-core/src/a.rs", &format!("{MODULE}use std::fs;\n"), "knows no `std::fs`");
    finds("crates/flyloft-core/src/a.rs", &format!("{MODULE}let now = Instant::now();\n"), "2: ");
    accepts("crates/flyloft-core/src/a.rs", "//! No tokio here.\nfn a() {} // nor std::fs\n");
    accepts("crates/flyloft/src/a.rs", &format!("{MODULE}use std::fs;\n"));
}

#[test]
fn drivers_know_neither_the_store_nor_each_other() {
    finds("crates/flyloft/src/engine/lxc.rs", &format!("{MODULE}use crate::store::Store;\n"), "know `crate::store`");
    finds("crates/flyloft/src/edge/a.rs", &format!("{MODULE}use crate::engine::Engine;\n"), "know `crate::engine`");
    accepts("crates/flyloft/src/edge/a.rs", &format!("{MODULE}use crate::edge::Route;\nuse crate::exec::Cmd;\n"));
    accepts("crates/flyloft/src/deploy.rs", &format!("{MODULE}use crate::engine::Engine;\n"));
}

#[test]
fn places_that_others_do_not_have_are_found() {
    finds("README.md", "a\nsee /root/notes\n", "2: `/root/`");
    let here = std::env::current_dir().unwrap().join("notes").display().to_string();
    finds("README.md", &format!("see {here}\n"), "is a place that others do not have");
    accepts("README.md", "see /var/lib/flyloft\n");
}

#[test]
fn a_script_can_be_run_and_is_strict() {
    let good = "#!/usr/bin/env bash\nset -euo pipefail\n";
    accepts("script/a", good);
    finds("script/a", "#!/bin/sh\nset -euo pipefail\n", "starts with `#!");
    finds("script/a", "#!/usr/bin/env bash\n", "pipefail");
    let problems = check(&[Source { executable: false, ..file("script/a", good) }]);
    assert_eq!(problems[0].what, "a script must be executable");
}

#[test]
fn a_banned_crate_is_found_in_the_lock_file() {
    finds("Cargo.lock", "[[package]]\nname = \"openssl-sys\"\n", "2: name = \"openssl-sys\" is banned");
    accepts("Cargo.lock", "[[package]]\nname = \"ring\"\nsource = \"registry+…\"\n");
}

#[test]
fn a_link_between_documents_leads_somewhere() {
    finds("README.md", "see [the map](MAP.md#top)\n", "1: the link leads nowhere: `MAP.md#top`");
    let there =
        [file("README.md", "[map](doc/MAP.md#top) [doc](doc/) [x](https://a.example)\n"), file("doc/MAP.md", "")];
    assert_eq!(check(&there), []);
}

#[test]
fn the_changelog_knows_the_version() {
    let manifest = || file("Cargo.toml", "[workspace.package]\nversion = \"0.1.0\"\n");
    assert_eq!(check(&[manifest()])[0].path, "CHANGELOG.md");
    assert_eq!(check(&[manifest(), file("CHANGELOG.md", "# Changes\n\n## 0.0.9\n")])[0].path, "CHANGELOG.md");
    assert_eq!(check(&[manifest(), file("CHANGELOG.md", "# Changes\n\n## 0.1.0\n")]), []);
}
