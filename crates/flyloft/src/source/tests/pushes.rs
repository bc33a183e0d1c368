//! Who moves a branch, and when.

use super::super::{BranchUpdate, Push};
use super::*;

impl Shelf {
    fn asking(&self, updates: &[(&str, Option<&CommitId>, Option<&CommitId>)]) -> Push {
        let update = |(branch, old, new): &(&str, Option<&CommitId>, Option<&CommitId>)| BranchUpdate {
            branch: BranchName::parse(branch).unwrap(),
            old: old.cloned(),
            new: new.cloned(),
        };
        let turn = self.repositories.receive_pack(&app()).unwrap().turn;
        Push { updates: updates.iter().map(update).collect(), quarantine: None, turn }
    }
}

#[tokio::test]
async fn a_push_is_checked_against_where_its_branches_are() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.write("app.py", "");
    let first = copy.commit().await;
    shelf.push(&copy).await;
    let second = copy.commit().await;
    shelf.push(&copy).await;

    let check = async |updates: &[_]| shelf.repositories.check(&app(), &shelf.asking(updates)).await;
    check(&[("main", Some(&second), Some(&first)), ("other", None, Some(&first))]).await.unwrap();
    check(&[("main", Some(&second), None)]).await.unwrap();
    for stale in [("main", Some(&first), Some(&second)), ("main", None, Some(&second)), ("main", Some(&first), None)] {
        assert!(matches!(check(&[stale]).await, Err(SourceError::Moved(branch)) if branch.as_str() == "main"));
    }
    let gone = check(&[("other", Some(&first), Some(&second))]).await;
    assert!(matches!(gone, Err(SourceError::Moved(branch)) if branch.as_str() == "other"));
    let nowhere = CommitId::parse(&"ab".repeat(20)).unwrap();
    let unknown = check(&[("main", Some(&second), Some(&second)), ("new", None, Some(&nowhere))]).await;
    assert!(matches!(unknown, Err(SourceError::NoCommit(id)) if id == nowhere));
    let tree = CommitId::parse(copy.git(&["rev-parse", "HEAD^{tree}"]).await.trim()).unwrap();
    let error = check(&[("odd", None, Some(&tree))]).await.unwrap_err();
    assert_eq!(error.to_string(), format!("`{}` is a tree, and branch `odd` needs a commit", tree.short()));
}

#[tokio::test]
async fn the_second_of_two_pushes_waits_for_the_first_and_then_looks_again() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let first = copy.commit().await;
    shelf.push(&copy).await;
    let second = copy.commit().await;
    let repository = shelf.path("git/apps/shop.git");
    copy.git(&["push", "-q", repository.to_str().unwrap(), "HEAD:refs/heads/aside"]).await;

    let winner = shelf.asking(&[("main", Some(&first), Some(&second))]);
    shelf.repositories.hold(&app(), &winner).await.unwrap();
    shelf.repositories.hold(&app(), &winner).await.unwrap();
    let loser = shelf.asking(&[("main", Some(&first), Some(&second))]);
    let wanted = app();
    let mut waits = std::pin::pin!(shelf.repositories.hold(&wanted, &loser));
    assert!(futures_util::poll!(&mut waits).is_pending());
    shelf.push(&copy).await;
    drop(winner);
    assert!(matches!(waits.await, Err(SourceError::Moved(_))));
}
