//! With the real git: the daemon's on one side, hosts on loopback on the other.

mod looks;
mod memory;
mod pictures;
mod pushes;
pub(crate) mod shelf;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use flyloft_core::name::{BranchName, CommitId};

use super::{Credential, Refusal, RemoteUrl, Repositories, Secret, SourceError, SourceLimits, UrlError, Want};
use crate::error::Error;
use shelf::{Manner, Shelf, USER, app};

/// `git:s3cret`.
const BASIC: &str = "Basic Z2l0OnMzY3JldA==";

fn token(url: &RemoteUrl) -> Credential {
    let secret = Secret::Token { user: "git".into(), token: "s3cret".into() };
    Credential { host: url.authority(), secret }
}

#[tokio::test]
async fn a_checkout_is_the_files_of_the_commit_and_nothing_else() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.write("app.py", "print('hello')\n");
    copy.write("bin/run me", "#!/bin/sh\n");
    fs::set_permissions(copy.dir.join("bin/run me"), fs::Permissions::from_mode(0o755)).unwrap();
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    copy.write("app.py", "print('newer')\n");
    copy.commit().await;
    shelf.push(&copy).await;
    let tree = shelf.checkout(&commit, None).await.unwrap();
    assert_eq!(fs::read_to_string(tree.join("app.py")).unwrap(), "print('hello')\n");
    assert_eq!(fs::metadata(tree.join("bin/run me")).unwrap().mode() & 0o111, 0o111);
    assert_eq!(fs::metadata(tree.join("app.py")).unwrap().uid(), USER);
    let mut names: Vec<_> = fs::read_dir(&tree).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["app.py", "bin"]);
}

#[tokio::test]
async fn symlinks_that_point_outside_stay_symlinks_and_nothing_is_written_through_them() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let outside = shelf.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    symlink("/etc/shadow", copy.dir.join("shadow")).unwrap();
    symlink(&outside, copy.dir.join("out")).unwrap();
    copy.write("app.py", "");
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    let tree = shelf.checkout(&commit, None).await.unwrap();
    assert_eq!(fs::read_link(tree.join("shadow")).unwrap().to_str(), Some("/etc/shadow"));
    assert!(fs::symlink_metadata(tree.join("out")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn attributes_of_a_repository_run_nothing_and_hide_nothing() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let mark = shelf.path("mark");
    copy.write(".gitattributes", "* filter=evil export-ignore\n*.txt export-subst ident\n");
    copy.write("app.py", "kept\n");
    copy.write("version.txt", "$Format:%H$\n");
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    // Even if the repository's own configuration defined the filter, which a push cannot do.
    let config = shelf.path("git/apps/shop.git/config");
    let filter = format!("[core]\nbare = true\n[filter \"x\"]\nsmudge = touch {}\n", mark.display());
    fs::write(config, filter).unwrap();
    let tree = shelf.checkout(&commit, None).await.unwrap();
    assert_eq!(fs::read_to_string(tree.join("app.py")).unwrap(), "kept\n");
    assert_eq!(fs::read_to_string(tree.join("version.txt")).unwrap(), "$Format:%H$\n");
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_git_lfs_pointer_is_an_error_that_names_the_file() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n";
    copy.write("assets/logo.psd", pointer);
    copy.commit().await;
    let without = shelf.push(&copy).await;
    assert!(shelf.checkout(&without, None).await.is_ok(), "a repository that does not use Git LFS");
    copy.write(".gitattributes", "*.psd filter=lfs diff=lfs merge=lfs -text\n");
    copy.git(&["add", ".gitattributes"]).await;
    copy.git(&["commit", "-q", "-m", "Use LFS"]).await;
    let commit = shelf.push(&copy).await;
    let error = Error::from(shelf.checkout(&commit, None).await.unwrap_err());
    insta::assert_snapshot!(error.text(), @"
    error: `assets/logo.psd` is a Git LFS pointer, not the file itself (1 in all)
      hint: Git LFS is not supported: commit the files themselves (`git lfs migrate export`)
    ");
}

#[tokio::test]
async fn a_tree_larger_than_the_limit_is_refused_before_it_is_written() {
    let shelf = Shelf::with(SourceLimits { tree: 10_000, ..SourceLimits::default() });
    let copy = shelf.copy("project").await;
    copy.write("zeros", &"0".repeat(10_001));
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    assert!(matches!(shelf.checkout(&commit, None).await, Err(SourceError::TooLarge { bytes: 10_001, .. })));
    let shelf = Shelf::with(SourceLimits { files: 2, ..SourceLimits::default() });
    let copy = shelf.copy("project").await;
    for name in ["a", "b", "c"] {
        copy.write(name, "");
    }
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    assert!(matches!(shelf.checkout(&commit, None).await, Err(SourceError::TooLarge { files: 3, .. })));
}

#[tokio::test]
async fn a_commit_that_is_not_there_is_an_error_that_names_it() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    shelf.push(&copy).await;
    let unknown = CommitId::parse(&"1".repeat(40)).unwrap();
    assert!(matches!(shelf.checkout(&unknown, None).await, Err(SourceError::NoCommit(commit)) if commit == unknown));
}

#[tokio::test]
async fn submodules_are_fetched_into_their_places_also_those_of_submodules() {
    let shelf = Shelf::new();
    let (inner, outer, project) = (shelf.copy("inner").await, shelf.copy("outer").await, shelf.copy("project").await);
    inner.write("deep.txt", "deep\n");
    let deep = inner.commit().await;
    let inner_host = shelf.host("inner", &inner, Manner::Open).await;
    outer.write("theme.css", "body {}\n");
    outer.commit().await;
    let theme = outer.submodule("lib/deep", &inner_host.url.to_string(), &deep).await;
    // A newer commit there must not be what is taken.
    outer.write("theme.css", "newer");
    outer.commit().await;
    let outer_host = shelf.host("outer", &outer, Manner::Open).await;
    project.write("app.py", "");
    project.commit().await;
    project.submodule("theme", "../outer.git", &theme).await;
    let commit = shelf.push(&project).await;
    let base = outer_host.url.to_string().replace("outer", "project");
    let base = shelf.repositories.url(&base).unwrap();
    let tree = shelf.checkout(&commit, Some(&base)).await.unwrap();
    assert_eq!(fs::read_to_string(tree.join("theme/theme.css")).unwrap(), "body {}\n");
    assert_eq!(fs::read_to_string(tree.join("theme/lib/deep/deep.txt")).unwrap(), "deep\n");
    let requests = outer_host.seen().len();
    fs::remove_dir_all(&tree).unwrap();
    shelf.checkout(&commit, Some(&base)).await.unwrap();
    assert_eq!(outer_host.seen().len(), requests, "what is there is not fetched again");
}

#[tokio::test]
async fn a_submodule_by_any_other_way_than_https_and_ssh_is_refused() {
    let shelf = Shelf::new();
    let secret = shelf.copy("secret").await;
    secret.write("secret.txt", "s3cret");
    let hidden = secret.commit().await;
    let path = secret.dir.display().to_string();
    for (n, url) in [format!("file://{path}"), path.clone(), "ext::sh -c touch% x".into(), "http://10.0.0.1/x".into()]
        .iter()
        .enumerate()
    {
        let project = shelf.copy(&format!("project-{n}")).await;
        let commit = project.submodule("lib", url, &hidden).await;
        // Pushing it over SSH would be refused for some of them already: here it gets past that.
        shelf.repositories.remove(&app()).unwrap();
        shelf.push(&project).await;
        let error = shelf.checkout(&commit, None).await.unwrap_err();
        let SourceError::Submodule { why, .. } = &error else { panic!("{url}: {error:?}") };
        assert!(matches!(**why, SourceError::Url(UrlError::Form(_))), "{url}: {why:?}");
    }
}

#[tokio::test]
async fn a_submodule_does_not_lead_into_the_servers_own_network() {
    let shelf = Shelf::new();
    let door = std::net::TcpListener::bind("[::]:0").unwrap();
    door.set_nonblocking(true).unwrap();
    let port = door.local_addr().unwrap().port();
    let hosts =
        ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "git.localhost", "169.254.169.254", "10.0.0.1"];
    for (n, host) in hosts.into_iter().enumerate() {
        let project = shelf.copy(&format!("project-{n}")).await;
        let there = project.commit().await;
        let commit = project.submodule("lib", &format!("https://{host}:{port}/x.git"), &there).await;
        shelf.repositories.remove(&app()).unwrap();
        shelf.push(&project).await;
        let error = shelf.checkout(&commit, None).await.unwrap_err();
        assert_eq!(
            Error::from(error).text(),
            format!(
                "error: failed to get submodule `lib`\n  because: `{host}:{port}` is not a host on the internet\n  \
                 hint: submodules come from the internet, or from the host of the app's own repository\n"
            )
        );
    }
    assert!(door.accept().is_err(), "somebody was at the door");
}

#[tokio::test]
async fn a_relative_submodule_of_a_pushed_repository_is_an_error_that_says_what_to_do() {
    let shelf = Shelf::new();
    let project = shelf.copy("project").await;
    let there = project.commit().await;
    project.submodule("theme", "../theme.git", &there).await;
    let commit = shelf.push(&project).await;
    let error = Error::from(shelf.checkout(&commit, None).await.unwrap_err());
    insta::assert_snapshot!(error.text(), @"
    error: failed to get submodule `theme`
      because: `../theme.git` is relative to the URL of its repository, and this repository has none: it was pushed
      hint: give it an absolute https:// URL, or say where the app comes from with `flyloft apps create APP --git URL`
    ");
}

#[tokio::test]
async fn a_submodule_without_a_url_is_an_error_that_names_it() {
    let shelf = Shelf::new();
    let project = shelf.copy("project").await;
    let there = project.commit().await;
    project.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{there},lost")]).await;
    project.git(&["commit", "-q", "-m", "Lose one"]).await;
    let commit = shelf.push(&project).await;
    let error = shelf.checkout(&commit, None).await.unwrap_err();
    assert!(matches!(error, SourceError::SubmoduleWithoutUrl(path) if path.to_str() == Some("lost")));
}

#[tokio::test]
async fn a_token_goes_to_its_own_host_and_to_no_other() {
    let shelf = Shelf::new();
    let (theme, project) = (shelf.copy("theme").await, shelf.copy("project").await);
    theme.write("theme.css", "");
    let there = theme.commit().await;
    let stranger = shelf.host("theme", &theme, Manner::Open).await;
    project.write("app.py", "");
    project.commit().await;
    let tip = project.submodule("theme", &stranger.url.to_string(), &there).await;
    let own = shelf.host("project", &project, Manner::Private(BASIC)).await;
    own.set("refs/pull/42/head", &tip).await;
    let credentials = [token(&own.url)];
    let want = Want::PullRequest(42);
    let fetched = shelf.repositories.fetch(&app(), &own.url, &want, &credentials).await.unwrap();
    assert_eq!(fetched.commit, tip);
    shelf.checkout_with(&tip, Some(&own.url), &credentials).await.unwrap();
    assert!(own.seen().iter().all(|header| header.as_deref() == Some(BASIC)), "{:?}", own.seen());
    assert!(!stranger.seen().is_empty());
    assert!(stranger.seen().iter().all(Option::is_none), "{:?}", stranger.seen());
}

#[tokio::test]
async fn a_redirect_carries_no_token_anywhere() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    let thief = shelf.host("thief", &copy, Manner::Open).await;
    let to = format!("http://{}", thief.url.authority());
    let own = shelf.host("project", &copy, Manner::Redirects(to)).await;
    let want = Want::Branch(BranchName::parse("main").unwrap());
    let error = shelf.repositories.fetch(&app(), &own.url, &want, &[token(&own.url)]).await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { why: Refusal::Moved, .. }), "{error:?}");
    assert_eq!(thief.seen(), []);
}

#[tokio::test]
async fn pull_requests_are_found_where_each_kind_of_host_has_them() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let first = copy.commit().await;
    copy.write("app.py", "of the pull request");
    let second = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    host.set("refs/pull/42/head", &second).await;
    host.set("refs/merge-requests/7/head", &first).await;
    let fetch = async |want| shelf.repositories.fetch(&app(), &host.url, &want, &[]).await;
    let github = fetch(Want::PullRequest(42)).await.unwrap();
    assert_eq!((github.commit, github.reference.as_deref()), (second.clone(), Some("refs/pull/42/head")));
    let gitlab = fetch(Want::PullRequest(7)).await.unwrap();
    assert_eq!((gitlab.commit, gitlab.reference.as_deref()), (first.clone(), Some("refs/merge-requests/7/head")));
    let by_commit = fetch(Want::Commit(first.clone())).await.unwrap();
    assert_eq!(by_commit.commit, first);
    let by_branch = fetch(Want::Branch(BranchName::parse("main").unwrap())).await.unwrap();
    assert_eq!(by_branch.commit, second);
    let tree = shelf.checkout(&second, None).await.unwrap();
    assert_eq!(fs::read_to_string(tree.join("app.py")).unwrap(), "of the pull request");
}

#[tokio::test]
async fn what_was_fetched_is_not_given_away_by_the_repository_that_is_pushed_to() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    shelf.push(&copy).await;
    copy.write("app.py", "private");
    let private = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    shelf.repositories.fetch(&app(), &host.url, &Want::Commit(private.clone()), &[]).await.unwrap();
    assert!(!shelf.repositories.has(&shelf.path("git/apps/shop.git"), &private).await);
}

#[tokio::test]
async fn what_is_not_there_is_an_error_that_says_what_to_do() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    let private = shelf.host("private", &copy, Manner::Private("Basic other")).await;
    let at = |url: &str| shelf.repositories.url(url).unwrap();
    let wrong = at(&host.url.to_string().replace("project", "nothing"));
    let main = Want::Branch(BranchName::parse("main").unwrap());
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        at(&format!("http://{}/x", listener.local_addr().unwrap()))
    };
    let error = async |url: &RemoteUrl, want: &Want, credentials: &[Credential]| {
        let error = Error::from(shelf.repositories.fetch(&app(), url, want, credentials).await.unwrap_err());
        let ports = [&host.url, &private.url, &closed].map(|url| url.authority());
        ports.iter().fold(error.text(), |text, port| text.replace(port, "HOST"))
    };
    let said = [
        error(&host.url, &Want::PullRequest(404), &[]).await,
        error(&host.url, &Want::Branch(BranchName::parse("gone").unwrap()), &[]).await,
        error(&host.url, &Want::Commit(CommitId::parse(&"1".repeat(40)).unwrap()), &[]).await,
        error(&wrong, &main, &[]).await,
        error(&private.url, &main, &[]).await,
        error(&private.url, &main, &[token(&private.url)]).await,
        error(&at("https://no-such-host.invalid/acme/shop"), &main, &[]).await,
        error(&closed, &main, &[]).await,
        error(&at("git@127.0.0.1:acme/shop"), &main, &[]).await,
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    error: there is no pull request 404 at `http://HOST/acme/project.git`
      hint: check its number; on GitLab it is that of the merge request

    error: there is no branch `gone` at `http://HOST/acme/project.git`
      hint: check its name, and that it was pushed there

    error: there is no commit `1111111111111111111111111111111111111111` at `http://HOST/acme/project.git`
      hint: check that the commit was pushed there, and give all its digits

    error: failed to fetch from `http://HOST/acme/nothing.git`
      because: there is no such repository, or it is private
      hint: check the address; for a private repository give the app a token or a deploy key

    error: failed to fetch from `http://HOST/acme/private.git`
      because: its host asks for a credential: it is private, or does not exist
      hint: check the address; for a private repository give the app a token or a deploy key

    error: failed to fetch from `http://HOST/acme/private.git`
      because: it refuses the credential
      hint: check the address, and that the app's token or deploy key may read this repository and has not expired

    error: failed to fetch from `https://no-such-host.invalid/acme/shop`
      because: its host name does not resolve
      hint: check the address, and that this server resolves the name

    error: failed to fetch from `http://HOST/x`
      because: its host does not answer
      hint: check that this server reaches the host, and try again

    error: failed to fetch from `git@127.0.0.1:acme/shop`
      because: an SSH address needs a deploy key, and the app has none for this host
      hint: give the app a deploy key, or use the https address of the repository
    ");
}

#[tokio::test]
async fn tidying_keeps_what_was_pushed_and_what_releases_are_made_from() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    let pushed = shelf.push(&copy).await;
    copy.write("app.py", "kept");
    let kept = copy.commit().await;
    copy.write("app.py", "given up");
    let given_up = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    for commit in [&kept, &given_up] {
        shelf.repositories.fetch(&app(), &host.url, &Want::Commit(commit.clone()), &[]).await.unwrap();
    }
    shelf.repositories.tidy(&app(), std::slice::from_ref(&kept)).await.unwrap();
    let fetched = shelf.path("git/fetched/shop.git");
    let refs = shelf::git(&fetched, &["for-each-ref", "--format=%(refname)"], "").await;
    assert_eq!(refs, format!("refs/flyloft/commits/{kept}\n"));
    shelf.checkout(&pushed, None).await.unwrap();
    shelf.checkout(&kept, None).await.unwrap();
}

#[tokio::test]
async fn what_is_given_up_is_still_there_until_repositories_are_tidied_again() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let commit = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    let want = Want::Commit(commit.clone());
    shelf.repositories.fetch(&app(), &host.url, &want, &[]).await.unwrap();
    let fetched = shelf.path("git/fetched/shop.git");
    // As if it had been fetched long ago.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7 * 24 * 3600);
    for entry in fs::read_dir(fetched.join("objects/pack")).unwrap() {
        fs::File::open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
    }
    shelf.repositories.tidy(&app(), &[]).await.unwrap();
    shelf.checkout(&commit, None).await.unwrap();
}

#[test]
fn repositories_are_tidied_once_a_day() {
    let shelf = Shelf::new();
    assert!(shelf.repositories.tidy_is_due().unwrap());
    assert!(!shelf.repositories.tidy_is_due().unwrap());
    let mark = fs::File::open(shelf.path("git/tidied")).unwrap();
    mark.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600)).unwrap();
    assert!(shelf.repositories.tidy_is_due().unwrap());
    assert!(!shelf.repositories.tidy_is_due().unwrap());
}

#[tokio::test]
async fn removing_an_app_leaves_nothing_of_its_repositories() {
    let shelf = Shelf::new();
    let (theme, project) = (shelf.copy("theme").await, shelf.copy("project").await);
    let there = theme.commit().await;
    let host = shelf.host("theme", &theme, Manner::Open).await;
    project.commit().await;
    project.submodule("theme", &host.url.to_string(), &there).await;
    let commit = shelf.push(&project).await;
    shelf.checkout(&commit, None).await.unwrap();
    shelf.repositories.fetch(&app(), &host.url, &Want::Commit(there), &[]).await.unwrap();
    shelf.repositories.remove(&app()).unwrap();
    shelf.repositories.remove(&app()).unwrap();
    for dir in ["apps", "fetched", "modules", "tmp"] {
        assert_eq!(fs::read_dir(shelf.path("git").join(dir)).unwrap().count(), 0, "{dir}");
    }
}

#[tokio::test]
async fn half_a_push_of_a_killed_daemon_is_swept_away_at_the_next_start() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    copy.commit().await;
    let commit = shelf.push(&copy).await;
    let left = shelf.path("git/apps/shop.git/objects/tmp_objdir-incoming-abcdef");
    fs::create_dir(&left).unwrap();
    Repositories::open(&shelf.path("git"), USER, SourceLimits::default()).unwrap();
    assert!(!left.exists());
    shelf.checkout(&commit, None).await.unwrap();
}

#[tokio::test]
async fn a_server_that_gives_no_single_commits_is_asked_for_its_branches() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let first = copy.commit().await;
    copy.write("app.py", "second");
    copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Old).await;
    shelf.repositories.fetch(&app(), &host.url, &Want::Commit(first.clone()), &[]).await.unwrap();
    shelf.checkout(&first, None).await.unwrap();
}

#[tokio::test]
async fn a_fetch_takes_the_proxy_that_builds_take() {
    let shelf = Shelf::new();
    let copy = shelf.copy("project").await;
    let tip = copy.commit().await;
    let proxy = shelf.host("project", &copy, Manner::Open).await;
    let variables = [("HTTP_PROXY".to_owned(), format!("http://{}", proxy.url.authority()))].into();
    let repositories =
        shelf.repositories.clone().reaching_out("/etc/ssl/certs/ca-certificates.crt".as_ref(), &variables);
    // Nobody listens there: only the proxy can answer.
    let url = repositories.url("http://127.0.0.1:9/acme/project.git").unwrap();
    let fetched = repositories.fetch(&app(), &url, &Want::Branch(BranchName::parse("main").unwrap()), &[]).await;
    assert_eq!(fetched.unwrap().commit, tip);
}

#[tokio::test]
async fn a_host_that_sends_more_than_is_allowed_is_cut_off() {
    let shelf = Shelf::with(SourceLimits { push: 100_000, ..SourceLimits::default() });
    let copy = shelf.copy("project").await;
    let mut noise = vec![0; 300_000];
    getrandom::fill(&mut noise).unwrap();
    copy.write("noise", &hex::encode(&noise));
    let tip = copy.commit().await;
    let host = shelf.host("project", &copy, Manner::Open).await;
    let error = shelf.repositories.fetch(&app(), &host.url, &Want::Commit(tip), &[]).await.unwrap_err();
    assert!(matches!(error, SourceError::Remote { why: Refusal::TooLarge, .. }), "{error:?}");
}
