//! Repositories in a backup, and out of it again.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::shelf::{Shelf, USER, app};
use crate::exec::Cmd;
use crate::source::{Checkout, Repositories, SourceLimits};

/// Whether this, and all below it, is the user's.
fn is_of(user: u32, path: &Path) -> bool {
    let below = || fs::read_dir(path).unwrap().all(|entry| is_of(user, &entry.unwrap().path()));
    path.symlink_metadata().unwrap().uid() == user && (!path.is_dir() || below())
}

#[tokio::test]
async fn a_picture_is_of_one_moment_whatever_is_pushed_and_packed_after_it() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.write("app.py", "then\n");
    copy.commit().await;
    let then = shelf.push(&copy).await;
    fs::create_dir(shelf.path("git/apps/shop.git/objects/tmp_objdir-incoming-x")).unwrap();
    let picture = shelf.repositories.picture("repos").await.unwrap();

    copy.write("app.py", "now\n");
    copy.commit().await;
    shelf.push(&copy).await;
    shelf.repositories.tidy(&app(), &[]).await.unwrap();
    let pictured = picture.path().join("repos/apps/shop.git");
    assert!(!pictured.join("objects/tmp_objdir-incoming-x").exists());
    let head = fs::read_to_string(pictured.join("refs/heads/main")).unwrap();
    assert_eq!(head.trim(), then.as_str());
    let check = Cmd::new("git").args(["-c", "safe.directory=*", "--git-dir"]).arg(&pictured);
    check.args(["fsck", "--strict", "--no-dangling"]).run().await.unwrap();
}

#[tokio::test]
async fn a_picture_is_on_the_file_system_of_the_repositories_for_root_alone_and_gone_after_a_start() {
    let shelf = Shelf::new();
    let picture = shelf.repositories.picture("repos").await.unwrap().keep();
    let pictures = shelf.path("git/pictures");
    assert_eq!(picture.parent(), Some(pictures.as_path()));
    let found = pictures.metadata().unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o700, 0));
    Repositories::open(&shelf.path("git"), USER, SourceLimits::default()).unwrap();
    assert!(!pictures.exists());
}

#[tokio::test]
async fn repositories_of_a_backup_belong_to_git_from_the_first_start_on() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.write("app.py", "hello\n");
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    let restored = shelf.path("restored");
    let picture = shelf.repositories.picture("repos").await.unwrap();
    // As root unpacks it.
    Cmd::new("cp").arg("--recursive").args([&picture.path().join("repos"), &restored]).run().await.unwrap();
    assert!(is_of(0, &restored));

    let repositories = Repositories::open(&restored, USER, SourceLimits::default()).unwrap();
    assert!(is_of(USER, &restored.join("apps")));
    let wanted = Checkout { commit: &commit, quarantine: None, remote: None, credentials: &[] };
    repositories.checkout(&app(), &wanted, &shelf.path("tree")).await.unwrap();
    assert_eq!(fs::read_to_string(shelf.path("tree/app.py")).unwrap(), "hello\n");
}
