//! What fails a build, and what people read then.

use super::*;

#[tokio::test]
async fn a_dependency_that_does_not_exist_fails_with_its_output_and_can_be_mended() {
    let mut test = Test::flask();
    let failed = EngineError::StepFailed { command: "pip install -r requirements.txt".to_owned(), code: 1 };
    *test.engine.fails.lock().unwrap() = Some(("Python packages", failed));
    let error = Error::from(test.try_build().await.unwrap_err());
    assert!(test.said.ends_with(
        "-----> Installing Python packages with pip\n       ERROR: No matching distribution found for flaskk\n"
    ));
    insta::assert_snapshot!(error, @"the build failed: failed to install Python packages with pip: `pip install -r requirements.txt` failed with status 1");
    assert_eq!(error.hints, ["the lines above say why"]);
    assert_eq!(test.makes().await, ["Python packages with pip", "app"]);
}

#[tokio::test]
async fn running_out_of_memory_room_or_time_says_what_to_do() {
    let command = || "npm run build".to_owned();
    let errors = [
        (EngineError::OutOfMemory { command: command(), limit: 1 << 30 }, "`memory`"),
        (EngineError::OutOfDisk { command: command(), limit: 1, inodes: 1 }, "`disk`"),
        (EngineError::OutOfProcesses { command: command(), limit: 1 }, "`pids`"),
        (EngineError::DiskFull { command: command() }, "make room"),
        (EngineError::TimedOut { command: command(), seconds: 900 }, "`time`"),
    ];
    for (error, advice) in errors {
        let mut test = Test::flask();
        *test.engine.fails.lock().unwrap() = Some(("Python packages", error));
        let hints = test.try_build().await.unwrap_err().hints();
        assert!(hints[0].contains(advice), "{hints:?}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_larger_than_people_write_them_fails_the_build_and_a_lock_file_does_not() {
    let large = " ".repeat((1 << 20) + 1);
    for path in ["Procfile", "app.json", "requirements.txt", "pyproject.toml", "package.json", "Gemfile", "go.mod"] {
        let error = Test::flask().file(path, &large).try_build().await.unwrap_err();
        let expected = format!("failed to read `{path}`: it has 1,048,577 bytes, and 1,048,576 are allowed");
        assert_eq!(error.to_string(), expected);
    }
    let package = ("package.json", r#"{"scripts":{"start":"node x"},"dependencies":{"express":"5"}}"#);
    let mut test = Test::new(&[package]).file("package-lock.json", &format!("{{}}{large}"));
    test.build().await;
    let step = test.step("Node packages");
    assert!(step.files.iter().any(|(path, content)| path == "/app/package-lock.json" && content.len() > 1 << 20));
}

#[tokio::test]
async fn a_procfile_with_an_error_and_a_repository_with_nothing_to_run_make_no_layer() {
    let mut test = Test::flask().file("Procfile", "web gunicorn\n");
    let error = test.try_build().await.unwrap_err();
    assert!(error.to_string().starts_with("Procfile:1:"), "{error}");
    let mut nothing = Test::new(&[("README.md", "x")]);
    let error = nothing.try_build().await.unwrap_err();
    assert_eq!(error.to_string(), "nothing in this repository says how to run it");
    assert!(test.engine.take().is_empty() && nothing.engine.take().is_empty());
}

#[tokio::test]
async fn a_manifest_that_is_a_link_out_of_the_repository_fails_the_build() {
    let mut test = Test::new(&[("Procfile", "web: flask run")]);
    let tree = test.engine.staging.path().join("checkout");
    std::fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", tree.join("requirements.txt")).unwrap();
    let error = test.try_build().await.unwrap_err();
    assert_eq!(error.to_string(), "failed to read `requirements.txt`: it is a link that leaves the repository");
}
