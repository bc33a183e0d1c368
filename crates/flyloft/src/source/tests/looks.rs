//! Where several branches and pull requests are, in one look.

use std::fmt::Write;
use std::fs;

use super::*;

fn branch(name: &str) -> Want {
    Want::Branch(BranchName::parse(name).unwrap())
}

#[tokio::test]
async fn one_look_shows_where_branches_and_pull_requests_are_and_what_is_not_there() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let first = copy.commit().await;
    copy.write("app.py", "newer");
    let second = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Private(BASIC)).await;
    host.set("refs/heads/feature/x", &first).await;
    host.set("refs/pull/42/head", &first).await;
    host.set("refs/merge-requests/7/head", &second).await;
    // Only the whole name is the branch.
    host.set("refs/heads/refs/heads/gone", &first).await;
    let wants = [
        branch("main"),
        branch("feature/x"),
        branch("gone"),
        Want::PullRequest(42),
        Want::PullRequest(7),
        Want::PullRequest(4),
    ];
    let look = shelf.repositories.look(&host.url, &wants, &[token(&host.url)]).await.unwrap();
    let seen: Vec<_> = wants.iter().map(|want| look.at(want)).collect();
    assert_eq!(seen, [Some(&second), Some(&first), None, Some(&first), Some(&second), None]);
    // What git asks for a list: what the server can do, and the list.
    assert_eq!(host.seen(), vec![Some(BASIC.to_owned()); 2]);
}

#[tokio::test]
async fn a_commit_is_a_branchs_as_long_as_a_branch_is_at_it() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let own = copy.commit().await;
    copy.write("app.py", "a stranger's");
    let strange = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    host.set("refs/heads/main", &own).await;
    host.set("refs/pull/1/head", &strange).await;
    host.set("refs/tags/v1", &strange).await;
    let look = shelf.repositories.look(&host.url, &[Want::PullRequest(1)], &[]).await.unwrap();
    assert!(look.is_branch(&own));
    assert!(!look.is_branch(&strange));
}

#[tokio::test]
async fn a_repository_that_lists_nothing_is_an_error_and_not_one_without_that_branch() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    shelf::git(&host.repository, &["update-ref", "-d", "refs/heads/main"], "").await;
    for want in [branch("main"), Want::PullRequest(1)] {
        let error = shelf.repositories.look(&host.url, &[want], &[]).await.unwrap_err();
        assert!(matches!(error, SourceError::Nothing(_)), "{error:?}");
    }
}

#[tokio::test]
async fn of_ten_thousand_refs_a_look_keeps_what_was_looked_for() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let commit = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Old).await;
    let mut packed = "# pack-refs with: peeled fully-peeled sorted \n".to_owned();
    for number in 10_000..20_000 {
        writeln!(packed, "{commit} refs/pull/{number}/head").unwrap();
    }
    fs::write(host.repository.join("packed-refs"), packed).unwrap();
    let wants = [Want::PullRequest(19_999), Want::PullRequest(20_000)];
    let look = shelf.repositories.look(&host.url, &wants, &[]).await.unwrap();
    assert_eq!((look.at(&wants[0]), look.at(&wants[1])), (Some(&commit), None));
    assert_eq!(format!("{look:?}").matches("refs/pull/").count(), 1);
}

#[tokio::test]
async fn a_look_goes_where_it_was_sent_and_takes_the_token_nowhere_else() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    let thief = shelf.host("thief", &copy, Manner::Open).await;
    let to = format!("http://{}", thief.url.authority());
    let own = shelf.host("project", &copy, Manner::Redirects(to)).await;
    let error = shelf.repositories.look(&own.url, &[branch("main")], &[token(&own.url)]).await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { why: Refusal::Moved, .. }), "{error:?}");
    assert_eq!(thief.seen(), []);
}

#[tokio::test]
async fn who_waits_for_other_fetches_gets_to_know_that() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let commit = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    let (tell, told) = std::sync::mpsc::channel();
    let repositories = shelf.repositories.noticing(move || tell.send(()).unwrap());
    let want = Want::Commit(commit.clone());
    let others: Vec<_> = std::iter::from_fn(|| shelf.repositories.fetching.find()).collect();
    assert!(!others.is_empty());
    let app = app();
    let mut fetching = std::pin::pin!(repositories.fetch(&app, &host.url, &want, &[]));
    let waits = std::future::poll_fn(|cx| match fetching.as_mut().poll(cx) {
        std::task::Poll::Pending if told.try_recv().is_err() => std::task::Poll::Pending,
        std::task::Poll::Pending => std::task::Poll::Ready(true),
        std::task::Poll::Ready(_) => std::task::Poll::Ready(false),
    });
    assert!(waits.await, "it was fetched though there was no place");
    drop(others);
    assert_eq!(fetching.await.unwrap().commit, commit);
    assert!(told.try_recv().is_err(), "it was told twice");
}
