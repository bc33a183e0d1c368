//! Git takes as much memory as it may, and no more.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

/// A host that names refs for as long as somebody listens. Gives its address.
fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/acme/project.git", listener.local_addr().unwrap());
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    std::thread::spawn(move || {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n";
        let first = format!("{} HEAD\0 multi_ack\n", "1".repeat(40));
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let opening = head.to_owned() + &line("# service=git-upload-pack\n") + "0000" + &line(&first);
            let mut sent = stream.write_all(opening.as_bytes());
            for n in 0.. {
                if sent.is_err() {
                    break;
                }
                let refs =
                    (0..500).map(|m| line(&format!("{} refs/heads/{n}-{m}/{}\n", "2".repeat(40), "x".repeat(900))));
                sent = stream.write_all(refs.collect::<String>().as_bytes());
            }
        }
    });
    url
}

#[tokio::test]
async fn a_host_that_names_refs_without_end_is_given_up_before_it_fills_the_memory() {
    let shelf = Shelf::with(SourceLimits { memory: 64 << 20, ..SourceLimits::default() });
    let url = shelf.repositories.url(&endless()).unwrap();
    let wanted = Want::Branch(BranchName::parse("main").unwrap());
    let error = shelf.repositories.fetch(&app(), &url, &wanted, &[]).await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { why: Refusal::TooMuch, .. }), "{error:?}");
    let text = Error::from(error).text().replace(&url.to_string(), "URL");
    insta::assert_snapshot!(text, @"
    error: failed to fetch from `URL`
      because: it takes more memory than git may have here: it has too many refs, or too large files
      hint: check the address; a server with more memory gives git more
    ");
}

#[tokio::test]
async fn a_large_file_is_staged_in_little_memory() {
    let shelf = Shelf::with(SourceLimits { memory: 64 << 20, ..SourceLimits::default() });
    let copy = shelf.copy("project").await;
    copy.write("zeros", "");
    fs::File::options().write(true).open(copy.dir.join("zeros")).unwrap().set_len(200 << 20).unwrap();
    let tip = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    shelf.repositories.fetch(&app(), &host.url, &Want::Commit(tip.clone()), &[]).await.unwrap();
    shelf.repositories.ensure(&app()).await.unwrap();
    let tree = shelf.checkout(&tip, None).await.unwrap();
    assert_eq!(fs::metadata(tree.join("zeros")).unwrap().len(), 200 << 20);
    shelf.repositories.tidy(&app(), &[tip]).await.unwrap();
}

#[test]
fn git_has_half_of_a_machines_memory_at_the_most() {
    for gigabytes in [2_u64, 8, 24, 256] {
        let SourceLimits { memory, at_once, .. } = SourceLimits::within(gigabytes << 30);
        assert!(memory * at_once as u64 * 2 <= gigabytes << 30, "{gigabytes}");
    }
    let smallest = SourceLimits::within(480 << 20);
    assert_eq!((smallest.memory, smallest.at_once), (192 << 20, 2));
}
