use super::*;

#[tokio::test]
async fn a_process_that_prints_more_than_is_taken_is_given_up() {
    let zeros = Cmd::new("head").args(["-c", "1000", "/dev/zero"]);
    assert_eq!(zeros.clone().most_output(1000).run().await.unwrap().stdout.len(), 1000);
    let error = zeros.most_output(999).run().await.unwrap_err();
    assert!(
        matches!(&error, ExecError::Pipe { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge),
        "{error}"
    );
}

#[tokio::test]
async fn a_process_and_what_it_starts_get_no_more_memory_than_they_may() {
    let copy = Cmd::new("env").args(["dd", "if=/dev/null", "of=/dev/null", "bs=512M", "count=1"]).env("LC_ALL", "C");
    copy.run().await.unwrap();
    let error = copy.most_memory(256 << 20).run().await.unwrap_err();
    assert!(error.tail().contains("memory exhausted"), "{error}");
}

#[tokio::test]
async fn a_process_with_bounded_memory_is_the_first_to_go() {
    let looks = "import os; print(open('/proc/self/oom_score_adj').read().strip(), os.getuid(), os.getgroups())";
    let python = Cmd::new("python3").args(["-c", looks]).user(65_534).dir("/").most_memory(64 << 20);
    let told = python.run().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout), "1000 65534 []\n");
}

#[tokio::test]
async fn a_process_that_complains_without_end_is_given_up() {
    let error = Cmd::new("python3").args(["-c", "import sys\nwhile True: sys.stderr.write('x' * 65536)"]).run().await;
    assert!(matches!(error, Err(ExecError::Pipe { .. })), "{error:?}");
}

#[tokio::test]
async fn an_error_calls_a_process_by_the_name_that_it_was_given() {
    let named = |program| Cmd::new(program).named("/opt/flyloft").arg("serve");
    let missing = named("/proc/self/fd/1000000").run().await.unwrap_err();
    assert_eq!(missing.to_string(), "failed to start `/opt/flyloft`");
    let failed = named("false").run().await.unwrap_err();
    assert_eq!(failed.to_string(), "`/opt/flyloft serve` failed with status 1");
}
