//! Builds that take more than they may. Each is told which limit that was and where it is set; what serves goes on
//! serving, and nothing of the build is left.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Flyloft, Repository};
use crate::push::{app, borrowed};

/// A package in the repository whose build is this Python code. It needs nothing from elsewhere.
fn package(code: &str) -> Vec<(&'static str, String)> {
    let backend = format!("import os, sys, time\ndef build_wheel(directory, settings=None, metadata=None):\n{code}\n");
    vec![
        ("requirements.txt", "./hog\n".to_owned()),
        (
            "hog/pyproject.toml",
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n".to_owned(),
        ),
        ("hog/backend.py", backend),
    ]
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            // Removed meanwhile, it takes nothing.
            meta => meta.map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512),
        })
        .sum()
}

/// What builds make while they are under way.
fn unfinished(flyloft: &Flyloft) -> Vec<String> {
    let dirs = ["engine/builds", "engine/tmp", "engine/staging"].map(|dir| flyloft.state.join(dir));
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap().flatten());
    entries.map(|entry| entry.path().display().to_string()).collect()
}

#[track_caller]
fn check(flyloft: &Flyloft, repository: &Repository<'_>, code: &str, complaints: &[&str]) {
    let lines: Vec<String> = code.lines().map(|line| format!("    {line}")).collect();
    repository.commit(&borrowed(&package(&lines.join("\n"))));
    let output = repository.rejected(&["main"]);
    for complaint in complaints {
        assert!(
            output.contains(complaint),
            "`{complaint}` is missing:\n{}",
            &output[output.len().saturating_sub(3000)..]
        );
    }
    assert_eq!(flyloft.get(&format!("{}/main", repository.app), "/").body, "good", "{code}");
    assert_eq!(unfinished(flyloft), Vec::<String>::new(), "{code}");
}

#[test]
fn a_build_that_takes_too_much_is_told_of_what_and_the_old_release_serves() {
    let mut flyloft = Flyloft::start();
    flyloft.kill();
    flyloft.config =
        "[build]\npids = 40\nmemory = '256MiB'\nswap = '1MiB'\ndisk = '200MiB'\ninodes = 8000\n".to_owned();
    flyloft.serve();
    let mut files = app("good");
    files[1].1 = "# nothing from elsewhere\n".to_owned();
    flyloft.repository("it-limits", &borrowed(&files)).pushed(&["main"]);
    let repository = flyloft.repository("it-limits", &[]);

    let forks = "while True:\n    if os.fork() == 0: time.sleep(1000)";
    check(&flyloft, &repository, forks, &["40 processes", "raise `pids` under `[build]`"]);
    let memory = "hog = []\nwhile True: hog.append(bytearray(1 << 20))";
    check(&flyloft, &repository, memory, &["ran out of memory: 268435456 bytes", "raise `memory` under `[build]`"]);
    let disk = "with open('big', 'wb') as big:\n    while True: big.write(bytes(1 << 20))";
    check(&flyloft, &repository, disk, &["209715200 bytes", "raise `disk` or `inodes` under `[build]`"]);
    let inodes = "number = 0\nos.mkdir('many')\nwhile True:\n    number += 1\n    open(f'many/{number}', 'w').close()";
    check(&flyloft, &repository, inodes, &["8000 files", "raise `disk` or `inodes` under `[build]`"]);

    // The release command prints to the same log, and pip keeps to itself what builds print. Of 24 MiB the end is told.
    let procfile = "web: python3 server.py\nrelease: yes 'a line of thirty-two bytes....' | head -c 24M; echo the reason; exit 9\n";
    repository.commit(&[("requirements.txt", "# nothing from elsewhere\n"), ("Procfile", procfile)]);
    let output = repository.rejected(&["main"]);
    for complaint in ["only its end is shown", "the reason", "the release command ended with status 9"] {
        assert!(output.contains(complaint), "`{complaint}` is missing:\n{}", &output[output.len() - 3000..]);
    }
    assert_eq!(flyloft.get("it-limits/main", "/").body, "good");
    let kept = size(&flyloft.state.join("transcripts"));
    assert!(kept > 1 << 20, "{kept} bytes are kept");
    assert!(kept < 2 << 20, "{kept} bytes are kept");

    flyloft.kill();
    flyloft.config = "[build]\ntime = '6s'\n".to_owned();
    flyloft.serve();
    let repository = flyloft.repository("it-limits", &[("Procfile", "web: python3 server.py\n")]);
    check(&flyloft, &repository, "time.sleep(1000)", &["was stopped after 6 s", "raise `time` under `[build]`"]);
    flyloft.ok(&["destroy", "it-limits", "--yes"]);
}

#[test]
fn a_tree_of_five_gigabytes_is_refused_before_any_of_it_is_written() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-large", &borrowed(&app("good")));
    repository.pushed(&["main"]);
    // Sent, it has 300 KB.
    repository.commit_zeros(64 << 20, 80);
    let (staging, repositories) = (flyloft.state.join("engine/staging"), flyloft.state.join("repos"));
    let (before, over) = (size(&repositories), AtomicBool::new(false));
    let (output, most) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::SeqCst) {
                most = most.max(size(&staging) + size(&repositories));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            most
        });
        let output = repository.rejected(&["main"]);
        over.store(true, Ordering::SeqCst);
        (output, watch.join().unwrap())
    });
    assert!(output.contains("the tree is too large: it has 83 files with 53687"), "{output}");
    assert!(output.contains("500000 files with 4294967296 bytes are allowed"), "{output}");
    assert!(output.contains("keep large files out of the repository"), "{output}");
    assert!(most < before + (50 << 20), "{most} bytes were written");
    assert_eq!(unfinished(&flyloft), Vec::<String>::new());
    assert!(size(&repositories) < before + (1 << 20), "the objects are kept");
    assert_eq!(flyloft.get("it-large/main", "/").body, "good");
    flyloft.ok(&["destroy", "it-large", "--yes"]);
}
